"""What codes will weigh, before they are written: bits of each code from how often it occurs.

An entropy coder spends about -log2 p bits on a code of frequency p. The estimate leaves contexts out (the file's coder
gains a few per cent with them), and takes a position for constant: positions are nearly uniform, and what
their order saves does not depend on where one Gaussian lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gsdata.quantize import Codes, Quantizer, QuantizerSet
from gsdata.streams import rotate_colors

if TYPE_CHECKING:
    import torch

    from gsdata.gaussians import Gaussians

_PRIOR = 0.5  # occurrences that every code has before counting, so that none costs infinitely much


@dataclass(frozen=True, eq=False)
class RateModel:
    """Bits of every code of the streams that shape and colour a Gaussian.

    Attributes:
        shape: (3, 2^n) float32, bits of the codes of l11, l21, l22; n is the larger of their widths.
        colors: (C, 2^bits) float32, bits of the stored colours: with three channels G, R - G and B - G modulo 2^bits.
        position: bits of a Gaussian's x and y together.
    """

    shape: NDArray[np.float32]
    colors: NDArray[np.float32]
    position: float

    @classmethod
    def of(cls, codes: Codes) -> RateModel:
        """The model of ``codes``, which share one quantiser set."""
        (quantizers,) = codes.quantizers
        widths = (quantizers.scales.bits, quantizers.shear.bits, quantizers.scales.bits)
        shape = np.zeros((3, 2 ** max(widths)), np.float32)
        for column, bits in enumerate(widths):
            shape[column, : 2**bits] = _bits(codes.cholesky[:, column], bits)
        colors = rotate_colors(codes.colors, quantizers.colors.bits, forward=True)
        rows = [_bits(colors[:, channel], quantizers.colors.bits) for channel in range(codes.channels)]
        # n Gaussians in any order: log2 n! bits less than n places of 2 x bits each, which is about n log2(n / e).
        number = codes.num_gaussians / max(1, codes.num_images)
        free = max(0.0, float(np.log2(max(number, 1.0) / np.e)))
        return cls(shape, np.stack(rows), max(1.0, 2 * quantizers.means.bits - free))

    def bits(self, codes: Codes) -> NDArray[np.float32]:
        """(G,) bits of each Gaussian."""
        total = np.full(codes.num_gaussians, self.position, np.float32)
        for column in range(3):
            total += self.shape[column, codes.cholesky[:, column]]
        colors = rotate_colors(codes.colors, codes.quantizers[0].colors.bits, forward=True)
        for channel in range(codes.channels):
            total += self.colors[channel, colors[:, channel]]
        return total

    def expected_bits(self, gaussians: Gaussians, quantizers: QuantizerSet) -> torch.Tensor:
        """(G,) bits of each Gaussian, differentiable with respect to its values.

        Between two codes the bits are interpolated, so the gradient says what a step of one code costs. A stored
        difference of colours follows both of its channels. Beyond a quantiser's range nothing changes any more.

        Args:
            gaussians: torch tensors.
            quantizers: those of the codes that the model was made of.
        """
        values = gaussians.fold()
        total: torch.Tensor = values.colors.new_full((values.num_gaussians,), self.position)
        for column, quantizer in enumerate((quantizers.scales, quantizers.shear, quantizers.scales)):
            table = self.shape[column, : 2**quantizer.bits]
            total = total + _interpolate(table, _level(values.cholesky[:, column], quantizer))
        levels = [_level(values.colors[:, c], quantizers.colors) for c in range(values.channels)]
        if values.channels == 3:
            levels = [levels[1], levels[0] - levels[1], levels[2] - levels[1]]
        for channel, level in enumerate(levels):
            total = total + _interpolate(self.colors[channel], level)
        return total


def _bits(codes: NDArray[np.uint16], width: int) -> NDArray[np.float32]:
    counts = np.bincount(codes, minlength=2**width) + _PRIOR
    return np.asarray(-np.log2(counts / counts.sum()), np.float32)


def _level(values: torch.Tensor, quantizer: Quantizer) -> torch.Tensor:
    """Values as fractional codes, from 0 to the last one."""
    levels: torch.Tensor = values.log2() if quantizer.kind == "log2" else values
    steps = 2**quantizer.bits - 1
    codes: torch.Tensor = ((levels - quantizer.low) * (steps / (quantizer.high - quantizer.low))).clamp(0, steps)
    return codes


def _interpolate(bits: NDArray[np.float32], level: torch.Tensor) -> torch.Tensor:
    """Bits at fractional codes; codes count modulo the length, as stored differences do."""
    import torch

    table = torch.as_tensor(bits, dtype=level.dtype, device=level.device)
    below = level.detach().floor()
    first = below.long() % len(bits)
    second = (first + 1) % len(bits)
    share = level - below
    between: torch.Tensor = torch.lerp(table[first], table[second], share)
    return between
