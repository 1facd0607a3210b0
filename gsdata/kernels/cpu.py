"""Numba kernels: one thread per chunk of images, a bounding box per Gaussian, hand-written adjoint.

``splat_forward`` and ``splat_backward`` work on one image and may be called from other ``nogil`` kernels (the encoder
fuses them with its residual and its optimiser). ``forward`` and ``backward`` run them over a ragged batch.

How a pixel is computed. Sigma' is factored with y first, q = dy^2 / Syy + k (dx - m dy)^2 with m = Sxy / Syy and
k = Syy / det, so that a row of pixels costs one square each. Everything per Gaussian and per row is float64, every
pixel float32; column numbers are taken relative to the row's centre, which keeps thin Gaussians exact.
With t = -q/2 log2(e), w > 0 means t > -10, and 2^-10 is the cut-off itself: max(t, -10) is the whole test.

What may be changed: anything that keeps parity with ``reference`` (tests/kernels). Known costs: rows are written through
slices and boxes are widened to ``LANES`` columns because loops with a remainder run scalar; ``reassoc`` in
FASTMATH would break ``_exp2``; arrays of accumulators have fixed offsets so that LLVM keeps their addresses constant.
Numba's cache does not notice when a function called from another file changes: clear it after editing this one.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from gsdata.kernels.arguments import CUTOFF, Q_MAX, VARIANCE
from gsdata.kernels.threads import num_threads, parallel

__all__ = ["backward", "forward", "num_threads", "parallel", "splat_backward", "splat_forward"]

Floats = NDArray[np.float32]

FASTMATH = {"contract", "nsz"}
LANES = 16
BLOCK = 64  # columns that the backward accumulates at a time
CHUNKS_PER_THREAD = 4
MIN_CHUNK = 1 << 20  # pairs of a pixel and a Gaussian, about 0.1 ms: less is not worth a thread

_BOX_NORMALIZED = 0
_VARIANCES = VARIANCE
_Q_MAX = Q_MAX
_HALF_LOG2E = 0.5 / math.log(2.0)
_GAIN = 1.0 / (1.0 - CUTOFF)
_EPS = np.float32(CUTOFF)
_LOG2_EPS = np.float32(math.log2(CUTOFF))
_MAGIC = np.float32(1.5 * 2**23)  # adding it rounds to an integer, which is left in the low bits
_SHIFT = np.int32(23)
# Taylor coefficients of 2^f on [-1/2, 1/2]: relative error 1.2e-7, and 2^integer is exact.
_C1, _C2, _C3, _C4, _C5, _C6 = (np.float32(math.log(2.0) ** k / math.factorial(k)) for k in range(1, 7))
_ONE = np.float32(1.0)


def _float_bits_typed(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


def _bits_float_typed(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


_float_bits: Any = intrinsic(_float_bits_typed)
_bits_float: Any = intrinsic(_bits_float_typed)


@njit(inline="always", fastmath=FASTMATH)
def _exp2(t: Any) -> Any:
    """2^t for -126 < t < 127, float32."""
    rounded = t + _MAGIC
    f = t - (rounded - _MAGIC)
    p = ((((((_C6 * f + _C5) * f + _C4) * f + _C3) * f) + _C2) * f + _C1) * f + _ONE
    return _bits_float(_float_bits(p) + (_float_bits(rounded) << _SHIFT))


@njit(inline="always")
def _span(center: float, half: float, count: int, lanes: int) -> tuple[int, int]:
    """Pixels first:last of ``count`` whose centres lie within ``half`` of ``center``, widened to full lanes."""
    low = max(math.ceil(center - half - 0.5), 0.0)
    high = min(math.floor(center + half + 0.5), float(count))
    if not low < high:
        return 0, 0
    first, last = int(low), int(high)
    padded = (last - first + lanes - 1) // lanes * lanes
    last = min(count, first + padded)
    return max(0, last - padded), last


@njit(inline="always")
def _factor(mean: Any, cholesky: Any, scale_x: float, scale_y: float, variance: float, width: int, height: int) -> Any:
    """Centre in pixels, A = S L, and Sigma' of one Gaussian, all float64: (mx, my, a, b, c, Sxx, Syy, Sxy, det)."""
    mx = (float(mean[0]) + 1.0) * 0.5 * width
    my = (float(mean[1]) + 1.0) * 0.5 * height
    a, b, c = scale_x * float(cholesky[0]), scale_y * float(cholesky[1]), scale_y * float(cholesky[2])
    det = (a * c) ** 2 + variance * (a * a + b * b + c * c) + variance * variance
    return mx, my, a, b, c, a * a + variance, b * b + c * c + variance, a * b, det


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy", cache=True)
def splat_forward(
    means: Floats,
    cholesky: Floats,
    colors: Floats,
    scale_x: float,
    scale_y: float,
    antialias_id: int,
    out: Floats,
) -> None:
    """Add one image's Gaussians to ``out``; the caller fills in the background.

    A Gaussian with a mean or Cholesky factor that is not finite makes the whole image NaN.

    Args:
        means: (N, 2) float32.
        cholesky: (N, 3) float32, in pixels of the reference size.
        colors: (N, C) float32, opacities folded in.
        scale_x: W / W0.
        scale_y: H / H0.
        antialias_id: position in ``ANTIALIAS_MODES``.
        out: (C, H, W) float32, contiguous; added to.
    """
    channels, height, width = out.shape
    variance = _VARIANCES[antialias_id]
    for n in range(means.shape[0]):
        mx, my, a, _b, c, sxx, syy, sxy, det = _factor(means[n], cholesky[n], scale_x, scale_y, variance, width, height)
        if not math.isfinite(mx + my + det):
            out[:] = np.nan
            return
        x0, x1 = _span(mx, math.sqrt(_Q_MAX * sxx), width, LANES)
        y0, y1 = _span(my, math.sqrt(_Q_MAX * syy), height, 1)
        if x0 == x1 or y0 == y1:
            continue
        gain = _GAIN
        if antialias_id == _BOX_NORMALIZED:
            gain *= abs(a * c) / math.sqrt(det)
        k = np.float32(-syy / det * _HALF_LOG2E)
        slope = sxy / syy
        for y in range(y0, y1):
            dy = y + 0.5 - my
            t_row = np.float32(-dy * dy / syy * _HALF_LOG2E)
            center = mx + slope * dy - 0.5
            whole = math.floor(center)
            rest = np.float32(center - whole)
            start = np.float32(x0 - whole)
            first = 0
            if channels >= 3:
                red, green, blue = out[0, y, x0:x1], out[1, y, x0:x1], out[2, y, x0:x1]
                c0 = np.float32(colors[n, 0] * gain)
                c1 = np.float32(colors[n, 1] * gain)
                c2 = np.float32(colors[n, 2] * gain)
                for i in range(x1 - x0):
                    e = (np.float32(np.int32(i)) + start) - rest
                    t = t_row + k * e * e
                    t = t if t > _LOG2_EPS else _LOG2_EPS
                    w = _exp2(t) - _EPS
                    red[i] += w * c0
                    green[i] += w * c1
                    blue[i] += w * c2
                first = 3
            for channel in range(first, channels):
                row = out[channel, y, x0:x1]
                color = np.float32(colors[n, channel] * gain)
                for i in range(x1 - x0):
                    e = (np.float32(np.int32(i)) + start) - rest
                    t = t_row + k * e * e
                    t = t if t > _LOG2_EPS else _LOG2_EPS
                    row[i] += (_exp2(t) - _EPS) * color


