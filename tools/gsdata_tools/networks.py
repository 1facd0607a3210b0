"""Networks that data sets are distilled with and tested on, by name.

``ConvNet-D3`` is the network of nearly every paper on dataset distillation (S. Gidaris and N. Komodakis, CVPR 2018, in
the form of B. Zhao et al., ICLR 2021): D blocks of 3x3 convolution with 128 channels, instance norm with learned gain and
offset, ReLU, 2x2 average pooling; then one linear layer.
"""

from __future__ import annotations

import math
import re

import torch
from torch import nn
from torch.nn import functional

from gsdata_tools.draws import generator
from gsdata_tools.usage import UsageError

DEFAULT_MODEL = "ConvNet-D3"
_NAME = re.compile(r"ConvNet-D([1-8])", re.IGNORECASE)


class ConvNet(nn.Module):
    """ConvNet of any depth and width on images of any size.

    28-pixel images are padded to 32 by the first convolution, as the published code does for MNIST; every other size is
    taken as it is, and pooling drops an odd last row or column.

    Attributes:
        fused: take the fused CPU kernels (``norm_pool.py``) where they apply: float32 on the CPU. They are several times
            faster and agree with torch's layers to rounding, but can be differentiated only once; set False for losses
            that contain gradients (gradient matching, unrolled training).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: tuple[int, int],
        *,
        depth: int = 3,
        width: int = 128,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.fused = fused
        self.padding = tuple(3 if side == 28 else 1 for side in size)
        height, columns = (32 if side == 28 else side for side in size)
        for _ in range(depth):
            height, columns = height // 2, columns // 2
        if min(height, columns) < 1:
            raise UsageError(
                f"ConvNet-D{depth} halves images {depth} times; {size[1]} x {size[0]} pixels are too few: "
                f"take ConvNet-D{max(1, int(math.log2(max(2, *size[:1], *size[1:]))))} or larger images"
            )
        inputs = [channels, *([width] * (depth - 1))]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(count, width, 3, padding=self.padding if i == 0 else 1)  # type: ignore[arg-type]
            for i, count in enumerate(inputs)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(width, width) for _ in range(depth))
        self.classifier = nn.Linear(width * height * columns, classes)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, width * H' * W') features before the classifier, of normalised (B, C, H, W) images."""
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            assert isinstance(norm, nn.GroupNorm)
            x = convolution(x)
            if self.fused and x.device.type == "cpu" and x.dtype == torch.float32:
                from gsdata_tools.norm_pool import norm_relu_pool

                x = norm_relu_pool(x, norm.weight, norm.bias)
            else:
                x = functional.avg_pool2d(functional.relu(norm(x)), 2)
        return x.flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, K) logits of normalised (B, C, H, W) images."""
        logits: torch.Tensor = self.classifier(self.embed(images))
        return logits


def _depth(name: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"there is no network {name!r}; take ConvNet-D1 to ConvNet-D8 (papers: D3 for 32 px, D5 for 128)"
        )
    return int(match[1])


def canonical_name(name: str) -> str:
    """The registered spelling of a network's name.

    Raises:
        UsageError: there is no such network.
    """
    return f"ConvNet-D{_depth(name)}"


def initialize(network: nn.Module, draws: torch.Generator) -> None:
    """Fill a network with torch's default distributions, drawn from ``draws`` instead of the global state."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            bound = 1.0 / math.sqrt(module.weight[0].numel())
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=draws)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=draws)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def build(
    name: str,
    channels: int,
    classes: int,
    size: tuple[int, int],
    *,
    seed: int,
    key: tuple[int, ...] = (),
    device: str | torch.device = "cpu",
    width: int = 128,
    fused: bool = True,
) -> ConvNet:
    """A freshly initialised network; the same arguments give the same weights everywhere.

    Args:
        name: such as ``"ConvNet-D3"``.
        channels: of the images.
        classes: number of logits.
        size: (H, W) of the images.
        seed: of the initial weights.
        key: more numbers that the initial weights depend on, such as the iteration of a distillation.
        device: where the network is put; weights are always drawn on the CPU.
        width: channels of the hidden layers.
        fused: see ``ConvNet``.

    Raises:
        UsageError: an unknown name, or images too small for the depth.
    """
    # On the meta device torch draws nothing, so its global random state stays as it was.
    with torch.device("meta"):
        network = ConvNet(channels, classes, size, depth=_depth(name), width=width, fused=fused)
    network = network.to_empty(device="cpu")
    initialize(network, generator(seed, "network", *key))
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
