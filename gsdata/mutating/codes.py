"""Codes, counts and labels that are others, or more, coded again by any codec."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache
from typing import Any

from gsdata import forging, rans
from gsdata.container import RANS, STORED, ZSTD
from gsdata.file import open as open_file
from gsdata.mutating import models
from gsdata.rans.coder import MAX_CODES_PER_LANE

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


def changed(
    data: bytes, header: dict[str, Any], sections: forging.Sections, rng: random.Random
) -> tuple[dict[str, Any], forging.Sections]:
    """Header and sections of a good file with one or two sections changed, or with many empty images more.

    Raises:
        ValueError: it has none.
    """
    if not (choices := _decoded(data)):
        raise ValueError("no file to change its codes: it has none")
    sections = [list(section) for section in sections]
    if header["labels"] in ("none", "hard") and rng.random() < 0.03:
        return _grown(header, choices, sections, rng), sections
    for number, raw, layout in rng.sample(choices, min(len(choices), rng.choice([1, 1, 2]))):
        other = bytearray(raw)
        for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
            _change(other, layout, rng)
        sections[number][1], sections[number][4] = _coded(bytes(other), raw, layout, rng)
    return header, sections


def _grown(
    header: dict[str, Any],
    choices: list[tuple[int, bytes, rans.Layout]],
    sections: forging.Sections,
    rng: random.Random,
) -> dict[str, Any]:
    """Put images without Gaussians, of class 0, at the end of the first chunk, so many that rANS needs another number of lanes."""
    images = header["chunks"]["images"]
    least = rng.randrange(4)
    more = max(1, (MAX_CODES_PER_LANE << least) + rng.choice([0, 1, 1, 2]) - images[0])
    for number, raw, layout in choices:
        if sections[number][3] == 0 and layout.streams[0][0] in ("counts", "labels"):
            planes = [raw[i : i + layout.count] + bytes(more) for i in range(0, len(raw), layout.count)]
            grown = replace(layout, count=layout.count + more)
            coded = bytearray(models.coded(b"".join(planes), b"".join(planes), grown, rng))
            coded[0] = rng.choice([coded[0], least, max(0, least - 1)])
            sections[number][1], sections[number][4:] = RANS, [bytes(coded), grown.raw_size]
    return header | {"chunks": header["chunks"] | {"images": [images[0] + more, *images[1:]]}}


def _change(codes: bytearray, layout: rans.Layout, rng: random.Random) -> None:
    """One code becomes another, most of the time one that its stream has bits for: only those can be coded by rANS."""
    at, other = rng.randrange(len(codes)), rng.randrange(len(codes))
    if rng.random() < 0.2:
        codes[at], codes[other] = codes[other], codes[at]
    else:
        near = [(codes[at] + step) & 255 for step in (-1, 1)]
        code = rng.choice([0, 1, 255, rng.randrange(256), codes[at] ^ 1 << rng.randrange(8), *near])
        most = (1 << layout.planes[at // layout.count].bits) - 1
        codes[at] = code & most if rng.random() < 0.7 else code


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