@njit(nogil=True, inline="always", fastmath=FASTMATH, error_model="numpy")
def _backward_row(
    grad_out: Any,
    color: Any,
    y: int,
    left: int,
    right: int,
    t_row: Any,
    k_row: Any,
    start: Any,
    rest: Any,
    dy: Any,
    sums: Any,
) -> None:
    """Add what row ``y``, columns left:right, contributes to the columns of ``sums``."""
    channels = grad_out.shape[0]
    count = right - left
    if channels == 3:
        red, green, blue = grad_out[0, y, left:right], grad_out[1, y, left:right], grad_out[2, y, left:right]
        c0, c1, c2 = color[0], color[1], color[2]
        for i in range(count):
            e = (np.float32(np.int32(i)) + start) - rest
            t = t_row + k_row * e * e
            t = t if t > _LOG2_EPS else _LOG2_EPS
            g = _exp2(t)
            w = g - _EPS
            g = g if t > _LOG2_EPS else np.float32(0.0)
            h = g * (red[i] * c0 + green[i] * c1 + blue[i] * c2)
            h_e = h * e
            h_y = h * dy
            sums[i] += h_y
            sums[BLOCK + i] += h_y * dy
            sums[2 * BLOCK + i] += h_e
            sums[3 * BLOCK + i] += h_e * dy
            sums[4 * BLOCK + i] += h_e * e
            sums[5 * BLOCK + i] += w * red[i]
            sums[6 * BLOCK + i] += w * green[i]
            sums[7 * BLOCK + i] += w * blue[i]
        return
    sums[9 * BLOCK : 9 * BLOCK + count] = np.float32(0.0)
    for channel in range(channels):
        grad = grad_out[channel, y, left:right]
        c0 = color[channel]
        for i in range(count):
            sums[9 * BLOCK + i] += grad[i] * c0
    for i in range(count):
        e = (np.float32(np.int32(i)) + start) - rest
        t = t_row + k_row * e * e
        t = t if t > _LOG2_EPS else _LOG2_EPS
        g = _exp2(t)
        sums[10 * BLOCK + i] = g - _EPS
        g = g if t > _LOG2_EPS else np.float32(0.0)
        h = g * sums[9 * BLOCK + i]
        h_e = h * e
        h_y = h * dy
        sums[i] += h_y
        sums[BLOCK + i] += h_y * dy
        sums[2 * BLOCK + i] += h_e
        sums[3 * BLOCK + i] += h_e * dy
        sums[4 * BLOCK + i] += h_e * e
    for channel in range(channels):
        grad = grad_out[channel, y, left:right]
        total = sums[(5 + channel) * BLOCK : (6 + channel) * BLOCK]
        for i in range(count):
            total[i] += sums[10 * BLOCK + i] * grad[i]


