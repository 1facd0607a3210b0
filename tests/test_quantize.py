"""Quantisers: one rule for values and codes in NumPy and torch, exact where it must be."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from files import same_content
from gsdata.gaussians import Gaussians
from gsdata.quantize import Codes, Quantizer, QuantizerSet, concatenate, fit_quantizers, quantize
from gsdata.testing import SET, codes, make_codes, make_gaussians, quantizer_sets, quantizers

FLOATS = hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(-(2.0**30), 2.0**30, width=32))


@given(quantizers())
def test_a_table_value_has_its_own_code(quantizer: Quantizer) -> None:
    every = np.arange(2**quantizer.bits)
    assert quantizer.table.dtype == quantizer.thresholds.dtype == np.float32
    assert (quantizer.table.shape, quantizer.thresholds.shape) == (every.shape, every[1:].shape)
    np.testing.assert_array_equal(quantizer.encode(quantizer.decode(every)), every)


@given(quantizers())
def test_the_table_is_the_formula_rounded_once(quantizer: Quantizer) -> None:
    for k in {0, 1, 2**quantizer.bits // 3, 2**quantizer.bits - 1}:
        level = quantizer.low + ((quantizer.high - quantizer.low) * k) / (2**quantizer.bits - 1)
        value = level if quantizer.kind == "uniform" else math.exp2(level)
        assert quantizer.table[k] == np.float32(value)


@given(quantizers(), FLOATS)
def test_the_code_counts_thresholds_and_is_the_nearest(quantizer: Quantizer, values: np.ndarray) -> None:
    t = quantizer.thresholds
    values = np.concatenate([values, t, np.nextafter(t, np.float32(-np.inf)), np.float32([-np.inf, np.inf])])
    found = quantizer.encode(values)
    np.testing.assert_array_equal(found, np.searchsorted(t, values, side="right"))
    some = slice(None, None, max(1, len(values) // 64))
    np.testing.assert_array_equal(found[some], (t[None, :] <= values[some, None]).sum(axis=1))
    np.testing.assert_array_equal(quantizer.encode(t), np.arange(1, len(t) + 1))
    assert found.dtype == np.uint16
    if quantizer.kind == "uniform":
        inside = values[np.isfinite(values) & (values >= quantizer.low) & (values <= quantizer.high)].astype(np.float64)
        step = (quantizer.high - quantizer.low) / (2**quantizer.bits - 1)
        error = np.abs(quantizer.decode(quantizer.encode(inside)) - inside)
        assert (error <= step / 2 + 1e-6 * max(abs(quantizer.low), abs(quantizer.high))).all()


@given(quantizers(), FLOATS)
def test_torch_follows_the_same_rule(quantizer: Quantizer, values: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    t = quantizer.thresholds
    values = np.concatenate([values, t, np.nextafter(t, np.float32(-np.inf)), quantizer.table])
    found = quantizer.fake_quantize(torch.from_numpy(values))
    np.testing.assert_array_equal(found.numpy(), quantizer.decode(quantizer.encode(values)))


def test_straight_through_gradient() -> None:
    torch = pytest.importorskip("torch")
    quantizer = Quantizer("uniform", -1.0, 1.0, 3)
    values = torch.tensor([-2.0, -2.0, -1.0, 0.3, 1.0, 2.0, 2.0], requires_grad=True)
    upstream = torch.tensor([1.0, -1.0, 2.0, -3.0, 4.0, 1.0, -1.0])
    quantizer.fake_quantize(values).backward(upstream)
    # Descent on a positive gradient lowers a value: below the range that leads away and is stopped.
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, -1.0, 2.0, -3.0, 4.0, 1.0, 0.0]


def test_training_sees_what_the_file_will_hold() -> None:
    pytest.importorskip("torch")
    gaussians = make_gaussians(0, [5, 0, 3], opacities=True)
    trained = SET.fake_quantize(gaussians.torch()).numpy()
    stored = quantize(gaussians, SET).dequantize()
    for name in ("means", "cholesky", "colors"):
        np.testing.assert_array_equal(getattr(trained, name), getattr(stored, name))
    assert trained.opacities is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("linear", 0.0, 1.0, 8), "kind"),
        (("uniform", 0.0, 1.0, 0), "bits"),
        (("uniform", 0.0, 1.0, 13), "bits"),
        (("uniform", 0.0, 1.0, True), "bits"),
        (("uniform", 0.0, 1.0, 8.0), "bits"),
        (("uniform", 1.0, 1.0, 8), "low < high"),
        (("uniform", 1.0, 0.0, 8), "low < high"),
        (("uniform", float("nan"), 1.0, 8), "low < high"),
        (("uniform", 0.0, float("inf"), 8), "low < high"),
        (("uniform", 0.0, 2.0**25, 8), "low < high"),
        (("log2", 0.0, 65.0, 8), "low < high"),
        (("uniform", 1000.0, 1000.001, 8), "too narrow"),
        (("uniform", 1.0, 1.0 + 255 * 2.0**-23, 8), "too narrow"),
        (("log2", 0.0, 1e-9, 8), "too narrow"),
    ],
)
def test_bad_quantisers(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantizer(*arguments)


def test_scales_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        QuantizerSet(SET.means, Quantizer("uniform", 0.0, 1.0, 6), SET.shear, SET.colors)


def test_nan_is_not_a_value() -> None:
    with pytest.raises(ValueError, match="NaN"):
        SET.means.encode(np.array([0.0, np.nan]))


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 4), st.sampled_from(["fitted", "needle", "tiny", "huge", "off-image"]))
def test_fitted_ranges_hold_the_values(seed: int, channels: int, kind: str) -> None:
    gaussians = make_gaussians(seed, [4, 0, 9], channels=channels, kinds=[kind])
    fitted = fit_quantizers(gaussians, means_bits=9, scales_bits=10, shear_bits=11, colors_bits=12)
    values, back = gaussians.numpy(), quantize(gaussians, fitted).dequantize()
    assert [q.bits for q in (fitted.means, fitted.scales, fitted.shear, fitted.colors)] == [9, 10, 11, 12]
    step = (fitted.colors.high - fitted.colors.low) / 4095
    assert (np.abs(back.colors - values.colors) <= 0.51 * step + 1e-6).all()
    ratio = 2 ** (0.51 * (fitted.scales.high - fitted.scales.low) / 1023)
    scales = np.maximum(values.cholesky[:, 0::2], 1e-6)
    assert (np.abs(np.log2(back.cholesky[:, 0::2] / scales)) <= np.log2(ratio) + 1e-5).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 5000.0, -1e6])
def test_equal_values_still_have_a_quantiser(value: float) -> None:
    ones = np.ones((3, 1), np.float32)
    gaussians = Gaussians(
        np.zeros((3, 2), np.float32), np.ones((3, 3), np.float32), ones * value, np.array([3]), (8, 8)
    )
    fitted = fit_quantizers(gaussians, colors_bits=12)
    assert abs(float(quantize(gaussians, fitted).dequantize().colors[0, 0]) - value) <= 2**-10 * max(1, abs(value))


@pytest.mark.parametrize("coverage", [0.0, -1.0, 1.1])
def test_coverage_must_be_a_fraction(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        fit_quantizers(make_gaussians(0, [3]), coverage=coverage)


@settings(max_examples=40)
@given(codes(), st.data())
def test_select_is_the_rows_of_its_images(codes: Codes, data: st.DataObject) -> None:
    count = codes.num_images
    wanted = data.draw(st.lists(st.integers(-count, count - 1), max_size=6)) if count else []
    chosen = codes.select(wanted).dequantize()
    whole = codes.dequantize()
    reference = whole.select(wanted)
    for name in ("means", "cholesky", "colors", "counts"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(reference, name))


@settings(max_examples=40)
@given(codes(channels=2), st.integers(0, 8))
def test_concatenate_undoes_a_split(codes: Codes, cut: int) -> None:
    images = np.arange(codes.num_images)
    assert same_content(concatenate([codes.select(images[:cut]), codes.select(images[cut:])]), codes)


@given(quantizer_sets())
def test_bits_add_up(quantizers: QuantizerSet) -> None:
    q = quantizers
    assert q.bits(3) == q.means.bits * 2 + q.scales.bits * 2 + q.shear.bits + 3 * q.colors.bits


def test_concatenate_refuses_other_shapes() -> None:
    for other in ({"size": (9, 8)}, {"channels": 1}, {"antialias": "box"}, {"background": (1.0, 0.0, 0.0)}):
        with pytest.raises(ValueError, match=f"cannot unite sets with {next(iter(other))}"):
            concatenate([make_codes(0, [1]), make_codes(0, [1], **other)])
    with pytest.raises(ValueError, match="nothing"):
        concatenate([])


def test_codes_check_their_index() -> None:
    with pytest.raises(ValueError, match="quantizer_index must lie"):
        make_codes(0, [1, 1], sets=(SET,), index=[0, 0]).__class__(
            **{**vars(make_codes(0, [1, 1])), "quantizer_index": np.array([0, 1])}
        )


def test_the_widest_quantisers_do_not_warn() -> None:
    """Half a step beyond the last level would be 2^128."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = Quantizer("log2", -64.0, 64.0, 1)
    assert wide.table.tolist() == [2.0**-64, 2.0**64]
    assert wide.thresholds.tolist() == [1.0]
