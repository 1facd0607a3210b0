"""Train one network on a set of images, and test it: the one loop behind every accuracy that the tools report.

Images are rendered or decoded once and kept as a normalised tensor; each step takes a batch, augments it and makes one SGD
step. Every draw is keyed by (seed, purpose, step), so a run depends on its arguments alone: byte for byte on the same
machine type, versions and thread count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from gsdata.augment import STRATEGY, augment, operations
from gsdata_tools.draws import generator, rng
from gsdata_tools.models import NAMES, build
from gsdata_tools.usage import UsageError
from gsdata_tools.whitening import Whitening


@dataclass(frozen=True)
class Protocol:
    """How a network is trained; every set in one comparison gets the same.

    Attributes:
        name: as typed after ``--protocol``.
        steps: optimiser steps; None counts epochs instead.
        epochs: passes over the set, where ``steps`` is None.
        batch_size: images per step.
        lr: largest learning rate.
        momentum: of SGD.
        weight_decay: of SGD, on every weight.
        nesterov: whether momentum looks ahead.
        schedule: ``"cosine"`` rises linearly over the first tenth and falls to zero along half a cosine; ``"step"`` is
            the published one, a tenth of the rate from half of the training on, where momentum starts again too.
        batches: ``"full"`` batches cut an endless row of permutations; ``"epochs"`` are as published: each epoch is a
            permutation, and its last batch is what is left of it.
        augment: operations, as ``gsdata.augment`` names them; parameters are drawn for each image.
        augment_mode: ``"single"`` or ``"multiple"``, as in ``gsdata.augment.augment``.
        optimizer: ``"sgd"`` or ``"adam"``, which ignores momentum.
    """

    name: str
    steps: int | None
    epochs: int | None
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    schedule: Literal["cosine", "step"] = "cosine"
    batches: Literal["full", "epochs"] = "full"
    augment: str = STRATEGY
    augment_mode: Literal["single", "multiple"] = "single"
    optimizer: Literal["sgd", "adam"] = "sgd"

    def total_steps(self, images: int) -> int:
        """Optimiser steps for a set of this many images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * math.ceil(images / self.batch_size)

    def passes(self, steps: int, images: int) -> float:
        """How often so many steps see a set of this many images."""
        if self.batches == "epochs":
            return steps / math.ceil(images / self.batch_size)
        return steps * self.batch_size / images

    def rate(self, step: int, total: int) -> float:
        """Learning rate of step 0 <= step < total."""
        if self.schedule == "step":
            # The published loop counts epochs from 0 to E and divides the rate after number E // 2 + 1.
            many, high = (2, 1) if self.epochs is None else (self.epochs, (self.epochs - 1) // 2 + 2)
            return self.lr * (0.1 if many * step >= high * total else 1.0)
        warm = max(1, total // 10)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


PROTOCOLS = {
    "fast": Protocol("fast", steps=300, epochs=None, batch_size=128, lr=0.03, nesterov=True),
    "gsdd": Protocol("gsdd", steps=None, epochs=1001, batch_size=256, lr=0.01, schedule="step", batches="epochs"),
}
"""``fast`` is ours; ``gsdd`` is what the reference method tests with (arXiv:2509.26219): the loop that came with arXiv:2006.05929,
which papers call 1,000 epochs."""


def choose_protocol(
    name: str, *, augment: str | None = None, steps: int | None = None, lr: float | None = None
) -> Protocol:
    """A protocol by name, with another augmentation, number of steps or learning rate where given.

    Raises:
        UsageError: there is no such protocol, or the augmentation has an unknown operation.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"--protocol {name}: there is no such protocol; take {' or '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if steps is not None:
        protocol = replace(protocol, steps=steps, epochs=None)
    if lr is not None:
        protocol = replace(protocol, lr=lr)
    if augment is not None:
        try:
            operations(augment)
        except ValueError as error:
            raise UsageError(str(error)) from None
        protocol = replace(protocol, augment=augment.removeprefix("dsa:") or "none")
    return protocol


def for_network(protocol: Protocol, model: str, *, lr: float | None = None) -> Protocol:
    """A protocol with the optimiser that a network needs; ConvNets keep what it says.

    ``gsdd`` trains other networks as the reference paper does: Adam, a cosine schedule, rates of its own. In ``fast`` the deep ones
    get lower rates, at which the training loss falls from the start, and a ViT gets Adam, since it hardly learns by SGD in so few
    steps.

    Args:
        protocol: see ``Protocol``.
        model: the canonical name.
        lr: a learning rate that was asked for, for whatever network.
    """
    if model in NAMES and protocol.name == "gsdd":
        rate = {"AlexNet": 1e-3, "ViT": 5e-5}.get(model, 1e-2)
        protocol = replace(protocol, optimizer="adam", schedule="cosine", lr=rate)
    elif model == "ViT":
        protocol = replace(protocol, optimizer="adam", nesterov=False, lr=5e-4)
    elif model in ("VGG11", "ResNet18"):
        protocol = replace(protocol, lr=0.003 if model == "VGG11" else 0.01)
    return protocol if lr is None else replace(protocol, lr=lr)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images to train on.

    Attributes:
        images: (N, C, H, W) float32, values as decoded (0 is black, 1 is white; Gaussians may leave that range).
        labels: (N,) int64 classes, or (N, K) float32 probabilities.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @classmethod
    def from_uint8(cls, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> TrainingSet:
        """From (N, H, W, C) bytes."""
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(torch.float32) / 255.0
        return cls(pixels, torch.from_numpy(labels.astype(np.int64)))


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation that networks see images through."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: NDArray[np.uint8]) -> Normalization:
        """Of all pixels of (N, H, W, C) bytes; a channel without variation gets 1."""
        values = images.reshape(-1, images.shape[-1])
        mean = values.mean(axis=0, dtype=np.float64) / 255.0
        std = values.std(axis=0, dtype=np.float64) / 255.0
        return cls(tuple(map(float, mean)), tuple(float(s) if s > 0 else 1.0 for s in std))

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """(x - mean) / std of (B, C, H, W) images."""
        mean = torch.tensor(self.mean, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        return (images - mean) / std

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {"mean": list(self.mean), "std": list(self.std)}


def batch_indices(count: int, batch_size: int, seed: int, step: int, key: tuple[int, ...] = ()) -> NDArray[np.int64]:
    """Images of one step: batches are cut from an endless row of permutations, each keyed by (seed, key, its number).

    So every image comes equally often, and every step has exactly ``batch_size`` images however small the set.
    """
    start, stop = step * batch_size, (step + 1) * batch_size
    rounds = range(start // count, (stop - 1) // count + 1)
    row = np.concatenate([rng(seed, "order", *key, number).permutation(count) for number in rounds])
    return row[start - rounds[0] * count :][:batch_size].astype(np.int64)


def epoch_indices(count: int, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Images of one step, where each epoch is a permutation of all images and its last batch is what is left of it."""
    number, part = divmod(step, math.ceil(count / batch_size))
    row = rng(seed, "order", number).permutation(count)
    return row[part * batch_size :][:batch_size].astype(np.int64)


def train(
    data: TrainingSet,
    protocol: Protocol,
    normalization: Normalization | Whitening,
    *,
    model: str,
    classes: int,
    seed: int,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
    after: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train a fresh network.

    Args:
        data: at least one image.
        protocol: see ``Protocol``.
        normalization: applied to the images once, before augmentation.
        model: a name that ``models.build`` knows.
        classes: number of classes.
        seed: of the initial weights, the order and the augmentation.
        steps: overrides the protocol's count: the search for baselines trains briefly, and a protocol that counts
            epochs counts those of the file under test for every set.
        device: where to train.
        progress: called with (steps done, training loss) after every step.
        after: called with (steps done, network) after every step, as by ``selection.Selector``.
    """
    images = normalization.apply(data.images).to(device=device, memory_format=torch.channels_last)
    labels = data.labels.to(device)
    size = (int(images.shape[2]), int(images.shape[3]))
    network = build(model, int(images.shape[1]), classes, size, seed=seed, device=device)
    optimizer = _optimizer(network, protocol)
    total = protocol.total_steps(len(data)) if steps is None else steps
    draw = epoch_indices if protocol.batches == "epochs" else batch_indices
    dropout = any(isinstance(module, nn.Dropout) for module in network.modules())
    with torch.random.fork_rng(
        enabled=dropout
    ):  # dropout draws from torch's global state, which is no one's but the caller's
        for step in range(total):
            if dropout:
                torch.manual_seed(int(rng(seed, "dropout", step).integers(2**63)))
            rate = protocol.rate(step, total)
            if protocol.schedule == "step" and step and rate != protocol.rate(step - 1, total):
                optimizer = _optimizer(network, protocol)  # as published: momentum starts again
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = torch.from_numpy(draw(len(data), protocol.batch_size, seed, step)).to(device)
            batch = augment(
                images[chosen],
                protocol.augment,
                generator=generator(seed, "augment", step),
                mode=protocol.augment_mode,
            )
            loss = functional.cross_entropy(network(batch), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if progress is not None:
                progress(step + 1, float(loss.detach()))
            if after is not None:
                after(step + 1, network)
    return network


def _optimizer(network: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    if protocol.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=protocol.lr, weight_decay=protocol.weight_decay)
    return torch.optim.SGD(
        network.parameters(),
        lr=protocol.lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        nesterov=protocol.nesterov,
    )


@torch.no_grad()
def accuracy(
    network: nn.Module,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    normalization: Normalization | Whitening,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 250,
) -> float:
    """Per cent of (N, H, W, C) uint8 images whose largest logit is that of their label."""
    training = network.training
    network.eval()
    right = 0
    for start in range(0, len(images), batch_size):
        part = TrainingSet.from_uint8(images[start : start + batch_size], labels[start : start + batch_size])
        batch = normalization.apply(part.images.to(device)).to(memory_format=torch.channels_last)
        right += int((network(batch).argmax(dim=1).cpu() == part.labels).sum())
    network.train(training)
    return 100.0 * right / len(images)


def seconds_per_step(
    protocol: Protocol, model: str, shape: tuple[int, int, int], classes: int, device: str | torch.device = "cpu"
) -> float:
    """Measured time of one training step on noise of ``shape`` (C, H, W): for telling a cost before it is paid."""
    noise = torch.rand((protocol.batch_size, *shape), generator=generator(0, "cost"))
    data = TrainingSet(noise, torch.arange(protocol.batch_size) % classes)
    unit = Normalization((0.5,) * shape[0], (0.25,) * shape[0])
    marks: list[float] = []
    train(
        data,
        protocol,
        unit,
        model=model,
        classes=classes,
        seed=0,
        steps=5,
        device=device,
        progress=lambda done, loss: marks.append(time.perf_counter()),
    )
    return float(np.median(np.diff(marks[1:])))
