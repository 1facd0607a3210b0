"""The reference method's Gaussians: how its renderer draws them, and which of ours look most alike.

Facts of GSDD (arXiv 2509.26219) and of its published renderer, none of its code. There, a pixel is the mean of four samples, at a quarter and three
quarters of its sides; a sample is the sum over Gaussians of min(1, a exp(-d' C^-1 d / 2)) times the colour, where a is the opacity and
C = L L' + I/12. A Gaussian is seen by the tiles of 16 x 16 pixels that the square around its circle of three standard
deviations meets; what is below 1/255 is skipped. Nothing is clamped, and what is not covered is black.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata import Gaussians
from gsdata_tools.gsdd_checkpoint import Splats

TILE = 16
TILE_LIMIT = 256
"""Gaussians of a tile that the published renderer draws; which ones, where there are more, is not defined."""
SPLIT = 1.2
"""Opacities above this become two Gaussians."""
_BOX = 1.0 / 12.0
_SAMPLES = 1.0 / 16.0  # variance of two samples at a quarter and three quarters of a pixel
_THINNEST = 1.0 / 256.0  # least variance that is stored: the box adds 1/12 to it
LEAST = 1.0 / 255.0
"""Nothing below this is drawn."""
_OFFSETS = (0.25, 0.75)


def images(splats: Splats, size: tuple[int, int]) -> Iterator[tuple[NDArray[np.float64], int]]:
    """Each image as the published renderer draws it, (H, W, 3) float64 and not clamped, and its tiles beyond ``TILE_LIMIT``.

    The sum goes over all Gaussians of a tile also where the published renderer stops at ``TILE_LIMIT``.

    Args:
        splats: a checkpoint's.
        size: (H, W) that it was trained at; the checkpoint does not say.
    """
    starts = np.concatenate([[0], np.cumsum(splats.counts)])
    for first, last in itertools.pairwise(starts):
        yield _image(splats, slice(first, last), size)


def _image(splats: Splats, rows: slice, size: tuple[int, int]) -> tuple[NDArray[np.float64], int]:
    height, width = size
    center = (splats.means[rows] + 1) * 0.5 * (width, height)
    l11, l21, l22 = splats.cholesky[rows].T
    xx, xy, yy = l11 * l11 + _BOX, l11 * l21, l21 * l21 + l22 * l22 + _BOX
    det = _determinant(l11 * l22, xx + yy - 2 * _BOX, _BOX)
    half = (xx + yy) / 2
    radius = np.ceil(3 * np.sqrt(half + np.sqrt(np.maximum(0.1, half * half - det))))
    # Truncated towards zero, as a conversion to int does, then limited to the image.
    low = np.trunc((center - radius[:, None]) / TILE)
    high = np.trunc((center + radius[:, None]) / TILE + 1)
    image = np.zeros((height, width, 3))
    crowded = 0
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = (left // TILE, top // TILE)
            seen = np.flatnonzero(((low <= tile) & (tile < high)).all(axis=1))
            crowded += len(seen) > TILE_LIMIT
            if len(seen) == 0:
                continue
            x = _samples(left, min(left + TILE, width)) - center[seen, 0][:, None]
            y = _samples(top, min(top + TILE, height)) - center[seen, 1][:, None]
            a, b, c = (values[seen, None] for values in (yy / det, -xy / det, xx / det))
            power = (c * y * y)[:, :, None] + (a * x * x)[:, None, :] + 2 * (b * y)[:, :, None] * x[:, None, :]
            alpha = np.minimum(1, splats.opacities[rows][seen, None, None] * np.exp(-power / 2))
            alpha[(alpha < LEAST) | (power < 0)] = 0
            sampled = np.einsum("gyx,gc->yxc", alpha, splats.colors[rows][seen])
            tall, wide = sampled.shape[0] // 2, sampled.shape[1] // 2
            image[top : top + tall, left : left + wide] = sampled.reshape(tall, 2, wide, 2, 3).mean(axis=(1, 3))
    return image, crowded


def _samples(start: int, stop: int) -> NDArray[np.float64]:
    """The two sample positions of each pixel along one side."""
    return np.asarray((np.arange(start, stop)[:, None] + _OFFSETS).reshape(-1), np.float64)


def _determinant(root: NDArray[np.float64], trace: NDArray[np.float64], added: Any) -> NDArray[np.float64]:
    """Of a matrix of this trace and this root of its determinant, with a multiple of the identity added; never zero or less."""
    return np.asarray(root * root + added * trace + added * added)


def convert(splats: Splats, size: tuple[int, int], split: float = SPLIT) -> Gaussians:
    """Gaussians that our renderer shows most alike, at the size of training and in the mode ``box``.

    * The four samples of a pixel widen a Gaussian by 1/16 of a squared pixel; it is stored that much wider, its integral the same.
    * An opacity up to 1 is multiplied into the colour. One above 1 cuts the top off: such a profile becomes the Gaussian of least
      squared difference, which is lower and wider, or the best sum of two, the second one narrow and of the opposite sign.
    * What the reference renderer never draws, for its opacity is below 1/255, is left out.

    Args:
        splats: a checkpoint's.
        size: (H, W) that it was trained at.
        split: opacities above this one get two Gaussians.
    """
    drawn = np.flatnonzero(splats.opacities >= LEAST)
    opacity = splats.opacities[drawn]
    two = opacity > max(split, 1.0)
    wide, height, narrow, depth = _profiles(opacity, two)
    rows = np.concatenate([drawn, drawn[two]])
    scale, amplitude = np.concatenate([wide, narrow[two]]), np.concatenate([height, depth[two]])
    image = np.repeat(np.arange(len(splats.counts)), splats.counts)[rows]
    order = np.argsort(image, kind="stable")
    rows, scale, amplitude = rows[order], scale[order], amplitude[order]
    l11, l21, l22 = splats.cholesky[rows].T
    # scale * L L' with multiples of the identity added: what theirs draws, that with the samples, and that without our box.
    root, trace = scale * l11 * l22, scale * (l11 * l11 + l21 * l21 + l22 * l22)
    theirs = scale * _BOX
    ours = np.maximum(theirs + _SAMPLES - _BOX, _THINNEST)
    amplitude = amplitude * np.sqrt(_determinant(root, trace, theirs) / _determinant(root, trace, ours + _BOX))
    xx = scale * l11 * l11 + ours
    new11 = np.sqrt(xx)
    new21 = scale * l11 * l21 / new11
    new22 = np.sqrt(_determinant(root, trace, ours) / xx)
    return Gaussians(
        means=splats.means[rows].astype(np.float32),
        cholesky=np.stack([new11, new21, new22], axis=1).astype(np.float32),
        colors=(splats.colors[rows] * amplitude[:, None]).astype(np.float32),
        counts=np.bincount(image, minlength=len(splats.counts)),
        size=size,
        antialias="box",
    )


def _profiles(opacity: NDArray[np.float64], two: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """s, A, r, D of the A exp(-u / s) + D exp(-u / r) closest to f(u) = min(1, a exp(-u)), a being each opacity; D = 0 unless ``two``.

    u = d' C^-1 d / 2 is uniform over the plane, and the squared difference is least over the plane. With I(s) the integral of f(u) exp(-u / s), A and D
    solve two linear equations, and s and r are looked up among many, for 512 opacities. D is at least -1.5, as codes are few.
    """
    a = np.geomspace(1, max(float(opacity.max(initial=1)), 1.001), 512)
    log = np.log(a)[:, None]
    s = np.linspace(1, 1.5 + log.max(), 2048)
    best = s[np.argmax(_integral(a[:, None], s) ** 2 / s, axis=1)]
    wide, narrow = np.interp(opacity, a, best), np.ones_like(opacity)
    height, depth = 2 * _integral(np.maximum(opacity, 1), wide) / wide, np.zeros_like(opacity)
    if two.any():
        grid = np.stack(np.meshgrid(np.linspace(0.85, 1.35, 51), np.geomspace(0.02, 0.5, 41)), -1).reshape(-1, 2).T
        first = grid[0] * (1 + log / 4)
        second = first * grid[1]
        _, deep, gain = _pair(a[:, None], first, second)
        best_pair = np.argmax(np.where(deep < -1.5, -np.inf, gain), axis=1)[:, None]
        near = np.searchsorted(a, opacity[two]).clip(0, len(a) - 1)
        wide[two] = np.take_along_axis(first, best_pair, 1)[near, 0]
        narrow[two] = np.take_along_axis(second, best_pair, 1)[near, 0]
        height[two], depth[two], _ = _pair(opacity[two], wide[two], narrow[two])
    return wide, height * np.minimum(opacity, 1), narrow, depth


def _pair(a: Any, s: Any, r: Any) -> tuple[Any, Any, Any]:
    """The best A and D for widths s and r, and by how much they lower the squared difference."""
    one, other, both = _integral(a, s), _integral(a, r), s * r / (s + r)
    det = s * r / 4 - both * both
    high, deep = (r / 2 * one - both * other) / det, (s / 2 * other - both * one) / det
    return high, deep, high * one + deep * other


def _integral(a: Any, s: Any) -> Any:
    """Of min(1, a exp(-u)) exp(-u / s) over u > 0, for a >= 1."""
    t = a ** (-1 / s)
    return s * (1 - t) + t * s / (s + 1)
