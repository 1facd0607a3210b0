"""The estimate of coded bits against its definition, and its gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gsdata.gaussians import Gaussians
from gsdata.quantize import Codes, Quantizer, QuantizerSet
from gsdata.streams import rotate_colors
from gsdata_tools.rate import RateModel

QUANTIZERS = QuantizerSet(
    means=Quantizer("uniform", -1.0, 1.0, 6),
    scales=Quantizer("log2", -1.0, 3.0, 3),
    shear=Quantizer("uniform", -2.0, 2.0, 5),
    colors=Quantizer("uniform", -0.5, 1.5, 4),
)


def _codes(channels=3, counts=(20, 7, 33), seed=0):
    draws = np.random.default_rng(seed)
    total = sum(counts)

    def column(bits):
        return draws.binomial(2**bits - 1, 0.6, total).astype(np.uint16)

    means = draws.integers(0, 64, (total, 2)).astype(np.uint16)
    cholesky = np.stack([column(3), column(5), column(3)], axis=1)
    colors = np.stack([column(4) for _ in range(channels)], axis=1)
    return Codes(means, cholesky, colors, np.array(counts), (16, 16), (QUANTIZERS,))


def _tensors(gaussians, shift=0.0, dtype=torch.float64):
    """The same as tensors that collect gradients, ``shift`` steps of every quantiser higher."""
    q = QUANTIZERS
    steps = [(x.high - x.low) / (2**x.bits - 1) * shift for x in (q.scales, q.shear, q.colors)]
    cholesky = np.array(gaussians.cholesky, np.float64)
    cholesky[:, ::2] *= 2.0 ** steps[0]
    cholesky[:, 1] += steps[1]
    parts = np.array([1.0, 0.5, 1.6, 0.8])[: gaussians.channels]  # differences of channels lie between codes too
    values = (gaussians.means, cholesky, np.array(gaussians.colors, np.float64) + steps[2] * parts)
    return [torch.tensor(x, dtype=dtype).requires_grad_() for x in values]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bits_are_those_of_the_frequencies_of_stored_codes(channels):
    codes = _codes(channels)
    model = RateModel.of(codes)
    expected = np.full(codes.num_gaussians, model.position)
    stored = rotate_colors(codes.colors, 4, forward=True)
    columns = [(codes.cholesky[:, 0], 3), (codes.cholesky[:, 1], 5), (codes.cholesky[:, 2], 3)]
    columns += [(stored[:, c], 4) for c in range(channels)]
    for column, width in columns:
        for row, code in enumerate(column):
            frequency = (np.sum(column == code) + 0.5) / (len(column) + 0.5 * 2**width)
            expected[row] -= np.log2(frequency)
    np.testing.assert_allclose(model.bits(codes), expected, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_expected_bits_are_the_bits_at_the_values_of_codes(channels):
    codes = _codes(channels)
    model, gaussians = RateModel.of(codes), codes.dequantize()
    values = Gaussians(*_tensors(gaussians), codes.counts, codes.size)
    found = model.expected_bits(values, QUANTIZERS).detach().numpy()
    np.testing.assert_allclose(found, model.bits(codes), atol=1e-3)


def test_the_gradient_is_that_of_finite_differences_between_codes():
    codes = _codes()
    inside = (codes.cholesky < [7, 31, 7]).all(axis=1) & (codes.colors < 15).all(axis=1)
    model = RateModel.of(codes)
    means, cholesky, colors = _tensors(codes.dequantize(), shift=0.37)

    def total(shape, color):
        return model.expected_bits(Gaussians(means, shape, color, codes.counts, codes.size), QUANTIZERS)

    total(cholesky, colors).sum().backward()
    assert inside.sum() > 20
    for leaf, column in [(cholesky, 0), (cholesky, 1), (cholesky, 2), (colors, 0), (colors, 1), (colors, 2)]:
        moved = torch.zeros_like(leaf)
        moved[:, column] = 1e-5
        up, down = (
            total(cholesky + sign * moved, colors) if leaf is cholesky else total(cholesky, colors + sign * moved)
            for sign in (1, -1)
        )
        slope = ((up - down) / 2e-5).detach().numpy()
        np.testing.assert_allclose(leaf.grad[inside, column].numpy(), slope[inside], rtol=1e-4, atol=1e-4)


def test_stored_differences_wrap_around():
    codes = _codes()
    codes.colors[:] = 0
    codes.colors[:, 1] = 15  # green 15, red 0: stored as 1, which a green of 14 and a red of 15 give too
    codes.colors[::2, :2] = [15, 14]
    model = RateModel.of(codes)
    values = Gaussians(*_tensors(codes.dequantize()), codes.counts, codes.size)
    np.testing.assert_allclose(model.expected_bits(values, QUANTIZERS).detach().numpy(), model.bits(codes), atol=1e-3)
    assert model.colors[1, 1] < 0.2


def test_beyond_the_range_nothing_is_gained():
    codes = _codes()
    model = RateModel.of(codes)
    means, cholesky, colors = _tensors(codes.dequantize(), shift=100.0)
    found = model.expected_bits(Gaussians(means, cholesky, colors, codes.counts, codes.size), QUANTIZERS)
    found.sum().backward()
    assert not cholesky.grad.any()
    assert not colors.grad.any()
    last = Codes(
        codes.means, np.broadcast_to(np.uint16([7, 31, 7]), codes.cholesky.shape).copy(), np.full_like(codes.colors, 15),
        codes.counts, codes.size, codes.quantizers,
    )  # fmt: skip
    np.testing.assert_allclose(found.detach().numpy(), model.bits(last), atol=1e-3)


def test_descent_makes_codes_cheaper():
    codes = _codes(counts=(400,))
    model = RateModel.of(codes)
    means, cholesky, colors = _tensors(codes.dequantize(), shift=0.1, dtype=torch.float32)
    optimizer = torch.optim.Adam([cholesky, colors], lr=0.02)
    totals = []
    for _ in range(30):
        optimizer.zero_grad()
        bits = model.expected_bits(Gaussians(means, cholesky, colors, codes.counts, codes.size), QUANTIZERS).sum()
        bits.backward()
        optimizer.step()
        totals.append(float(bits.detach()))
    assert totals[-1] < 0.9 * totals[0]
