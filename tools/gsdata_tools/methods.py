"""What a loss adds to a run of ``gsd-distill``: the steps of one verb, and what it keeps between them.

``Distillation`` has the set, its optimiser, the real data and the budget; a ``Method`` has the loss. ``descend`` is the end of
every step, whatever the loss: regularisation, one step of the optimiser, and the clamp.

Of several processes (``ranks.py``) each has all Gaussians and computes a share of the loss; ``descend`` adds up the shares of the
gradient, so that all make the same step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata.gaussians import ragged_rows
from gsdata.recipe import Recipe
from gsdata_tools import ranks
from gsdata_tools.checkpoints import Checkpoint
from gsdata_tools.learnable import LearnableSet, Leaves, RowAdam, boundary_loss
from gsdata_tools.networks import ConvNet
from gsdata_tools.rate import RateModel
from gsdata_tools.real_data import RealData
from gsdata_tools.sources import ImageSet


@dataclass(frozen=True)
class StepOptions:
    """What every method's step depends on, apart from its loss.

    Attributes:
        seed: of every draw.
        augment: Siamese augmentation, as ``gsdata.augment`` names it; "none" for none.
        boundary: weight of the boundary loss; 0 for none.
        boundary_form: which, of ``boundary_loss``.
        rate: weight of an image's estimated bits; 0 for none.
        clamp: pull positions back inside the image after each step.
    """

    seed: int = 0
    augment: str = "dsa:color_crop_cutout_flip_scale_rotate"
    boundary: float = 0.1
    boundary_form: str = "log"
    rate: float = 0.0
    clamp: bool = True


def step_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``StepOptions`` from the resolved options of a run."""
    taken = {name: options[name] for name in ("seed", "augment", "boundary", "boundary_form", "clamp")}
    return taken | {"rate": options["rate_weight"]}


class Run(Protocol):
    """What a ``Method`` sees of a ``Distillation``.

    Attributes:
        seed: of every draw.
        device: where networks and sets are.
        options: the resolved options, by name; a method may resolve its own further.
        data: the real images as they are stored; ``real`` draws and normalises them.
        channels: C.
        size: (H, W) of the images.
        labels: (B,) class of each synthetic image.
        soft: (B, K) the labels that the file will have, or None where they are the classes.
        recipe: what the file will say about training, but for what the method learns.
        iteration: steps made so far.
        pool: networks trained on the real data, where the method's ``trained`` asks for them.
        parameters: the set, there after ``Method.start``.
        adam: its optimiser.
        coding: what codes weigh, where that is in the loss.
    """

    seed: int
    device: torch.device
    options: dict[str, Any]
    data: ImageSet
    channels: int
    size: tuple[int, int]
    real: RealData
    labels: NDArray[np.int64]
    soft: NDArray[np.float32] | None
    recipe: Recipe
    iteration: int
    pool: list[ConvNet]
    parameters: LearnableSet
    adam: RowAdam
    coding: RateModel | None

    def network(self, *key: int) -> ConvNet:
        """The random network of a key; its parameters need no gradient."""


