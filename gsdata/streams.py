"""Streams: the integer codes of one chunk <-> the raw bytes of its sections (FORMAT.md, "Streams").

Every attribute component is a stream of its own; those of Gaussians share a section. Transforms make streams small and cost
nothing to undo: Gaussians of an image are sorted by position, so that x is stored as differences, and RGB colours become
G, R-G, B-G.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gsdata.errors import FormatError
from gsdata.quantize import Codes, QuantizerSet
from gsdata.rans.layout import Layout

COUNT_BITS = 16
MAX_COUNT = 2**COUNT_BITS - 1
_BLOCK = 1 << 16
LABEL_SECTIONS = ("labels", "label.counts", "label.classes", "label.weights")
COLOR_TRANSFORM = "green-difference"
ORDER_TRANSFORM = "sorted-delta"

CONTEXTS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "y": [("x",)],
    "l11": [("y",)],
    "l22": [("l11",), ("y",)],
    "l21": [("l11", "l22")],
    "c0": [("l11", "l22")],
    "c1": [("c0",), ("l11", "l22")],
    "c2": [("c1",), ("l11", "l22")],
}
"""Which earlier streams may tell something about a stream: what the writer tries, and takes where it saves bits."""

LabelLayout: TypeAlias = Literal["none", "hard", "dense", "sparse"]


def color_streams(channels: int) -> tuple[str, ...]:
    """Names of the colour streams."""
    return tuple(f"c{channel}" for channel in range(channels))


def section_names(labels: LabelLayout) -> tuple[str, ...]:
    """All sections of a chunk in their order in the table: a reader needs each one before those after it."""
    return ("counts", *label_layouts(labels, 1, 0, 0), "gaussians")


def planes(bits: int) -> int:
    """Bytes that a code of ``bits`` bits takes before compression: 1 up to 8 bits, else 2."""
    return 1 if bits <= 8 else 2


def class_bits(class_count: int) -> int:
    """Bits of a class index."""
    return max(1, (max(class_count, 1) - 1).bit_length())


@dataclass(frozen=True)
class Labels:
    """Labels of a batch as they are stored.

    Attributes:
        layout: ``none``; ``hard``; ``dense`` or ``sparse`` soft labels.
        class_count: K.
        hard: (B,) int64 class indices, for ``hard``.
        weights: (B, K) uint8 codes, for soft labels; a distribution is a row divided by its sum.
    """

    layout: LabelLayout
    class_count: int
    hard: NDArray[np.int64] | None = None
    weights: NDArray[np.uint8] | None = None

    def select(self, indices: NDArray[np.int64]) -> Labels:
        """The labels of the images at ``indices``."""
        return Labels(
            self.layout,
            self.class_count,
            None if self.hard is None else self.hard[indices],
            None if self.weights is None else self.weights[indices],
        )


def pack(values: NDArray[Any], bits: int) -> bytes:
    """Raw bytes of codes below 2^bits: one byte each, or all low bytes and then all high bytes."""
    if bits <= 8:
        return values.astype(np.uint8).tobytes()
    wide = values.astype(np.uint16)
    return (wide & 0xFF).astype(np.uint8).tobytes() + (wide >> 8).astype(np.uint8).tobytes()


def unpack(raw: bytes, count: int, limit: int, bits: int, where: str) -> NDArray[Any]:
    """The inverse of ``pack``: uint8 up to 8 bits, else uint16.

    Raises:
        FormatError: a code is not below ``limit``.
    """
    values: NDArray[Any] = np.frombuffer(raw, np.uint8)
    if planes(bits) == 2:
        values = values[:count] | values[count:].astype(np.uint16) << 8
    if count and int(values.max()) >= limit:
        row = int(np.flatnonzero(values >= limit)[0])
        raise FormatError(f"{where}: value {int(values[row])} at position {row}, expected less than {limit}")
    return values


def sort_order(codes: Codes) -> NDArray[np.int64]:
    """The canonical order: images stay in order, Gaussians of an image ascend by (x, y, l11, l21, l22, colours).

    Order means nothing in a sum; a total order makes equal sets equal bytes.
    """
    image = np.repeat(np.arange(codes.num_images), codes.counts)
    columns = [codes.means, codes.cholesky, codes.colors]
    keys: list[Any] = [column[:, i] for column in columns for i in range(column.shape[1])]
    order: NDArray[np.int64] = np.lexsort((*reversed(keys), image))
    return order


def encode_codes(codes: Codes) -> dict[str, bytes]:
    """Raw sections of one chunk, whose images share one quantiser set and whose Gaussians are in canonical order.

    Raises:
        ValueError: a code is beyond its quantiser's table.
    """
    quantizers = codes.quantizers[int(np.asarray(codes.quantizer_index)[0])]
    for name, values, quantizer in (
        ("means", codes.means, quantizers.means),
        ("cholesky", codes.cholesky[:, 0::2], quantizers.scales),
        ("cholesky", codes.cholesky[:, 1], quantizers.shear),
        ("colors", codes.colors, quantizers.colors),
    ):
        if values.size and int(values.max()) >= 2**quantizer.bits:
            raise ValueError(f"{name} hold the code {int(values.max())}, but their quantiser has {quantizer.bits} bits")
    first = (np.cumsum(codes.counts) - codes.counts)[codes.counts > 0]
    x = codes.means[:, 0].astype(np.int64)
    delta = np.diff(x, prepend=0)
    delta[first] = x[first]
    colors = rotate_colors(codes.colors, quantizers.colors.bits, forward=True)
    columns = [delta, codes.means[:, 1], *codes.cholesky[:, [0, 2, 1]].T, *colors.T]
    streams = gaussian_layout(len(x), codes.channels, quantizers).streams
    packed = [pack(column, bits) for column, (_, bits) in zip(columns, streams, strict=True)]
    return {"counts": pack(codes.counts, COUNT_BITS), "gaussians": b"".join(packed)}


def gaussian_layout(gaussians: int, channels: int, quantizers: QuantizerSet) -> Layout:
    """What the section of the Gaussians of a chunk holds."""
    means, scales, shear, colors = (getattr(quantizers, name).bits for name in ("means", "scales", "shear", "colors"))
    geometry = (("x", means), ("y", means), ("l11", scales), ("l22", scales), ("l21", shear))
    return Layout(gaussians, geometry + tuple((name, colors) for name in color_streams(channels)))


def decode_counts(raw: bytes, images: int, gaussians: int, where: str) -> NDArray[np.int64]:
    """Gaussians per image of a chunk.

    Raises:
        FormatError: they do not add up to the chunk's Gaussians.
    """
    counts = unpack(raw, images, MAX_COUNT + 1, COUNT_BITS, where).astype(np.int64)
    if int(counts.sum()) != gaussians:
        raise FormatError(f"{where}: counts add up to {int(counts.sum())}, the header says {gaussians}")
    return counts


def decode_codes(
    raw: bytes, counts: NDArray[np.int64], channels: int, quantizers: QuantizerSet, where: str
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.uint16]]:
    """Means (G, 2), cholesky (G, 3) and colors (G, C) of one chunk: the inverse of ``encode_codes``.

    Raises:
        FormatError: a code has no entry in its quantiser's table.
    """
    count, at = int(counts.sum()), 0
    columns = {}
    for name, bits in gaussian_layout(count, channels, quantizers).streams:
        size = planes(bits) * count
        columns[name] = unpack(raw[at : at + size], count, 2**bits, bits, f"{where}, stream {name!r}")
        at += size
    delta = columns["x"]
    running = np.cumsum(delta, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    # Running sums restart in every image: take off what had been summed before its first Gaussian.
    before = np.concatenate([np.zeros(1, np.int64), running])[starts]
    x = running - np.repeat(before, counts)
    if count and int(x.max()) >= 2**quantizers.means.bits:
        raise FormatError(f"{where}, stream 'x': positions add up beyond {2**quantizers.means.bits - 1}")
    colors = _rotated([columns[name] for name in color_streams(channels)], quantizers.colors.bits, forward=False)
    cholesky = [columns[name] for name in ("l11", "l21", "l22")]
    return _side_by_side([x, columns["y"]]), _side_by_side(cholesky), _side_by_side(colors)


def _side_by_side(columns: Sequence[NDArray[Any]]) -> NDArray[np.uint16]:
    rows = np.empty((len(columns[0]), len(columns)), np.uint16)
    for number, column in enumerate(columns):
        rows[:, number] = column
    return rows


def rotate_colors(colors: NDArray[np.uint16], bits: int, *, forward: bool) -> NDArray[np.uint16]:
    """(R, G, B) -> (G, R-G, B-G) modulo 2^bits, or back; other channel counts stay as they are."""
    return _side_by_side(_rotated(list(colors.T), bits, forward=forward))


def _rotated(colors: list[NDArray[Any]], bits: int, *, forward: bool) -> list[NDArray[Any]]:
    # Unsigned numbers wrap at a power of two that is no smaller than 2^bits, so the mask is all that a modulus needs.
    if len(colors) != 3:
        return colors
    mask = colors[0].dtype.type(2**bits - 1)
    if forward:
        red, green, blue = colors
        return [green, (red - green) & mask, (blue - green) & mask]
    green, red, blue = colors
    return [(red + green) & mask, green, (blue + green) & mask]


def encode_labels(labels: Labels) -> dict[str, bytes]:
    """Raw label sections of one chunk."""
    if labels.layout == "hard":
        assert labels.hard is not None
        return {"labels": pack(labels.hard, class_bits(labels.class_count))}
    if labels.layout == "none":
        return {}
    assert labels.weights is not None
    if labels.layout == "dense":
        return {"label.weights": labels.weights.tobytes()}
    rows, columns = np.nonzero(labels.weights)
    nonzero = np.bincount(rows, minlength=len(labels.weights))
    return {
        "label.counts": pack(nonzero, class_bits(labels.class_count + 1)),
        "label.classes": pack(columns, class_bits(labels.class_count)),
        "label.weights": labels.weights[rows, columns].tobytes(),
    }


def label_layouts(layout: LabelLayout, class_count: int, images: int, entries: int) -> dict[str, Layout]:
    """What the label sections of a chunk hold, in order; ``entries`` counts the non-zero weights of a sparse layout."""
    lengths: dict[str, tuple[int, int]] = {
        "none": {},
        "hard": {"labels": (images, class_bits(class_count))},
        "dense": {"label.weights": (images * class_count, 8)},
        "sparse": {
            "label.counts": (images, class_bits(class_count + 1)),
            "label.classes": (entries, class_bits(class_count)),
            "label.weights": (entries, 8),
        },
    }[layout]
    return {name: Layout(count, ((name, bits),)) for name, (count, bits) in lengths.items()}


def layouts(
    labels: LabelLayout,
    class_count: int,
    images: int,
    entries: int,
    gaussians: int,
    channels: int,
    quantizers: QuantizerSet,
) -> dict[str, Layout]:
    """What every section of a chunk holds, in order."""
    return {
        "counts": Layout(images, (("counts", COUNT_BITS),)),
        **label_layouts(labels, class_count, images, entries),
        "gaussians": gaussian_layout(gaussians, channels, quantizers),
    }


def decode_labels(
    raw: Mapping[str, bytes], layout: LabelLayout, class_count: int, images: int, entries: int, where: str
) -> Labels:
    """Labels of one chunk: the inverse of ``encode_labels``.

    Raises:
        FormatError: a class is out of range, or the weights of an image are all zero or not in order.
    """
    if layout == "none":
        return Labels("none", class_count)
    if layout == "hard":
        bits = class_bits(class_count)
        return Labels(
            "hard", class_count, hard=unpack(raw["labels"], images, class_count, bits, where).astype(np.int64)
        )
    values = np.frombuffer(raw["label.weights"], np.uint8)
    if layout == "dense":
        weights = values.reshape(images, class_count)
    else:
        bits = class_bits(class_count + 1)
        per_image = unpack(raw["label.counts"], images, class_count + 1, bits, where).astype(np.int64)
        columns = unpack(raw["label.classes"], entries, class_count, class_bits(class_count), where)
        ends = np.cumsum(per_image)
        if images and int(ends[-1]) != entries:
            raise FormatError(f"{where}: label counts add up to {int(ends[-1])}, the header says {entries}")
        weights = np.zeros((images, class_count), np.uint8)
        last = -1
        for first in range(0, entries, _BLOCK):  # what follows takes 8 bytes a weight and more
            block = slice(first, min(first + _BLOCK, entries))
            rows = np.searchsorted(ends, np.arange(block.start, block.stop), side="right")
            places = rows * class_count + columns[block]
            if (np.diff(places, prepend=last) <= 0).any() or (values[block] == 0).any():
                raise FormatError(f"{where}: sparse labels must name ascending classes with weights above zero")
            weights.reshape(-1)[places] = values[block]
            last = int(places[-1])
    if not weights.any(axis=1).all():
        raise FormatError(f"{where}: the soft label of an image has no weight at all")
    return Labels(layout, class_count, weights=weights)
