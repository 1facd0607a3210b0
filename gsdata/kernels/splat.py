"""Numba kernels: a bounding box per Gaussian, sixteen columns at a time, a hand-written adjoint.

``splat_forward`` and ``splat_backward`` work on one image and may be called from other ``nogil`` kernels (the encoder
fuses them with its residual and its optimiser); ``cpu.py`` runs them over a ragged batch, on threads.

How a pixel is computed. Sigma' is factored with y first, q = dy^2 / Syy + k (dx - m dy)^2 with m = Sxy / Syy and
k = Syy / det, so that a row of pixels costs one square each. Everything per Gaussian and per row is float64, every
pixel float32; column numbers are taken relative to the row's centre, which keeps thin Gaussians exact.
With t = -q/2 log2(e), w > 0 means t > -10, and 2^-10 is the cut-off itself: max(t, -10) is the whole test.

What may be changed: anything that keeps parity with ``reference`` (tests/kernels). Boxes are as wide as whole vectors,
so an image whose width is no multiple of ``LANES`` is rendered into (and its gradient read from) a padded copy.
Numba's cache does not notice when a function called from another file changes: clear it after editing this one
or ``simd.py``.
"""

# mypy: allow-untyped-decorators

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gsdata.kernels.arguments import CUTOFF, Q_MAX, VARIANCE
from gsdata.kernels.simd import LANES, exp2, fill, lane_numbers, load, maximum, store, total, where_positive

Floats = NDArray[np.float32]

_BOX_NORMALIZED = 0
_HALF_LOG2E = 0.5 / math.log(2.0)
_GAIN = 1.0 / (1.0 - CUTOFF)
_EPS = np.float32(CUTOFF)
_LOG2_EPS = np.float32(math.log2(CUTOFF))
_ZERO = np.float32(0.0)


@njit(inline="always")
def _span(center: float, half: float, count: int) -> tuple[int, int]:
    """Pixels first:last of ``count`` whose centres lie within ``half`` of ``center``."""
    low = max(math.ceil(center - half - 0.5), 0.0)
    high = min(math.floor(center + half + 0.5), float(count))
    return (int(low), int(high)) if low < high else (0, 0)


@njit(inline="always")
def _columns(center: float, half: float, width: int, padded: int) -> tuple[int, int]:
    """``_span`` widened to whole vectors within ``padded`` columns."""
    first, last = _span(center, half, width)
    wide = (last - first + LANES - 1) // LANES * LANES
    first = min(first, padded - wide)
    return first, first + wide


@njit(inline="always")
def _factor(mean: Any, cholesky: Any, scale_x: float, scale_y: float, variance: float, width: int, height: int) -> Any:
    """Centre in pixels, A = S L, and Sigma' of one Gaussian, all float64: (mx, my, a, b, c, Sxx, Syy, Sxy, det)."""
    mx = (float(mean[0]) + 1.0) * 0.5 * width
    my = (float(mean[1]) + 1.0) * 0.5 * height
    a, b, c = scale_x * float(cholesky[0]), scale_y * float(cholesky[1]), scale_y * float(cholesky[2])
    # A sum of squares: no cancellation, however thin the Gaussian.
    det = (a * c) ** 2 + variance * (a * a + b * b + c * c) + variance * variance
    return mx, my, a, b, c, a * a + variance, b * b + c * c + variance, a * b, det


@njit(inline="always")
def _row(center: float, dy: float, inverse: float, first: int, lanes: Any) -> Any:
    """What the pixels of a row share: its part of t, and e = dx - m dy of the sixteen pixels from ``first`` on."""
    whole = math.floor(center)
    # Differences of whole numbers are exact in float32; only the fraction of a pixel is rounded.
    e = (lanes + np.float32(first - whole)) - np.float32(center - whole)
    return np.float32(dy * dy * inverse), e