class Method(ABC):
    """A loss. Made before anything is computed, so that it can refuse what it cannot do.

    Attributes:
        run: the run it belongs to; its options, plan, real data and recipe are there, its set only after ``start``.
        trained: whether steps need networks that were trained on the real data, ``run.pool``.
    """

    trained = False

    def __init__(self, run: Run) -> None:
        self.run = run

    def start(self, checkpoint: Checkpoint) -> None:  # noqa: B027 (most methods need nothing)
        """Compute what steps and the choice of real images need, or take it from the checkpoint."""

    @abstractmethod
    def step(self) -> dict[str, float]:
        """Make the step of number ``run.iteration``; returns what is logged, "loss" first."""

    def state(self) -> dict[str, torch.Tensor]:
        """What changes from step to step apart from the set and its optimiser, for a checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: B027 (most methods keep nothing)
        """Continue from what ``state`` returned."""

    def teachers(self) -> list[ConvNet]:
        """Networks that know the classes, to choose typical images with; none has the run train some."""
        return []

    def recipe(self, recipe: Recipe) -> Recipe:
        """What the file says about training, where the loss has learned something of it."""
        return recipe

    def provenance(self) -> dict[str, Any]:
        """What else the set was made from."""
        return {}


def descend(
    loss: torch.Tensor,
    parts: dict[str, torch.Tensor],
    parameters: LearnableSet,
    indices: NDArray[np.int64],
    rows: torch.Tensor,
    leaves: Leaves,
    adam: RowAdam,
    options: StepOptions,
    coding: RateModel | None = None,
) -> dict[str, float]:
    """Add the regularisation to a loss, and move the Gaussians of the images that were rendered down its gradient.

    Args:
        loss: scalar, with a graph that leads to ``leaves``; of several processes, this one's share of it.
        parts: what it is made of, for the log; shares too.
        parameters: the set, changed in place.
        indices: images that were rendered.
        rows: their rows.
        leaves: their parameters, as ``parameters.leaves(rows)`` gave them.
        adam: the optimiser of ``parameters``.
        options: weights of the regularisation.
        coding: what codes weigh; needed where ``options.rate`` is not 0.

    Returns:
        ``loss``, ``parts`` and, if used, ``boundary`` and ``rate``, the estimated bits of an image, as they were before the step.
    """
    parts = dict(parts)
    if options.boundary:
        parts["boundary"] = boundary_loss(leaves["means"], options.boundary_form) / ranks.world()
        loss = loss + options.boundary * parts["boundary"]
    if options.rate and coding is not None:
        values = parameters.assemble(leaves, parameters.counts[indices])
        parts["rate"] = coding.expected_bits(values, parameters.quantizers).sum() / (len(indices) * ranks.world())
        loss = loss + options.rate * parts["rate"]
    if loss.requires_grad:  # a process without a share has nothing to derive
        loss.backward()  # type: ignore[no-untyped-call]
    losses = {"loss": loss.detach()} | {name: value.detach() for name, value in parts.items()}
    if ranks.world() > 1:
        gradients = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves.values()]
        summed = ranks.totals([*gradients, *losses.values()])
        for leaf, gradient in zip(leaves.values(), summed, strict=False):
            leaf.grad = gradient
        losses = dict(zip(losses, summed[len(leaves) :], strict=True))
    adam.step(parameters, rows, leaves)
    if options.clamp:
        parameters.clamp(rows)
    return {name: float(value) for name, value in losses.items()}


@dataclass(frozen=True, eq=False)
class Share:
    """What this process renders of a step: the synthetic images of its classes; all of them where it is alone.

    Attributes:
        classes: its classes of the step, ascending.
        sizes: synthetic images of each.
        indices: these images, class by class.
        leaves: their Gaussians, taken from the leaves of the step.
    """

    classes: list[int]
    sizes: list[int]
    indices: NDArray[np.int64]
    leaves: Leaves

    @classmethod
    def of(cls, classes: list[int], chosen: list[NDArray[np.int64]], parameters: LearnableSet, leaves: Leaves) -> Share:
        """Divide the ``chosen`` images of each of the ``classes``, whose Gaussians ``leaves`` are, among the processes."""
        mine = ranks.own(range(len(classes)))
        sizes = [len(chosen[k]) for k in mine]
        indices = np.concatenate([np.zeros(0, np.int64), *(chosen[k] for k in mine)])
        if len(mine) < len(classes):
            place = np.split(np.arange(sum(map(len, chosen))), np.cumsum([len(c) for c in chosen])[:-1])
            taken = np.concatenate([np.zeros(0, np.int64), *(place[k] for k in mine)])
            within = ragged_rows(parameters.counts[np.concatenate(chosen)], taken)
            rows = torch.from_numpy(within).to(parameters.device)
            leaves = {name: leaf[rows] for name, leaf in leaves.items()}
        return cls([classes[k] for k in mine], sizes, indices, leaves)
