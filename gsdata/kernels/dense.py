"""The rendering equations in plain torch: every pixel against every Gaussian, differentiable by autograd.

For devices without a kernel of their own, and the gradient oracle of those that have one. It computes in float64
what a Gaussian and a row need once, and in float32 (float64 for float64 input) what every pixel needs; equations and
notation are those of ``cpu.py``. Its memory grows with images x Gaussians x pixels: without gradients
``chunk_pairs`` bounds it, with gradients autograd keeps it all.

What may be changed: chunking and the order of operations. It must stay free of hand-written derivatives.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata.gaussians import ANTIALIAS_MODES, Gaussians, ragged_rows
from gsdata.kernels.arguments import CUTOFF, VARIANCE, Indices, Size, resolve_indices, resolve_size

CHUNK_PAIRS = 1 << 21
"""Pairs of a pixel and a Gaussian rendered at once: what was fastest on CPUs (about 8 MB per intermediate)."""


def render(
    gaussians: Gaussians, size: Size = None, indices: Indices = None, *, chunk_pairs: int = CHUNK_PAIRS
) -> torch.Tensor:
    """Render images with torch operations only, on the device of ``gaussians``.

    Args:
        gaussians: the batch, torch tensors of one floating-point type.
        size: output size; None is the reference size, S is (S, S).
        indices: images to render, any order, with repeats; None is all.
        chunk_pairs: bound on images x Gaussians x pixels held at once.

    Returns:
        (len(indices) or B, C, H, W), float64 for float64 input, else float32; not clamped.

    Raises:
        TypeError, ValueError, IndexError: a bad ``size`` or ``indices``.
    """
    height, width = resolve_size(gaussians, size)
    chosen = resolve_indices(gaussians, indices)
    counts = gaussians.counts[chosen]
    folded = gaussians.fold()
    parts = [
        _render_images(folded, (height, width), chosen[first:last])
        for first, last in _chunks(counts, height * width, chunk_pairs)
    ]
    if not parts:
        return _zeros(folded, 0, height, width)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _chunks(counts: NDArray[np.int64], pixels: int, chunk_pairs: int) -> list[tuple[int, int]]:
    """Ranges of consecutive images whose padded work stays within ``chunk_pairs``, at least one image each."""
    chunks, first, widest = [], 0, 0
    for image, count in enumerate(counts.tolist()):
        if image > first and (image + 1 - first) * max(widest, count) * pixels > chunk_pairs:
            chunks.append((first, image))
            first, widest = image, 0
        widest = max(widest, count)
    if len(counts):
        chunks.append((first, len(counts)))
    return chunks


def _zeros(gaussians: Gaussians, count: int, height: int, width: int) -> torch.Tensor:
    dtype = torch.float64 if gaussians.means.dtype == torch.float64 else torch.float32
    colors: torch.Tensor = gaussians.colors
    return colors.new_zeros((count, gaussians.channels, height, width), dtype=dtype)


def _padded(gaussians: Gaussians, images: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means, Cholesky factors and colours as (n, N, .) for the largest N; what is padded has colour 0."""
    counts = gaussians.counts[images]
    widest = int(counts.max())
    rows = np.zeros((len(images), widest), np.int64)
    real = np.arange(widest) < counts[:, None]
    rows[real] = ragged_rows(gaussians.counts, images)
    device = gaussians.means.device
    taken = torch.from_numpy(rows).to(device)
    colors = gaussians.colors[taken]
    if not real.all():
        colors = torch.where(torch.from_numpy(real).to(device)[:, :, None], colors, torch.zeros_like(colors))
    return gaussians.means[taken], gaussians.cholesky[taken], colors


def _render_images(gaussians: Gaussians, size: tuple[int, int], images: NDArray[np.int64]) -> torch.Tensor:
    height, width = size
    out = _zeros(gaussians, len(images), height, width)
    background = torch.tensor(gaussians.background, dtype=out.dtype, device=out.device)[:, None, None]
    if not gaussians.counts[images].any():
        return out + background
    means, cholesky, colors = _padded(gaussians, images)
    # Apple's GPUs have no float64; there, needles are less exact.
    exact = torch.float32 if means.device.type == "mps" else torch.float64
    means, cholesky = means.to(exact), cholesky.to(exact)

    variance = VARIANCE[ANTIALIAS_MODES.index(gaussians.antialias)]
    a = cholesky[..., 0] * (width / gaussians.size[1])
    b = cholesky[..., 1] * (height / gaussians.size[0])
    c = cholesky[..., 2] * (height / gaussians.size[0])
    det = (a * c) ** 2 + variance * (a * a + b * b + c * c) + variance**2
    syy = b * b + c * c + variance
    gain = 1.0 / (1.0 - CUTOFF)
    if gaussians.antialias == "box-normalized":
        colors = colors * ((a * c).abs() / det.sqrt())[..., None]

    half_log2e = 0.5 / math.log(2.0)
    dy = torch.arange(height, device=means.device, dtype=exact) + 0.5 - (means[..., 1, None] + 1.0) * (0.5 * height)
    center = (means[..., 0, None] + 1.0) * (0.5 * width) - 0.5 + (a * b / syy)[..., None] * dy
    whole = center.detach().floor()
    columns = torch.arange(width, device=means.device, dtype=out.dtype)
    # Differences of whole numbers are exact in float32; only the fraction of a pixel is rounded.
    e = (columns - whole.to(out.dtype)[..., None]) - (center - whole).to(out.dtype)[..., None]
    t_row = (dy * dy * (-half_log2e / syy)[..., None]).to(out.dtype)[..., None]
    k = (syy / det * half_log2e).to(out.dtype)[..., None, None]
    weight = (torch.exp2(t_row - k * e * e) - CUTOFF).relu()
    image = torch.bmm((colors * gain).to(out.dtype).transpose(1, 2), weight.flatten(2))
    return image.view(out.shape) + background
