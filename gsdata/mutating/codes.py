"""Codes, counts and labels that are others, coded again by any codec."""

from __future__ import annotations

import random
from functools import lru_cache

from gsdata import forging, rans
from gsdata.container import RANS, STORED, ZSTD
from gsdata.file import open as open_file
from gsdata.mutating import models

_MOST_CODED = 2400  # bytes of a section that is coded by rANS again; it takes milliseconds


@lru_cache(maxsize=256)
def _decoded(data: bytes) -> list[tuple[int, bytes, rans.Layout]]:
    """(entry of the table, raw bytes, layout) of every section of the format that is not empty."""
    file = open_file(data)
    found = []
    for number, section in enumerate(file.sections):
        if section.name in file._chunks.names:
            raw = file._chunks.raw(section.chunk, [section.name])[section.name]
            if raw:
                found.append((number, raw, file._chunks.layouts(section.chunk)[section.name]))
    return found


def changed(data: bytes, sections: forging.Sections, rng: random.Random) -> forging.Sections:
    """The sections of a good file with one or two of them changed.

    Raises:
        ValueError: it has none.
    """
    if not (choices := _decoded(data)):
        raise ValueError("no file to change its codes: it has none")
    sections = [list(section) for section in sections]
    for number, raw, layout in rng.sample(choices, min(len(choices), rng.choice([1, 1, 2]))):
        other = bytearray(raw)
        for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
            _change(other, rng)
        sections[number][1], sections[number][4] = _coded(bytes(other), raw, layout, rng)
    return sections


def _change(codes: bytearray, rng: random.Random) -> None:
    at, other = rng.randrange(len(codes)), rng.randrange(len(codes))
    if rng.random() < 0.2:
        codes[at], codes[other] = codes[other], codes[at]
    else:
        near = [(codes[at] + step) & 255 for step in (-1, 1)]
        codes[at] = rng.choice([0, 1, 255, rng.randrange(256), codes[at] ^ 1 << rng.randrange(8), *near])


def _coded(raw: bytes, base: bytes, layout: rans.Layout, rng: random.Random) -> tuple[int, bytes]:
    """A codec and what it makes of the bytes, stored where nothing else shrinks them, most of the time."""
    codec, stored = rng.choice([STORED, ZSTD, RANS, RANS]), raw
    if codec == ZSTD:
        stored = forging.frame(raw, level=rng.choice([1, 3, 19]))
    elif codec == RANS and 16 <= len(raw) <= _MOST_CODED:
        planes = [raw[i * layout.count : (i + 1) * layout.count] for i in range(len(layout.planes))]
        if all(max(codes) < 1 << plane.bits for codes, plane in zip(planes, layout.planes, strict=True)):
            stored = models.coded(raw, base, layout, rng)
    return (codec, stored) if len(stored) < len(raw) or rng.random() < 0.02 else (STORED, raw)
