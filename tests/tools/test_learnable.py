from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gsdata
from gsdata.gaussians import Gaussians
from gsdata.quantize import fit_quantizers
from gsdata_tools.learnable import EDGE, LearnableSet, RowAdam, boundary_loss, fill_budget, prune, split

CPU = torch.device("cpu")


def make_set(counts=(5, 3, 9), channels=3, size=(12, 16), seed=0):
    draws = np.random.default_rng(seed)
    total = sum(counts)
    cholesky = np.stack([draws.uniform(0.7, 4, total), draws.normal(0, 1, total), draws.uniform(0.7, 4, total)], axis=1)
    gaussians = Gaussians(
        draws.uniform(-0.95, 0.95, (total, 2)).astype(np.float32),
        cholesky.astype(np.float32),
        draws.normal(0.2, 0.4, (total, channels)).astype(np.float32),
        np.array(counts),
        size,
    )
    parameters = LearnableSet.from_gaussians(gaussians, fit_quantizers(gaussians), CPU)
    adam = RowAdam({"means": 0.01, "log_scales": 0.05, "shear": 0.05, "colors": 0.02, "opacities": 0.02})
    adam.attach(parameters)
    return parameters, adam


def perturb(parameters, adam, steps=3, images=None):
    indices = np.arange(len(parameters.counts)) if images is None else np.array(images)
    for step in range(steps):
        rows = parameters.rows(indices)
        leaves = parameters.leaves(rows)
        rendered = gsdata.render(parameters.stored(leaves, parameters.counts[indices]))
        target = torch.rand(rendered.shape, generator=torch.Generator().manual_seed(step))
        (rendered - target).square().sum().backward()
        adam.step(parameters, rows, leaves)


def equal(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("means", "cholesky", "colors", "counts"))


def test_codes_survive_becoming_parameters():
    parameters, _ = make_set()
    codes = parameters.codes()
    assert equal(LearnableSet.from_codes(codes, CPU).codes(), codes)


def test_the_closed_file_renders_what_was_trained():
    parameters, adam = make_set()
    perturb(parameters, adam, steps=5)
    assert not torch.equal(parameters.opacities, torch.ones_like(parameters.opacities))
    everything = {name: getattr(parameters, name) for name in parameters.ATTRIBUTES}
    trained = gsdata.render(parameters.stored(everything, parameters.counts)).numpy()
    closed = gsdata.open(gsdata.to_bytes(parameters.codes())).gaussians()
    # The file orders Gaussians by its own rule, so only the order of the sums may differ.
    np.testing.assert_allclose(gsdata.render(closed), trained, atol=2e-6)


def test_adam_matches_torch_where_all_rows_step():
    parameters, adam = make_set()
    theirs = [getattr(parameters, name).clone().requires_grad_() for name in adam.rates]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(theirs, adam.rates.values(), strict=True)]
    optimizer = torch.optim.Adam(groups, betas=adam.betas, eps=adam.epsilon)
    rows = parameters.rows(np.arange(3))
    for step in range(4):
        leaves = parameters.leaves(rows)
        for name, theirs_one in zip(adam.rates, theirs, strict=True):
            gradient = torch.randn(theirs_one.shape, generator=torch.Generator().manual_seed(step))
            leaves[name].grad = gradient
            theirs_one.grad = gradient.clone()
        adam.step(parameters, rows, leaves)
        optimizer.step()
    for name, theirs_one in zip(adam.rates, theirs, strict=True):
        torch.testing.assert_close(getattr(parameters, name), theirs_one.detach(), rtol=1e-4, atol=1e-6)


def test_a_step_moves_only_its_own_rows():
    parameters, adam = make_set()
    perturb(parameters, adam)  # every row has momentum now
    before = {name: getattr(parameters, name).clone() for name in parameters.ATTRIBUTES}
    perturb(parameters, adam, steps=2, images=[1])
    inside = slice(5, 8)
    for name, old in before.items():
        new = getattr(parameters, name)
        assert torch.equal(new[:5], old[:5])
        assert torch.equal(new[8:], old[8:])
        assert not torch.equal(new[inside], old[inside])


