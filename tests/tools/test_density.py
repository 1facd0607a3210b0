"""Which fit of each image is kept under one budget, and which Gaussians move during a fit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsdata.kernels import reference
from gsdata.kernels.simd import LANES
from gsdata.streams import MAX_COUNT
from gsdata_tools import density, density_kernels, fit
from gsdata_tools.density import Candidates, candidate_factors, needs, share_out, spread_counts

from .test_fit import _rendered, _smooth, _values


def _candidates(counts, quality):
    made = object.__new__(Candidates)
    made.counts, made.quality = np.array(counts), np.array(quality, float)
    made.pick = lambda chosen: (made.counts[chosen, np.arange(made.counts.shape[1])], None)
    return made


_TABLES = st.integers(1, 4).flatmap(
    lambda images: st.tuples(
        st.lists(st.lists(st.integers(1, 6), min_size=images, max_size=images), min_size=3, max_size=3),
        st.lists(st.lists(st.integers(0, 40), min_size=images, max_size=images), min_size=3, max_size=3),
    )
)


@given(_TABLES)
@settings(max_examples=150, deadline=None)
def test_every_step_of_the_path_is_the_best_choice_for_its_gaussians(table):
    candidates = _candidates(*table)
    columns = np.arange(candidates.counts.shape[1])
    every = [np.array(choice) for choice in itertools.product(range(3), repeat=len(columns))]
    chosen, steps = candidates.path()
    for step in [None, *steps]:
        if step:
            chosen[step[0]] = step[1]
        used = candidates.counts[chosen, columns].sum()
        mine = candidates.quality[chosen, columns].sum()
        assert mine >= max(
            candidates.quality[other, columns].sum()
            for other in every
            if candidates.counts[other, columns].sum() <= used
        )
    assert np.array_equal(candidates.quality[chosen, columns], candidates.quality.max(axis=0))


@given(_TABLES, st.integers(1, 3000))
@settings(max_examples=150, deadline=None)
def test_the_budget_is_kept_and_no_further_step_fits(table, budget):
    candidates = _candidates(*table)

    def weigh(codes):
        return 100 * int(codes.sum()) + 37

    chosen, weight, _ = candidates.best_within(budget, weigh)
    columns = np.arange(candidates.counts.shape[1])
    assert weight == weigh(candidates.counts[chosen, columns])
    start, steps = candidates.path()
    weights = [weigh(candidates.counts[start, columns])]
    for image, kept in steps:
        start[image] = kept
        weights.append(weigh(candidates.counts[start, columns]))
    fitting = [w for w in weights if w <= budget]
    assert weight == (max(fitting) if fitting else weights[0]) or 0.999 * budget <= weight <= budget


def test_more_tries_at_one_number_start_elsewhere_and_the_best_is_kept():
    images = _smooth(4)
    counts = np.full(4, 12)
    several = Candidates(images, [counts] * 3, steps=60)
    codes, losses = several.pick(several.best())
    assert codes.counts.tolist() == [12] * 4
    assert len(losses) == 48
    assert len({tuple(row) for row in several.quality.round(6).tolist()}) == 3  # other starts, other fits
    assert several.quality.max(axis=0).mean() > several.quality.mean(axis=1).max()
    shown = np.clip(reference.render(codes.dequantize()), 0, 1)
    errors = np.square(shown - images.transpose(0, 3, 1, 2) / 255).mean(axis=(1, 2, 3))
    assert several.quality.max(axis=0) == pytest.approx(-10 * np.log10(errors), abs=1e-3)


def test_every_search_uses_the_threads_that_were_asked_for(monkeypatch):
    asked = []

    def choose(*values, **options):
        asked.append(options.get("threads"))
        return density_choose(*values, **options)

    density_choose = density.choose_codes
    monkeypatch.setattr(density, "choose_codes", choose)
    Candidates(_smooth(2), [np.full(2, 5)] * 2, adapt=True, steps=5, threads=1)
    assert asked == [1, 1]


def test_candidates_have_different_numbers_of_gaussians():
    assert candidate_factors(1) == [1.0]
    assert candidate_factors(3) == pytest.approx([0.95, 1.0, 1.05])
    images = _smooth(3)
    candidates = Candidates(images, [np.array([4, 5, 6]), np.array([8, 8, 9])], steps=20)
    codes, losses = candidates.pick(np.array([1, 0, 1]))
    assert codes.counts.tolist() == [8, 5, 9]
    assert len(losses) == 22


@pytest.mark.parametrize(("total", "images"), [(10, 3), (3, 3), (7, 1), (100, 7)])
def test_counts_are_spread_evenly(total, images):
    counts = spread_counts(total, images)
    assert counts.sum() == total
    assert len(counts) == images
    assert np.ptp(counts) <= 1


def test_every_image_gets_a_gaussian_and_none_more_than_a_file_holds():
    assert spread_counts(2, 5).tolist() == [1] * 5
    assert spread_counts(10**9, 3).tolist() == [MAX_COUNT] * 3


def test_images_that_use_all_of_their_gaussians_get_more():
    images = _smooth(6)
    images[:3] = np.random.default_rng(0).integers(0, 256, (3, *images.shape[1:]), np.uint8)  # every Gaussian counts
    counts = np.full(6, 14)
    wanted = needs(fit.fit_images(images, counts, steps=80))
    assert wanted.mean() == pytest.approx(1)
    adapted = Candidates(images, [counts, counts, counts], adapt=True, steps=80)
    assert adapted.counts[0].tolist() == counts.tolist()
    assert adapted.counts[1].tolist() == adapted.counts[2].tolist() != counts.tolist()
    assert adapted.counts[1].sum() == counts.sum()
    order = np.argsort(adapted.counts[1], kind="stable")
    assert (np.diff(wanted[order]) > -0.15).all()
    assert Candidates(images, [counts, counts], steps=80).counts.tolist() == [counts.tolist()] * 2


def test_needs_of_nothing_are_equal():
    empty = fit.fit_images(_smooth(3), 0, steps=5)
    assert needs(empty).tolist() == [1, 1, 1]
    assert needs(fit.fit_images(_smooth(0), 4, steps=5)).shape == (0,)


@given(st.integers(0, 10**6), st.lists(st.floats(0.01, 3), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_gaussians_are_shared_out_in_proportion(total, shares):
    counts = share_out(total, np.array(shares))
    exact = np.array(shares) / np.sum(shares) * total
    assert (abs(counts - exact.clip(1, MAX_COUNT)) <= 1).all()
    assert counts.min() >= 1


@pytest.mark.parametrize(("channels", "size"), [(3, (24, 20)), (1, (9, 41)), (4, (17, 5)), (2, (6, 6))])
def test_a_contribution_is_what_its_removal_costs(channels, size):
    values, gaussians = _values(9, channels, size, seed=3)
    image, placed, box, weights = _rendered(values, size)
    height, width = size
    stride = width + LANES
    target = np.random.default_rng(0).normal(size=(channels, height, width)).astype(np.float32)
    residual = np.zeros_like(image)
    inner = residual[: channels * height * stride].reshape(channels, height, stride)[:, :, :width]
    inner[:] = image[: channels * height * stride].reshape(channels, height, stride)[:, :, :width] - target
    inside = np.zeros(stride + LANES, np.float32)
    inside[:width] = 1
    at, whole = 0, np.square(reference.render(gaussians)[0] - target).sum()
    for n in range(9):
        found = density_kernels.contribution(
            values, n, channels, width, stride, height * stride, placed[n], box[n], residual, inside, weights, at
        )
        at += box[n, 1] * (box[n, 3] - box[n, 2]) * LANES
        without = values.copy()
        without[5:, n] = 0
        picture = _rendered(without, size)[0][: channels * height * stride]
        picture = picture.reshape(channels, height, stride)[:, :, :width]
        assert found == pytest.approx(np.square(picture - target).sum() - whole, rel=1e-3, abs=1e-3 * whole)


def test_what_matters_least_moves_to_the_largest_errors():
    values, _ = _values(6, 1, (12, 16))
    values[5] = [1, 0.5, 0.001, 2, 0.002, 1]
    values[0], values[1] = np.linspace(-0.8, 0.8, 6), 0
    values[2] = values[4] = 1.5
    values[3] = 0
    image, placed, box, weights = _rendered(values, (12, 16))
    stride = 16 + LANES
    residual = np.zeros_like(image)
    residual[3 * stride + 4] = -0.9
    residual[3 * stride + 5] = -0.8  # next to it: not far enough away
    residual[9 * stride + 14] = 0.7
    parameters, grad = values.copy(), np.ones_like(values)
    first, second = np.ones_like(values), np.ones_like(values)
    density_kernels.relocate(
        parameters, values, 16, 12, stride, 12 * stride, placed, box, residual, weights, 2, 2, np.float32(-1), grad, first,
        second,
    )  # fmt: skip
    moved = np.flatnonzero((parameters != values).any(axis=0))
    assert moved.tolist() == [2, 4]
    places = {(round((x + 1) * 8 - 0.5, 3), round((y + 1) * 6 - 0.5, 3)) for x, y in parameters[:2, moved].T.tolist()}
    assert places == {(4.0, 3.0), (14.0, 9.0)}
    assert (parameters[2, moved] == -1).all()
    assert sorted(parameters[5, moved]) == pytest.approx([-0.49, 0.63])
    for memory in (grad, first, second):
        assert (memory[:, moved] == 0).all()
        assert (np.delete(memory, moved, axis=1) == 1).all()


def test_moving_makes_a_better_fit():
    images = _smooth(8)
    moving = fit.fit_images(images, 16, steps=300).squared_errors
    still = fit.fit_images(images, 16, steps=300, moves=0).squared_errors
    assert np.log(still / moving).mean() > 0.05


def test_a_rate_weight_saves_bits_and_costs_little():
    images = _smooth(6)
    results = {weight: fit.fit_images(images, 20, steps=150, rate_weight=weight) for weight in (0.0, 0.04, 0.4)}
    sizes = {weight: _entropy(result.codes) for weight, result in results.items()}
    assert sizes[0.0] > sizes[0.04] > sizes[0.4]
    loss = 10 * np.log10(results[0.04].squared_errors / results[0.0].squared_errors).mean()
    assert loss < 0.5


def _entropy(codes):
    from gsdata_tools.rate import RateModel

    return float(RateModel.of(codes).bits(codes).sum())
