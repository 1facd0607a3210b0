from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import gsdata
from gsdata_tools.dm import DmOptions, classes_of, dm_step
from gsdata_tools.networks import build
from gsdata_tools.rate import RateModel
from gsdata_tools.real_data import RealData

from .test_learnable import make_set

PLAIN = DmOptions(batch_real=1000, augment="none", boundary=0.0)
LABELS = np.array([0, 1, 1])


def make_real(seed=0, per_class=6, classes=2, size=(16, 16)):
    draws = np.random.default_rng(seed)
    images = draws.integers(0, 256, (per_class * classes, *size, 3)).astype(np.uint8)
    labels = np.repeat(np.arange(classes), per_class)
    return RealData(images, labels, classes, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), torch.device("cpu"))


def network(key=0):
    made = build("ConvNet-D2", 3, 2, (16, 16), seed=0, key=(key,), width=16)
    return made.requires_grad_(False)


def test_the_loss_is_the_distance_of_mean_features():
    parameters, adam = make_set(size=(16, 16))
    real = make_real()
    closed = torch.from_numpy(gsdata.render(parameters.codes().dequantize()))
    net = network()
    expected = 0.0
    for label in (0, 1):
        pixels = torch.from_numpy(real.images[real.members[label]]).permute(0, 3, 1, 2).float() / 255
        normalized = (pixels - real.mean) / real.std
        synthetic = (closed[torch.from_numpy(label == LABELS)] - real.mean) / real.std
        difference = net.embed(normalized).mean(0) - net.embed(synthetic).mean(0)
        expected += float(difference.square().sum())
    found = dm_step(0, parameters, LABELS, adam, real, net, replace(PLAIN, boundary=0.5))
    assert found["match"] == pytest.approx(expected, rel=1e-4)
    assert found["loss"] == pytest.approx(found["match"] + 0.5 * found["boundary"], rel=1e-6)


def test_equal_sets_match_because_both_are_augmented_alike():
    def dim_set():
        parameters, adam = make_set(counts=(20, 20), size=(16, 16))
        parameters.colors.abs_().mul_(0.2)  # pixels stay in [0, 1], which uint8 images need
        return parameters, adam

    pixels = gsdata.render(dim_set()[0].codes().dequantize())
    shown = np.rint(pixels * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    same = RealData(shown, np.array([0, 1]), 2, (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    options = replace(PLAIN, augment="dsa:color_crop_cutout_flip_scale_rotate")
    labels = np.array([0, 1])
    for iteration in range(12):
        own = dm_step(iteration, *_in_order(dim_set(), labels), same, network(), options)
        foreign = dm_step(iteration, *_in_order(dim_set(), labels), make_real(), network(), options)
        assert own["match"] < 0.02 * foreign["match"]


def _in_order(made, labels):
    parameters, adam = made
    return parameters, labels, adam


def test_steps_with_one_network_bring_the_means_together():
    parameters, adam = make_set(counts=(12, 12, 12), size=(16, 16))
    real, net = make_real(), network()
    losses = [dm_step(i, parameters, LABELS, adam, real, net, PLAIN)["match"] for i in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_rate_term_makes_the_set_lighter():
    real, net = make_real(), network()
    weights = {}
    for weight in (0.0, 0.1):
        parameters, adam = make_set(counts=(40, 40, 40), size=(16, 16))
        before = RateModel.of(parameters.codes())
        options = replace(PLAIN, rate=weight)
        for iteration in range(30):
            found = dm_step(iteration, parameters, LABELS, adam, real, net, options, before)
        weights[weight] = float(before.bits(parameters.codes()).sum())
        assert ("rate" in found) == (weight > 0)
    assert found["loss"] == pytest.approx(found["match"] + 0.1 * found["rate"], rel=1e-5)
    assert weights[0.1] < 0.95 * weights[0.0]


def test_the_logged_rate_is_bits_of_an_image():
    parameters, adam = make_set(counts=(10, 10, 10), size=(16, 16))
    coding = RateModel.of(parameters.codes())
    bits = coding.bits(parameters.codes()).sum() / 3
    found = dm_step(0, parameters, LABELS, adam, make_real(), network(), replace(PLAIN, rate=1e-9), coding)
    assert found["rate"] == pytest.approx(bits, rel=0.1)  # between codes, not at them


def test_cross_entropy_teaches_the_class():
    parameters, adam = make_set(counts=(12, 12, 12), size=(16, 16))
    real, net = make_real(), network()
    options = replace(PLAIN, classify=5.0)
    losses = [dm_step(i, parameters, LABELS, adam, real, net, options)["classify"] for i in range(25)]
    assert losses[-1] < 0.93 * losses[0]


def test_only_images_of_the_classes_in_turn_move():
    parameters, adam = make_set(counts=(6, 7, 8), size=(16, 16))
    before = parameters.colors.clone()
    dm_step(1, parameters, LABELS, adam, make_real(), network(), replace(PLAIN, classes_per_step=1))
    assert torch.equal(parameters.colors[:6], before[:6])
    assert not torch.equal(parameters.colors[6:13], before[6:13])
    assert not torch.equal(parameters.colors[13:], before[13:])


def test_batch_syn_renders_at_most_so_many():
    parameters, adam = make_set(counts=(6, 7, 8), size=(16, 16))
    before = parameters.colors.clone()
    dm_step(0, parameters, np.array([0, 0, 0]), adam, make_real(classes=1), network(), replace(PLAIN, batch_syn=2))
    moved = [
        not torch.equal(a, b) for a, b in zip(parameters.colors.split([6, 7, 8]), before.split([6, 7, 8]), strict=True)
    ]
    assert sum(moved) == 2


def test_clamp_and_boundary_can_be_switched_off():
    for clamp in (True, False):
        parameters, adam = make_set(counts=(12,), size=(16, 16))
        parameters.means[:] = 1.2
        dm_step(0, parameters, np.array([0]), adam, make_real(classes=1), network(), replace(PLAIN, clamp=clamp))
        assert bool((parameters.means.abs() < 1).all()) == clamp


def test_draws_depend_on_seed_iteration_and_class_alone():
    real = make_real()
    first = real.draw(3, 0, 5, 1)
    real.draw(2, 0, 9, 0)
    assert torch.equal(real.draw(3, 0, 5, 1), first)
    assert not torch.equal(real.draw(3, 0, 6, 1), first)
    assert not torch.equal(real.draw(3, 1, 5, 1), first)


def test_classes_take_turns():
    seen = [c for i in range(10) for c in classes_of(i, 5, 2)]
    assert sorted(seen) == sorted([0, 1, 2, 3, 4] * 4)
    assert classes_of(7, 5, 0) == classes_of(7, 5, 5) == [0, 1, 2, 3, 4]
