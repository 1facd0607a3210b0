"""Quantisers: values <-> integer codes, by one rule in NumPy, torch and Numba.

A quantiser is a table of at most 4,096 float32 values and, between each two neighbours, a float32 threshold. The code
of a value is the number of thresholds that are not above it; the value of a code is its table entry. Both are look-ups,
so every backend agrees bit for bit (FORMAT.md, "Quantisers"). A writer may choose any other code for a value: a reader
only ever looks values up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from gsdata.gaussians import KERNEL, Antialias, Gaussians, ragged_rows

if TYPE_CHECKING:
    import torch

QuantizerKind: TypeAlias = Literal["uniform", "log2"]
MAX_BITS = 12
# Far beyond any image, and small enough that every table entry is a normal float32.
_BOUND = {"uniform": 2.0**24, "log2": 64.0}


@dataclass(frozen=True)
class Quantizer:
    """A scalar quantiser with 2^bits levels.

    Attributes:
        kind: ``uniform``: level k is low + (high - low) k / (2^bits - 1). ``log2``: level k is two to that power, so
            ``low`` and ``high`` are exponents and every level is positive.
        low: first level (``log2``: its exponent).
        high: last level, above ``low``.
        bits: width of a code, 1 to 12.

    Raises:
        ValueError: unknown kind, bits outside 1..12, a bound that is not finite or too large, or levels so close
            that float32 cannot hold a threshold between them.
    """

    kind: QuantizerKind
    low: float
    high: float
    bits: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(QuantizerKind):
            raise ValueError(f"quantiser kind must be one of {get_args(QuantizerKind)}, found {self.kind!r:.80}")
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"quantiser bits must be an integer from 1 to {MAX_BITS}, found {self.bits!r:.80}")
        low, high, bound = float(self.low), float(self.high), _BOUND[self.kind]
        if not -bound <= low < high <= bound:
            raise ValueError(f"{self.kind} quantiser needs -{bound:g} <= low < high <= {bound:g}, found {low}, {high}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        between = self.thresholds
        if not ((self.table[:-1] < between) & (between <= self.table[1:])).all():
            raise ValueError(
                f"{self.kind} quantiser from {low} to {high} is too narrow for {self.bits} bits in float32; widen it"
            )

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """(2^bits,) float32, ascending: the value of each code; each is the float64 formula rounded once."""
        return self._levels(np.arange(2**self.bits, dtype=np.float64))

    @cached_property
    def thresholds(self) -> NDArray[np.float32]:
        """(2^bits - 1,) float32: values from thresholds[k] on have a code above k (the formula at k + 1/2)."""
        return self._levels(np.arange(2**self.bits - 1) + 0.5)

    def _levels(self, k: NDArray[np.float64]) -> NDArray[np.float32]:
        levels = self.low + (self.high - self.low) * k / (2**self.bits - 1)
        if self.kind == "log2":
            # Not np.exp2, whose last bit depends on the vector instructions of the machine.
            return np.array([math.exp2(level) for level in levels], np.float32)
        rounded: NDArray[np.float32] = levels.astype(np.float32)
        return rounded

    def encode(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """The code of each value (any shape); values beyond the range get the first or last code.

        Raises:
            ValueError: a value is not a number.
        """
        values = np.asarray(values, dtype=np.float32)
        if np.isnan(values).any():
            raise ValueError("cannot quantise NaN")
        return np.searchsorted(self.thresholds, values, side="right").astype(np.uint16)

    def decode(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """The float32 value of each code (any shape).

        Raises:
            IndexError: a code is not below 2^bits.
        """
        values: NDArray[np.float32] = self.table[codes]
        return values

    def fake_quantize(self, values: torch.Tensor) -> torch.Tensor:
        """Exactly decode(encode(values)) in torch, with a straight-through gradient.

        Outside the quantiser's range only a gradient whose descent leads back into it passes; so values neither drift
        away nor get stuck.
        """
        from gsdata._straight_through import straight_through

        return straight_through(values, self)


@dataclass(frozen=True)
class QuantizerSet:
    """The quantisers of the four attributes: ``means`` (x and y), ``scales`` (l11 and l22), ``shear`` (l21), ``colors``.

    Raises:
        ValueError: ``scales`` could be zero or negative (Sigma would not be positive definite).
    """

    means: Quantizer
    scales: Quantizer
    shear: Quantizer
    colors: Quantizer

    def __post_init__(self) -> None:
        if not self.scales.table[0] > 0:
            raise ValueError(f"scales must be positive, found a first level of {self.scales.table[0]}")

    def bits(self, channels: int) -> int:
        """Bits of one packed Gaussian with ``channels`` colours, before entropy coding."""
        return 2 * self.means.bits + 2 * self.scales.bits + self.shear.bits + channels * self.colors.bits

    def fake_quantize(self, gaussians: Gaussians) -> Gaussians:
        """What the closed file will render: opacities folded, then every attribute quantised (torch, straight-through)."""
        import torch

        folded = gaussians.fold()
        scales = self.scales.fake_quantize(folded.cholesky[:, 0::2])
        shear = self.shear.fake_quantize(folded.cholesky[:, 1])
        return replace(
            folded,
            means=self.means.fake_quantize(folded.means),
            cholesky=torch.stack([scales[:, 0], shear, scales[:, 1]], dim=1),
            colors=self.colors.fake_quantize(folded.colors),
        )


@dataclass(frozen=True, eq=False)
class Codes:
    """A ragged batch of quantised Gaussians: ``Gaussians`` as integers, with the quantisers that give them values.

    Attributes:
        means: (G, 2) uint16; cholesky: (G, 3) uint16 (l11, l21, l22); colors: (G, C) uint16.
        counts: (B,) int64, Gaussians of each image.
        size: reference size (H0, W0) in pixels.
        quantizers: the sets in use.
        quantizer_index: (B,) int64, which set each image uses; None means the first for all.
        antialias, background, kernel: as in ``Gaussians``.

    Raises:
        ValueError: shapes or indices do not agree. Code ranges are checked where codes come from a file.
    """

    means: NDArray[np.uint16]
    cholesky: NDArray[np.uint16]
    colors: NDArray[np.uint16]
    counts: NDArray[np.int64]
    size: tuple[int, int]
    quantizers: tuple[QuantizerSet, ...]
    quantizer_index: NDArray[np.int64] | None = None
    antialias: Antialias = "box-normalized"
    background: tuple[float, ...] = ()
    kernel: str = KERNEL

    def __post_init__(self) -> None:
        # Gaussians checks the same shapes; one rule, one place.
        same = Gaussians(
            self.means,
            self.cholesky,
            self.colors,
            self.counts,
            self.size,
            None,
            self.antialias,
            self.background,
            self.kernel,
        )
        for name in ("counts", "size", "background"):
            object.__setattr__(self, name, getattr(same, name))
        if not self.quantizers:
            raise ValueError("codes need at least one quantiser set")
        index = np.zeros(len(self.counts), np.int64) if self.quantizer_index is None else self.quantizer_index
        index = np.ascontiguousarray(index, dtype=np.int64)
        if index.shape != self.counts.shape:
            raise ValueError(f"quantizer_index must have shape {self.counts.shape}, found {index.shape}")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self.quantizers):
            raise ValueError(f"quantizer_index must lie in 0..{len(self.quantizers) - 1}")
        object.__setattr__(self, "quantizer_index", index)

    @property
    def num_images(self) -> int:
        """B, the number of images."""
        return len(self.counts)

    @property
    def num_gaussians(self) -> int:
        """G, the number of Gaussians of all images together."""
        return len(self.means)

    @property
    def channels(self) -> int:
        """C, the number of colour channels."""
        return int(self.colors.shape[1])

    def dequantize(self) -> Gaussians:
        """The values as float32 NumPy arrays: pure table look-ups."""
        means = np.empty(self.means.shape, np.float32)
        cholesky = np.empty(self.cholesky.shape, np.float32)
        colors = np.empty(self.colors.shape, np.float32)
        set_of_row = np.repeat(np.asarray(self.quantizer_index), self.counts)
        for number, quantizers in enumerate(self.quantizers):
            rows: Any = slice(None) if len(self.quantizers) == 1 else np.flatnonzero(set_of_row == number)
            means[rows] = quantizers.means.decode(self.means[rows])
            cholesky[rows, 0] = quantizers.scales.decode(self.cholesky[rows, 0])
            cholesky[rows, 1] = quantizers.shear.decode(self.cholesky[rows, 1])
            cholesky[rows, 2] = quantizers.scales.decode(self.cholesky[rows, 2])
            colors[rows] = quantizers.colors.decode(self.colors[rows])
        return Gaussians(
            means, cholesky, colors, self.counts, self.size, None, self.antialias, self.background, self.kernel
        )

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Codes:
        """The images at ``indices`` (any order, repeats allowed); never quantises again.

        Raises:
            IndexError: an index is outside [-B, B).
        """
        wanted = np.asarray(indices, dtype=np.int64)
        rows = ragged_rows(self.counts, wanted)
        return replace(
            self,
            means=self.means[rows],
            cholesky=self.cholesky[rows],
            colors=self.colors[rows],
            counts=self.counts[wanted],
            quantizer_index=np.asarray(self.quantizer_index)[wanted],
        )


def concatenate(parts: Sequence[Codes]) -> Codes:
    """One batch from several with equal size, channels, antialias, background and kernel; equal quantiser sets unite.

    Raises:
        ValueError: nothing to concatenate, or the parts differ in one of those.
    """
    if not parts:
        raise ValueError("nothing to concatenate")
    first = parts[0]
    for part in parts[1:]:
        for name in ("size", "channels", "antialias", "background", "kernel"):
            if getattr(part, name) != getattr(first, name):
                raise ValueError(f"cannot unite sets with {name} {getattr(first, name)} and {getattr(part, name)}")
    united = {quantizers: None for part in parts for quantizers in part.quantizers}
    number = {quantizers: i for i, quantizers in enumerate(united)}
    index = [
        np.array([number[q] for q in part.quantizers], np.int64)[np.asarray(part.quantizer_index)] for part in parts
    ]
    return replace(
        first,
        means=np.concatenate([part.means for part in parts]),
        cholesky=np.concatenate([part.cholesky for part in parts]),
        colors=np.concatenate([part.colors for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        quantizers=tuple(united),
        quantizer_index=np.concatenate(index),
    )


def quantize(gaussians: Gaussians, quantizers: QuantizerSet) -> Codes:
    """Nearest codes of every attribute, opacities folded into the colours first (NumPy or torch input).

    Raises:
        ValueError: a value is not a number.
    """
    values = gaussians.fold().numpy()
    cholesky = np.stack(
        [
            quantizers.scales.encode(values.cholesky[:, 0]),
            quantizers.shear.encode(values.cholesky[:, 1]),
            quantizers.scales.encode(values.cholesky[:, 2]),
        ],
        axis=1,
    )
    return Codes(
        means=quantizers.means.encode(values.means),
        cholesky=cholesky,
        colors=quantizers.colors.encode(values.colors),
        counts=values.counts,
        size=values.size,
        quantizers=(quantizers,),
        antialias=values.antialias,
        background=values.background,
        kernel=values.kernel,
    )


def fit_quantizers(
    gaussians: Gaussians,
    *,
    means_bits: int = 8,
    scales_bits: int = 6,
    shear_bits: int = 7,
    colors_bits: int = 7,
    coverage: float = 1.0,
) -> QuantizerSet:
    """Quantisers whose ranges hold the central ``coverage`` (0 to 1] of the values; means always cover [-1, 1].

    Shear gets a range symmetric about zero. A range of a single value is widened, so that every set has a quantiser.

    Raises:
        ValueError: ``coverage`` is out of range, or values are not finite or beyond what a quantiser may hold.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie in (0, 1], found {coverage}")
    values = gaussians.fold().numpy()

    def span(x: NDArray[Any], least: float) -> tuple[float, float]:
        if x.size == 0:
            return -least, least
        low, high = (float(v) for v in np.quantile(x.astype(np.float64), [0.5 - coverage / 2, 0.5 + coverage / 2]))
        # At least 2^-10 of the values' size: 4,096 float32 levels and the thresholds between them then differ.
        least = max(least, 2.0**-10 * max(abs(low), abs(high)))
        slack = max(0.0, least - (high - low)) / 2
        return low - slack, high + slack

    log_low, log_high = span(np.log2(np.maximum(values.cholesky[:, 0::2], 1e-6)), 0.5)
    shear = max(abs(v) for v in span(values.cholesky[:, 1], 0.1))
    color_low, color_high = span(values.colors, 0.1)
    return QuantizerSet(
        means=Quantizer("uniform", -1.0, 1.0, means_bits),
        scales=Quantizer("log2", log_low, log_high, scales_bits),
        shear=Quantizer("uniform", -shear, shear, shear_bits),
        colors=Quantizer("uniform", color_low, color_high, colors_bits),
    )
