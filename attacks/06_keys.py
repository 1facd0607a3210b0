"""Keys twice, out of order or of other types, and longer forms of values: what two readers would understand differently."""

from gsdata import forging
from gsdata.canonical import encode
from victim import attack, good_file

header, sections = forging.take_apart(good_file())
packed = encode(header)
assert packed.count(b"\xa8metadata\x80") == 1


def with_metadata(value: bytes) -> bytes:
    """The file with other bytes for its metadata."""
    return forging.put_together(packed.replace(b"\xa8metadata\x80", b"\xa8metadata" + value), sections)


attack(
    refused={
        "a key twice": with_metadata(b"\x82\xa1a\x01\xa1a\x02"),
        "the header's own key twice": forging.put_together(
            bytes([packed[0] + 1]) + packed[1:] + b"\xaatransforms\x80", sections
        ),
        "keys out of order": with_metadata(b"\x82\xa1b\x01\xa1a\x02"),
        "keys that differ in form only": with_metadata(b"\x82\xa1a\x01\xd9\x01a\x02"),
        "a number as key": with_metadata(b"\x81\x01\x01"),
        "bytes as key": with_metadata(b"\x81\xc4\x01a\x01"),
        "a longer form of a number": with_metadata(b"\x81\xa1a\xcd\x00\x05"),
        "a longer form of a map": with_metadata(b"\xde\x00\x00"),
        "float32": with_metadata(b"\x81\xa1a\xca\x3f\x80\x00\x00"),
        "an ext type": with_metadata(b"\x81\xa1a\xd4\x01\x00"),
        "a time": with_metadata(b"\x81\xa1a\xd6\xff\x00\x00\x00\x00"),
        "half of a surrogate pair": with_metadata(b"\x81\xa3\xed\xa0\x80\x01"),
        "an overlong slash": with_metadata(b"\x81\xa2\xc0\xaf\x01"),
        "an unknown key": forging.put_together(header | {"__class__": "os.system"}, sections),
        "a second header after the first": forging.put_together(packed * 2, sections),
    },
    harmless={"keys that a careless reader would set": with_metadata(b"\x81\xa9__proto__\x81\xa5admin\xc3")},
)
