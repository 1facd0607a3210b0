"""Numba kernel that moves Gaussians, during a fit, from where an image needs them least to where it needs them most.

A gradient moves a Gaussian by a fraction of its size, so one that started in the wrong place stays there: the same fit from
other random positions differs by 0.4 dB an image. Taking out what matters least and starting it anew at the
largest error (prune and clone in one, at a constant number) is worth more than any change of the rates
(benchmarks/results/encode_choices.json).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gsdata.kernels.simd import LANES, fill, load, total
from gsdata_tools.splat_kernels import AMP, GAIN, HELPER, Floats

f32 = np.float32

_ZERO, _ONE, _TWO = f32(0.0), f32(1.0), f32(2.0)
_TINT = f32(0.7)  # of the error at its pixel is the first colour of a Gaussian that moved


@njit(**HELPER)
def contribution(
    values: Floats, n: int, channels: int, width: int, stride: int, plane: int, placed: Floats, box: NDArray[np.int64],
    residual: Floats, inside: Floats, weights: Floats, at: int,
) -> Any:  # fmt: skip
    """By how much the squared error grows if Gaussian n goes, its weights kept from ``at`` on.

    ``residual`` is picture minus target; it and ``inside`` are zero in the spare columns, where ``inside`` ends (a row of ones).
    """
    zero = fill(_ZERO)
    s, s0, s1, s2, s3 = zero, zero, zero, zero, zero
    for block in range(box[1]):
        x = box[0] + block * LANES
        o = box[2] * stride + x
        within = load(inside, x)
        for _ in range(box[2], box[3]):
            w = load(weights, at)
            at += LANES
            s = s + w * w * within
            s0 = s0 + w * load(residual, o)
            if channels > 1:
                s1 = s1 + w * load(residual, o + plane)
            if channels > 2:
                s2 = s2 + w * load(residual, o + 2 * plane)
            if channels > 3:
                s3 = s3 + w * load(residual, o + 3 * plane)
            o += stride
    amplitude = placed[AMP] * GAIN
    squares = total(s)
    k = values[5, n] * amplitude
    grown = k * (k * squares - _TWO * total(s0))
    if channels > 1:
        k = values[6, n] * amplitude
        grown += k * (k * squares - _TWO * total(s1))
    if channels > 2:
        k = values[7, n] * amplitude
        grown += k * (k * squares - _TWO * total(s2))
    if channels > 3:
        k = values[8, n] * amplitude
        grown += k * (k * squares - _TWO * total(s3))
    return grown


@njit(**HELPER)
def relocate(
    parameters: Floats, values: Floats, width: int, height: int, stride: int, plane: int, placed: Floats,
    box: NDArray[np.int64], residual: Floats, weights: Floats, moves: int, clearance: int, start_scale: Any,
    grad: Floats, first: Floats, second: Floats,
) -> None:  # fmt: skip
    """Move the ``moves`` Gaussians that matter least to the pixels of the largest error, ``clearance`` pixels apart.

    Each starts as a round Gaussian of ``start_scale`` (log2 of l11 and l22) in a share of the error's colour, and its
    gradient and Adam's memory of it are zero.
    """
    rows, count = parameters.shape
    channels = rows - 5
    inside = np.zeros(stride + LANES, np.float32)
    inside[:width] = _ONE
    matters = np.empty(count, np.float32)
    at = 0
    for n in range(count):
        matters[n] = contribution(
            values, n, channels, width, stride, plane, placed[n], box[n], residual, inside, weights, at
        )  # fmt: skip
        at += box[n, 1] * (box[n, 3] - box[n, 2]) * LANES
    energy = np.empty(height * width, np.float32)
    for y in range(height):
        for x in range(width):
            e = _ZERO
            for c in range(channels):
                d = residual[c * plane + y * stride + x]
                e += d * d
            energy[y * width + x] = -e
    least, worst = np.argsort(matters, kind="mergesort"), np.argsort(energy, kind="mergesort")
    taken = np.zeros(height * width, np.uint8)
    pixel = 0
    for k in range(min(moves, count)):
        while pixel < len(worst) and taken[worst[pixel]] != 0:
            pixel += 1
        if pixel == len(worst):
            break
        y, x = worst[pixel] // width, worst[pixel] % width
        for near in range(max(0, y - clearance), min(height, y + clearance + 1)):
            start = near * width
            taken[start + max(0, x - clearance) : start + min(width, x + clearance + 1)] = 1
        n = least[k]
        parameters[0, n] = (f32(x) + f32(0.5)) / f32(width) * _TWO - _ONE
        parameters[1, n] = (f32(y) + f32(0.5)) / f32(height) * _TWO - _ONE
        parameters[2, n] = parameters[4, n] = start_scale
        parameters[3, n] = _ZERO
        for c in range(channels):
            parameters[5 + c, n] = -_TINT * residual[c * plane + y * stride + x]
        for r in range(rows):
            grad[r, n] = first[r, n] = second[r, n] = _ZERO
