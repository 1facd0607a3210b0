"""What every stream of a file costs: its entropy beside the bits that it takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsdata import rans
from gsdata.chunks import Chunks
from gsdata.container import RANS, ZSTD, Container


@dataclass(frozen=True)
class StreamRate:
    """One stream of all chunks together.

    Attributes:
        name: of the stream; section: the section that it is in.
        codes: how many it has.
        entropy: bits per code of the best code that knows the whole file's frequencies and nothing else (order 0); 0 without codes.
        coded: bits per code that it takes, those of its stored model included; None where zstd packs it with other streams.
    """

    name: str
    section: str
    codes: int
    entropy: float
    coded: float | None


def stream_rates(container: Container, chunks: Chunks) -> list[StreamRate]:
    """The rates of all streams of the format, in their order.

    Raises:
        GsdError: a section is damaged.
    """
    counts: dict[tuple[str, str], NDArray[np.int64]] = {}
    coded: dict[tuple[str, str], float | None] = {}
    for chunk, raw in enumerate(chunks.raws(range(len(chunks)))):
        for section, layout in chunks.layouts(chunk).items():
            stored = chunks.section(chunk, section)
            planes = np.frombuffer(raw[section], np.uint8).reshape(len(layout.planes), layout.count)
            if stored.codec == RANS:
                bits: list[float | None] = [*rans.stream_bits(container.read_stored(stored), layout, planes)]
            elif len(layout.streams) == 1:
                bits = [8.0 * stored.stored_size]
            else:
                raw_bits = [8.0 * layout.count * (1 if width <= 8 else 2) for _, width in layout.streams]
                bits = [None if stored.codec == ZSTD else size for size in raw_bits]
            for number, (name, _) in enumerate(layout.streams):
                values = np.zeros(layout.count, np.int64)
                for plane, symbols in zip(layout.planes, planes, strict=True):
                    if plane.stream == number:
                        values += symbols.astype(np.int64) << plane.shift
                key, before, cost = (section, name), coded.get((section, name), 0.0), bits[number]
                found = np.bincount(values)  # short: a file may have many small chunks
                counts.setdefault(key, np.zeros(1 << 16, np.int64))[: len(found)] += found
                coded[key] = None if before is None or cost is None else before + cost
    return [_rate(key, counts[key], coded[key]) for key in counts]


def _rate(key: tuple[str, str], counts: NDArray[np.int64], coded: float | None) -> StreamRate:
    used = counts[counts > 0]
    codes = int(used.sum())
    entropy = abs(float(-(used / max(codes, 1) * np.log2(used / max(codes, 1))).sum()))
    return StreamRate(key[1], key[0], codes, entropy, None if coded is None else coded / max(codes, 1))
