"""The stored model of a rANS section: frequencies of the symbols of every byte plane, by context (FORMAT.md, "rANS").

Its bits are two kinds: a structure, read one field after another, and the differences of log-weights, whose unary parts stand
before all their low bits, so that a reader in an array language takes them in a few operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsdata.errors import FormatError, LimitError
from gsdata.rans.layout import Layout, Plane

PROBABILITY_BITS = 12
TOTAL = 1 << PROBABILITY_BITS
MAX_THRESHOLDS = 15
THRESHOLD_ORDER = 4
MAX_LOG_WEIGHT = 48
_MOST_LOW_BITS = 6  # of a difference: zigzagged it is at most 2 * 48, and 96 + 2^k < 2^7 for every order k

_STEPS = np.arange(MAX_LOG_WEIGHT)
WEIGHTS: NDArray[np.int64] = np.concatenate([[0], (4 + _STEPS % 4) << (_STEPS // 4)]).astype(np.int64)
"""Weight of every log-weight: 0, then four steps an octave from 4 on."""


@dataclass(frozen=True, eq=False)
class PlaneModel:
    """How the symbols of one plane are coded.

    Attributes:
        sources: streams whose codes are added up to choose the context; the plane's own stream means its low plane.
        thresholds: (T,) int64, ascending; the context is the number of them that the sum reaches.
        frequencies: (T + 1, 2^bits) int64; each row adds up to 4,096.
        stored_bits: bits that this model takes in the section.
    """

    sources: tuple[int, ...]
    thresholds: NDArray[np.int64]
    frequencies: NDArray[np.int64]
    stored_bits: int = 0

    def lookup(self, layout: Layout, number: int) -> NDArray[np.int64]:
        """Context of every possible sum, for the plane of that number."""
        planes = layout.planes
        size = 1 + sum((2 ** planes[i].bits - 1) << planes[i].shift for i in sources_of(layout, number, self.sources))
        edges = np.minimum(np.concatenate([[0], self.thresholds, [size]]), size)
        return np.repeat(np.arange(len(edges) - 1), np.diff(edges))

    def sums(self, layout: Layout, number: int, planes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(count,) sums that decide the contexts of the plane of that number, from (planes, count) symbols."""
        sums = np.zeros(planes.shape[1], np.int64)
        for i in sources_of(layout, number, self.sources):
            shift = layout.planes[i].shift
            sums += planes[i].astype(np.int64) << shift if shift else planes[i]
        return sums


def sources_of(layout: Layout, number: int, sources: Sequence[int]) -> list[int]:
    """Numbers of the planes that are added up for the contexts of the plane of that number."""
    planes = layout.planes
    return [i for i in range(number) if planes[i].stream in sources]


