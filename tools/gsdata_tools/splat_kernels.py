"""Numba kernels that the encoder's fit and search share: one Gaussian in a picture, and its gradient.

Values of an image are rows of an array (5 + C, N) float32: x, y, l11, l21, l22, then the colours; the fit's own
parameters hold log2 l11 and log2 l22 instead, as the quantiser does. Pixels lie in one vector, plane after plane, each row
followed by ``LANES`` spare columns, so that a Gaussian's box can always be walked in whole vectors; spare columns
collect what falls beyond the image and are zero wherever they are read.

The rendering is FORMAT.md's with ``box-normalized`` antialiasing at the reference size (tests compare it with the
float64 reference). It is not ``gsdata.kernels.cpu`` because a fit needs what a decoder has no use for: the weights of
the forward pass are kept for the backward pass, which then costs no exponential.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gsdata.kernels.arguments import CUTOFF, Q_MAX, VARIANCE
from gsdata.kernels.simd import LANES, exp2, fill, lane_numbers, load, maximum, store, total, where_positive

Floats = NDArray[np.float32]
f32 = np.float32

KERNEL: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nsz", "nnan", "ninf"},
}
# Without forceinline a process that compiles and one that reads Numba's cache call different copies of a helper, which
# round differently: the first run on a machine would write other bytes than all later ones.
HELPER: dict[str, Any] = {**KERNEL, "cache": False, "forceinline": True}
GEOMETRY = 5  # rows of values before the colours

_S = f32(VARIANCE[0])
_Q = f32(Q_MAX)
EPS = f32(CUTOFF)
GAIN = f32(1.0 / (1.0 - CUTOFF))
ROOT = f32(math.sqrt(0.5 / math.log(2.0)))  # exp(-(u^2 + v^2) / 2) = 2^-((u ROOT)^2 + (v ROOT)^2)
_LOWEST = f32(-12.0)  # below log2 of the cut-off
_LN2 = f32(math.log(2.0))
_ZERO, _HALF, _ONE, _TWO = f32(0.0), f32(0.5), f32(1.0), f32(2.0)

# Columns of a placed Gaussian.
CX, CY, U, M, V, AMP, A, DET = range(8)


@njit(**HELPER)
def place(values: Floats, n: int, width: int, height: int, placed: Floats, box: NDArray[np.int64]) -> int:
    """Whiten Gaussian n: u = U dx, v = V (dy - M dx), q = u^2 + v^2. Returns the vectors of its box, x0 blocks y0 y1."""
    a = values[2, n] * values[2, n] + _S
    b = values[2, n] * values[3, n]
    c = values[3, n] * values[3, n] + values[4, n] * values[4, n] + _S
    root = values[2, n] * values[4, n]
    det = root * root + _S * (a + c - _S)
    cx = (values[0, n] + _ONE) * _HALF * f32(width) - _HALF
    cy = (values[1, n] + _ONE) * _HALF * f32(height) - _HALF
    placed[CX], placed[CY] = cx, cy
    placed[U], placed[M], placed[V] = _ONE / math.sqrt(a), b / a, math.sqrt(a / det)
    placed[AMP], placed[A], placed[DET] = root / math.sqrt(det), a, det
    half_x, half_y = math.sqrt(_Q * a), math.sqrt(_Q * c)
    x0 = max(0, math.ceil(cx - half_x))
    x1 = min(width, math.floor(cx + half_x) + 1)
    y0 = max(0, math.ceil(cy - half_y))
    y1 = min(height, math.floor(cy + half_y) + 1)
    blocks = max(0, x1 - x0 + LANES - 1) // LANES
    box[0], box[1], box[2], box[3] = x0, blocks, y0, max(y0, y1)
    size: int = blocks * (box[3] - y0)
    return size


@njit(**HELPER)
def weight(uu: Any, v: Any) -> Any:
    """e^(-q/2) less the cut-off, at least 0; the gain is left to the amplitude."""
    t = fill(_ZERO) - (uu + v * v)
    return maximum(exp2(maximum(t, fill(_LOWEST))) - EPS, fill(_ZERO))


@njit(**HELPER)
def splat(
    values: Floats, n: int, channels: int, stride: int, plane: int, placed: Floats, box: NDArray[np.int64],
    sign: Any, image: Floats, weights: Floats, at: int,
) -> int:  # fmt: skip
    """Add a placed Gaussian times ``sign`` to ``image`` and keep its weights from ``at`` on; returns where they end."""
    u_scale, v_scale, amplitude = placed[U] * ROOT, placed[V] * ROOT, placed[AMP] * GAIN * sign
    slant = v_scale * placed[M]
    k0 = values[5, n] * amplitude
    k1, k2, k3 = k0, k0, k0
    if channels > 1:
        k1 = values[6, n] * amplitude
    if channels > 2:
        k2 = values[7, n] * amplitude
    if channels > 3:
        k3 = values[8, n] * amplitude
    for block in range(box[1]):
        x = box[0] + block * LANES
        dx = (f32(x) - placed[CX]) + lane_numbers()
        u = u_scale * dx
        uu = u * u
        shift = slant * dx
        o = box[2] * stride + x
        for y in range(box[2], box[3]):
            w = weight(uu, v_scale * (f32(y) - placed[CY]) - shift)
            store(weights, at, w)
            at += LANES
            store(image, o, load(image, o) + k0 * w)
            if channels > 1:
                store(image, o + plane, load(image, o + plane) + k1 * w)
            if channels > 2:
                store(image, o + 2 * plane, load(image, o + 2 * plane) + k2 * w)
            if channels > 3:
                store(image, o + 3 * plane, load(image, o + 3 * plane) + k3 * w)
            o += stride
    return at


@njit(**HELPER)
def gradient(
    values: Floats, n: int, channels: int, width: int, height: int, stride: int, plane: int, placed: Floats,
    box: NDArray[np.int64], residual: Floats, weights: Floats, at: int, grad: Floats,
) -> int:  # fmt: skip
    """Gradient of half the squared error with respect to Gaussian n (log2 l11 and log2 l22); returns where weights end."""
    u_scale, v_scale, slope, amplitude = placed[U], placed[V], placed[M], placed[AMP] * GAIN
    slant = v_scale * slope
    zero = fill(_ZERO)
    k0 = values[5, n]
    k1, k2, k3 = k0, k0, k0
    if channels > 1:
        k1 = values[6, n]
    if channels > 2:
        k2 = values[7, n]
    if channels > 3:
        k3 = values[8, n]
    s0, s1, s2, s3 = zero, zero, zero, zero
    sum_u, sum_v, sum_uu, sum_uv, sum_vv = zero, zero, zero, zero, zero
    for block in range(box[1]):
        x = box[0] + block * LANES
        dx = (f32(x) - placed[CX]) + lane_numbers()
        u = u_scale * dx
        shift = slant * dx
        # u is the same in every row of a column, so its powers are applied to column sums.
        column, column_v = zero, zero
        o = box[2] * stride + x
        for y in range(box[2], box[3]):
            w = load(weights, at)
            at += LANES
            r = load(residual, o)
            s0 = s0 + r * w
            g = k0 * r
            if channels > 1:
                r = load(residual, o + plane)
                s1 = s1 + r * w
                g = g + k1 * r
            if channels > 2:
                r = load(residual, o + 2 * plane)
                s2 = s2 + r * w
                g = g + k2 * r
            if channels > 3:
                r = load(residual, o + 3 * plane)
                s3 = s3 + r * w
                g = g + k3 * r
            o += stride
            v = v_scale * (f32(y) - placed[CY]) - shift
            t = where_positive(w, g * (w + EPS))
            tv = t * v
            column = column + t
            column_v = column_v + tv
            sum_vv = sum_vv + tv * v
        uc = u * column
        sum_u = sum_u + uc
        sum_uu = sum_uu + u * uc
        sum_v = sum_v + column_v
        sum_uv = sum_uv + u * column_v
    by_amplitude = total(s0) * k0
    grad[5, n] = total(s0) * amplitude
    if channels > 1:
        by_amplitude += total(s1) * k1
        grad[6, n] = total(s1) * amplitude
    if channels > 2:
        by_amplitude += total(s2) * k2
        grad[7, n] = total(s2) * amplitude
    if channels > 3:
        by_amplitude += total(s3) * k3
        grad[8, n] = total(s3) * amplitude
    by_log_amplitude = by_amplitude * amplitude
    gu, gv = total(sum_u) * amplitude, total(sum_v) * amplitude
    grad[0, n] = (u_scale * gu - slant * gv) * _HALF * f32(width)
    grad[1, n] = v_scale * gv * _HALF * f32(height)
    # Back through U = a^-1/2, M = b / a, V = (a / det)^1/2 and AMP = l11 l22 / det^1/2 to the Cholesky factor.
    l11, l21, l22 = values[2, n], values[3, n], values[4, n]
    a, det = placed[A], placed[DET]
    guu, guv, gvv = total(sum_uu) * amplitude, total(sum_uv) * amplitude, total(sum_vv) * amplitude
    by_slope = guv * v_scale / u_scale
    by_a = _HALF * guu / a - by_slope * slope / a - _HALF * gvv / a
    by_b = by_slope / a
    by_det = _HALF * (gvv - by_log_amplitude) / det
    by_l11 = by_a * _TWO * l11 + by_b * l21 + by_det * _TWO * l11 * (l22 * l22 + _S)
    by_l22 = by_det * _TWO * l22 * (l11 * l11 + _S)
    grad[2, n] = (by_l11 * l11 + by_log_amplitude) * _LN2
    grad[3, n] = by_b * l11 + by_det * _TWO * _S * l21
    grad[4, n] = (by_l22 * l22 + by_log_amplitude) * _LN2
    return at
