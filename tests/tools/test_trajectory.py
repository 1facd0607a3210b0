from __future__ import annotations

import weakref

import pytest
import torch
from torch.nn import functional

from gsdata.augment import augment
from gsdata_tools.networks import build
from gsdata_tools.trajectory import FlatNetwork, flatten, match_trajectory

LR = 0.3


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(steps=5, images=7, batch=4, strategy="color_crop_cutout_flip_scale_rotate"):
    """A tiny problem in float64: student, start, target, images, batches."""
    draws = torch.Generator().manual_seed(1)
    net = build("ConvNet-D2", 3, 3, (8, 8), seed=0, width=6, fused=False).double()
    flat = FlatNetwork(net)
    labels = torch.arange(images) % 3
    start = flatten(net)
    target = start + 0.05 * torch.randn(len(flat), generator=draws, dtype=torch.float64)
    pixels = torch.randn(images, 3, 8, 8, generator=draws, dtype=torch.float64)
    batches = [torch.randperm(images, generator=draws)[:batch] for _ in range(steps)]

    def student(weights, seen, step):
        return functional.cross_entropy(flat(weights, augment(seen, strategy, seed=step)), labels[batches[step]])

    return student, start, target, pixels, batches


def plain(student, start, target, pixels, batches, lr):
    """Every step's graph kept, and one backward pass through all of them."""
    pixels = pixels.clone().requires_grad_()
    rate = torch.tensor(lr, dtype=torch.float64, requires_grad=True)
    weights = start.clone().requires_grad_()
    for step, rows in enumerate(batches):
        (gradient,) = torch.autograd.grad(student(weights, pixels[rows], step), weights, create_graph=True)
        weights = weights - rate * gradient
    loss = (weights - target).square().sum() / (start - target).square().sum()
    return loss.detach(), *torch.autograd.grad(loss, (pixels, rate))


def difference(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("strategy", ["none", "color_crop_cutout_flip_scale_rotate"])
def test_the_gradient_is_that_of_all_steps_at_once(steps, strategy):
    problem = make(steps, strategy=strategy)
    found = match_trajectory(*problem, LR)
    loss, to_images, to_lr = plain(*problem, LR)
    assert difference(found.loss, loss) < 1e-12
    assert difference(found.images, to_images) < 1e-9
    assert difference(found.lr, to_lr) < 1e-9
    assert not found.images.requires_grad


def test_the_separable_form_is_exact_for_one_step_and_worse_with_each_more():
    errors = []
    for steps in (1, 2, 20):
        problem = make(steps)
        found = match_trajectory(*problem, LR, exact=False)
        errors.append(difference(found.images, plain(*problem, LR)[1]))
    assert errors[0] < 1e-9
    assert errors[0] < errors[1] < errors[2]
    assert errors[2] > 0.05


def test_images_that_no_step_uses_have_no_gradient():
    student, start, target, pixels, batches = make(2)
    pixels = torch.cat([pixels, pixels])
    found = match_trajectory(student, start, target, pixels, batches, LR)
    assert bool((found.images[7:] == 0).all())
    assert not bool((found.images[:7] == 0).all())


def peak_of_saved_tensors(steps):
    """Most bytes that autograd keeps at one time, without the flat weights, which are one copy per step."""
    problem = make(steps, strategy="none")  # operations keep unequal amounts
    live = peak = 0

    class Kept:
        def __init__(self, tensor):
            nonlocal live, peak
            self.tensor = tensor.detach()  # with its history it would keep the node that keeps it
            weight = tensor.numel() * tensor.element_size()
            live += weight
            peak = max(peak, live)
            weakref.finalize(self, release, weight)

    def release(weight):
        nonlocal live
        live -= weight

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        match_trajectory(*problem, LR)
    return peak


def test_graphs_of_earlier_steps_are_not_kept():
    few, many = peak_of_saved_tensors(2), peak_of_saved_tensors(12)
    assert many == few


def test_flat_weights_are_the_networks_own():
    net = build("ConvNet-D2", 3, 3, (8, 8), seed=3, width=6, fused=False)
    flat = FlatNetwork(net)
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(flat(flatten(net), pixels), net(pixels), rtol=1e-5, atol=1e-6)
    assert len(flat) == sum(p.numel() for p in net.parameters()) == len(flatten(net))
    assert not torch.allclose(flat(0.5 * flatten(net), pixels), net(pixels))
