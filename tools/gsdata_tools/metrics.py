"""How alike two images are, measured on what a decoder shows: uint8 values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_PSNR = 100.0
"""dB reported for equal images, whose PSNR is infinite: JSON has no infinity, and means should stay finite."""

_RADIUS, _SIGMA = 5, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BATCH_VALUES = 1 << 21


def psnr(images: NDArray[np.uint8], references: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image in dB, 255 being the peak; equal images get ``MOST_PSNR``.

    Args:
        images: (B, ...) uint8; the squared error is averaged over all axes but the first.
        references: the same shape.
    """
    _check(images, references)
    result = np.empty(len(images))
    for i, (image, reference) in enumerate(zip(images, references, strict=True)):
        difference = image.astype(np.int32) - reference
        error = np.mean(np.square(difference, dtype=np.int64)) if difference.size else 0.0
        result[i] = MOST_PSNR if error == 0 else min(MOST_PSNR, 10 * np.log10(255**2 / error))
    return result


def ssim(images: NDArray[np.uint8], references: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity of each image (Wang et al. 2004), from -1 to 1.

    Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, L = 255, population moments; averaged over the pixels
    whose window lies inside the image, then over channels. Along a side shorter than the window, which has no such
    pixel, every pixel counts and the image is mirrored at its edges.

    Args:
        images: (B, H, W, C) uint8.
        references: the same shape.
    """
    _check(images, references)
    if images.ndim != 4:
        raise ValueError(f"images must be (B, H, W, C), found {images.shape}")
    down, across = _window(images.shape[1]), _window(images.shape[2]).T
    batch = max(1, _BATCH_VALUES // max(1, images[0].size if len(images) else 1))

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(down @ values @ across)

    parts = []
    for first in range(0, len(images), batch):
        x, y = (
            a[first : first + batch].transpose(0, 3, 1, 2).astype(np.float64, order="C") for a in (images, references)
        )
        mx, my = mean(x), mean(y)
        vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
        map_ = (2 * mx * my + _C1) * (2 * vxy + _C2) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
        parts.append(map_.mean(axis=(1, 2, 3)))
    return np.concatenate(parts) if parts else np.empty(0)


def _window(length: int) -> NDArray[np.float64]:
    """The matrix that averages ``length`` values with the window: a row per position that counts."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    inner = length > 2 * _RADIUS
    centers = np.arange(_RADIUS, length - _RADIUS) if inner else np.arange(length)
    matrix = np.zeros((len(centers), length))
    for row, center in enumerate(centers):
        # Mirrored at the edges, the first and last value repeated: period 2 length.
        at = (center + offsets) % (2 * length)
        np.add.at(matrix[row], np.where(at < length, at, 2 * length - 1 - at), weights)
    return matrix


def _check(images: NDArray[np.uint8], references: NDArray[np.uint8]) -> None:
    if images.shape != references.shape or images.dtype != np.uint8 or references.dtype != np.uint8:
        raise ValueError(
            f"both must be uint8 of one shape, found {images.dtype} {images.shape} and {references.dtype} {references.shape}"
        )
