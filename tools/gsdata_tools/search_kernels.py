"""Numba kernels that choose codes: coordinate descent over the quantiser's levels, on decoded error and coded bits.

Rounding a good fit to few bits is costly: 128 CIFAR-10 images of 42 Gaussians at 7/5/6/6 bits have 29.19 dB rounded, and 30.70 dB
in 7 % fewer bytes after this search (benchmarks/results/encode_choices.json). One Gaussian at a time is taken out of the picture and put
back with the best of its neighbouring codes: its means, scales or shear one level up or down, each with the colours
that are best for that shape (their optimum is linear, so it costs one pass).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gsdata.kernels.simd import LANES, fill, lane_numbers, load, total
from gsdata_tools.splat_kernels import (
    AMP,
    CX,
    CY,
    GAIN,
    GEOMETRY,
    HELPER,
    KERNEL,
    ROOT,
    Floats,
    M,
    U,
    V,
    place,
    splat,
    weight,
)

f32 = np.float32
Integers = NDArray[np.int64]

_ZERO, _HALF, _ONE, _TWO = f32(0.0), f32(0.5), f32(1.0), f32(2.0)


@njit(**HELPER)
def _project(
    values: Floats, n: int, channels: int, width: int, height: int, stride: int, plane: int, placed: Floats,
    box: Integers, residual: Floats, inside: Floats, sums: Floats,
) -> None:  # fmt: skip
    """Sums = (sum of f^2, sum of f residual_c ...) where f is Gaussian n with colour one."""
    place(values, n, width, height, placed, box)
    u_scale, v_scale, amplitude = placed[U] * ROOT, placed[V] * ROOT, placed[AMP] * GAIN
    slant = v_scale * placed[M]
    zero = fill(_ZERO)
    a, b0, b1, b2, b3 = zero, zero, zero, zero, zero
    for block in range(box[1]):
        x = box[0] + block * LANES
        dx = (f32(x) - placed[CX]) + lane_numbers()
        u = u_scale * dx
        uu = u * u
        shift = slant * dx
        o = box[2] * stride + x
        within = load(inside, x)
        for y in range(box[2], box[3]):
            w = weight(uu, v_scale * (f32(y) - placed[CY]) - shift) * within
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
def _best_level(
    square: Any, product: Any, low: Any, inverse: Any, table: Floats, bits: Floats, shift: int, price: Any, found: Integers
) -> Any:  # fmt: skip
    """Code of the best value v of one channel for ``square`` v^2 - 2 ``product`` v + ``price`` bits; returns less of that.

    ``bits`` holds the price of code - ``shift`` modulo its length.
    """
    top, mask = len(table) - 1, len(bits) - 1
    nearest = int(min(max((product / max(square, f32(1e-12)) - low) * inverse + _HALF, _ZERO), f32(top)))
    reach = 1 if price > _ZERO else 0
    best, found[0] = f32(-np.inf), nearest
    for code in range(max(0, nearest - reach), min(top, nearest + reach) + 1):
        gain = table[code] * (_TWO * product - table[code] * square) - price * bits[(code - shift) & mask]
        if gain > best:
            best, found[0] = gain, code
    return best


@njit(**HELPER)
def _best_colors(
    sums: Floats, channels: int, low: Any, inverse: Any, table: Floats, bits: Floats, price: Any, found: Integers,
    chosen: Integers,
) -> Any:  # fmt: skip
    """Codes of the best colours for ``sums``; returns by how much they lower the squared error, less their price."""
    gain = _ZERO
    if channels != 3:
        for c in range(channels):
            gain += _best_level(sums[0], sums[1 + c], low, inverse, table, bits[c], 0, price, found)
            chosen[c] = found[0]
        return gain
    _best_level(sums[0], sums[2], low, inverse, table, bits[0], 0, price, found)
    middle, reach = found[0], 1 if price > _ZERO else 0
    gain = f32(-np.inf)
    # What red and blue cost depends on green: try the codes around the best green.
    for green in range(max(0, middle - reach), min(len(table) - 1, middle + reach) + 1):
        value = table[green]
        part = value * (_TWO * sums[2] - value * sums[0]) - price * bits[0, green]
        part += _best_level(sums[0], sums[1], low, inverse, table, bits[1], green, price, found)
        red = found[0]
        part += _best_level(sums[0], sums[3], low, inverse, table, bits[2], green, price, found)
        if part > gain:
            gain = part
            chosen[0], chosen[1], chosen[2] = red, green, found[0]
    return gain


@njit(**HELPER)
def _shape_bits(codes: Integers, n: int, bits: Floats) -> Any:
    """Bits of l11, l21 and l22 of Gaussian n."""
    return bits[0, codes[2, n]] + bits[1, codes[3, n]] + bits[2, codes[4, n]]


@njit(**HELPER)
def _color_bits(codes: Integers, n: int, channels: int, bits: Floats) -> Any:
    """Bits of the colours of Gaussian n."""
    if channels == 3:
        mask, green = bits.shape[1] - 1, codes[GEOMETRY + 1, n]
        differences = bits[1, (codes[GEOMETRY, n] - green) & mask] + bits[2, (codes[GEOMETRY + 2, n] - green) & mask]
        return bits[0, green] + differences
    total = _ZERO
    for c in range(channels):
        total += bits[c, codes[GEOMETRY + c, n]]
    return total


@njit(**HELPER)
def _error(
    values: Floats, channels: int, width: int, height: int, stride: int, plane: int, placed: Floats, box: Integers,
    target: Floats, background: Floats, residual: Floats, weights: Floats,
) -> float:  # fmt: skip
    """Fill ``residual`` with target minus picture, the picture clamped to [0, 1]; returns the sum of squares."""
    for c in range(channels):
        residual[c * plane : (c + 1) * plane] = -background[c]
    for n in range(values.shape[1]):
        place(values, n, width, height, placed, box)
        splat(values, n, channels, stride, plane, placed, box, -_ONE, residual, weights, 0)
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
    color_inverse: float, shape_bits: Floats, color_bits: Floats, rate_weight: float, sweeps: int, stop: NDArray[np.uint8],
    losses: Floats,
) -> float:  # fmt: skip
    """Lower ln(squared error) + ``rate_weight`` x mean bits of a Gaussian of one image, in place.

    Args:
        codes: (5 + C, N) int64: x, y, l11, l21, l22 and the colours.
        target: (C, H, W) float32 in [0, 1].
        background: (C,) float32.
        tables: levels of x, y, l11, l21, l22 and of all colours, float32 each.
        color_low: first level of the colours.
        color_inverse: levels of the colours per unit.
        shape_bits: (3, 2^n) float32, bits of the codes of l11, l21, l22.
        color_bits: (C, 2^bits) float32, bits of the stored colours (``rate.RateModel``).
        rate_weight: what a bit on every Gaussian is worth, in nats of squared error; 0 looks at the error alone.
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
    trial, kept, found = np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(1, np.int64)
    low, inverse, colors = f32(color_low), f32(color_inverse), tables[GEOMETRY]
    squares, moved, bit = 0.0, 1, rate_weight / max(1, count)
    best_codes, best_squares, least, cost = codes.copy(), 0.0, np.inf, np.inf
    for sweep in range(sweeps + 1):
        squares = _error(
            values, channels, width, height, stride, plane, placed, box, target, background, residual, weights
        )
        rate = 0.0
        for n in range(count):
            rate += _shape_bits(codes, n, shape_bits) + _color_bits(codes, n, channels, color_bits)
        cost = math.log(squares + 1e-9) + bit * rate
        if cost < least:
            least, best_squares = cost, squares
            best_codes[:] = codes
        if sweep == sweeps or moved == 0 or stop[0] != 0:
            break
        # d ln(squares) = d squares / squares: so much squared error is a bit worth.
        price = f32(bit * squares)
        moved = 0
        for n in range(count):
            place(values, n, width, height, placed, box)
            splat(values, n, channels, stride, plane, placed, box, _ONE, residual, weights, 0)
            _project(values, n, channels, width, height, stride, plane, placed, box, residual, inside, sums)
            best = -price * (_shape_bits(codes, n, shape_bits) + _color_bits(codes, n, channels, color_bits))
            for c in range(channels):
                best += values[GEOMETRY + c, n] * (_TWO * sums[1 + c] - values[GEOMETRY + c, n] * sums[0])
            worth = f32(1e-6) * abs(best)  # a gain below rounding is none
            best_row, best_code = -1, 0
            gain = _best_colors(sums, channels, low, inverse, colors, color_bits, price, found, trial)
            gain -= price * _shape_bits(codes, n, shape_bits)
            if gain > best + worth:
                best, best_row = gain, GEOMETRY
                kept[:] = trial
            for r in range(GEOMETRY):
                here, value = codes[r, n], values[r, n]
                for near in (here - 1, here + 1):
                    if near < 0 or near >= len(tables[r]):
                        continue
                    codes[r, n], values[r, n] = near, tables[r][near]
                    _project(values, n, channels, width, height, stride, plane, placed, box, residual, inside, sums)
                    gain = _best_colors(sums, channels, low, inverse, colors, color_bits, price, found, trial)
                    gain -= price * _shape_bits(codes, n, shape_bits)
                    if gain > best + worth:
                        best, best_row, best_code = gain, r, near
                        kept[:] = trial
                codes[r, n], values[r, n] = here, value
            if best_row >= 0:
                moved += 1
                if best_row < GEOMETRY:
                    codes[best_row, n] = best_code
                    values[best_row, n] = tables[best_row][best_code]
                for c in range(channels):
                    codes[GEOMETRY + c, n] = kept[c]
                    values[GEOMETRY + c, n] = colors[kept[c]]
            place(values, n, width, height, placed, box)
            splat(values, n, channels, stride, plane, placed, box, -_ONE, residual, weights, 0)
    # Within a sweep, a pixel beyond [0, 1] counts as if the clamp went with it; so the last sweep need not be the best.
    if cost > least:
        codes[:] = best_codes
        for n in range(count):
            for r in range(rows):
                values[r, n] = tables[min(r, GEOMETRY)][codes[r, n]]
        _error(values, channels, width, height, stride, plane, placed, box, target, background, residual, weights)
    for n in range(count):
        _project(values, n, channels, width, height, stride, plane, placed, box, residual, inside, sums)
        grown = _ZERO
        for c in range(channels):
            color = values[GEOMETRY + c, n]
            grown += color * (_TWO * sums[1 + c] + color * sums[0])
        losses[n] = grown
    return best_squares
