"""The vector type against NumPy."""

from __future__ import annotations

import numpy as np
from numba import njit

from gsdata.kernels import simd


@njit
def _exp2_of(values, out):
    for i in range(0, len(values), 16):
        simd.store(out, i, simd.exp2(simd.load(values, i)))


def test_exp2():
    """Relative error 3e-7 over the range that kernels use, exact at whole numbers (the cut-off is one)."""
    values = np.linspace(-10, 0, 160_000, dtype=np.float32)
    out = np.empty_like(values)
    _exp2_of(values, out)
    exact = np.exp2(values.astype(np.float64))
    assert np.abs(out / exact - 1).max() < 3e-7
    whole = np.arange(-126, 1, dtype=np.float32)[-112:]
    out = np.empty_like(whole)
    _exp2_of(whole, out)
    assert np.array_equal(out, np.exp2(whole))


@njit
def _everything(a, b, scalar, out):
    x, y = simd.load(a, 0), simd.load(b, 0)
    simd.store(out, 0, x + y)
    simd.store(out, 16, x - y)
    simd.store(out, 32, x * y)
    simd.store(out, 48, x * scalar)
    simd.store(out, 64, scalar - y)
    simd.store(out, 80, simd.maximum(x, y))
    simd.store(out, 96, simd.where_positive(x, y))
    simd.store(out, 112, simd.fill(scalar) + simd.lane_numbers())
    return simd.total(x)


def test_arithmetic():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 16)).astype(np.float32)
    a[3] = 0.0
    scalar = np.float32(1.25)
    out = np.empty((8, 16), np.float32)
    total = _everything(a, b, scalar, out.reshape(-1))
    lanes = np.arange(16, dtype=np.float32)
    expected = [a + b, a - b, a * b, a * scalar, scalar - b, np.maximum(a, b), np.where(a > 0, b, 0), scalar + lanes]
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(total, a.sum(dtype=np.float64), rtol=1e-6)
