"""Lists in lists in lists, to overflow the stack of a recursive parser, and millions of tiny values, to fill memory."""

from gsdata import forging
from gsdata.canonical import encode
from victim import attack, good_file

header, sections = forging.take_apart(good_file())
packed = encode(header)


def with_metadata(value: bytes, **preamble: int) -> bytes:
    """The file with {"a": value} as its metadata."""
    changed = packed.replace(b"\xa8metadata\x80", b"\xa8metadata\x81\xa1a" + value)
    return forging.put_together(forging.frame(changed) if preamble else changed, sections, **preamble)


attack(
    refused={
        "9 levels": with_metadata(b"\x91" * 7 + b"\x90"),
        "5,000 levels of lists": with_metadata(b"\x91" * 5000 + b"\x90"),
        "4 million levels of lists": with_metadata(b"\x91" * 4_000_000 + b"\x90"),
        "a million levels of maps": with_metadata(b"\x81\xa0" * 1_000_000 + b"\xc0"),
        "4 million levels in 1 KiB": with_metadata(b"\x91" * 4_000_000 + b"\x90", flags=1),
        "4 million empty maps in 1 KiB": with_metadata(b"\xdd\x00\x3d\x09\x00" + b"\x80" * 4_000_000, flags=1),
        "a list of 2^32 - 1 values that are not there": with_metadata(b"\xdd\xff\xff\xff\xff"),
        "text of 2^32 - 1 bytes that are not there": with_metadata(b"\xdb\xff\xff\xff\xff"),
    },
    harmless={"8 levels": with_metadata(b"\x91" * 5 + b"\x90")},
)
