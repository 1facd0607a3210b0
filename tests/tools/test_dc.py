from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

import gsdata
from gsdata_tools import dc
from gsdata_tools.dc import (
    DcOptions,
    dc_step,
    gradient_distance,
    real_gradient,
    synthetic_gradient,
    train_on_set,
)
from gsdata_tools.networks import build

from .test_dm import make_real
from .test_learnable import make_set

PLAIN = DcOptions(batch_real=1000, augment="none", boundary=0.0)
LABELS = np.array([0, 1, 1])


def network(key=0, depth=2, classes=2, channels=3, size=(16, 16), fused=True):
    return build(f"ConvNet-D{depth}", channels, classes, size, seed=0, key=(key,), width=6, fused=fused)


def tiny(seed=0):
    """A float64 network of 8x8 images whose norms have gains and offsets of their own."""
    made = build("ConvNet-D2", 2, 3, (8, 8), seed=seed, width=4, fused=False).double()
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in made.norms:
            norm.weight.uniform_(0.5, 1.5, generator=draws)
            norm.bias.uniform_(-0.5, 0.5, generator=draws)
    return made


def pictures(count, seed=0):
    return torch.rand((count, 2, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_gradients(net, images, label):
    """Mean over images of the gradient of each image's own cross-entropy, written out; with a graph."""
    total = None
    for image in images:
        logits = net(image[None])[0]
        loss = logits.exp().sum().log() - logits[label]
        parts = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        total = parts if total is None else [a + b for a, b in zip(total, parts, strict=True)]
    return [part / len(images) for part in total]


def slow_distance(net, real, synthetic, label):
    """The published distance by name of parameter, row by row; the real gradient is a constant."""
    wanted = [g.detach() for g in slow_gradients(net, real, label)]
    found = slow_gradients(net, synthetic, label)
    total = torch.zeros((), dtype=torch.float64)
    for (name, _), one, other in zip(net.named_parameters(), wanted, found, strict=True):
        if name.endswith("bias") or name.startswith("norms"):
            continue
        for a, b in zip(one, other, strict=True):
            dot = sum(x * y for x, y in zip(a.ravel(), b.ravel(), strict=True))
            lengths = a.square().sum().sqrt() * b.square().sum().sqrt()
            total = total + 1 - dot / (lengths + 1e-6)
    return total


def test_distance_and_its_gradient_equal_the_plain_ones_in_float64():
    net, real, label = tiny(), pictures(7, 1), 2
    ours, theirs = (pictures(3, 2).requires_grad_() for _ in range(2))
    distance = gradient_distance(real_gradient(net, real, label, 3), synthetic_gradient(net, ours, label))
    expected = slow_distance(net, real, theirs, label)
    torch.testing.assert_close(distance, expected, rtol=1e-12, atol=0)
    (found,), (wanted,) = torch.autograd.grad(distance, ours), torch.autograd.grad(expected, theirs)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_the_second_derivative_is_the_slope_of_the_distance():
    net, label = tiny(3), 1
    wanted = real_gradient(net, pictures(5, 1), label, 5)
    images = pictures(2, 4).requires_grad_()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def at(step):
        return gradient_distance(wanted, synthetic_gradient(net, images.detach() + step * direction, label))

    (gradient,) = torch.autograd.grad(gradient_distance(wanted, synthetic_gradient(net, images, label)), images)
    slope = float((at(1e-7) - at(-1e-7)).detach()) / 2e-7
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_distance_of_rows():
    a = [torch.tensor([[[[1.0, 0.0]]], [[[0.0, 2.0]]]]), torch.tensor([5.0, 5.0]), torch.tensor([[3.0, 4.0]])]
    assert float(gradient_distance(a, a)) == pytest.approx(0, abs=1e-5)
    assert float(gradient_distance(a, [7 * x for x in a])) == pytest.approx(0, abs=1e-5)  # directions alone count
    assert float(gradient_distance(a, [-x for x in a])) == pytest.approx(6, abs=1e-5)  # three rows, no bias
    turned = [a[0].flip(3), -a[1], a[2]]
    assert float(gradient_distance(a, turned)) == pytest.approx(2, abs=1e-5)  # two rows at right angles
    assert float(gradient_distance(a, [torch.zeros_like(x) for x in a])) == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize("micro_batch", [1, 4, 9, 100])
def test_micro_batches_change_only_rounding(micro_batch):
    net = tiny()
    whole = [p.detach() for p in slow_gradients(net, pictures(9), 1) if p.ndim > 1]
    parts = real_gradient(net, pictures(9), 1, micro_batch)
    for found, wanted in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


def test_micro_batches_bound_what_the_network_sees_at_once(monkeypatch):
    seen = []
    net = network()
    net.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    real_gradient(net, torch.rand(10, 3, 16, 16), 0, 4)
    assert seen == [4, 4, 2]


def closed_images(parameters, real):
    return real.normalize(torch.from_numpy(gsdata.render(parameters.codes().dequantize())))


def test_the_loss_is_the_sum_over_classes_and_its_gradient_reaches_the_gaussians():
    parameters, _ = make_set(size=(16, 16))
    real, net = make_real(), network()
    rows = parameters.rows(np.arange(3))
    leaves = parameters.leaves(rows)
    rendered = gsdata.render(parameters.stored(leaves, parameters.counts))
    plain = network(fused=False)
    expected = torch.zeros(())
    for label in (0, 1):
        pixels = real.take(real.members[label])
        loss = functional.cross_entropy(plain(pixels), torch.full((len(pixels),), label))
        wanted = torch.autograd.grad(loss, list(plain.parameters()))
        synthetic = real.normalize(rendered[torch.from_numpy(label == LABELS)])
        loss = functional.cross_entropy(plain(synthetic), torch.full((len(synthetic),), label))
        expected = expected + gradient_distance(
            wanted, torch.autograd.grad(loss, list(plain.parameters()), create_graph=True)
        )
    expected.backward()  # through everything at once

    caught = {}

    class Catch:
        def step(self, parameters, rows, leaves):
            caught.update({name: leaf.grad.clone() for name, leaf in leaves.items()})

    found = dc_step(0, parameters, LABELS, Catch(), real, net, replace(PLAIN, micro_batch=4))
    assert found["match"] == found["loss"] == pytest.approx(float(expected.detach()), rel=1e-4)
    for name, gradient in caught.items():
        wanted = leaves[name].grad
        assert float((gradient - wanted).abs().max()) < 2e-3 * float(wanted.abs().max()), name


def test_steps_with_one_network_bring_the_gradients_together():
    parameters, adam = make_set(counts=(12, 12, 12), size=(16, 16))
    real, net = make_real(), network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    losses = [dc_step(i, parameters, LABELS, adam, real, net, PLAIN)["match"] for i in range(40)]
    assert losses[-1] < 0.75 * losses[0]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_equal_sets_match_because_both_are_augmented_alike():
    options = replace(PLAIN, augment="dsa:color_crop_cutout_flip_scale_rotate")
    parameters, _ = make_set(counts=(20, 20), size=(16, 16))
    parameters.colors.abs_().mul_(0.2)  # pixels stay in [0, 1], which uint8 images need
    shown = np.rint(gsdata.render(parameters.codes().dequantize()) * 255).clip(0, 255).astype(np.uint8)
    same = dc.RealData(shown.transpose(0, 2, 3, 1), np.array([0, 1]), 2, (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    for iteration in range(8):
        matches = []
        for real in (same, make_real()):
            own, adam = make_set(counts=(20, 20), size=(16, 16))
            own.colors.abs_().mul_(0.2)
            matches.append(dc_step(iteration, own, np.array([0, 1]), adam, real, network(), options)["match"])
        assert matches[0] < 0.1 * matches[1]


def test_penalties_are_added_to_the_match():
    parameters, adam = make_set(size=(16, 16))
    found = dc_step(0, parameters, LABELS, adam, make_real(), network(), replace(PLAIN, boundary=2.0))
    assert found["loss"] == pytest.approx(found["match"] + 2.0 * found["boundary"], rel=1e-6)


def test_only_images_of_the_classes_in_turn_move_and_at_most_batch_syn():
    parameters, adam = make_set(counts=(6, 7, 8), size=(16, 16))
    before = parameters.colors.clone()
    dc_step(1, parameters, LABELS, adam, make_real(), network(), replace(PLAIN, classes_per_step=1, batch_syn=1))
    moved = [
        not torch.equal(a, b) for a, b in zip(parameters.colors.split([6, 7, 8]), before.split([6, 7, 8]), strict=True)
    ]
    assert not moved[0]
    assert sum(moved) == 1


def test_inner_epochs_train_the_network_on_the_set_as_it_is_stored():
    parameters, _ = make_set(counts=(12, 12, 12), size=(16, 16))
    real = make_real()
    images, truth = closed_images(parameters, real), torch.from_numpy(LABELS)
    net, expected = network(), network()
    optimizer = torch.optim.SGD(expected.parameters(), 0.01)
    for _ in range(3):
        loss = functional.cross_entropy(expected(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    train_on_set(4, parameters, LABELS, real, net, replace(PLAIN, inner_loop=3))
    for found, wanted in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_inner_epochs_see_every_image_once_each(monkeypatch):
    monkeypatch.setattr(dc, "BATCH_TRAIN", 3)
    orders = [np.concatenate(list(dc._batches(8, 0, 5, epoch))) for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(8))] * 2
    assert orders[0].tolist() != orders[1].tolist()
    assert [len(batch) for batch in dc._batches(8, 0, 5, 0)] == [3, 3, 2]
