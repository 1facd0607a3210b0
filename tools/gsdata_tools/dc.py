"""Gradient matching: move synthetic images until a network learns from them what it would learn from the real ones.

Source: B. Zhao, K. R. Mopuri and H. Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021 (arXiv:2006.05929), with
the Siamese augmentation A of B. Zhao and H. Bilen, ICML 2021 (arXiv:2102.08259). For each class c, with real images T_c,
synthetic images S_c and the cross-entropy l of a network with weights W:

    L = sum_c D(grad_W l(A(T_c)), grad_W l(A(S_c)))  +  lambda * boundary loss  +  mu * bits per image

The published loop is kept: a network starts at random weights, is matched, is trained for some epochs on the synthetic set,
is matched again, and so on, until the next one starts (``--outer-loop`` matches, ``--inner-loop`` epochs between two).

Three things bound the memory, without changing a value: the real gradient is a mean over micro-batches; one class at a time
has a graph; and that graph ends at the rendered pixels, whose gradients of all classes then go back through the renderer once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

import gsdata
from gsdata.augment import augment
from gsdata_tools.dm import classes_of, synthetic_of
from gsdata_tools.draws import rng
from gsdata_tools.learnable import LearnableSet, RowAdam
from gsdata_tools.methods import Method, Run, Share, StepOptions, descend, step_options
from gsdata_tools.networks import ConvNet
from gsdata_tools.rate import RateModel
from gsdata_tools.real_data import RealData

EPSILON = 1e-6
"""Added to the product of the norms, as published: a row without a gradient has distance 1."""
LR_NET, BATCH_TRAIN = 0.01, 256
"""Plain SGD on the synthetic set between two matches, as published."""
_STEPS = 0
"""What random networks of steps are drawn for."""


@dataclass(frozen=True)
class DcOptions(StepOptions):
    """What decides a gradient matching run, apart from the data and the first set.

    Attributes:
        batch_real: real images of a class in one step.
        batch_syn: most synthetic images of a class in one step; a class that has more gives a random choice.
        classes_per_step: classes in one step, taken in turn; 0 means all.
        micro_batch: real images whose gradient is computed at once.
        outer_loop: steps that one network is matched in.
        inner_loop: epochs on the synthetic set between two of them.
    """

    batch_real: int = 256
    batch_syn: int = 0
    classes_per_step: int = 0
    micro_batch: int = 64
    outer_loop: int = 1
    inner_loop: int = 1


def gradient_distance(real: Sequence[torch.Tensor], synthetic: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum over layers and their output rows of 1 - cosine of the two gradients (arXiv:2006.05929, Eq. 10 and published code).

    A row is what makes one output: (in * h * w) of a convolution's (out, in, h, w), (in,) of a linear layer's (out, in).
    Gradients of one dimension, those of biases and of the gains and offsets of norms, count nothing, as in the published
    code (the paper's equation has no place for them either).

    Args:
        real: gradients of a network's parameters.
        synthetic: the same of the synthetic images.

    Returns:
        scalar from 0 (every row alike in direction) to twice the number of rows.
    """
    total = synthetic[0].new_zeros(())
    for one, other in zip(real, synthetic, strict=True):
        if one.ndim > 1:
            a, b = one.flatten(1), other.flatten(1)
            norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
            total = total + (1.0 - (a * b).sum(dim=1) / (norms + EPSILON)).sum()
    return total


def matched_weights(network: ConvNet) -> list[torch.Tensor]:
    """The parameters whose gradients count: weights of convolutions and of the linear layer."""
    return [parameter for parameter in network.parameters() if parameter.ndim > 1]


def real_gradient(network: ConvNet, images: torch.Tensor, label: int, micro_batch: int) -> list[torch.Tensor]:
    """Gradients of the mean cross-entropy of images of one class, without a graph; memory is that of one micro-batch."""
    weights = matched_weights(network)
    total = [torch.zeros_like(weight) for weight in weights]
    for part in torch.split(images, micro_batch):
        truth = torch.full((len(part),), label, device=part.device)
        loss = functional.cross_entropy(network(part), truth, reduction="sum") / len(images)
        for sum_, gradient in zip(total, torch.autograd.grad(loss, weights), strict=True):
            sum_ += gradient
    return total


def synthetic_gradient(network: ConvNet, images: torch.Tensor, label: int) -> tuple[torch.Tensor, ...]:
    """The same of synthetic images, with a graph; the network's layers must allow a second derivative (``fused=False``)."""
    truth = torch.full((len(images),), label, device=images.device)
    loss = functional.cross_entropy(network(images), truth)
    return torch.autograd.grad(loss, matched_weights(network), create_graph=True)


