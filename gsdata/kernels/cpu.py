"""The CPU backend: the kernels of ``splat.py`` over a ragged batch, on a pool of threads.

What may be changed: how images are handed to threads. An image is always one thread's, so no result depends on it.
Numba's cache does not notice when a function called from another file changes: clear it after editing ``splat.py``.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

import functools
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gsdata.kernels.compiled import load_cached
from gsdata.kernels.splat import splat_backward, splat_forward
from gsdata.kernels.threads import num_threads, parallel

__all__ = ["backward", "forward", "num_threads", "parallel", "splat_backward", "splat_forward"]

Floats = NDArray[np.float32]

CHUNKS_PER_THREAD = 4
MIN_CHUNK = 1 << 20
"""Pairs of a pixel and a Gaussian in a chunk, about 0.1 ms of work: less is not worth waking a thread."""


@njit(nogil=True, error_model="numpy", cache=True)
def _forward_images(
    means: Any,
    cholesky: Any,
    colors: Any,
    offsets: Any,
    indices: Any,
    first: int,
    last: int,
    scale_x: float,
    scale_y: float,
    antialias_id: int,
    background: Any,
    out: Any,
) -> None:
    for image in range(first, last):
        rows = slice(offsets[indices[image]], offsets[indices[image] + 1])
        for channel in range(out.shape[1]):
            out[image, channel] = background[channel]
        splat_forward(means[rows], cholesky[rows], colors[rows], scale_x, scale_y, antialias_id, out[image])


@njit(nogil=True, error_model="numpy", cache=True)
def _backward_images(
    means: Any,
    cholesky: Any,
    colors: Any,
    offsets: Any,
    indices: Any,
    first: int,
    last: int,
    scale_x: float,
    scale_y: float,
    antialias_id: int,
    grad_out: Any,
    grad_means: Any,
    grad_cholesky: Any,
    grad_colors: Any,
) -> None:
    for image in range(first, last):
        rows = slice(offsets[indices[image]], offsets[indices[image] + 1])
        splat_backward(
            means[rows],
            cholesky[rows],
            colors[rows],
            scale_x,
            scale_y,
            antialias_id,
            grad_out[image],
            grad_means[rows],
            grad_cholesky[rows],
            grad_colors[rows],
        )


@functools.cache
def _load() -> None:
    load_cached(_forward_images, _backward_images)


def _chunks(counts: NDArray[np.int64], pixels: int, threads: int) -> list[tuple[int, int]]:
    """Ranges of images of about equal work, each worth a thread's wake-up."""
    work = np.cumsum((counts + 1) * pixels)
    total = int(work[-1]) if len(work) else 0
    wanted = max(1, min(threads * CHUNKS_PER_THREAD, total // MIN_CHUNK)) if threads > 1 else 1
    cuts = np.searchsorted(work, np.arange(1, wanted) * (total / wanted)).tolist()
    edges = sorted({0, *cuts, len(counts)})
    return list(pairwise(edges))


def forward(
    means: Floats,
    cholesky: Floats,
    colors: Floats,
    counts: NDArray[np.int64],
    indices: NDArray[np.int64],
    reference_size: tuple[int, int],
    size: tuple[int, int],
    antialias_id: int,
    background: tuple[float, ...],
) -> Floats:
    """Render the images at ``indices`` of a ragged batch.

    Args:
        means: (G, 2) float32, contiguous, as are the next two.
        cholesky: (G, 3).
        colors: (G, C), opacities folded in.
        counts: (B,) int64, sums to G.
        indices: (n,) int64, each in 0 .. B - 1 (not checked here: ``arguments.resolve_indices`` does).
        reference_size: (H0, W0).
        size: (H, W).
        antialias_id: position in ``ANTIALIAS_MODES``.
        background: C floats.

    Returns:
        (n, C, H, W) float32. The same bits for any number of threads.
    """
    _load()
    height, width = size
    scale_x, scale_y = width / reference_size[1], height / reference_size[0]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    out = np.empty((len(indices), colors.shape[1], height, width), np.float32)
    start = np.asarray(background, np.float32)

    def run(chunk: tuple[int, int]) -> None:
        _forward_images(means, cholesky, colors, offsets, indices, *chunk, scale_x, scale_y, antialias_id, start, out)

    parallel(run, _chunks(counts[indices], height * width, num_threads()))
    return out


def backward(
    means: Floats,
    cholesky: Floats,
    colors: Floats,
    counts: NDArray[np.int64],
    indices: NDArray[np.int64],
    reference_size: tuple[int, int],
    antialias_id: int,
    grad_out: Floats,
) -> tuple[Floats, Floats, Floats]:
    """The gradients of sum(grad_out * forward(...)) with respect to means, cholesky and colors.

    Arguments are those of ``forward``; ``grad_out`` is (n, C, H, W) float32, contiguous. Rows of images that were
    not rendered are zero; the gradients of images that were rendered several times add up, in the order of
    ``indices``. The same bits for any number of threads.
    """
    _load()
    height, width = grad_out.shape[2:]
    scale_x, scale_y = width / reference_size[1], height / reference_size[0]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    images, inverse = np.unique(indices, return_inverse=True)
    if len(images) < len(indices):
        # Rendering is linear in its output's gradient, so repeats are summed before the kernel, not in it.
        summed = np.zeros((len(images), *grad_out.shape[1:]), np.float32)
        np.add.at(summed, inverse, grad_out)
        indices, grad_out = images, summed
    grads = np.zeros_like(means), np.zeros_like(cholesky), np.zeros_like(colors)

    def run(chunk: tuple[int, int]) -> None:
        _backward_images(
            means, cholesky, colors, offsets, indices, *chunk, scale_x, scale_y, antialias_id, grad_out, *grads
        )

    parallel(run, _chunks(counts[indices], height * width, num_threads()))
    return grads
