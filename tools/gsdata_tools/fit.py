"""Fit images with Gaussians and choose their codes: what ``gsd-encode`` does, as a function for other commands.

Three phases. Every image is fitted in floating point by Adam, from positions drawn where it has edges; then one set of
quantisers is chosen from the values of all images; then every image's codes are searched so that the decoded picture is
closest to the image (``search_kernels`` says why that replaces straight-through training). Images never influence each
other but through the quantisers, every draw is keyed by (seed, image), and work is cut into blocks of images by size
alone: the result depends on neither threads nor interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gsdata.budget import Bits, default_bits
from gsdata.gaussians import Gaussians
from gsdata.quantize import Codes, fit_quantizers, quantize
from gsdata_tools.draws import rng
from gsdata_tools.rate import RateModel

DEFAULT_STEPS = 1200
DEFAULT_SWEEPS = 12
DEFAULT_MOVES = 0.1
"""Share of an image's Gaussians that move at a time (``density_kernels``)."""
DEFAULT_RATE_WEIGHT = 0.04
"""What a bit on every Gaussian is worth to the search, in nats of an image's squared error: 0.04 is 0.17 dB, about what the same
bits give as further Gaussians, whatever their number and the size of the image."""
PIXELS_PER_GAUSSIAN = 24
"""Without another wish an image gets a Gaussian per 24 pixels: 42 at 32x32."""

COVERAGE = 0.994  # of the values lie in the quantisers' ranges: the rest is worth less than the finer steps
BLOCK_PIXELS = 128 * 32 * 32
# Learning rates; positions and shear are relative to the spacing of the Gaussians, sqrt(H W / N) pixels.
# Scales at more than an octave a step look wild, and are what lets a Gaussian leave a poor optimum.
_RATE_MEANS, _RATE_SCALES, _RATE_SHEAR, _RATE_COLORS = 0.07, 1.5, 0.02, 0.07
_LEAST_SCALE = 0.5  # pixels: the prefilter hides what is thinner
_START_SCALE, _MOVED_SCALE, _MOST_SCALE = 0.35, 0.25, 7.0  # of the spacing
_CLEARANCE = 0.4  # of the spacing, in pixels, between Gaussians that move at the same time


class Store(Protocol):
    """Where finished blocks go; ``gsdata_tools.checkpoints.Checkpoint`` is one."""

    def names(self) -> list[str]: ...  # noqa: D102
    def save(self, name: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None) -> None: ...  # noqa: D102
    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]: ...  # noqa: D102


Progress = Callable[[int, float], None]
"""Called after each block with the images done and their mean PSNR in dB so far."""


@dataclass(frozen=True, eq=False)
class FitResult:
    """What a fit gives.

    Attributes:
        codes: what to store.
        gaussians: the values of the floating-point phase, before quantisation.
        losses: (G,) float32, by how much the squared error of its image (values in [0, 1]) would grow without each Gaussian.
        squared_errors: (B,) float64, sums over the pixels and channels of each image, as clamped floats.
    """

    codes: Codes
    gaussians: Gaussians
    losses: NDArray[np.float32]
    squared_errors: NDArray[np.float64]


def fit_images(
    images: NDArray[np.uint8],
    counts: int | Sequence[int] | NDArray[np.integer[Any]],
    *,
    steps: int = DEFAULT_STEPS,
    moves: float = DEFAULT_MOVES,
    sweeps: int = DEFAULT_SWEEPS,
    rate_weight: float = DEFAULT_RATE_WEIGHT,
    seed: int = 0,
    bits: Bits | None = None,
    image_keys: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
    name: str = "",
    threads: int | None = None,
) -> FitResult:
    """Fit images and choose their codes.

    Args:
        images: (B, H, W, C) uint8, C from 1 to 4.
        counts: Gaussians of each image, or of every image.
        steps: of Adam, per image.
        moves: see ``DEFAULT_MOVES``; 0 moves none.
        sweeps: most passes of the search for better codes, per image; 0 rounds to nearest.
        rate_weight: see ``DEFAULT_RATE_WEIGHT``; 0 looks at the error alone.
        seed: of the starting positions.
        bits: widths of the codes; None means ``gsdata.budget.default_bits``.
        image_keys: (B,) numbers that the draws are keyed by (default: positions in ``images``), so that an image starts
            the same way in whatever selection it is.
        progress: see ``Progress``.
        store: keeps finished blocks; those that it holds are not computed again.
        name: prefix of the blocks' names in the store.
        threads: None means as many as the kernels use.

    Raises:
        ValueError: shapes or dtypes are not as above.
    """
    gaussians = fit_gaussians(
        images, counts, steps=steps, moves=moves, seed=seed, image_keys=image_keys, progress=progress, store=store, name=name,
        threads=threads,
    )  # fmt: skip
    return choose_codes(
        images, gaussians, sweeps=sweeps, rate_weight=rate_weight, bits=bits, store=store, name=name, threads=threads
    )


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
    """The phases of ``fit_images`` after the floating-point one, with its arguments."""
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
    return FitResult(codes, gaussians, losses, errors)


