"""One expert: a training on real images whose weights are kept after every epoch.

Source: G. Cazenavette et al., CVPR 2022 (arXiv:2203.11932), whose buffers are plain SGD at a constant rate under DSA. Every
draw is keyed by (seed, expert, step): an expert does not depend on how many others there are, and a training that was
stopped goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional

from gsdata.augment import augment
from gsdata_tools import networks
from gsdata_tools.draws import generator
from gsdata_tools.expert_files import ExpertRecipe
from gsdata_tools.train import batch_indices
from gsdata_tools.trajectory import flatten

State: TypeAlias = dict[str, NDArray[np.float32]]

NETWORK = 2
"""What first weights and orders are drawn for, apart from those of other networks with the same seed."""


class ExpertTraining:
    """One expert in training.

    Args:
        images: (N, C, H, W) normalised float32, on the device where it is trained.
        labels: (N,) int64, there too.
        recipe: how to train.
        number: k, which expert it is.

    Attributes:
        step: steps made.
        trajectory: (P,) weights after each epoch so far, the initial ones first, on the host.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, recipe: ExpertRecipe, number: int) -> None:
        self.images, self.labels, self.recipe, self.number = images, labels, recipe, number
        self.steps_per_epoch = math.ceil(len(images) / recipe.batch_size)
        self.network = networks.build(
            recipe.model,
            recipe.channels,
            recipe.classes,
            recipe.size,
            seed=recipe.seed,
            key=(NETWORK, number),
            device=images.device,
        )
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.step = 0
        self.trajectory = [self._weights()]

    @property
    def done(self) -> bool:
        """Whether all epochs are trained."""
        return self.step == self.recipe.epochs * self.steps_per_epoch

    def make_step(self) -> torch.Tensor:
        """One step of SGD; returns the loss before it, unread: reading it makes the host wait for a GPU."""
        images, labels = self.batch()
        loss = functional.cross_entropy(self.network(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.descend()
        return loss.detach()

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) augmented images and (B,) labels of the next step."""
        recipe = self.recipe
        rows = batch_indices(len(self.images), recipe.batch_size, recipe.seed, self.step, key=(NETWORK, self.number))
        chosen = torch.from_numpy(rows).to(self.images.device)
        draws = generator(recipe.seed, "expert-augment", self.number, self.step)
        return augment(self.images[chosen], recipe.augment, generator=draws), self.labels[chosen]

    def descend(self) -> None:
        """The end of a step, once the network's parameters have their gradients."""
        self.optimizer.step()
        self.step += 1
        if self.step % self.steps_per_epoch == 0:
            self.trajectory.append(self._weights())

    def _weights(self) -> NDArray[np.float32]:
        weights: NDArray[np.float32] = flatten(self.network).cpu().numpy()
        return weights

    def state(self) -> State:
        """Everything that changes, for a checkpoint."""
        arrays = {"trajectory": np.stack(self.trajectory), "weights": self._weights()}
        momenta = [self.optimizer.state[p].get("momentum_buffer") for p in self.network.parameters()]
        if momenta[0] is not None:
            arrays["momentum"] = torch.cat([m.reshape(-1) for m in momenta]).cpu().numpy()
        return arrays

    def load_state(self, arrays: State, step: int) -> None:
        """Continue from what ``state`` returned after ``step`` steps."""
        self.step, self.trajectory = step, list(arrays["trajectory"])
        parameters = list(self.network.parameters())
        sizes = [p.numel() for p in parameters]
        weights = torch.split(torch.from_numpy(arrays["weights"]), sizes)
        with torch.no_grad():
            for p, weight in zip(parameters, weights, strict=True):
                p.copy_(weight.view(p.shape))
        if "momentum" in arrays:
            momenta = torch.split(torch.from_numpy(arrays["momentum"]), sizes)
            for p, momentum in zip(parameters, momenta, strict=True):
                self.optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(momentum.view(p.shape))


def step_together(experts: Sequence[ExpertTraining]) -> torch.Tensor:
    """The next step of several experts, all at the same one, in one batched computation; the mean of their losses, unread.

    Each gets what ``make_step`` would have given it, but for rounding. The networks must not be ``fused``.
    """
    batches = [expert.batch() for expert in experts]
    # torch's group norm cannot be batched over images in channels_last.
    images, labels = (torch.stack(parts).contiguous() for parts in zip(*batches, strict=True))
    named = [dict(expert.network.named_parameters()) for expert in experts]
    stacked = {name: torch.stack([own[name].detach() for own in named]).contiguous() for name in named[0]}
    template = experts[0].network

    def loss(parameters: dict[str, torch.Tensor], seen: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(template, parameters, (seen,)), truth)

    gradients, losses = vmap(grad_and_value(loss))(stacked, images, labels)
    for number, (expert, own) in enumerate(zip(experts, named, strict=True)):
        for name, parameter in own.items():
            parameter.grad = gradients[name][number]
        expert.descend()
    mean: torch.Tensor = losses.mean()
    return mean
