"""A few kilobytes that decode to gigabytes: in a section, in the header, by a lie about the size, and as often as the format allows."""

import zstandard

from gsdata import forging
from gsdata.canonical import encode
from victim import attack, good_file


def zeros(size: int) -> bytes:
    """A frame of zeros that never were in memory together."""
    packer = zstandard.ZstdCompressor(level=3, write_checksum=False).compressobj(size=size)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)), packer.flush()])


def with_sections(frames: list[bytes], raw: int) -> bytes:
    """A good file with further sections of these frames, each said to be ``raw`` bytes."""
    names = [f"test.bomb{i:02}" for i in range(len(frames))]
    header, sections = forging.take_apart(good_file(optional_sections=dict.fromkeys(names, b"")))
    for section, packed in zip(sections[2:], frames, strict=True):
        section[1], section[4], section[5] = 1, packed, raw
    return forging.put_together(header, sections)


gibibyte, most = zeros(1 << 30), zeros(1 << 24)
# The frame's header says 16 MiB; its blocks hold 1 GiB.
lying = gibibyte.replace((1 << 30).to_bytes(4, "little"), (1 << 24).to_bytes(4, "little"), 1)
header, sections = forging.take_apart(good_file())
metadata = encode(header | {"metadata": {"text": "a" * (4 << 20)}})
attack(
    refused={
        "a section of 1 GiB": with_sections([gibibyte], 1 << 30),
        "1 GiB said to be 16 MiB by the table": with_sections([gibibyte], 1 << 24),
        "1 GiB said to be 16 MiB by the table and the frame": with_sections([lying], 1 << 24),
        "a header of 1 GiB": forging.put_together(gibibyte, sections, flags=1),
        "a header of 4 MiB and a little": forging.put_together(forging.frame(metadata), sections, flags=1),
    },
    harmless={"64 sections of 16 MiB each": with_sections([most] * 64, 1 << 24)},
)