def dc_step(
    iteration: int,
    parameters: LearnableSet,
    labels: NDArray[np.int64],
    adam: RowAdam,
    real: RealData,
    network: ConvNet,
    options: DcOptions,
    coding: RateModel | None = None,
) -> dict[str, float]:
    """One step of gradient matching; moves the Gaussians of the images it rendered, and leaves the network as it is.

    Args:
        iteration: number of the step, the key of its draws.
        parameters: the set, changed in place.
        labels: (B,) class of each synthetic image.
        adam: the optimiser of ``parameters``.
        real: the real images.
        network: the network of this iteration, with parameters that need gradients.
        options: what decides the run.
        coding: what codes weigh; needed where ``options.rate`` is not 0.

    Returns:
        The loss and its parts before the step: ``loss``, ``match`` and, if used, ``boundary`` and ``rate``.
    """
    classes = classes_of(iteration, len(real.members), options.classes_per_step)
    chosen = [synthetic_of(c, iteration, labels, options.batch_syn, options.seed) for c in classes]
    indices = np.concatenate(chosen)
    rows = parameters.rows(indices)
    leaves = parameters.leaves(rows)
    share = Share.of(classes, chosen, parameters, leaves)
    match = loss = torch.zeros((), device=real.device)
    if share.classes:
        match, loss = _compare(iteration, parameters, share, real, network, options)
    return descend(loss, {"match": match}, parameters, indices, rows, leaves, adam, options, coding)


def _compare(
    iteration: int,
    parameters: LearnableSet,
    share: Share,
    real: RealData,
    network: ConvNet,
    options: DcOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The distance of gradients, summed over classes: as a number, and with a graph that leads to the Gaussians."""
    rendered = gsdata.render(parameters.stored(share.leaves, parameters.counts[share.indices]))
    match, gradients = rendered.new_zeros(()), []
    for label, pixels in zip(share.classes, torch.split(rendered.detach(), share.sizes), strict=True):
        key = int(rng(options.seed, "dc-augment", iteration, label).integers(2**63))
        batch = real.draw(options.batch_real, options.seed, iteration, label)
        # The fused layers are faster where one derivative is enough.
        network.fused = True
        wanted = real_gradient(
            network, augment(batch, options.augment, seed=key, siamese=True), label, options.micro_batch
        )
        network.fused = False
        pixels.requires_grad_()
        seen = augment(real.normalize(pixels), options.augment, seed=key, siamese=True)
        distance = gradient_distance(wanted, synthetic_gradient(network, seen, label))
        gradients.append(torch.autograd.grad(distance, pixels)[0])
        match = match + distance.detach()

    # The value of the match, and as its gradient what was computed class by class.
    through = (rendered * torch.cat(gradients)).sum()
    return match, match + (through - through.detach())


def train_on_set(
    iteration: int,
    parameters: LearnableSet,
    labels: NDArray[np.int64],
    real: RealData,
    network: ConvNet,
    options: DcOptions,
) -> None:
    """Train a network in place on the set as it is: ``inner_loop`` epochs of plain SGD, augmented image by image."""
    network.fused = True
    optimizer = torch.optim.SGD(network.parameters(), LR_NET)
    with torch.no_grad():
        everything = {name: getattr(parameters, name) for name in parameters.ATTRIBUTES}
        images = real.normalize(gsdata.render(parameters.stored(everything, parameters.counts)))
    for epoch in range(options.inner_loop):
        for number, indices in enumerate(_batches(len(labels), options.seed, iteration, epoch)):
            key = int(rng(options.seed, "dc-inner-augment", iteration, epoch, number).integers(2**63))
            batch = augment(images[torch.from_numpy(indices).to(images.device)], options.augment, seed=key)
            truth = torch.from_numpy(labels[indices]).to(images.device)
            optimizer.zero_grad()
            functional.cross_entropy(network(batch), truth).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _batches(images: int, seed: int, iteration: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    order = rng(seed, "dc-inner", iteration, epoch).permutation(images)
    for first in range(0, images, BATCH_TRAIN):
        yield order[first : first + BATCH_TRAIN]


class GradientMatching(Method):
    """``gsd-distill dc``."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        own = ("batch_real", "batch_syn", "classes_per_step", "micro_batch", "outer_loop", "inner_loop")
        self.options = DcOptions(**step_options(run.options), **{name: run.options[name] for name in own})
        self.trained = run.options["networks"] == "trained"
        self.network: ConvNet | None = None

    def step(self) -> dict[str, float]:
        """One match, with a new network or with the last step's, trained a little further."""
        run = self.run
        number, within = divmod(run.iteration, self.options.outer_loop)
        if within == 0 or self.network is None:
            self.network = run.network(_STEPS, number).requires_grad_(True)
            if self.trained:
                snapshot = int(rng(run.seed, "dc-network", number).integers(len(run.pool)))
                self.network.load_state_dict(run.pool[snapshot].state_dict())
        else:
            train_on_set(run.iteration, run.parameters, run.labels, run.real, self.network, self.options)
        return dc_step(
            run.iteration, run.parameters, run.labels, run.adam, run.real, self.network, self.options, run.coding
        )

    def state(self) -> dict[str, torch.Tensor]:
        """The weights of a network that is to be matched again."""
        return self.network.state_dict() if self.network and self.run.iteration % self.options.outer_loop else {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from what ``state`` returned."""
        if state:
            self.network = self.run.network(_STEPS).requires_grad_(True)
            self.network.load_state_dict(dict(state))
