"""Small files for the tests of the format, put together by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import zstandard

import gsdata
from gsdata import canonical
from gsdata.container import PREAMBLE, SECTION, VERSION, read_container
from gsdata.quantize import Codes


def sorted_rows(codes: Codes) -> list[list[tuple[int, ...]]]:
    """The Gaussians of every image as sorted tuples: equal for equal pictures, whatever their order."""
    rows = np.concatenate([codes.means, codes.cholesky, codes.colors], axis=1).tolist()
    ends = np.cumsum(codes.counts).tolist()
    return [sorted(map(tuple, rows[e - n : e])) for e, n in zip(ends, codes.counts.tolist(), strict=True)]


def same_content(a: Codes, b: Codes) -> bool:
    """Whether two batches hold the same Gaussians with the same quantisers, image by image."""
    return (
        sorted_rows(a) == sorted_rows(b)
        and [a.quantizers[i] for i in a.quantizer_index] == [b.quantizers[i] for i in b.quantizer_index]
        and (a.size, a.antialias, a.background, a.kernel) == (b.size, b.antialias, b.background, b.kernel)
    )


Sections = list[list[Any]]  # [name, codec, zero, chunk, stored bytes, raw size]


def take_apart(data: bytes) -> tuple[dict[str, Any], Sections]:
    """Header and sections of a good file, for a hostile writer to change."""
    container = read_container(gsdata.container.MemorySource(data))
    sections = [
        [container.names.index(s.name), s.codec, 0, s.chunk, container.read_stored(s), s.raw_size]
        for s in container.sections
    ]
    return container.header, sections


def put_together(
    header: dict[str, Any] | bytes,
    sections: Sections,
    *,
    table: Callable[[list[list[int]]], None] | None = None,
    **preamble: int,
) -> bytes:
    """A file with right checksums and lengths, whatever it says otherwise.

    ``table`` may change the numbers [name, codec, zero, chunk, stored, raw, crc, offset] of all entries; ``preamble`` replaces
    ``major``, ``minor``, ``flags``, ``header_length``, ``section_count`` or ``file_length``.
    """
    packed = header if isinstance(header, bytes) else canonical.encode(header)
    offset = PREAMBLE.size + 4 + len(packed) + SECTION.size * len(sections)
    rows = []
    for name, codec, zero, chunk, stored, raw in sections:
        rows.append([name, codec, zero, chunk, len(stored), raw, zlib.crc32(stored), offset])
        offset += len(stored)
    if table is not None:
        table(rows)
    index = b"".join(SECTION.pack(*row) for row in rows)
    fields = {
        "major": VERSION[0],
        "minor": VERSION[1],
        "flags": 0,
        "header_length": len(packed),
        "section_count": len(sections),
        "file_length": offset,
    } | preamble
    start = PREAMBLE.pack(b"\x89GSD\r\n\x1a\n", *fields.values())
    crc = zlib.crc32(start + packed + index)
    return b"".join([start, struct.pack("<I", crc), packed, index, *(section[4] for section in sections)])


def frame(raw: bytes, **options: Any) -> bytes:
    """A zstd frame as the format wants it, unless the options say otherwise."""
    return zstandard.ZstdCompressor(**({"write_checksum": False, "write_content_size": True} | options)).compress(raw)