def test_boundary_loss_is_the_published_barrier_and_pushes_inside():
    means = torch.tensor([[0.5, -0.2], [0.9, 0.0]], requires_grad=True)
    x, y = means[:, 0], means[:, 1]
    expected = -(torch.log(1 - x**2) + torch.log(1 - y**2)).mean()
    loss = boundary_loss(means)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert means.grad is not None
    assert means.grad[1, 0] > means.grad[0, 0] > 0 > means.grad[0, 1]


@pytest.mark.parametrize("form", ["log", "power"])
def test_boundary_loss_pulls_back_what_is_outside(form):
    assert float(boundary_loss(torch.zeros(4, 2), form)) == 0
    x = torch.linspace(0.01, 3, 1000, dtype=torch.float64, requires_grad=True)
    loss = sum(boundary_loss(torch.stack([value, -value])[None], form) for value in x)
    loss.backward()
    assert math.isfinite(loss.item())
    assert bool((x.grad > 0).all())
    assert bool((x.grad.diff() >= -1e-9).all())  # no barrier to come back over


def test_clamp_keeps_the_rows_it_is_given_inside():
    parameters, _ = make_set()
    parameters.means[:] = 2.0
    parameters.clamp(parameters.rows(np.array([1])))
    assert torch.all(parameters.means[5:8] == EDGE)
    assert torch.all(parameters.means[:5] == 2.0)


def test_prune_drops_the_least_important_and_the_optimiser_follows():
    parameters, adam = make_set()
    perturb(parameters, adam)
    order = np.argsort(parameters.importance())
    first = adam.first["colors"].clone()
    kept = np.setdiff1d(np.arange(17), order[:4])
    assert prune(parameters, adam, 4) == 4
    assert parameters.num_gaussians == 13 == int(parameters.counts.sum())
    assert torch.equal(adam.first["colors"], first[torch.from_numpy(kept)])
    perturb(parameters, adam)  # still fits together


def test_prune_leaves_every_image_its_best_gaussian():
    parameters, adam = make_set()
    parameters.colors[5:8] *= 1e-3  # the second image is the least important in every Gaussian
    best = parameters.colors[5:8][int(np.argmax(parameters.importance()[5:8]))].clone()
    assert prune(parameters, adam, 100) == 14
    assert parameters.counts.tolist() == [1, 1, 1]
    assert torch.equal(parameters.colors[1], best)
    assert prune(parameters, adam, 1) == 0


def test_split_hardly_changes_the_picture():
    parameters, adam = make_set()
    perturb(parameters, adam)
    everything = {name: getattr(parameters, name) for name in parameters.ATTRIBUTES}
    before = gsdata.render(parameters.assemble(everything, parameters.counts))
    assert split(parameters, adam, 6) == 6
    everything = {name: getattr(parameters, name) for name in parameters.ATTRIBUTES}
    after = gsdata.render(parameters.assemble(everything, parameters.counts))
    assert parameters.num_gaussians == 23 == int(parameters.counts.sum())
    assert float((after - before).square().mean().sqrt()) < 0.02 * float(before.square().mean().sqrt())
    assert adam.steps is not None
    assert int((adam.steps == 0).sum()) == 12
    perturb(parameters, adam)


@pytest.mark.parametrize("wanted", [1100, 2000, 9000])
def test_fill_budget_meets_the_bytes(wanted):
    parameters, adam = make_set(counts=(60, 70, 50, 64))

    def measure():
        return len(gsdata.to_bytes(parameters.codes()))

    size = fill_budget(parameters, adam, measure, int(0.98 * wanted), wanted)
    assert size == measure()
    assert 0.98 * wanted <= size <= wanted


def test_fill_budget_says_when_nothing_is_left_to_prune():
    parameters, adam = make_set()
    size = fill_budget(parameters, adam, lambda: 1000 + parameters.num_gaussians, 90, 100)
    assert size == 1003
