from __future__ import annotations

import pytest
import torch
from torch import nn

from gsdata_tools.models import NAMES, build, canonical_name, canonical_names, parameter_count
from gsdata_tools.usage import UsageError


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes", "count"),
    [
        # As the code published with arXiv:2006.05929 counts them.
        ("ConvNet-D3", 3, (32, 32), 10, 320_010),
        ("AlexNet", 3, (32, 32), 10, 1_872_202),
        ("AlexNet", 1, (28, 28), 10, 1_865_802),
        ("VGG11", 3, (32, 32), 10, 9_231_114),
        ("VGG11", 1, (28, 28), 10, 9_229_962),
        ("ResNet18", 3, (32, 32), 10, 11_173_962),  # also that of the widely used ResNet18 for CIFAR-10 with batch norm
        ("ResNet18", 1, (28, 28), 10, 11_172_810),
        # As the code published with arXiv:2305.01649 counts them.
        ("ConvNet-D5", 3, (128, 128), 10, 615_690),
        ("AlexNet", 3, (128, 128), 10, 2_333_002),
        ("VGG11", 3, (128, 128), 10, 9_476_874),
        ("ResNet18", 3, (128, 128), 10, 11_173_962),
        ("ViT", 3, (32, 32), 10, 9_523_722),
        ("ViT", 3, (128, 128), 10, 16_176_650 + 21 * 2 * 512),  # and the 21 layer norms that it leaves out
    ],
)
def test_parameter_counts_are_the_published_ones(
    name: str, channels: int, size: tuple[int, int], classes: int, count: int
) -> None:
    assert parameter_count(build(name, channels, classes, size, seed=0)) == count


def test_parameter_counts_follow_from_those_of_torchvision() -> None:
    # Its vgg11 has 132,863,336 for 1,000 classes: no norms, and three linear layers. Its resnet18 has 11,689,512, with a 7x7 stem.
    norms, linear = 2 * (64 + 128 + 2 * 256 + 4 * 512), (25_088 + 1) * 4096 + 4097 * 4096 + 4097 * 1000
    assert parameter_count(build("VGG11", 3, 10, (32, 32), seed=0)) == 132_863_336 - linear + norms + 513 * 10
    stem = (49 - 9) * 3 * 64
    assert parameter_count(build("ResNet18", 3, 10, (32, 32), seed=0)) == 11_689_512 - 513 * 990 - stem


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (32, 32)), (4, (64, 96))])
def test_every_network_takes_many_sizes_and_passes_gradients_to_all_weights(
    name: str, channels: int, size: tuple[int, int]
) -> None:
    network = build(name, channels, 7, size, seed=0)
    images = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    logits = network(images)
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    idle = [key for key, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


@pytest.mark.parametrize("name", NAMES)
def test_images_do_not_influence_each_other(name: str) -> None:
    network = build(name, 3, 4, (32, 32), seed=1).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(network(images)[:1], network(images[:1]), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_vit_sees_where_a_patch_is() -> None:
    network = build("ViT", 1, 4, (8, 8), seed=0).eval()
    images = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert not torch.allclose(network(images), network(images.roll(4, dims=3)), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build(name, 1, 3, (32, 32), seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    again, other = (build(name, 1, 3, (32, 32), seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert all(torch.isfinite(value).all() for value in first.values())


def test_names() -> None:
    assert canonical_name("resnet18") == "ResNet18"
    assert canonical_names("vit, convnet-d3,ViT") == ("ViT", "ConvNet-D3")
    for text in ("LeNet", "ConvNet-D9", ""):
        with pytest.raises(UsageError):
            canonical_names(text)
    with pytest.raises(UsageError, match=r"ConvNet-D1 to ConvNet-D8.*AlexNet, VGG11, ResNet18, ViT"):
        canonical_name("LeNet")


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("AlexNet", (7, 8), "at least 8x8"),
        ("VGG11", (31, 31), "at least 32x32"),
        ("ResNet18", (8, 8), "at least 16x16"),
        ("ViT", (30, 32), "patches of 4x4"),
        ("ViT", (72, 64), "patches of 16x16"),
        ("ConvNet-D4", (8, 8), "too few"),
    ],
)
def test_sizes_that_a_network_cannot_take_are_refused(name: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(name, 3, 10, size, seed=0)
