"""Snapshots of short trainings on the real images: networks whose features tell classes apart.

Distribution matching takes one of them in each iteration, the choice of the images to start from asks them which real
images are typical of their class, and soft labels are what they say of the first set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

import gsdata
from gsdata.augment import augment
from gsdata_tools.draws import rng
from gsdata_tools.learnable import LearnableSet
from gsdata_tools.networks import ConvNet
from gsdata_tools.real_data import RealData

BATCH = 128
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4


def snapshot_steps(steps: int) -> tuple[int, ...]:
    """When a training of ``steps`` is kept: at a twelfth, a quarter, a half and the end of it."""
    return tuple(sorted({max(1, steps // 12), max(1, steps // 4), max(1, steps // 2), steps}))


def pretrain(
    build: Callable[[tuple[int, ...]], ConvNet],
    real: RealData,
    labels: NDArray[np.int64],
    *,
    networks: int,
    steps: int,
    strategy: str,
    seed: int,
    progress: Callable[[int], None] = lambda step: None,
) -> list[dict[str, torch.Tensor]]:
    """Train ``networks`` networks for ``steps`` steps each (SGD, batches of 128) and keep snapshots.

    Args:
        build: makes the initial network of a key.
        real: the real images.
        labels: (N,) their classes.
        networks: how many trainings.
        steps: length of each.
        strategy: augmentation, as ``gsdata.augment`` names it.
        seed: of every draw.
        progress: called with the number of steps done.

    Returns:
        One state dict per snapshot, in the order of trainings and steps; the last snapshot of each training comes last.
    """
    kept = []
    for number in range(networks):
        network = build((number,)).requires_grad_(True)
        optimizer = torch.optim.SGD(network.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        for step in range(steps):
            draws = rng(seed, "pretrain", number, step)
            indices = draws.integers(len(labels), size=BATCH)
            images = augment(real.take(indices), strategy, seed=int(draws.integers(2**63)))
            truth = torch.from_numpy(labels[indices]).to(real.device)
            loss = functional.cross_entropy(network(images), truth)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step + 1 in snapshot_steps(steps):
                kept.append({k: v.detach().cpu().clone() for k, v in network.state_dict().items()})
            progress(number * steps + step + 1)
    return kept


@torch.no_grad()
def confidence(
    networks: list[ConvNet], real: RealData, labels: NDArray[np.int64], candidates: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(len(candidates),) mean probability that the networks give to the own class of the real images at ``candidates``."""
    total = np.zeros(len(candidates))
    for first in range(0, len(candidates), 256):
        indices = candidates[first : first + 256]
        images = real.take(indices)
        truth = torch.from_numpy(labels[indices])[:, None]
        for network in networks:
            probability = network(images).softmax(dim=1).cpu().double()
            total[first : first + 256] += probability.gather(1, truth)[:, 0].numpy()
    return total / max(len(networks), 1)


@torch.no_grad()
def soft_labels(
    networks: list[ConvNet], real: RealData, parameters: LearnableSet, labels: NDArray[np.int64], weight: float
) -> NDArray[np.float32]:
    """(B, K) labels of a synthetic set: each image's own class, and ``weight`` times what the networks take it for.

    Args:
        networks: their mean probabilities count.
        real: how images are normalised.
        parameters: the B images.
        labels: (B,) their classes.
        weight: below 0.5, so that the own class always has the largest part.
    """
    parts = []
    for indices in np.array_split(np.arange(len(labels)), range(256, len(labels), 256)):
        leaves = parameters.leaves(parameters.rows(indices))
        seen = real.normalize(gsdata.render(parameters.stored(leaves, parameters.counts[indices])))
        said = torch.stack([network(seen).softmax(dim=1) for network in networks]).mean(dim=0)
        own = functional.one_hot(torch.from_numpy(labels[indices]).to(said.device), said.shape[1])
        parts.append(((1 - weight) * own + weight * said).cpu().numpy())
    return np.concatenate(parts)
