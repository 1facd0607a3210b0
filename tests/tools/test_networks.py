from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from gsdata_tools.networks import build, canonical_name
from gsdata_tools.norm_pool import norm_relu_pool
from gsdata_tools.usage import UsageError


def test_convnet_d3_is_the_published_network() -> None:
    network = build("ConvNet-D3", 3, 10, (32, 32), seed=0)
    assert sum(p.numel() for p in network.parameters()) == 320_010  # the published count for CIFAR-10
    assert sum(p.numel() for p in build("convnet-d3", 3, 100, (32, 32), seed=0).parameters()) == 504_420
    assert sum(p.numel() for p in build("ConvNet-D5", 3, 10, (128, 128), seed=0).parameters()) == 615_690
    assert canonical_name("convnet-d3") == "ConvNet-D3"


@pytest.mark.parametrize(
    ("channels", "size", "features"), [(1, (28, 28), 16), (1, (32, 32), 16), (4, (17, 40), 10), (3, (8, 8), 1)]
)
def test_any_channels_and_size(channels: int, size: tuple[int, int], features: int) -> None:
    network = build("ConvNet-D3", channels, 7, size, seed=1, width=16)
    images = torch.randn(3, channels, *size)
    assert network.embed(images).shape == (3, 16 * features)
    assert torch.equal(network(images), network.classifier(network.embed(images)))


def test_weights_depend_on_seed_and_key_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build("ConvNet-D2", 3, 4, (8, 8), seed=3, key=(1,)).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    again = build("ConvNet-D2", 3, 4, (8, 8), seed=3, key=(1,)).state_dict()
    other = build("ConvNet-D2", 3, 4, (8, 8), seed=3, key=(2,)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["convolutions.0.weight"], other["convolutions.0.weight"])
    weights = first["convolutions.1.weight"]
    bound = 1 / (128 * 9) ** 0.5
    assert 0.98 * bound < float(weights.abs().max()) <= bound
    assert float(weights.std()) == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("shape", [(4, 128, 8, 8), (3, 5, 7, 9), (2, 16, 2, 2), (1, 3, 16, 5)])
def test_fused_layer_equals_the_three_torch_layers(shape: tuple[int, int, int, int]) -> None:
    draws = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=draws) * 2 + 1).requires_grad_()
    weight = torch.randn(shape[1], generator=draws).requires_grad_()
    bias = torch.randn(shape[1], generator=draws).requires_grad_()
    fused = norm_relu_pool(x, weight, bias)
    plain = functional.avg_pool2d(functional.relu(functional.group_norm(x, shape[1], weight, bias)), 2)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(plain.shape, generator=draws)
    expected = torch.autograd.grad(plain, (x, weight, bias), upstream)
    for found, wanted in zip(torch.autograd.grad(fused, (x, weight, bias), upstream), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()) + 1e-6)


def test_fused_result_does_not_depend_on_the_thread_count() -> None:
    x = torch.randn(5, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = x.clone().requires_grad_()
            weight, bias = torch.ones(8, requires_grad=True), torch.zeros(8, requires_grad=True)
            out = norm_relu_pool(leaf, weight, bias)
            results.append((out, *torch.autograd.grad(out.square().sum(), (leaf, weight, bias))))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_network_gradients_are_the_same_with_and_without_fusing() -> None:
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    gradients = []
    for fused in (True, False):
        network = build("ConvNet-D3", 3, 5, (16, 16), seed=0, width=24, fused=fused)
        leaf = images.clone().requires_grad_()
        loss = functional.cross_entropy(network(leaf), torch.arange(6) % 5)
        gradients.append(torch.autograd.grad(loss, [leaf, *network.parameters()]))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-3, atol=1e-5)


def test_second_derivatives_need_the_plain_layers() -> None:
    images = torch.randn(2, 1, 8, 8, requires_grad=True)
    plain = build("ConvNet-D1", 1, 2, (8, 8), seed=0, width=4, fused=False)
    (first,) = torch.autograd.grad(plain(images).square().sum(), images, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), images)
    assert float(second.abs().sum()) > 0
    fused = build("ConvNet-D1", 1, 2, (8, 8), seed=0, width=4)
    with pytest.raises(RuntimeError, match="fused=False"):
        torch.autograd.grad(fused(images).square().sum(), images, create_graph=True)


def test_unknown_and_impossible_networks_are_named() -> None:
    with pytest.raises(UsageError, match="no network 'ResNet18'"):
        build("ResNet18", 3, 10, (32, 32), seed=0)
    with pytest.raises(UsageError, match="too few"):
        build("ConvNet-D4", 3, 10, (8, 8), seed=0)