@njit(nogil=True, error_model="numpy", cache=True)
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
        colors: (N, C) float32, C from 1 to 4, opacities folded in.
        scale_x: W / W0.
        scale_y: H / H0.
        antialias_id: position in ``ANTIALIAS_MODES``.
        out: (C, H, W) float32, contiguous; added to.
    """
    channels, height, width = out.shape
    variance = VARIANCE[antialias_id]
    padded = (width + LANES - 1) // LANES * LANES
    plane = height * padded
    image = out.reshape(-1) if padded == width else np.zeros(channels * plane, np.float32)
    lanes = lane_numbers()
    lowest = fill(_LOG2_EPS)
    for n in range(means.shape[0]):
        mx, my, a, _b, c, sxx, syy, sxy, det = _factor(means[n], cholesky[n], scale_x, scale_y, variance, width, height)
        if not math.isfinite(mx + my + det):
            out[:] = np.nan
            return
        x0, x1 = _columns(mx, math.sqrt(Q_MAX * sxx), width, padded)
        y0, y1 = _span(my, math.sqrt(Q_MAX * syy), height)
        gain = _GAIN * (abs(a * c) / math.sqrt(det) if antialias_id == _BOX_NORMALIZED else 1.0)
        k = np.float32(-syy / det * _HALF_LOG2E)
        slope, inverse = sxy / syy, -_HALF_LOG2E / syy
        c0 = np.float32(colors[n, 0] * gain)
        c1 = np.float32(colors[n, 1] * gain) if channels > 1 else _ZERO
        c2 = np.float32(colors[n, 2] * gain) if channels > 2 else _ZERO
        c3 = np.float32(colors[n, 3] * gain) if channels > 3 else _ZERO
        for x in range(x0, x1, LANES):
            for y in range(y0, y1):
                dy = y + 0.5 - my
                t_row, e = _row(mx + slope * dy - 0.5, dy, inverse, x, lanes)
                w = exp2(maximum(e * e * k + t_row, lowest)) - _EPS
                at = y * padded + x
                store(image, at, load(image, at) + w * c0)
                if channels > 1:
                    at += plane
                    store(image, at, load(image, at) + w * c1)
                    if channels > 2:
                        at += plane
                        store(image, at, load(image, at) + w * c2)
                        if channels > 3:
                            at += plane
                            store(image, at, load(image, at) + w * c3)
    if padded != width:
        for row in range(channels * height):
            source, target = image[row * padded : row * padded + width], out[row // height, row % height]
            for x in range(width):
                target[x] += source[x]


@njit(nogil=True, error_model="numpy", cache=True)
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
    variance = VARIANCE[antialias_id]
    padded = (width + LANES - 1) // LANES * LANES
    plane = height * padded
    grad = grad_out.reshape(-1)
    if padded != width:
        grad = np.zeros(channels * plane, np.float32)
        for row in range(channels * height):
            source, target = grad_out[row // height, row % height], grad[row * padded : row * padded + width]
            for x in range(width):
                target[x] = source[x]
    lanes = lane_numbers()
    lowest = fill(_LOG2_EPS)
    zero = fill(_ZERO)
    for n in range(means.shape[0]):
        mx, my, a, b, c, sxx, syy, sxy, det = _factor(means[n], cholesky[n], scale_x, scale_y, variance, width, height)
        if not math.isfinite(mx + my + det):
            grad_means[n] = np.nan
            grad_cholesky[n] = np.nan
            grad_colors[n] = np.nan
            continue
        x0, x1 = _columns(mx, math.sqrt(Q_MAX * sxx), width, padded)
        y0, y1 = _span(my, math.sqrt(Q_MAX * syy), height)
        k = syy / det
        k_row = np.float32(-k * _HALF_LOG2E)
        slope, inverse = sxy / syy, -_HALF_LOG2E / syy
        c0 = colors[n, 0]
        c1 = colors[n, 1] if channels > 1 else _ZERO
        c2 = colors[n, 2] if channels > 2 else _ZERO
        c3 = colors[n, 3] if channels > 3 else _ZERO
        # Sums over pixels of h dy, h dy^2, h e, h e dy, h e^2 with h = exp(-q/2) grad.color, and of w grad.
        h_y, h_yy, h_e, h_ey, h_ee = 0.0, 0.0, 0.0, 0.0, 0.0
        w_0, w_1, w_2, w_3 = 0.0, 0.0, 0.0, 0.0
        for x in range(x0, x1, LANES):
            v_y, v_yy, v_e, v_ey, v_ee = zero, zero, zero, zero, zero
            v_0, v_1, v_2, v_3 = zero, zero, zero, zero
            for y in range(y0, y1):
                dy = y + 0.5 - my
                t_row, e = _row(mx + slope * dy - 0.5, dy, inverse, x, lanes)
                t = maximum(e * e * k_row + t_row, lowest)
                g = exp2(t)
                w = g - _EPS
                at = y * padded + x
                part = load(grad, at)
                by_w = part * c0
                v_0 = v_0 + part * w
                if channels > 1:
                    at += plane
                    part = load(grad, at)
                    by_w = by_w + part * c1
                    v_1 = v_1 + part * w
                    if channels > 2:
                        at += plane
                        part = load(grad, at)
                        by_w = by_w + part * c2
                        v_2 = v_2 + part * w
                        if channels > 3:
                            at += plane
                            part = load(grad, at)
                            by_w = by_w + part * c3
                            v_3 = v_3 + part * w
                # Beyond the cut-off the weight is constant.
                h = where_positive(t - lowest, g) * by_w
                dy32 = np.float32(dy)
                h_dy = h * dy32
                he = h * e
                v_y = v_y + h_dy
                v_yy = v_yy + h_dy * dy32
                v_e = v_e + he
                v_ey = v_ey + he * dy32
                v_ee = v_ee + he * e
            h_y += total(v_y)
            h_yy += total(v_yy)
            h_e += total(v_e)
            h_ey += total(v_ey)
            h_ee += total(v_ee)
            w_0 += total(v_0)
            w_1 += total(v_1)
            w_2 += total(v_2)
            w_3 += total(v_3)

        amplitude = _GAIN * (abs(a * c) / math.sqrt(det) if antialias_id == _BOX_NORMALIZED else 1.0)
        by_log_amplitude = amplitude * (w_0 * c0 + w_1 * c1 + w_2 * c2 + w_3 * c3)
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
        grad_colors[n, 0] = np.float32(w_0 * amplitude)
        if channels > 1:
            grad_colors[n, 1] = np.float32(w_1 * amplitude)
        if channels > 2:
            grad_colors[n, 2] = np.float32(w_2 * amplitude)
        if channels > 3:
            grad_colors[n, 3] = np.float32(w_3 * amplitude)
