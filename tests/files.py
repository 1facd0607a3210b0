"""Small files for the tests of the format: codes and labels by hypothesis, and files put together by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import zstandard
from hypothesis import strategies as st

import gsdata
from gsdata import canonical
from gsdata.container import PREAMBLE, SECTION, VERSION, read_container
from gsdata.quantize import Codes, Quantizer, QuantizerSet

SET = QuantizerSet(
    means=Quantizer("uniform", -1.0, 1.0, 8),
    scales=Quantizer("log2", -2.0, 2.0, 6),
    shear=Quantizer("uniform", -1.0, 1.0, 7),
    colors=Quantizer("uniform", 0.0, 1.0, 7),
)


def make_codes(
    seed: int,
    counts: list[int],
    *,
    channels: int = 3,
    size: tuple[int, int] = (8, 8),
    sets: tuple[QuantizerSet, ...] = (SET,),
    index: list[int] | None = None,
    antialias: str = "box-normalized",
    background: tuple[float, ...] = (),
) -> Codes:
    """Uniformly drawn codes."""
    rng = np.random.default_rng(seed)
    which = np.zeros(len(counts), np.int64) if index is None else np.array(index, np.int64)
    rows = np.repeat(which, counts)

    def draw(name: str, width: int) -> np.ndarray:
        limits = np.array([2 ** getattr(s, name).bits for s in sets])[rows]
        return (rng.random((len(rows), width)) * limits[:, None]).astype(np.uint16)

    scales = draw("scales", 2)
    return Codes(
        means=draw("means", 2),
        cholesky=np.stack([scales[:, 0], draw("shear", 1)[:, 0], scales[:, 1]], axis=1),
        colors=draw("colors", channels),
        counts=np.array(counts, np.int64),
        size=size,
        quantizers=sets,
        quantizer_index=which,
        antialias=antialias,  # type: ignore[arg-type]
        background=background,
    )


@st.composite
def quantizers(draw: st.DrawFn, kind: str | None = None, positive: bool = False) -> Quantizer:
    """Quantisers of any width whose range is wide enough for their bits."""
    kind = kind or draw(st.sampled_from(["uniform", "log2"]))
    bits = draw(st.integers(1, 12))
    bound = 20.0 if kind == "log2" else 1000.0
    low = draw(st.floats(0.5 if positive else -bound, bound))
    return Quantizer(kind, low, low + draw(st.floats(0.5, bound)), bits)  # type: ignore[arg-type]


@st.composite
def quantizer_sets(draw: st.DrawFn) -> QuantizerSet:
    """Sets of quantisers, their scales logarithmic or uniform."""
    scales = draw(st.one_of(quantizers("log2"), quantizers("uniform", positive=True)))
    return QuantizerSet(draw(quantizers()), scales, draw(quantizers()), draw(quantizers()))


@st.composite
def codes(draw: st.DrawFn, max_images: int = 8, max_count: int = 12, channels: int | None = None) -> Codes:
    """Ragged codes, empty images included, of 1 to 4 channels, with up to three quantiser sets."""
    sets = tuple(draw(st.lists(quantizer_sets(), min_size=1, max_size=3, unique=True)))
    counts = draw(st.lists(st.integers(0, max_count), max_size=max_images))
    index = draw(st.lists(st.integers(0, len(sets) - 1), min_size=len(counts), max_size=len(counts)))
    channels = channels or draw(st.integers(1, 4))
    return make_codes(
        draw(st.integers(0, 2**32)),
        counts,
        channels=channels,
        size=draw(st.tuples(st.integers(1, 300), st.integers(1, 300))),
        sets=sets,
        index=index,
        antialias=draw(st.sampled_from(["box-normalized", "box", "none"])),
        background=tuple(draw(st.lists(st.floats(-2, 2, width=32), min_size=channels, max_size=channels))),
    )


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
