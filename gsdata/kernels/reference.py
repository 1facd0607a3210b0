"""The rendering equations in float64 NumPy: slow, readable, normative. Every other backend is tested against it.

With S = diag(W / W0, H / H0) and L the Cholesky factor of a Gaussian in pixels of the reference size,

    Sigma  = S L (S L)^T             in output pixels
    Sigma' = Sigma + v I             v = 1/12 px^2, the variance of a pixel (``none``: 1e-4 px^2)
    q(d)   = |L'^-1 d|^2             L' the Cholesky factor of Sigma', d = pixel centre - mean, in pixels
    w(d)   = (exp(-q/2) - e)/(1 - e) where positive, else 0;  e = 2^-10
    pixel  = background + sum of amplitude * w * color,  amplitude = sqrt(det Sigma / det Sigma') (``box-normalized``)
                                                         or 1 (``box``, ``none``)

The mean (x, y) in [-1, 1]^2 maps to the image edges, y down; pixel (i, j) has its centre at (j + 1/2, i + 1/2) px.
The box filter's second moment as a stand-in for the box itself, and the normalisation, follow Mip-Splatting
(Yu et al., CVPR 2024, equations 8 to 10), with 1/12 px^2 instead of its fitted variance.

To change the picture that Gaussians make, change FORMAT.md and this file first; then every backend until parity holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsdata.gaussians import ANTIALIAS_MODES, Antialias, Gaussians
from gsdata.kernels.arguments import CUTOFF, VARIANCE, Indices, Size, resolve_indices, resolve_size

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Splat:
    """One Gaussian at one output size: everything but its colour."""

    scaled: Floats  # (2, 2): A = S L
    chol: Floats  # (2, 2): L', lower triangular
    offset: Floats  # (2, H, W): d = pixel centre - mean, (x, y) first, in pixels
    amplitude: float
    exp: Floats  # (H, W): exp(-q/2) where w > 0, else 0
    weight: Floats  # (H, W): w, without the amplitude


def _splat(mean: Floats, cholesky: Floats, scale: Floats, mode: Antialias, height: int, width: int) -> _Splat:
    l11, l21, l22 = cholesky
    variance = VARIANCE[ANTIALIAS_MODES.index(mode)]
    a, b, c = scale[0] * l11, scale[1] * l21, scale[1] * l22
    # det(A A^T + v I) written as a sum of squares: no cancellation, however thin the Gaussian.
    det = (a * c) ** 2 + variance * (a * a + b * b + c * c) + variance**2
    p = np.sqrt(a * a + variance)
    chol = np.array([[p, 0.0], [a * b / p, np.sqrt(det) / p]])
    x = np.arange(width) + 0.5 - (mean[0] + 1.0) / 2.0 * width
    y = np.arange(height) + 0.5 - (mean[1] + 1.0) / 2.0 * height
    offset = np.stack(np.broadcast_arrays(x[None, :], y[:, None]))
    u = offset[0] / chol[0, 0]
    v = (offset[1] - chol[1, 0] * u) / chol[1, 1]
    exp = np.exp(-0.5 * (u * u + v * v))
    exp = np.where(exp > CUTOFF, exp, 0.0)
    weight = np.where(exp > 0.0, (exp - CUTOFF) / (1.0 - CUTOFF), 0.0)
    amplitude = float(abs(a * c) / np.sqrt(det)) if mode == "box-normalized" else 1.0
    return _Splat(np.array([[a, 0.0], [b, c]]), chol, offset, amplitude, exp, weight)


def _prepare(gaussians: Gaussians, size: Size) -> tuple[Floats, Floats, Floats, Floats, tuple[int, int]]:
    values = gaussians.numpy()
    colors = np.asarray(values.colors, np.float64)
    if values.opacities is not None:
        colors = colors * np.asarray(values.opacities, np.float64)
    height, width = resolve_size(gaussians, size)
    scale = np.array([width / gaussians.size[1], height / gaussians.size[0]])
    return np.asarray(values.means, np.float64), np.asarray(values.cholesky, np.float64), colors, scale, (height, width)


def render(gaussians: Gaussians, size: Size = None, indices: Indices = None) -> Floats:
    """Render images to float64, without clamping.

    Args:
        gaussians: the batch, NumPy or torch (detached).
        size: output size; None is the reference size, S is (S, S).
        indices: images to render, any order, with repeats; None is all.

    Returns:
        (len(indices) or B, C, H, W) float64.

    Raises:
        TypeError, ValueError, IndexError: a bad ``size`` or ``indices``.
    """
    return _render(gaussians, size, indices, absolute=False)


def magnitude(gaussians: Gaussians, size: Size = None, indices: Indices = None) -> Floats:
    """Sum of |amplitude * w * color|, shaped like ``render``: what the tolerances of the other backends scale with."""
    return _render(gaussians, size, indices, absolute=True)


def _render(gaussians: Gaussians, size: Size, indices: Indices, *, absolute: bool) -> Floats:
    means, cholesky, colors, scale, (height, width) = _prepare(gaussians, size)
    chosen = resolve_indices(gaussians, indices)
    offsets = gaussians.offsets
    out = np.zeros((len(chosen), gaussians.channels, height, width))
    if absolute:
        colors = np.abs(colors)
    else:
        out += np.asarray(gaussians.background)[:, None, None]
    for image, index in enumerate(chosen):
        for row in range(offsets[index], offsets[index + 1]):
            splat = _splat(means[row], cholesky[row], scale, gaussians.antialias, height, width)
            out[image] += splat.amplitude * splat.weight * colors[row][:, None, None]
    return out


def render_backward(
    gaussians: Gaussians, grad_out: NDArray[np.floating], size: Size = None, indices: Indices = None
) -> dict[str, Floats]:
    """The gradient of sum(grad_out * render(gaussians, size, indices)) with respect to every attribute.

    Written with matrix calculus on Sigma', unlike the scalar adjoint of the fast kernels, so that the two check
    each other: for s = Sigma'^-1 d, dq/dd = 2 s and dq/dSigma' = -s s^T; Sigma' = A A^T + v I with A = S L gives
    dF/dL = S (G + G^T) A for G = dF/dSigma'; log amplitude = log det A - 1/2 log det Sigma'.

    Args:
        gaussians: the batch, NumPy or torch (detached).
        grad_out: (len(indices) or B, C, H, W), the gradient with respect to the rendered images.
        size: as in ``render``.
        indices: as in ``render``; the gradients of repeats add up.

    Returns:
        "means" (G, 2), "cholesky" (G, 3), "colors" (G, C) and, where the batch has them, "opacities" (G, 1),
        all float64; zero in the rows of images that were not rendered.

    Raises:
        TypeError, ValueError, IndexError: a bad ``size``, ``indices`` or shape of ``grad_out``.
    """
    means, cholesky, colors, scale, (height, width) = _prepare(gaussians, size)
    chosen = resolve_indices(gaussians, indices)
    offsets = gaussians.offsets
    expected = (len(chosen), gaussians.channels, height, width)
    if tuple(grad_out.shape) != expected:
        raise ValueError(f"grad_out must have shape {expected}, found {tuple(grad_out.shape)}")
    grads = {"means": np.zeros_like(means), "cholesky": np.zeros_like(cholesky), "colors": np.zeros_like(colors)}
    mean_scale = np.array([width, height]) / 2.0
    for image, index in enumerate(chosen):
        grad_image = np.asarray(grad_out[image], np.float64)
        for row in range(offsets[index], offsets[index + 1]):
            splat = _splat(means[row], cholesky[row], scale, gaussians.antialias, height, width)
            by_weight = np.einsum("chw,hw->c", grad_image, splat.weight)
            grads["colors"][row] += splat.amplitude * by_weight
            # w depends on q only where it is positive: dw/dq = -exp(-q/2) / (2 (1 - e)).
            by_q = np.einsum("chw,c->hw", grad_image, colors[row]) * splat.exp
            by_q *= -0.5 * splat.amplitude / (1.0 - CUTOFF)
            inverse_chol = np.linalg.inv(splat.chol)
            solved = np.einsum("ji,jhw->ihw", inverse_chol, np.einsum("ij,jhw->ihw", inverse_chol, splat.offset))
            # d = pixel - mean, hence the minus.
            grads["means"][row] -= mean_scale * np.einsum("hw,ihw->i", by_q, 2.0 * solved)
            by_sigma = -np.einsum("hw,ihw,jhw->ij", by_q, solved, solved)
            by_factor = scale[:, None] * ((by_sigma + by_sigma.T) @ splat.scaled)
            if gaussians.antialias == "box-normalized":
                by_log_amplitude = splat.amplitude * float(by_weight @ colors[row])
                inverse = inverse_chol.T @ inverse_chol
                by_factor -= by_log_amplitude * scale[:, None] * (inverse @ splat.scaled)
                by_factor += by_log_amplitude * np.diag(1.0 / np.array([cholesky[row, 0], cholesky[row, 2]]))
            grads["cholesky"][row] += by_factor[[0, 1, 1], [0, 0, 1]]
    values = gaussians.numpy()
    if values.opacities is not None:
        by_folded = grads["colors"]
        grads["opacities"] = np.sum(by_folded * values.colors, axis=1, keepdims=True)
        grads["colors"] = by_folded * values.opacities
    return grads
