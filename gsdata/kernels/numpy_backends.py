"""``cpu`` and ``reference`` behind one pair of functions on NumPy arrays, for ``rendering`` and ``differentiable``."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gsdata.gaussians import ANTIALIAS_MODES, Gaussians

Floats: TypeAlias = NDArray[np.floating]
Values: TypeAlias = tuple[Floats, Floats, Floats]
"""means (G, 2), cholesky (G, 3), colors (G, C) with opacities folded in."""


def forward(
    values: Values, batch: Gaussians, size: tuple[int, int], indices: NDArray[np.int64], backend: str
) -> Floats:
    """(n, C, H, W), float32 from ``cpu`` and float64 from ``reference``; ``batch`` gives the structure only."""
    if backend == "reference":
        from gsdata.kernels import reference

        return reference.render(_replaced(batch, values), size, indices)
    from gsdata.kernels import cpu

    antialias_id = ANTIALIAS_MODES.index(batch.antialias)
    return cpu.forward(*_float32(values), batch.counts, indices, batch.size, size, antialias_id, batch.background)


def backward(
    values: Values, batch: Gaussians, grad_out: Floats, indices: NDArray[np.int64], backend: str
) -> tuple[Floats, ...]:
    """The gradients of sum(grad_out * forward(...)) with respect to ``values``, in their order."""
    if backend == "reference":
        from gsdata.kernels import reference

        found = reference.render_backward(_replaced(batch, values), grad_out, grad_out.shape[2:], indices)
        return tuple(found[name] for name in ("means", "cholesky", "colors"))
    from gsdata.kernels import cpu

    antialias_id = ANTIALIAS_MODES.index(batch.antialias)
    grad = np.ascontiguousarray(grad_out, np.float32)
    return cpu.backward(*_float32(values), batch.counts, indices, batch.size, antialias_id, grad)


def _replaced(batch: Gaussians, values: Values) -> Gaussians:
    means, cholesky, colors = values
    return replace(batch, means=means, cholesky=cholesky, colors=colors, opacities=None)


def _float32(values: Values) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    means, cholesky, colors = (np.ascontiguousarray(value, np.float32) for value in values)
    return means, cholesky, colors