def contexts(model: PlaneModel, layout: Layout, number: int, planes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(count,) context of every symbol of the plane of that number."""
    return model.lookup(layout, number)[model.sums(layout, number, planes)]


def frequencies(log_weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Frequencies that add up to 4,096: (tables, symbols) from log-weights of the same shape, a positive one in each row."""
    weights = WEIGHTS[log_weights]
    used = weights > 0
    room = TOTAL - used.sum(axis=1, keepdims=True)
    found = np.where(used, 1 + weights * room // weights.sum(axis=1, keepdims=True), 0)
    found[np.arange(len(found)), found.argmax(axis=1)] += TOTAL - found.sum(axis=1)
    return found


def zigzag(differences: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ..."""
    return np.where(differences < 0, -2 * differences - 1, 2 * differences)


class _Bits:
    """Bits of the structure, most significant first."""

    def __init__(self, data: bytes) -> None:
        # The longest structure is below 2,048 bytes: 18 planes of 9 sources, 15 thresholds and 16 tables.
        start = data[:2048]
        self._text = format(int.from_bytes(start, "big"), f"0{8 * len(start)}b") if start else ""
        self.position = 0

    def take(self, width: int) -> int:
        if self.position + width > len(self._text):
            raise FormatError("ends within the model")
        self.position += width
        return int(self._text[self.position - width : self.position] or "0", 2)

    def golomb(self, order: int) -> int:
        one = self._text.find("1", self.position)
        zeros = one - self.position
        if one < 0 or zeros > 16:
            raise FormatError("no number where the model needs one")
        self.position = one
        return self.take(zeros + 1 + order) - (1 << order)


def read_model(data: bytes, layout: Layout) -> tuple[list[PlaneModel], int]:
    """The model at the start of ``data`` and the bytes that it takes.

    Raises:
        FormatError, LimitError: it is not one of this layout (the message names the plane).
    """
    bits, planes = _Bits(data), layout.planes
    structure, orders, plane_of = [], [], []
    for number, plane in enumerate(planes):
        start = bits.position
        try:
            sources, thresholds, tables = _read_structure(bits, plane)
        except FormatError as error:
            raise FormatError(f"{_name(layout, number)}: {error}") from None
        structure.append((sources, thresholds, bits.position - start))
        orders += tables
        plane_of += [number] * len(tables)
    # All tables at once, the symbols that a smaller alphabet lacks with weight 0.
    order = np.array(orders)
    sizes = np.array([2 ** planes[number].bits for number in plane_of])
    symbols = np.arange(sizes.max()) < sizes[:, None]
    own = order >= 0
    stored = symbols & own[:, None]
    zigzagged, lengths, end = _read_differences(data, bits.position, np.repeat(order[own], sizes[own]))
    values = np.zeros((2, *symbols.shape), np.int64)
    values[0, stored] = np.where(zigzagged & 1, ~(zigzagged >> 1), zigzagged >> 1)
    values[1, stored] = lengths
    # A flat table is one of equal weights.
    log_weights = np.where(stored, np.cumsum(values[0], axis=1), symbols)
    lowest, highest = log_weights.min(axis=1), log_weights.max(axis=1)
    bad = (lowest < 0) | (highest > MAX_LOG_WEIGHT) | (highest == 0)
    if bad.any():
        at = int(bad.argmax())
        raise (LimitError if highest[at] > MAX_LOG_WEIGHT else FormatError)(
            f"{_name(layout, plane_of[at])}: log-weights must lie in 0..{MAX_LOG_WEIGHT}, one of them above 0; found "
            f"{lowest[at]}..{highest[at]}"
        )
    found, taken = frequencies(log_weights), values[1].sum(axis=1)
    models, first = [], 0
    for plane, (sources, thresholds, used) in zip(planes, structure, strict=True):
        last = first + len(thresholds) + 1
        table = np.ascontiguousarray(found[first:last, : 2**plane.bits])
        models.append(PlaneModel(sources, thresholds, table, used + int(taken[first:last].sum())))
        first = last
    return models, end


def _name(layout: Layout, number: int) -> str:
    return f"byte plane {number} of stream {layout.streams[layout.planes[number].stream][0]!r}"


def _read_structure(bits: _Bits, plane: Plane) -> tuple[tuple[int, ...], NDArray[np.int64], list[int]]:
    """Sources, thresholds, and the order of each table's differences (-1: no differences, all symbols alike)."""
    number = bits.take(4)
    earlier = plane.stream + (plane.shift > 0)
    sources = tuple(i for i in range(earlier) if bits.take(1)) if number else ()
    if number and not sources:
        raise FormatError("contexts, but no stream that they are taken from")
    thresholds = np.cumsum([1 + bits.golomb(THRESHOLD_ORDER) for _ in range(number)], dtype=np.int64)
    if number and thresholds[-1] >= 1 << 16:
        raise FormatError(f"the threshold {thresholds[-1]} is beyond 65535")
    return sources, thresholds, [-1 if bits.take(1) else bits.take(2) for _ in range(number + 1)]


def _read_differences(
    data: bytes, position: int, order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Zigzagged differences from bit ``position`` on, the bits of each, and the byte where the model ends."""
    count = len(order)
    # No unary part is longer than seven bits, so this many bytes hold them all.
    first, unary = position >> 3, data[position >> 3 : (position + 7 * count + 15) >> 3]
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(unary, np.uint8))[position & 7 :])[:count]
    zeros = np.diff(ones, prepend=-1) - 1
    low = zeros + order[: len(zeros)]
    if len(ones) < count or (low > _MOST_LOW_BITS).any():
        raise FormatError("a difference of log-weights in the model is too large or missing")
    start = position + int(ones[-1]) + 1 if count else position
    ends = start + np.cumsum(low)
    last = int(ends[-1]) if count else start
    size = (last + 7) >> 3
    if size > len(data):
        raise FormatError("ends within the model")
    if last & 7 and data[size - 1] & ((1 << (-last & 7)) - 1):
        raise FormatError("the model must be padded with zeros")
    bytes_ = np.frombuffer(data[first:size] + b"\0\0", np.uint8).astype(np.int64)
    at = ends - low - 8 * first
    window = (bytes_[at >> 3] << 8 | bytes_[(at >> 3) + 1]) >> (16 - (at & 7) - low)
    return (window & ((1 << low) - 1)) + (1 << low) - (1 << order), zeros + 1 + low, size


def write_model(models: Sequence[tuple[Plane, PlaneModel, Sequence[NDArray[np.int64] | None]]]) -> bytes:
    """The bytes of a model: for each plane its sources and thresholds, and the log-weights of each table (None: all alike)."""
    structure: list[str] = []
    unary: list[str] = []
    low: list[str] = []
    for plane, model, tables in models:
        structure.append(f"{len(model.thresholds):04b}")
        if len(model.thresholds):
            structure += ["01"[stream in model.sources] for stream in range(plane.stream + (plane.shift > 0))]
        for gap in np.diff(model.thresholds, prepend=0).tolist():
            number = gap - 1 + (1 << THRESHOLD_ORDER)
            width = number.bit_length()
            structure.append("0" * (width - 1 - THRESHOLD_ORDER) + f"{number:b}")
        for table in tables:
            if table is None:
                structure.append("1")
                continue
            differences = zigzag(np.diff(table, prepend=0))
            order = int(difference_bits(differences[None]).argmin())
            structure.append(f"0{order:02b}")
            for number in (differences + (1 << order)).tolist():
                digits = f"{number:b}"
                unary.append("0" * (len(digits) - 1 - order) + "1")
                low.append(digits[1:])
    text = "".join([*structure, *unary, *low])
    size = (len(text) + 7) // 8
    return int(text.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


def difference_bits(zigzagged: NDArray[np.int64]) -> NDArray[np.int64]:
    """(tables, 4): bits of (tables, symbols) zigzagged differences as Exp-Golomb codes of order 0 to 3."""
    return np.stack([_LENGTHS[order][zigzagged].sum(axis=1) for order in range(4)], axis=1)


_NUMBERS = np.arange(2 * MAX_LOG_WEIGHT + 1)
_LENGTHS = np.stack([2 * np.floor(np.log2(_NUMBERS + (1 << order))).astype(np.int64) + 1 - order for order in range(4)])
