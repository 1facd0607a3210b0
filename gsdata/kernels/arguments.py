"""Checks of the arguments that every backend shares: output size, image indices, the geometry of a pixel.

Every backend calls these, so that a bad argument is the same one line wherever it is found.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gsdata.gaussians import Gaussians

Size: TypeAlias = int | tuple[int, int] | None
"""Output size: None is the reference size, S is (S, S), else (H, W)."""

Indices: TypeAlias = Sequence[int] | NDArray[np.integer] | None
"""Images to render: None is all of them in order; else any order, with repeats; negative counts from the end."""

MAX_SIDE = 1 << 15
"""Largest output height or width: keeps every pixel coordinate exact in float32 and every index in an int32."""

VARIANCE = (1.0 / 12.0, 1.0 / 12.0, 1e-4)
"""What each antialias mode (in the order of ``ANTIALIAS_MODES``) adds to both diagonal entries of Sigma, in px^2."""

CUTOFF = 2.0**-10
"""epsilon: w = (exp(-q/2) - epsilon) / (1 - epsilon) where positive, else 0."""

Q_MAX = 20.0 * float(np.log(2.0))
"""w > 0 exactly where q < Q_MAX = 2 ln 1024."""


def resolve_size(gaussians: Gaussians, size: Size) -> tuple[int, int]:
    """The output size (H, W) that ``size`` asks for.

    Raises:
        TypeError: ``size`` is neither None, an integer nor a pair of integers.
        ValueError: a side is outside 1 .. ``MAX_SIDE``, which is half of what a file may have.
    """
    if size is None:
        size = gaussians.size
    try:
        if isinstance(size, str | bytes | bool):
            raise TypeError
        height, width = map(operator.index, size if isinstance(size, Iterable) else (size, size))
    except (TypeError, ValueError):
        raise TypeError(f"size must be None, an int or a pair (height, width), found {size!r}") from None
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"size must lie in 1..{MAX_SIDE} pixels, found {(height, width)}")
    return height, width


def resolve_indices(gaussians: Gaussians, indices: Indices) -> NDArray[np.int64]:
    """``indices`` into a batch of B images as a vector of int64 in 0 .. B - 1; errors as ``checked_indices``."""
    return checked_indices(gaussians.num_images, indices)


def checked_indices(count: int, indices: Indices) -> NDArray[np.int64]:
    """``indices`` into ``count`` images as a vector of int64 in 0 .. count - 1.

    Raises:
        TypeError: the indices are not integers.
        ValueError: they are not a vector.
        IndexError: one is outside [-count, count).
    """
    if indices is None:
        return np.arange(count, dtype=np.int64)
    found = np.asarray(indices)
    if found.size == 0 and found.ndim == 1:
        return np.zeros(0, np.int64)
    if found.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, found {found.dtype}")
    if found.ndim != 1:
        raise ValueError(f"indices must be a vector, found shape {found.shape}")
    outside = (found < -count) | (found >= count)
    if outside.any():
        raise IndexError(f"image index {found[outside][0]} is out of range for {count} images")
    found = found.astype(np.int64)
    return np.ascontiguousarray(np.where(found < 0, found + count, found))