def fit_gaussians(
    images: NDArray[np.uint8],
    counts: int | Sequence[int] | NDArray[np.integer[Any]],
    *,
    steps: int = DEFAULT_STEPS,
    moves: float = DEFAULT_MOVES,
    seed: int = 0,
    image_keys: Sequence[int] | NDArray[np.integer[Any]] | None = None,
    progress: Progress | None = None,
    store: Store | None = None,
    name: str = "",
    threads: int | None = None,
) -> Gaussians:
    """The floating-point phase of ``fit_images``, with its arguments."""
    from gsdata.kernels.threads import parallel
    from gsdata_tools.fit_kernels import fit_image

    number = _check_images(images, counts)
    keys = np.arange(len(images)) if image_keys is None else np.asarray(image_keys)
    channels = images.shape[3]
    background = np.zeros(channels, np.float32)
    stop = np.zeros(1, np.uint8)

    def fit_one(index: int) -> tuple[NDArray[np.float32], float]:
        target = as_target(images[index])
        parameters = _start(target, int(number[index]), rng(seed, "encode-start", int(keys[index])))
        rates, low, high = _schedule(target.shape, int(number[index]))
        error = fit_image(
            parameters,
            target,
            background,
            rates,
            low,
            high,
            steps,
            *_moves(target.shape, int(number[index]), moves),
            stop,
        )
        return parameters, error

    done: list[NDArray[np.float32]] = []
    quality: list[float] = []
    saved = set(store.names()) if store else set()
    for block in _blocks(images):
        label = f"{name}fit-{block.start:07d}"
        if store and label in saved:
            arrays, _ = store.load(label)
            done.append(arrays["parameters"])
            quality.extend(arrays["psnr"].tolist())
        else:
            with _stopping(stop):
                fitted = parallel(fit_one, block, threads)
            done.append(np.concatenate([parameters for parameters, _ in fitted], axis=1))
            found = [_psnr(error, images[0].size) for _, error in fitted]
            quality.extend(found)
            if store:
                store.save(label, {"parameters": done[-1], "psnr": np.array(found)})
        if progress:
            progress(block.stop, float(np.mean(quality)))
    values = np.concatenate(done, axis=1) if done else np.zeros((5 + channels, 0), np.float32)
    cholesky = np.stack([np.exp2(values[2]), values[3], np.exp2(values[4])], axis=1)
    return Gaussians(
        np.ascontiguousarray(values[:2].T), cholesky, np.ascontiguousarray(values[5:].T), number, images.shape[1:3]
    )


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
    """The search of ``fit_images``: better codes, and ``losses`` and ``squared_errors`` as ``FitResult`` has them.

    ``codes`` must have one set of quantisers and ``box-normalized`` antialiasing.
    """
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

    saved = set(store.names()) if store else set()
    for block in _blocks(images):
        label = f"{name}codes-{block.start:07d}"
        own = slice(offsets[block.start], offsets[block.stop])
        if store and label in saved:
            arrays, _ = store.load(label)
            rows[own], losses[own], errors[block.start : block.stop] = (
                arrays["rows"],
                arrays["losses"],
                arrays["errors"],
            )
            continue
        with _stopping(stop):
            parallel(search_one, block, threads)
        if store:
            arrays = {
                "rows": rows[own].astype(np.uint16),
                "losses": losses[own],
                "errors": errors[block.start : block.stop],
            }
            store.save(label, arrays)
    small = rows.astype(np.uint16)
    better = replace(codes, means=small[:, :2], cholesky=small[:, 2:5], colors=small[:, 5:])
    return better, losses, errors


