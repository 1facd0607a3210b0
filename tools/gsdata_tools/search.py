"""Choose the codes of fitted images: quantisers for all of them, then a search that trades error against coded bits.

The search goes over an image's Gaussians and moves each to the neighbouring codes, with the colours that are best for them, which
lower the error and the estimated bits most (``search_kernels``). What bits are is learned from the codes themselves: after every few
sweeps over all images they are estimated again, and codes gather where they have become cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gsdata.budget import Bits, default_bits
from gsdata.gaussians import Gaussians
from gsdata.quantize import Codes, fit_quantizers, quantize
from gsdata_tools.blocks import Store, as_target, blocks_of, stopping
from gsdata_tools.rate import RateModel

DEFAULT_SWEEPS = 24
SWEEPS_PER_ESTIMATE = 2
DEFAULT_RATE_WEIGHT = 0.05
"""What a bit on every Gaussian is worth to the search, in nats of an image's squared error: 0.05 is 0.22 dB. At equal bytes no other
weight that was tried was 0.1 dB better (benchmarks/results/rate_weight.json)."""
COVERAGE = 0.994  # of the values lie in the quantisers' ranges: the rest is worth less than the finer steps


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit gives.

    Attributes:
        codes: what to store.
        losses: (G,) float32, by how much the squared error of its image (values in [0, 1]) would grow without each Gaussian.
        squared_errors: (B,) float64, sums over the pixels and channels of each image, as clamped floats.
    """

    codes: Codes
    losses: NDArray[np.float32]
    squared_errors: NDArray[np.float64]


def choose_codes(
    images: NDArray[np.uint8],
    gaussians: Gaussians,
    *,
    sweeps: int = DEFAULT_SWEEPS,
    rate_weight: float = DEFAULT_RATE_WEIGHT,
    bits: Bits | None = None,
    store: Store | None = None,
    name: str = "",
    threads: int | None = None,
) -> FitResult:
    """The phases of ``fit.fit_images`` after the floating-point one, with its arguments."""
    bits = bits or default_bits(gaussians.size, gaussians.num_gaussians / max(1, gaussians.num_images))
    quantizers = fit_quantizers(
        gaussians,
        means_bits=bits.means,
        scales_bits=bits.scales,
        shear_bits=bits.shear,
        colors_bits=bits.colors,
        coverage=COVERAGE,
    )
    rounded = quantize(gaussians, quantizers)
    codes, losses, errors = improve_codes(
        images, rounded, sweeps=sweeps, rate_weight=rate_weight, store=store, name=name, threads=threads
    )
    return FitResult(codes, losses, errors)


def improve_codes(
    images: NDArray[np.uint8],
    codes: Codes,
    *,
    sweeps: int = DEFAULT_SWEEPS,
    rate_weight: float = DEFAULT_RATE_WEIGHT,
    store: Store | None = None,
    name: str = "",
    threads: int | None = None,
) -> tuple[Codes, NDArray[np.float32], NDArray[np.float64]]:
    """Better codes, and ``losses`` and ``squared_errors`` as ``FitResult`` has them; arguments are those of ``fit_images``.

    ``codes`` must have one set of quantisers and ``box-normalized`` antialiasing.
    """
    swept, label = 0, f"{name}codes"
    if store and label in store.names():
        arrays, meta = store.load(label)
        swept, losses, errors = int(meta["sweeps"]), arrays["losses"], arrays["errors"]
        codes = replace(codes, means=arrays["means"], cholesky=arrays["cholesky"], colors=arrays["colors"])
        if meta["ended"]:
            return codes, losses, errors
    while True:
        number = min(SWEEPS_PER_ESTIMATE, sweeps - swept)
        better, losses, errors = _sweep(images, codes, number, rate_weight, threads)
        values = {name: getattr(better, name) for name in ("means", "cholesky", "colors")}
        swept += number
        ended = swept == sweeps or all(np.array_equal(new, getattr(codes, name)) for name, new in values.items())
        codes = better
        if store:
            store.save(label, {**values, "losses": losses, "errors": errors}, {"sweeps": swept, "ended": ended})
        if ended:
            return codes, losses, errors


def _sweep(
    images: NDArray[np.uint8], codes: Codes, sweeps: int, rate_weight: float, threads: int | None
) -> tuple[Codes, NDArray[np.float32], NDArray[np.float64]]:
    """``sweeps`` passes over every image with one estimate of the bits."""
    from gsdata.kernels.threads import parallel
    from gsdata_tools.search_kernels import search_codes

    (quantizers,) = codes.quantizers
    colors = quantizers.colors
    tables = tuple(
        np.ascontiguousarray(quantizer.table)
        for quantizer in (quantizers.means, quantizers.means, quantizers.scales, quantizers.shear, quantizers.scales, colors)
    )  # fmt: skip
    inverse = (2**colors.bits - 1) / (colors.high - colors.low)
    rate = RateModel.of(codes)
    background = np.array(codes.background, np.float32)
    rows = np.concatenate([codes.means, codes.cholesky, codes.colors], axis=1).astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(codes.counts)])
    losses = np.zeros(len(rows), np.float32)
    errors = np.zeros(len(images), np.float64)
    stop = np.zeros(1, np.uint8)

    def search_one(index: int) -> None:
        own = slice(offsets[index], offsets[index + 1])
        mine = np.ascontiguousarray(rows[own].T)
        lost = np.zeros(mine.shape[1], np.float32)
        errors[index] = search_codes(
            mine, as_target(images[index]), background, tables, colors.low, inverse, rate.shape, rate.colors, rate_weight,
            sweeps, stop, lost,
        )  # fmt: skip
        rows[own], losses[own] = mine.T, lost

    for block in blocks_of(images):
        with stopping(stop):
            parallel(search_one, block, threads)
    small = rows.astype(np.uint16)
    better = replace(codes, means=small[:, :2], cholesky=small[:, 2:5], colors=small[:, 5:])
    return better, losses, errors
