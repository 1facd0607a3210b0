"""The CPU backends as a torch operation with a hand-written derivative.

``rendering.py`` calls it for torch tensors; nothing else should.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from gsdata.gaussians import Gaussians
from gsdata.kernels.numpy_backends import Values, backward, forward


@dataclass(frozen=True, eq=False)
class Task:
    """What is rendered, apart from the values that have gradients."""

    batch: Gaussians  # structure only: its values are ignored
    size: tuple[int, int]
    indices: NDArray[np.int64]
    backend: str


def render(task: Task) -> torch.Tensor:
    """(len(indices), C, H, W) on the CPU, differentiable once with respect to the values of ``task.batch``."""
    batch = task.batch
    image: torch.Tensor = _Render.apply(batch.means, batch.cholesky, batch.colors, task)  # type: ignore[no-untyped-call]
    return image


def _arrays(tensors: tuple[torch.Tensor, ...]) -> Values:
    means, cholesky, colors = (
        (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).detach().numpy()
        for tensor in tensors
    )
    return means, cholesky, colors


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means: torch.Tensor, cholesky: torch.Tensor, colors: torch.Tensor, task: Task) -> Any:
        ctx.save_for_backward(means, cholesky, colors)
        ctx.task = task
        values = _arrays((means, cholesky, colors))
        return torch.from_numpy(forward(values, task.batch, task.size, task.indices, task.backend))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> Any:
        task: Task = ctx.task
        tensors = ctx.saved_tensors
        found = backward(_arrays(tensors), task.batch, grad_out.numpy(), task.indices, task.backend)
        grads = [torch.from_numpy(grad).to(tensor.dtype) for grad, tensor in zip(found, tensors, strict=True)]
        return *(grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad, strict=False)), None
