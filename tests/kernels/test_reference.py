"""The normative renderer against its own text, written another way, and its derivative against finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsdata.gaussians import ANTIALIAS_MODES, Gaussians
from gsdata.kernels import reference
from gsdata.testing import gaussians, make_gaussians
from parity import cut_off_distance


def one(mean: tuple[float, float], cholesky: tuple[float, float, float], size: tuple[int, int], **options) -> Gaussians:
    return Gaussians(np.array([mean]), np.array([cholesky]), np.ones((1, 1)), np.array([1]), size, **options)


def test_pixel_follows_the_text():
    """One pixel of a sheared Gaussian at another size, from the equations with explicit 2x2 matrices."""
    batch = one((0.3, -0.2), (1.5, -0.7, 0.9), (10, 20))
    height, width = 14, 24
    image = reference.render(batch, (height, width))
    factor = np.diag([24 / 20, 14 / 10]) @ np.array([[1.5, 0.0], [-0.7, 0.9]])
    before = factor @ factor.T
    after = before + np.eye(2) / 12
    i, j = 5, 16
    centre = np.array([(2 * j + 1) / width - 1, (2 * i + 1) / height - 1])
    d = (centre - [0.3, -0.2]) * [width / 2, height / 2]
    w = (np.exp(-0.5 * d @ np.linalg.inv(after) @ d) - 2**-10) / (1 - 2**-10)
    assert w > 0.3
    expected = w * np.sqrt(np.linalg.det(before) / np.linalg.det(after))
    assert image[0, 0, i, j] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("mode", "variance"), [("box-normalized", 1 / 12), ("box", 1 / 12), ("none", 1e-4)])
def test_peak_and_support(mode, variance):
    """At the mean w is 1 (times the amplitude); the support ends where q reaches 2 ln 1024."""
    batch = one((1 / 41, 1 / 41), (2.0, 0.0, 2.0), (41, 41), antialias=mode)  # at a pixel's centre: (20.5 + .5, ..)
    image = reference.render(replace(batch, means=np.zeros((1, 2))))[0, 0]
    amplitude = 4 / (4 + variance) if mode == "box-normalized" else 1.0
    assert image[20, 20] == pytest.approx(amplitude, rel=1e-12)
    radius = np.sqrt(2 * np.log(1024) * (4 + variance))
    distance = np.hypot(*(np.mgrid[:41, :41] - 20))
    assert np.array_equal(image > 0, distance < radius)
    assert image.min() == 0.0


def test_means_map_to_edges_and_y_points_down():
    batch = one((-1.0, 1.0), (1.0, 0.0, 1.0), (8, 8))
    image = reference.render(batch)[0, 0]
    assert np.unravel_index(image.argmax(), image.shape) == (7, 0)
    # The corner pixel's centre is half a pixel from the mean in x and in y.
    assert image[7, 0] == pytest.approx(((np.exp(-0.25 / (13 / 12)) - 2**-10) / (1 - 2**-10)) * 12 / 13)
    assert image[6, 0] == pytest.approx(image[7, 1])


def test_sum_order_background_opacities_and_indices():
    batch = make_gaussians(1, [5, 0, 4], channels=2, opacities=True)
    whole = reference.render(batch)
    assert np.array_equal(whole[1], np.broadcast_to(np.array(batch.background)[:, None, None], whole[1].shape))
    assert np.array_equal(reference.render(batch, None, [2, -3, 2]), whole[[2, 0, 2]])
    folded = replace(batch, colors=batch.colors.astype(float) * batch.opacities, opacities=None)
    np.testing.assert_allclose(reference.render(folded), whole, atol=1e-12)
    order = [4, 0, 3, 1, 2, 8, 6, 7, 5]
    shuffled = replace(batch, **{k: getattr(batch, k)[order] for k in ("means", "cholesky", "colors", "opacities")})
    np.testing.assert_allclose(reference.render(shuffled), whole, atol=1e-12)


def test_normalised_integral_is_kept_at_every_size():
    """box-normalized: the sum over pixels over their number is the same at any size (but for the cut-off)."""
    batch = one((0.1, -0.05), (3.0, 1.0, 2.0), (64, 64))
    mean_values = [reference.render(batch, size).mean() for size in (16, 32, 64, 128)]
    assert np.ptp(mean_values) < 0.01 * mean_values[0]


def test_half_size_is_the_average_of_two_by_two():
    """At half the size, box-normalized is within 40 dB of the image averaged 2x2; ``box`` is not."""

    def psnr(mode: str) -> float:
        # Gaussians as an encoder leaves them: one to a few pixels wide, an image made of their sum.
        rng = np.random.default_rng(3)
        count = 300
        scale = np.exp(rng.normal(np.log(2.2), 0.35, (count, 2)))
        batch = Gaussians(
            rng.uniform(-1, 1, (count, 2)),
            np.stack([scale[:, 0], rng.normal(0, 0.8, count), scale[:, 1]], 1),
            rng.normal(0.0, 0.15, (count, 3)),
            np.array([100, 100, 100]),
            (32, 32),
            antialias=mode,  # type: ignore[arg-type]
            background=(0.5, 0.5, 0.5),
        )
        full, half = reference.render(batch), reference.render(batch, 16)
        averaged = full.reshape(3, 3, 16, 2, 16, 2).mean(axis=(3, 5))
        return float(-10 * np.log10(np.mean((half - averaged) ** 2)))

    assert psnr("box-normalized") >= 40.0
    assert psnr("box") < 40.0


@pytest.mark.parametrize("mode", ANTIALIAS_MODES)
@pytest.mark.parametrize("kinds", [("fitted",), ("needle",), ("tiny", "off-image"), ("huge",)])
def test_gradient_is_the_finite_difference(mode, kinds):
    """Every parameter, central differences in float64, where no pixel's q is within 1e-3 of the cut-off."""
    size = (9, 11)
    for seed in range(60):
        batch = make_gaussians(
            seed, [2, 0, 1], channels=2, size=(8, 12), kinds=kinds, antialias=mode, opacities=True, background=False
        )
        if cut_off_distance(batch, size) > 1e-3:
            break
    else:
        pytest.fail("no seed keeps away from the cut-off")
    values = {k: getattr(batch, k).astype(np.float64) for k in ("means", "cholesky", "colors", "opacities")}
    indices = [2, 0, 2]
    grad_out = np.random.default_rng(seed).normal(size=(3, 2, *size))
    found = reference.render_backward(replace(batch, **values), grad_out, size, indices)

    def loss(name: str, place: tuple[int, ...], step: float) -> float:
        moved = values[name].copy()
        moved[place] += step
        return float(np.sum(grad_out * reference.render(replace(batch, **values | {name: moved}), size, indices)))

    for name, value in values.items():
        expected = np.zeros_like(value)
        for place in np.ndindex(value.shape):
            step = 1e-6 * max(abs(value[place]), 1e-2)
            expected[place] = (loss(name, place, step) - loss(name, place, -step)) / (2 * step)
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found[name], expected, atol=2e-6 * largest + 1e-8, rtol=1e-5, err_msg=name)


@settings(max_examples=25)
@given(gaussians(max_images=3, max_count=5, max_size=12), st.integers(1, 12))
def test_gradients_of_unseen_images_are_zero_and_repeats_add_up(batch, side):
    if batch.num_images == 0:
        return
    rng = np.random.default_rng(0)
    grad_out = rng.normal(size=(2, batch.channels, side, side))
    twice = reference.render_backward(batch, grad_out, side, [0, 0])
    once = reference.render_backward(batch, grad_out.sum(0, keepdims=True), side, [0])
    rows = batch.offsets[1]
    for name, values in twice.items():
        np.testing.assert_allclose(values, once[name], rtol=1e-6, atol=1e-9 * (1 + np.abs(values).max(initial=0)))
        assert not values[rows:].any()


def test_wrong_shape_of_gradient():
    batch = make_gaussians(0, [1])
    with pytest.raises(ValueError, match=r"grad_out must have shape \(1, 3, 32, 32\), found \(1, 3, 32, 31\)"):
        reference.render_backward(batch, np.zeros((1, 3, 32, 31)))
