"""Instance norm, ReLU and 2x2 average pooling in one pass over memory, for training ConvNets on the CPU.

Written as three torch layers, these cost as much time as the convolutions: each reads and writes the largest tensors of
the network, and keeps one for the backward pass. Fused, the forward pass reads the convolution's output once and writes
a tensor of a quarter of its size; the backward pass recomputes what it needs. Layout is channels-last, so that the inner
loops run over contiguous channels. Images are independent and sums over images are made in a fixed order, so results do
not depend on the thread count.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

EPSILON = 1e-5
"""Added to the variance, as torch's normalisation layers do."""

_jit: Any = numba.njit(nogil=True, fastmath={"contract", "nsz", "arcp"}, cache=True, error_model="numpy")


@_jit  # type: ignore[untyped-decorator]
def _statistics(x: NDArray[np.float32], mean: NDArray[np.float32], rstd: NDArray[np.float32]) -> None:
    """Mean and 1 / standard deviation of each channel of one image (H, W, C), by two passes over it."""
    height, width, channels = x.shape
    inverse = np.float32(1.0) / np.float32(height * width)
    mean[:] = 0.0
    rstd[:] = 0.0
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                mean[c] += x[i, j, c]
    for c in range(channels):
        mean[c] *= inverse
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                d = x[i, j, c] - mean[c]
                rstd[c] += d * d
    for c in range(channels):
        rstd[c] = np.float32(1.0) / np.sqrt(rstd[c] * inverse + np.float32(EPSILON))


@_jit  # type: ignore[untyped-decorator]
def _forward(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    mean: NDArray[np.float32],
    rstd: NDArray[np.float32],
    out: NDArray[np.float32],
    first: int,
    last: int,
) -> None:
    """Images first..last of x (B, H, W, C) to out (B, H // 2, W // 2, C); keeps mean and rstd (B, C)."""
    _, rows, columns, channels = out.shape
    gain = np.empty(channels, np.float32)
    offset = np.empty(channels, np.float32)
    zero = np.float32(0.0)
    for b in range(first, last):
        _statistics(x[b], mean[b], rstd[b])
        for c in range(channels):
            gain[c] = rstd[b, c] * weight[c]
            offset[c] = bias[c] - mean[b, c] * gain[c]
        for i in range(rows):
            for j in range(columns):
                for c in range(channels):
                    v00 = max(x[b, 2 * i, 2 * j, c] * gain[c] + offset[c], zero)
                    v01 = max(x[b, 2 * i, 2 * j + 1, c] * gain[c] + offset[c], zero)
                    v10 = max(x[b, 2 * i + 1, 2 * j, c] * gain[c] + offset[c], zero)
                    v11 = max(x[b, 2 * i + 1, 2 * j + 1, c] * gain[c] + offset[c], zero)
                    out[b, i, j, c] = np.float32(0.25) * ((v00 + v01) + (v10 + v11))