@njit(nogil=True, fastmath=FASTMATH, error_model="numpy", cache=True)
def splat_backward(
    means: Floats,
    cholesky: Floats,
    colors: Floats,
    scale_x: float,
    scale_y: float,
    antialias_id: int,
    grad_out: Floats,
    grad_means: Floats,
    grad_cholesky: Floats,
    grad_colors: Floats,
) -> None:
    """Write the gradients of sum(grad_out * image) with respect to one image's Gaussians.

    Arguments are those of ``splat_forward``; gradients have the shapes of what they are gradients of and are
    overwritten. The gradient with respect to a Gaussian whose mean or Cholesky factor is not finite is NaN.
    """
    channels, height, width = grad_out.shape
    variance = _VARIANCES[antialias_id]
    # Rows of BLOCK columns: sums over the rows of an image of h dy, h dy^2, h e, h e dy, h e^2, and w grad per channel,
    # with h = grad . color * exp(-q/2); then the two buffers of a row, w and grad . color.
    sums = np.empty(BLOCK * 11, np.float32)
    for n in range(means.shape[0]):
        mx, my, a, b, c, sxx, syy, sxy, det = _factor(means[n], cholesky[n], scale_x, scale_y, variance, width, height)
        if not math.isfinite(mx + my + det):
            grad_means[n] = np.nan
            grad_cholesky[n] = np.nan
            grad_colors[n] = np.nan
            continue
        x0, x1 = _span(mx, math.sqrt(_Q_MAX * sxx), width, LANES)
        y0, y1 = _span(my, math.sqrt(_Q_MAX * syy), height, 1)
        k = syy / det
        k_row = np.float32(-k * _HALF_LOG2E)
        slope = sxy / syy
        h_y, h_yy, h_e, h_ey, h_ee = 0.0, 0.0, 0.0, 0.0, 0.0
        grad_colors[n] = 0.0
        for left in range(x0, x1, BLOCK):
            right = min(left + BLOCK, x1)
            count = right - left
            sums[: BLOCK * 9] = np.float32(0.0)
            for y in range(y0, y1):
                dy = y + 0.5 - my
                t_row = np.float32(-dy * dy / syy * _HALF_LOG2E)
                center = mx + slope * dy - 0.5
                whole = math.floor(center)
                rest = np.float32(center - whole)
                start = np.float32(left - whole)
                dy_row = np.float32(dy)
                _backward_row(grad_out, colors[n], y, left, right, t_row, k_row, start, rest, dy_row, sums)
            for i in range(count):
                h_y += sums[i]
                h_yy += sums[BLOCK + i]
                h_e += sums[2 * BLOCK + i]
                h_ey += sums[3 * BLOCK + i]
                h_ee += sums[4 * BLOCK + i]
            for channel in range(channels):
                total = 0.0
                for i in range(count):
                    total += sums[(5 + channel) * BLOCK + i]
                grad_colors[n, channel] += np.float32(total)

        amplitude = _GAIN
        if antialias_id == _BOX_NORMALIZED:
            amplitude *= abs(a * c) / math.sqrt(det)
        by_log_amplitude = 0.0
        for channel in range(channels):
            by_color = grad_colors[n, channel] * amplitude
            by_log_amplitude += by_color * colors[n, channel]
            grad_colors[n, channel] = np.float32(by_color)
        factor = -0.5 * amplitude  # dF/dq of a pixel is factor * h
        by_mx = -2.0 * factor * k * h_e
        by_my = factor * (2.0 * k * slope * h_e - 2.0 * h_y / syy)
        by_slope = -2.0 * factor * k * h_ey
        by_k = factor * h_ee
        by_syy = by_k / det - (factor * h_yy / syy + by_slope * slope) / syy
        by_sxy = by_slope / syy
        by_det = -by_k * k / det
        by_a, by_c = 0.0, 0.0
        if antialias_id == _BOX_NORMALIZED:
            by_det -= 0.5 * by_log_amplitude / det
            by_a += by_log_amplitude / a if a != 0.0 else 0.0
            by_c += by_log_amplitude / c if c != 0.0 else 0.0
        by_a += by_sxy * b + by_det * 2.0 * a * (c * c + variance)
        by_b = by_syy * 2.0 * b + by_sxy * a + by_det * 2.0 * b * variance
        by_c += by_syy * 2.0 * c + by_det * 2.0 * c * (a * a + variance)
        grad_means[n, 0] = np.float32(by_mx * 0.5 * width)
        grad_means[n, 1] = np.float32(by_my * 0.5 * height)
        grad_cholesky[n, 0] = np.float32(by_a * scale_x)
        grad_cholesky[n, 1] = np.float32(by_b * scale_y)
        grad_cholesky[n, 2] = np.float32(by_c * scale_y)


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
