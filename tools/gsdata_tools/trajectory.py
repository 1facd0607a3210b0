"""The loss of trajectory matching and its exact gradient, in memory that grows by one copy of the weights per step.

Source: G. Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022 (arXiv:2203.11932). A
student starts where an expert was, takes N steps on synthetic batches x_i with a learned rate, and should arrive where the
expert was some epochs later:

    w_0 = start,   w_{i+1} = w_i - eta * g_i,   g_i = gradient of the student's loss on x_i at w_i
    L = |w_N - target|^2 / |start - target|^2

Differentiating through all steps at once keeps every step's graph. Here only the weights w_i are kept; then, from the last
step to the first, one graph is made again and the adjoint v_i = dL/dw_i is carried through it:

    dL/deta += -v_{i+1} . g_i        dL/dx_i = -eta * d(v_{i+1} . g_i)/dx_i        v_i = v_{i+1} - eta * H_i v_{i+1}

where H_i v is the gradient of v . g_i with respect to the weights: a Hessian-vector product, not an approximation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn
from torch.func import functional_call

StudentLoss: TypeAlias = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""From flat weights (P,), the images of a step (B, C, H, W) and the step's number to the scalar that the student descends."""


class FlatNetwork:
    """A network as a function of one vector that holds all its weights, in the order of ``named_parameters``.

    Args:
        network: whose layers are used; its own weights are not. It must be differentiable twice (``fused=False``).
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]

    def __len__(self) -> int:
        """P, the number of weights."""
        return sum(self.sizes)

    def __call__(self, weights: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """What the network returns for ``images`` with ``weights`` (P,)."""
        parts = zip(self.shapes.items(), torch.split(weights, self.sizes), strict=True)
        result: torch.Tensor = functional_call(
            self.network, {name: part.view(shape) for (name, shape), part in parts}, (images,)
        )
        return result


def flatten(network: nn.Module) -> torch.Tensor:
    """(P,) copy of a network's weights, in the order of ``named_parameters``."""
    return torch.cat([value.detach().reshape(-1) for value in network.parameters()])


@dataclass(frozen=True, eq=False)
class TrajectoryMatch:
    """The loss and its gradients.

    Attributes:
        loss: scalar; 1 where the student arrives as far from the target as it started.
        images: (U, C, H, W) gradient with respect to the images.
        lr: scalar, gradient with respect to the learning rate.
    """

    loss: torch.Tensor
    images: torch.Tensor
    lr: torch.Tensor


def match_trajectory(
    student: StudentLoss,
    start: torch.Tensor,
    target: torch.Tensor,
    images: torch.Tensor,
    batches: Sequence[torch.Tensor],
    lr: float,
    *,
    exact: bool = True,
    total: Callable[[torch.Tensor], torch.Tensor] = lambda values: values,
) -> TrajectoryMatch:
    """The loss of a student that takes ``len(batches)`` steps, and its gradients.

    Args:
        student: the loss that the student descends; twice differentiable, and the same whenever it is called with the same
            arguments.
        start: (P,) weights of the expert where the student starts.
        target: (P,) weights of the expert where it should arrive, not equal to ``start``.
        images: (U, C, H, W) the images that the steps use.
        batches: for each step (B,) int64 rows of ``images``, without repeats.
        lr: eta, the student's learning rate.
        exact: False takes v_i = v_N for all i, which leaves out how a step changes those after it (separable form, as in
            J. Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023,
            arXiv:2211.10586). It is faster, and the more wrong the more steps there are.
        total: where several processes each have a share of the student's loss, the sum of their tensors, in place; every process
            then has the same loss and ``lr``, and its share of ``images``.
    """
    weights = [start.detach()]
    for step, rows in enumerate(batches):
        here = weights[-1].requires_grad_()
        (gradient,) = torch.autograd.grad(student(here, images[rows], step), here)
        weights.append(here.detach() - lr * total(gradient))
    scale = (start - target).square().sum()
    arrived = weights.pop() - target
    loss = arrived.square().sum() / scale

    adjoint = 2.0 * arrived / scale
    to_images = torch.zeros_like(images)
    to_lr = torch.zeros_like(loss)
    for step in reversed(range(len(batches))):
        here = weights.pop().requires_grad_()
        seen = images[batches[step]].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(student(here, seen, step), here, create_graph=True)
        along = adjoint @ gradient
        to_lr -= along.detach()
        if exact:
            to_here, to_seen = torch.autograd.grad(along, (here, seen))
            adjoint = adjoint - lr * total(to_here)
        else:
            (to_seen,) = torch.autograd.grad(along, seen)
        to_images.index_add_(0, batches[step], to_seen, alpha=-lr)
    return TrajectoryMatch(loss, to_images, total(to_lr))
