"""Numba kernel of the encoder's fit: one whole fit of one image per call (``splat_kernels`` says how values lie)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gsdata.kernels.simd import LANES
from gsdata_tools.density_kernels import relocate
from gsdata_tools.splat_kernels import HELPER, KERNEL, Floats, gradient, place, splat

f32 = np.float32
MOVE_EVERY, MOVE_UNTIL = 0.02, 0.6  # of the steps

_ZERO, _HALF, _ONE, _TWO = f32(0.0), f32(0.5), f32(1.0), f32(2.0)
_TINY = f32(1e-10)


@njit(**HELPER)
def _residual(image: Floats, target: Floats, stride: int) -> float:
    """Turn an image into its error after clamping to [0, 1] (as the decoder's uint8 output is); returns the sum of squares."""
    channels, height, width = target.shape
    squares: Any = 0.0
    for c in range(channels):
        for y in range(height):
            start = (c * height + y) * stride
            row = image[start : start + stride]
            want = target[c, y]
            for x in range(width):
                row[x] = min(max(row[x], _ZERO), _ONE) - want[x]
            for x in range(width, stride):
                row[x] = _ZERO
            part = _ZERO
            for x in range(width):
                part += row[x] * row[x]
            squares += part
    return float(squares)


@njit(**HELPER)
def _adam(
    values: Floats, grad: Floats, first: Floats, second: Floats, rates: Floats, scale: Any, power: int, low: Floats,
    high: Floats,
) -> None:  # fmt: skip
    """One step of Adam (Kingma & Ba 2015, algorithm 1) with rates per row, then the rows' bounds."""
    b1, b2 = f32(0.9), f32(0.95)
    c1, c2 = f32(1.0 / (1.0 - 0.9**power)), f32(1.0 / (1.0 - 0.95**power))
    rows, count = values.shape
    for r in range(rows):
        rate, least, most = rates[r] * scale, low[r], high[r]
        value, g, m, s = values[r], grad[r], first[r], second[r]
        for n in range(count):
            m[n] = b1 * m[n] + (_ONE - b1) * g[n]
            s[n] = b2 * s[n] + (_ONE - b2) * g[n] * g[n]
            step = rate * (m[n] * c1) / (math.sqrt(s[n] * c2) + _TINY)
            value[n] = min(max(value[n] - step, least), most)


@njit(**KERNEL)
def fit_image(
    parameters: Floats, target: Floats, background: Floats, rates: Floats, low: Floats, high: Floats, steps: int,
    moves: int, clearance: int, start_scale: float, stop: NDArray[np.uint8],
) -> float:  # fmt: skip
    """Fit one image by ``steps`` of Adam with a cosine schedule to zero; ``parameters`` are updated in place.

    Every ``MOVE_EVERY`` of the steps, until ``MOVE_UNTIL`` of them are done, the Gaussians that matter least move to
    where the error is largest (``density_kernels``).

    Args:
        parameters: (5 + C, N) float32; rows 2 and 4 are log2 of l11 and l22.
        target: (C, H, W) float32 in [0, 1].
        background: (C,) float32.
        rates: (5 + C,) float32, the learning rate of each row.
        low: (5 + C,) float32, the least value of each row.
        high: (5 + C,) float32, the largest.
        steps: at least 0.
        moves: Gaussians that move at a time.
        clearance: pixels between two of them, at least.
        start_scale: log2 of l11 and l22 after a move.
        stop: one byte; the fit ends early when another thread makes it non-zero.

    Returns:
        The sum of squared errors of the result (before the last step's update where stopped).
    """
    channels, height, width = target.shape
    rows, count = parameters.shape
    stride = width + LANES
    plane = height * stride
    image = np.empty(channels * plane + LANES, np.float32)
    placed = np.empty((count, 8), np.float32)
    box = np.empty((count, 4), np.int64)
    weights = np.empty(LANES, np.float32)
    values = parameters.copy()
    grad, first, second = np.zeros_like(values), np.zeros_like(values), np.zeros_like(values)
    every, last = max(1, int(MOVE_EVERY * steps)), int(MOVE_UNTIL * steps)
    for step in range(steps + 1):
        for n in range(count):
            for r in range(rows):
                values[r, n] = parameters[r, n]
            values[2, n] = _TWO ** parameters[2, n]
            values[4, n] = _TWO ** parameters[4, n]
        size = 0
        for n in range(count):
            size += place(values, n, width, height, placed[n], box[n])
        if size * LANES > len(weights):
            weights = np.empty(size * LANES * 5 // 4, np.float32)
        for c in range(channels):
            image[c * plane : (c + 1) * plane] = background[c]
        at = 0
        for n in range(count):
            at = splat(values, n, channels, stride, plane, placed[n], box[n], _ONE, image, weights, at)
        squares = _residual(image, target, stride)
        if step == steps or stop[0] != 0:
            break
        at = 0
        for n in range(count):
            at = gradient(
                values, n, channels, width, height, stride, plane, placed[n], box[n], image, weights, at, grad
            )
        if moves > 0 and 0 < step <= last and step % every == 0:
            relocate(
                parameters, values, width, height, stride, plane, placed, box, image, weights, moves, clearance,
                f32(start_scale), grad, first, second,
            )  # fmt: skip
        scale = f32(0.5 + 0.5 * math.cos(math.pi * step / steps))
        _adam(parameters, grad, first, second, rates, scale, step + 1, low, high)
    return float(squares)
