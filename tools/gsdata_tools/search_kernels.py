"""Numba kernels that choose codes: coordinate descent over the quantiser's levels, on the error of what the decoder shows.

Rounding a good fit to few bits is costly: 128 CIFAR-10 images of 42 Gaussians at 7/5/6/6 bits have 27.60 dB rounded and 29.38 dB
after this search (benchmarks/results/encode_choices.json). One Gaussian at a time is taken out of the picture and put
back with the best of its neighbouring codes: its means, scales or shear one level up or down, each with the colours
that are best for that shape (their optimum is linear, so it costs one pass).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gsdata.kernels.simd import LANES, fill, lane_numbers, load, total
from gsdata_tools.fit_kernels import _AMP as _AMPLITUDE
from gsdata_tools.fit_kernels import (
    _CX,
    _CY,
    _GAIN,
    _M,
    _ROOT,
    _U,
    _V,
    GEOMETRY,
    HELPER,
    KERNEL,
    Floats,
    _place,
    _splat,
    _weight,
)

f32 = np.float32
Integers = NDArray[np.int64]

_ZERO, _HALF, _ONE, _TWO = f32(0.0), f32(0.5), f32(1.0), f32(2.0)
_WORTH = f32(1.000001)  # a gain below rounding is none


@njit(**HELPER)
def _project(
    values: Floats, n: int, channels: int, width: int, height: int, stride: int, plane: int, placed: Floats,
    box: Integers, residual: Floats, inside: Floats, sums: Floats,
) -> None:  # fmt: skip
    """Sums = (sum of f^2, sum of f residual_c ...) where f is Gaussian n with colour one."""
    _place(values, n, width, height, placed, box)
    u_scale, v_scale, amplitude = placed[_U] * _ROOT, placed[_V] * _ROOT, placed[_AMPLITUDE] * _GAIN
    slant = v_scale * placed[_M]
    zero = fill(_ZERO)
    a, b0, b1, b2, b3 = zero, zero, zero, zero, zero
    for block in range(box[1]):
        x = box[0] + block * LANES
        dx = (f32(x) - placed[_CX]) + lane_numbers()
        u = u_scale * dx
        uu = u * u
        shift = slant * dx
        o = box[2] * stride + x
        within = load(inside, x)
        for y in range(box[2], box[3]):
            w = _weight(uu, v_scale * (f32(y) - placed[_CY]) - shift) * within
            a = a + w * w
            b0 = b0 + w * load(residual, o)
            if channels > 1:
                b1 = b1 + w * load(residual, o + plane)
            if channels > 2:
                b2 = b2 + w * load(residual, o + 2 * plane)
            if channels > 3:
                b3 = b3 + w * load(residual, o + 3 * plane)
            o += stride
    sums[0] = total(a) * amplitude * amplitude
    sums[1], sums[2] = total(b0) * amplitude, total(b1) * amplitude
    sums[3], sums[4] = total(b2) * amplitude, total(b3) * amplitude


@njit(**HELPER)
def _best_colors(sums: Floats, channels: int, low: Any, inverse: Any, table: Floats, chosen: Integers) -> Any:
    """Codes of the best colours for ``sums``; returns by how much they lower the squared error."""
    gain = _ZERO
    for c in range(channels):
        want = sums[1 + c] / max(sums[0], f32(1e-12))
        level = (want - low) * inverse + _HALF
        k = int(min(max(level, _ZERO), f32(len(table) - 1)))
        chosen[c] = k
        gain += table[k] * (_TWO * sums[1 + c] - table[k] * sums[0])
    return gain


@njit(**HELPER)
def _error(
    values: Floats, channels: int, width: int, height: int, stride: int, plane: int, placed: Floats, box: Integers,
    target: Floats, background: Floats, residual: Floats, weights: Floats,
) -> float:  # fmt: skip
    """Fill ``residual`` with target minus picture, the picture clamped to [0, 1]; returns the sum of squares."""
    for c in range(channels):
        residual[c * plane : (c + 1) * plane] = -background[c]
    for n in range(values.shape[1]):
        _place(values, n, width, height, placed, box)
        _splat(values, n, channels, stride, plane, placed, box, -_ONE, residual, weights, 0)
    squares: Any = 0.0
    for c in range(channels):
        for y in range(height):
            start = c * plane + y * stride
            part = _ZERO
            for x in range(width):
                picture = min(max(-residual[start + x], _ZERO), _ONE)
                d = target[c, y, x] - picture
                residual[start + x] = d
                part += d * d
            for x in range(width, stride):
                residual[start + x] = _ZERO
            squares += part
    return float(squares)


@njit(**KERNEL)
def search_codes(
    codes: Integers, target: Floats, background: Floats, tables: tuple[Floats, ...], color_low: float,
    color_inverse: float, sweeps: int, stop: NDArray[np.uint8], losses: Floats,
) -> float:  # fmt: skip
    """Improve the codes of one image in place.

    Args:
        codes: (5 + C, N) int64: x, y, l11, l21, l22 and the colours.
        target: (C, H, W) float32 in [0, 1].
        background: (C,) float32.
        tables: levels of x, y, l11, l21, l22 and of all colours, float32 each.
        color_low: first level of the colours.
        color_inverse: levels of the colours per unit.
        sweeps: most passes over the Gaussians; it ends earlier when one changes nothing.
        stop: one byte; the search ends early when another thread makes it non-zero.
        losses: (N,) float32, written: by how much the squared error would grow without each Gaussian, at the end.

    Returns:
        The sum of squared errors of the result, clamped to [0, 1].
    """
    channels, height, width = target.shape
    rows, count = codes.shape
    stride = width + LANES
    plane = height * stride
    values = np.empty((rows, count), np.float32)
    for n in range(count):
        for r in range(rows):
            values[r, n] = tables[min(r, GEOMETRY)][codes[r, n]]
    inside = np.zeros(stride + LANES, np.float32)
    inside[:width] = _ONE
    residual = np.zeros(channels * plane + LANES, np.float32)
    weights = np.empty(height * (width + LANES) + LANES, np.float32)
    placed, box, sums = np.empty(8, np.float32), np.empty(4, np.int64), np.empty(8, np.float32)
    trial, kept = np.zeros(4, np.int64), np.zeros(4, np.int64)
    low, inverse, colors = f32(color_low), f32(color_inverse), tables[GEOMETRY]
    squares, moved = 0.0, 1
    best_codes, least = codes.copy(), np.inf
    for sweep in range(sweeps + 1):
        squares = _error(
            values, channels, width, height, stride, plane, placed, box, target, background, residual, weights
        )
        if squares < least:
            least = squares
            best_codes[:] = codes
        if sweep == sweeps or moved == 0 or stop[0] != 0:
            break
        moved = 0
        for n in range(count):
            _place(values, n, width, height, placed, box)
            _splat(values, n, channels, stride, plane, placed, box, _ONE, residual, weights, 0)
            _project(values, n, channels, width, height, stride, plane, placed, box, residual, inside, sums)
            best = _ZERO
            for c in range(channels):
                best += values[GEOMETRY + c, n] * (_TWO * sums[1 + c] - values[GEOMETRY + c, n] * sums[0])
            best_row, best_code = -1, 0
            gain = _best_colors(sums, channels, low, inverse, colors, trial)
            if gain > best * _WORTH:
                best, best_row = gain, GEOMETRY
                kept[:] = trial
            for r in range(GEOMETRY):
                here, value = codes[r, n], values[r, n]
                for near in (here - 1, here + 1):
                    if near < 0 or near >= len(tables[r]):
                        continue
                    values[r, n] = tables[r][near]
                    _project(values, n, channels, width, height, stride, plane, placed, box, residual, inside, sums)
                    gain = _best_colors(sums, channels, low, inverse, colors, trial)
                    if gain > best * _WORTH:
                        best, best_row, best_code = gain, r, near
                        kept[:] = trial
                values[r, n] = value
            if best_row >= 0:
                moved += 1
                if best_row < GEOMETRY:
                    codes[best_row, n] = best_code
                    values[best_row, n] = tables[best_row][best_code]
                for c in range(channels):
                    codes[GEOMETRY + c, n] = kept[c]
                    values[GEOMETRY + c, n] = colors[kept[c]]
            _place(values, n, width, height, placed, box)
            _splat(values, n, channels, stride, plane, placed, box, -_ONE, residual, weights, 0)
    for n in range(count):
        _project(values, n, channels, width, height, stride, plane, placed, box, residual, inside, sums)
        grown = _ZERO
        for c in range(channels):
            color = values[GEOMETRY + c, n]
            grown += color * (_TWO * sums[1 + c] + color * sums[0])
        losses[n] = grown
    # Within a sweep, a pixel beyond [0, 1] counts as if the clamp went with it; so the last sweep need not be the best.
    codes[:] = best_codes
    return least