def as_target(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, C) uint8 as (C, H, W) float32 in [0, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def default_count(size: tuple[int, int]) -> int:
    """Gaussians of an image of ``size`` (H, W) where nobody says how many."""
    return max(1, size[0] * size[1] // PIXELS_PER_GAUSSIAN)


def _check_images(images: NDArray[np.uint8], counts: Any) -> NDArray[np.int64]:
    if images.ndim != 4 or images.dtype != np.uint8 or not 1 <= images.shape[3] <= 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must be uint8 (B, H, W, C) with C from 1 to 4, found {images.dtype} {images.shape}")
    number = np.asarray(counts)
    if number.dtype.kind not in "iu" or number.ndim > 1 or (number.ndim == 1 and len(number) != len(images)):
        raise ValueError(f"counts must be an integer or {len(images)} of them, found {number.dtype} {number.shape}")
    if number.size and int(number.min()) < 0:
        raise ValueError(f"counts must not be negative, found {int(number.min())}")
    return np.broadcast_to(number, (len(images),)).astype(np.int64)


def _start(target: NDArray[np.float32], count: int, draws: np.random.Generator) -> NDArray[np.float32]:
    """Parameters before the first step: round Gaussians in half the colour of the pixel they start on."""
    channels, height, width = target.shape
    gray = target.mean(0)
    edges = np.hypot(np.gradient(gray, axis=0) if height > 1 else 0, np.gradient(gray, axis=1) if width > 1 else 0)
    edges = np.broadcast_to(edges, gray.shape).ravel().astype(np.float64) + 1e-6
    pixels = draws.choice(gray.size, count, replace=count > gray.size, p=edges / edges.sum())
    y, x = np.divmod(pixels, width)
    parameters = np.empty((5 + channels, count), np.float32)
    parameters[0] = (x + draws.random(count)) / width * 2 - 1
    parameters[1] = (y + draws.random(count)) / height * 2 - 1
    spacing = math.sqrt(height * width / max(1, count))
    parameters[2] = parameters[4] = math.log2(max(_LEAST_SCALE, _START_SCALE * spacing))
    parameters[3] = 0
    parameters[5:] = target[:, y, x] / 2
    return parameters


def _schedule(
    shape: tuple[int, ...], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Learning rates, lower and upper bounds of the rows of the parameters."""
    channels, height, width = shape
    spacing = math.sqrt(height * width / max(1, count))
    step = 2 * _RATE_MEANS * spacing
    most = max(2 * _LEAST_SCALE, _MOST_SCALE * spacing)
    least, large = math.log2(_LEAST_SCALE), math.log2(most)
    rates = [step / width, step / height, _RATE_SCALES, _RATE_SHEAR * spacing, _RATE_SCALES, *[_RATE_COLORS] * channels]
    low = [-1, -1, least, -2 * most, least, *[-4] * channels]
    high = [1, 1, large, 2 * most, large, *[4] * channels]
    return np.array(rates, np.float32), np.array(low, np.float32), np.array(high, np.float32)


def _moves(shape: tuple[int, ...], count: int, share: float) -> tuple[int, int, float]:
    """How many Gaussians move at a time, the pixels between them, and log2 of their scale afterwards."""
    spacing = math.sqrt(shape[1] * shape[2] / max(1, count))
    return (
        math.ceil(share * count) if count > 1 else 0,
        round(_CLEARANCE * spacing),
        math.log2(max(_LEAST_SCALE, _MOVED_SCALE * spacing)),
    )


def _blocks(images: NDArray[np.uint8]) -> list[range]:
    """Ranges of images that are computed and saved together: 128 at 32x32, fewer where images are larger."""
    size = min(128, max(4, BLOCK_PIXELS // (images.shape[1] * images.shape[2])))
    return [range(first, min(first + size, len(images))) for first in range(0, len(images), size)]


def _psnr(squared_error: float, values: int) -> float:
    return min(100.0, -10 * math.log10(max(squared_error / values, 1e-10)))


class _stopping:  # noqa: N801
    """Makes running kernels return soon when the block is left by an exception such as Ctrl-C."""

    def __init__(self, stop: NDArray[np.uint8]) -> None:
        self._stop = stop

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._stop[0] = 1
