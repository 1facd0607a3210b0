"""Fit images with Gaussians and choose their codes: what ``gsd-encode`` does, as a function for other commands.

Three phases. Every image is fitted in floating point by Adam, from positions drawn where it has edges; then one set of
quantisers is chosen from the values of all images; then every image's codes are searched so that the decoded picture is
closest to the image (``search_kernels`` says why that replaces straight-through training). Images never influence each
other but through the quantisers, every draw is keyed by (seed, image), and work is cut into blocks of images by size
alone: the result depends on neither threads nor interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata.budget import Bits
from gsdata.gaussians import Gaussians
from gsdata_tools.blocks import Progress, Store, as_target, blocks_of, stopping
from gsdata_tools.draws import rng
from gsdata_tools.search import DEFAULT_RATE_WEIGHT, DEFAULT_SWEEPS, FitResult, choose_codes

DEFAULT_STEPS = 1200
DEFAULT_MOVES = 0.1
"""Share of an image's Gaussians that move at a time (``density_kernels``)."""
PIXELS_PER_GAUSSIAN = 24
"""Without another wish an image gets a Gaussian per 24 pixels: 42 at 32x32."""

# Learning rates; positions and shear are relative to the spacing of the Gaussians, sqrt(H W / N) pixels.
# Scales at more than an octave a step look wild, and are what lets a Gaussian leave a poor optimum.
_RATE_MEANS, _RATE_SCALES, _RATE_SHEAR, _RATE_COLORS = 0.07, 1.5, 0.02, 0.07
_LEAST_SCALE = 0.5  # pixels: the prefilter hides what is thinner
_START_SCALE, _MOVED_SCALE, _MOST_SCALE = 0.35, 0.25, 7.0  # of the spacing
_CLEARANCE = 0.4  # of the spacing, in pixels, between Gaussians that move at the same time


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
    for block in blocks_of(images):
        label = f"{name}fit-{block.start:07d}"
        if store and label in saved:
            arrays, _ = store.load(label)
            done.append(arrays["parameters"])
            quality.extend(arrays["psnr"].tolist())
        else:
            with stopping(stop):
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


def _psnr(squared_error: float, values: int) -> float:
    return min(100.0, -10 * math.log10(max(squared_error / values, 1e-10)))
