"""Networks of other architectures, for testing whether a set trains more than the network that it was made with.

The small-image forms that papers on dataset distillation share: AlexNet, VGG11 and ResNet18 as B. Zhao et al. published them
with "Dataset Condensation" (ICLR 2021), and at larger sizes with the heads of G. Cazenavette et al., "Generalizing Dataset
Distillation via Deep Generative Prior" (CVPR 2023); ViT (A. Dosovitskiy et al., ICLR 2021) in the latter's two sizes.

Normalisation is instance norm (group norm with as many groups as channels), as in all of these papers' tables, and not batch norm:
running statistics would be those of the synthetic images, which real test images do not share, and a result would depend on which
synthetic images meet in a batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from gsdata_tools import networks
from gsdata_tools.draws import generator
from gsdata_tools.usage import UsageError

NAMES = ("AlexNet", "VGG11", "ResNet18", "ViT")
_SEVERAL = re.compile(r"\s*,\s*")
_SMALL = 64
"""Sides from here on take the heads and patches that were published for 128 pixels and more."""


def _same_padding(kernel: int, size: tuple[int, int]) -> tuple[int, int]:
    """Padding of a first layer; sides of 28 pixels come out as 32, as published for MNIST."""
    height, width = (kernel // 2 + (2 if side == 28 else 0) for side in size)
    return height, width


def _after_padding(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (32 if side == 28 else side for side in size)
    return height, width


class AlexNet(nn.Sequential):
    """Five convolutions without normalisation, three max-poolings and one linear layer."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        _need("AlexNet", size, 8)
        height, width = _after_padding(size)
        super().__init__(
            nn.Conv2d(channels, 128, 5, padding=_same_padding(5, size)),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 192, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(192 * (height // 8) * (width // 8), classes),
        )


class VGG11(nn.Sequential):
    """Configuration A of Simonyan and Zisserman with instance norm and one linear layer.

    Below 64 pixels the five poolings leave the map that the linear layer reads (1x1 at 32 pixels); from there on it is
    brought to 7x7 by adaptive max-pooling.
    """

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        _need("VGG11", _after_padding(size), 32)
        layers: list[nn.Module] = []
        inputs = channels
        for outputs, pool in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1), (512, 0), (512, 1)):
            padding = (1, 1) if layers else _same_padding(3, size)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=padding), nn.GroupNorm(outputs, outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pool else []
            inputs = outputs
        cells = (_after_padding(size)[0] // 32) * (_after_padding(size)[1] // 32)
        if min(size) >= _SMALL:
            layers.append(nn.AdaptiveMaxPool2d((7, 7)))
            cells = 49
        super().__init__(*layers, nn.Flatten(), nn.Linear(512 * cells, classes))


class _Block(nn.Module):
    """Two 3x3 convolutions and what is added to them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.GroupNorm(outputs, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.GroupNorm(outputs, outputs),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(outputs, outputs))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.path(x) + self.shortcut(x))


class ResNet18(nn.Sequential):
    """The form for small images: a 3x3 stem without pooling, instance norm, global average pooling."""

    def __init__(self, channels: int, classes: int, size: tuple[int, int]) -> None:
        _need("ResNet18", size, 16)
        stem = [nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.GroupNorm(64, 64), nn.ReLU()]
        inputs = (64, 64, 64, 128, 128, 256, 256, 512)
        outputs = (64, 64, 128, 128, 256, 256, 512, 512)
        blocks = [_Block(i, o, 1 if i == o else 2) for i, o in zip(inputs, outputs, strict=True)]
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


class _Attention(nn.Module):
    """Self-attention of 8 heads of 64 numbers, without biases where queries, keys and values are made."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.inputs = nn.LayerNorm(width), nn.Linear(width, 3 * 512, bias=False)
        self.output, self.dropout = nn.Linear(512, width), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        parts = self.inputs(self.norm(x)).view(batch, tokens, 3, 8, 64).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        added: torch.Tensor = self.dropout(self.output(mixed.transpose(1, 2).reshape(batch, tokens, 512)))
        return x + added


class _FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 512),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(512, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.path(x)
        return x + added


class ViT(nn.Module):
    """Vision transformer of width 512 with 8 heads, hidden layers of 512 and dropout 0.1, classified by its class token.

    Below 64 pixels patches of 4x4 and 6 blocks, from there on patches of 16x16 and 10 blocks: the two that were published. The
    published code of the larger one has its layer norms commented out; here both have them, without which ten blocks hardly
    train at the learning rates of the other networks.
    """

    def __init__(self, channels: int, classes: int, size: tuple[int, int], dropout: float = 0.1) -> None:
        super().__init__()
        patch, depth = (4, 6) if min(size) < _SMALL else (16, 10)
        if size[0] % patch or size[1] % patch:
            raise UsageError(
                f"ViT cuts images into patches of {patch}x{patch}; {size[0]}x{size[1]} is no multiple: take other --sizes"
            )
        tokens = (size[0] // patch) * (size[1] // patch) + 1
        self.patch = patch
        self.embedding = nn.Linear(channels * patch * patch, 512)
        self.positions = nn.Parameter(torch.empty(1, tokens, 512))
        self.token = nn.Parameter(torch.empty(1, 1, 512))
        self.dropout = nn.Dropout(dropout)
        layers = [layer for _ in range(depth) for layer in (_Attention(512, dropout), _FeedForward(512, dropout))]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.LayerNorm(512), nn.Linear(512, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K) logits of normalised (B, C, H, W) images."""
        patches = functional.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        x = torch.cat([self.token.expand(len(images), -1, -1), self.embedding(patches)], dim=1)
        logits: torch.Tensor = self.head(self.blocks(self.dropout(x + self.positions))[:, 0])
        return logits


_OTHERS: dict[str, Callable[[int, int, tuple[int, int]], nn.Module]] = {
    "AlexNet": AlexNet,
    "VGG11": VGG11,
    "ResNet18": ResNet18,
    "ViT": ViT,
}


def _need(name: str, size: tuple[int, int], least: int) -> None:
    if min(size) < least:
        raise UsageError(f"{name} needs images of at least {least}x{least} pixels, these have {size[0]}x{size[1]}")


def canonical_name(name: str) -> str:
    """The registered spelling of a network's name.

    Raises:
        UsageError: there is no such network.
    """
    for known in NAMES:
        if name.strip().lower() == known.lower():
            return known
    try:
        return networks.canonical_name(name.strip())
    except UsageError as error:
        raise UsageError(f"{error}, or {', '.join(NAMES)}") from None


def canonical_names(text: str) -> tuple[str, ...]:
    """The networks of a comma-separated list in its order, without repeats.

    Raises:
        UsageError: the list is empty, or there is no network of such a name.
    """
    names = tuple(dict.fromkeys(canonical_name(part) for part in _SEVERAL.split(text.strip()) if part))
    if not names:
        raise UsageError("--model: no network is named")
    return names


def build(
    name: str, channels: int, classes: int, size: tuple[int, int], *, seed: int, device: str | torch.device = "cpu"
) -> nn.Module:
    """A freshly initialised network, whose weights depend on the arguments alone.

    Args:
        name: ``ConvNet-D1`` to ``ConvNet-D8`` or one of ``NAMES``, in any case.
        channels: of the images.
        classes: number of logits.
        size: (H, W) of the images.
        seed: of the initial weights.
        device: where the network is put; weights are always drawn on the CPU.

    Returns:
        A module that maps normalised (B, C, H, W) images to (B, classes) logits.

    Raises:
        UsageError: an unknown name, or images of a size that the network cannot take.
    """
    name = canonical_name(name)
    if name not in NAMES:
        return networks.build(name, channels, classes, size, seed=seed, device=device)
    with torch.device("meta"):
        network = _OTHERS[name](channels, classes, size)
    network = network.to_empty(device="cpu")
    draws = generator(seed, "network")
    networks.initialize(network, draws)
    if isinstance(network, ViT):
        with torch.no_grad():
            network.positions.normal_(generator=draws)
            network.token.normal_(generator=draws)
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def parameter_count(network: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in network.parameters())
