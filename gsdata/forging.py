"""Files that no writer makes, for tests of readers: taken apart, changed, and put together with right lengths and checksums.

    header, sections = forging.take_apart(data)
    header["gaussians"]["size"] = [0, 0]
    hostile = forging.put_together(header, sections)

``gsdata.mutating`` does it at random.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

import zstandard

from gsdata import canonical, container
from gsdata.accidents import MAGIC
from gsdata.byte_source import MemorySource
from gsdata.container import CRC, PREAMBLE, PREAMBLE_SIZE, SECTION

Sections: TypeAlias = list[list[Any]]
"""For every entry of the section table [name, codec, zero, chunk, stored bytes, raw size]."""


def take_apart(data: bytes) -> tuple[dict[str, Any], Sections]:
    """Header and sections of a good file.

    Raises:
        GsdError: it is not good.
    """
    opened = container.read_container(MemorySource(data))
    sections = [
        [opened.names.index(s.name), s.codec, 0, s.chunk, opened.read_stored(s), s.raw_size] for s in opened.sections
    ]
    return opened.header, sections


def put_together(
    header: dict[str, Any] | bytes,
    sections: Sections,
    *,
    table: Callable[[list[list[int]]], None] | None = None,
    **preamble: int,
) -> bytes:
    """A file with right checksums and lengths, whatever it says otherwise.

    Args:
        header: a map, or its bytes as they are to stand in the file.
        sections: their bytes follow each other without holes.
        table: may change the numbers [name, codec, zero, chunk, stored, raw, crc, offset] of all entries.
        preamble: replaces ``major``, ``minor``, ``flags``, ``header_length``, ``section_count`` or ``file_length``.
    """
    packed = header if isinstance(header, bytes) else canonical.encode(header)
    offset = PREAMBLE_SIZE + len(packed) + SECTION.size * len(sections)
    rows = []
    for name, codec, zero, chunk, stored, raw in sections:
        rows.append([name, codec, zero, chunk, len(stored), raw, zlib.crc32(stored), offset])
        offset += len(stored)
    if table is not None:
        table(rows)
    index = b"".join(SECTION.pack(*row) for row in rows)
    fields = {
        "major": container.VERSION[0],
        "minor": container.VERSION[1],
        "flags": 0,
        "header_length": len(packed),
        "section_count": len(sections),
        "file_length": offset,
    } | preamble
    start = PREAMBLE.pack(MAGIC, *fields.values())
    return b"".join([start, CRC.pack(zlib.crc32(start + packed + index)), packed, index, *(s[4] for s in sections)])


def frame(raw: bytes, **options: Any) -> bytes:
    """A zstd frame as the format wants it, unless the options of ``zstandard.ZstdCompressor`` say otherwise."""
    return zstandard.ZstdCompressor(**({"write_checksum": False, "write_content_size": True} | options)).compress(raw)


def repair(data: bytes) -> bytes:
    """The same bytes with the file's length, the last section's length and all checksums made right, as far as they can be found."""
    if len(data) < PREAMBLE_SIZE:
        return data
    fixed = bytearray(data)
    struct.pack_into("<Q", fixed, 24, len(fixed))
    header_length, count = struct.unpack_from("<II", fixed, 16)
    start = PREAMBLE_SIZE + header_length
    end = start + SECTION.size * count
    if end <= len(fixed):
        for at in range(start, end, SECTION.size):
            name, codec, zero, chunk, stored, raw, _, offset = SECTION.unpack_from(fixed, at)
            if at + SECTION.size == end and PREAMBLE_SIZE <= offset <= len(fixed):
                raw = len(fixed) - offset if codec == container.STORED and raw == stored else raw
                stored = len(fixed) - offset
            crc = zlib.crc32(fixed[offset : offset + stored])
            SECTION.pack_into(fixed, at, name, codec, zero, chunk, stored, raw, crc, offset)
    crc = zlib.crc32(fixed[PREAMBLE_SIZE:end], zlib.crc32(fixed[: PREAMBLE.size]))
    CRC.pack_into(fixed, PREAMBLE.size, crc)
    return bytes(fixed)