@_jit  # type: ignore[untyped-decorator]
def _backward(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    mean: NDArray[np.float32],
    rstd: NDArray[np.float32],
    grad_out: NDArray[np.float32],
    grad_x: NDArray[np.float32],
    sums: NDArray[np.float32],
    first: int,
    last: int,
) -> None:
    """Gradient of images first..last; sums (B, 2, C) receives each image's part of the bias and weight gradients."""
    _, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    inverse = np.float32(1.0) / np.float32(height * width)
    gain = np.empty(channels, np.float32)
    offset = np.empty(channels, np.float32)
    slope = np.empty(channels, np.float32)
    level = np.empty(channels, np.float32)
    zero = np.float32(0.0)
    quarter = np.float32(0.25)
    for b in range(first, last):
        for c in range(channels):
            gain[c] = rstd[b, c] * weight[c]
            offset[c] = bias[c] - mean[b, c] * gain[c]
            sums[b, 0, c] = 0.0
            sums[b, 1, c] = 0.0
        for i in range(2 * rows):
            for j in range(2 * columns):
                for c in range(channels):
                    v = x[b, i, j, c]
                    g = grad_out[b, i // 2, j // 2, c] * quarter if v * gain[c] + offset[c] > zero else zero
                    sums[b, 0, c] += g
                    sums[b, 1, c] += g * (v - mean[b, c])
        for c in range(channels):
            sums[b, 1, c] *= rstd[b, c]
            slope[c] = gain[c] * rstd[b, c] * sums[b, 1, c] * inverse
            level[c] = gain[c] * sums[b, 0, c] * inverse - slope[c] * mean[b, c]
        for i in range(height):
            pooled_row = i < 2 * rows
            for j in range(width):
                if pooled_row and j < 2 * columns:
                    for c in range(channels):
                        v = x[b, i, j, c]
                        g = grad_out[b, i // 2, j // 2, c] * quarter if v * gain[c] + offset[c] > zero else zero
                        grad_x[b, i, j, c] = gain[c] * g - slope[c] * v - level[c]
                else:  # an odd last row or column is not pooled, but it takes part in the mean and the variance
                    for c in range(channels):
                        grad_x[b, i, j, c] = -slope[c] * x[b, i, j, c] - level[c]


def _over_images(batch: int, work: Any) -> None:
    """Run work(first, last) over the batch, one part per torch thread."""
    parts = max(1, min(torch.get_num_threads(), batch))
    bounds = [batch * k // parts for k in range(parts + 1)]
    if parts == 1:
        work(0, batch)
        return
    with ThreadPoolExecutor(parts - 1) as pool:
        futures = [pool.submit(work, bounds[k], bounds[k + 1]) for k in range(1, parts)]
        work(bounds[0], bounds[1])
        for future in futures:
            future.result()


def _nhwc(tensor: torch.Tensor) -> NDArray[np.float32]:
    """(B, C, H, W) tensor as a C-contiguous (B, H, W, C) array; no copy if it is channels-last already."""
    array: NDArray[np.float32] = (
        tensor.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).numpy()
    )
    return array


class _NormReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        out = torch.empty((batch, channels, height // 2, width // 2), memory_format=torch.channels_last)
        mean, rstd = np.empty((batch, channels), np.float32), np.empty((batch, channels), np.float32)
        arrays = (_nhwc(x), weight.detach().numpy(), bias.detach().numpy(), mean, rstd)
        target = out.permute(0, 2, 3, 1).numpy()
        _over_images(batch, lambda first, last: _forward(*arrays, target, first, last))
        ctx.save_for_backward(x, weight, bias)
        ctx.statistics = (mean, rstd)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if torch.is_grad_enabled():
            # torch's own once_differentiable lets autograd.grad prune this node and return a wrong second derivative.
            raise RuntimeError("the fused layer can be differentiated only once: build the network with fused=False")
        x, weight, bias = ctx.saved_tensors
        grad_x = torch.empty(x.shape, memory_format=torch.channels_last)
        sums = np.empty((x.shape[0], 2, x.shape[1]), np.float32)
        arrays = (_nhwc(x), weight.detach().numpy(), bias.detach().numpy(), *ctx.statistics, _nhwc(grad_out))
        target = grad_x.permute(0, 2, 3, 1).numpy()
        _over_images(len(sums), lambda first, last: _backward(*arrays, target, sums, first, last))
        total = torch.from_numpy(sums.sum(axis=0))
        return grad_x, total[1], total[0]


def norm_relu_pool(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """avg_pool2d(relu(group_norm(x, C, weight, bias)), 2), differentiable once.

    Args:
        x: (B, C, H, W) float32 on the CPU, H and W at least 2; channels-last avoids a copy.
        weight: (C,) float32 gains.
        bias: (C,) float32 offsets.

    Returns:
        (B, C, H // 2, W // 2) float32, channels-last.
    """
    result: torch.Tensor = _NormReluPool.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result
