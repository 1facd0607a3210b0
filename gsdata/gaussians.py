"""``Gaussians``: a ragged batch of images, each a sum of 2D Gaussians, as floating-point values.

This is the noun between the quantiser and the renderer. Conventions (FORMAT.md, "Rendering", is normative):

* ``means`` are (x, y) in [-1, 1]; the interval ends are image *edges*, y points down.
* ``cholesky`` is (l11, l21, l22) of L = [[l11, 0], [l21, l22]], Sigma = L L^T, in pixels of the reference size.
* ``colors`` are any real numbers; in files the opacity is folded into them, since only the product counts in a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Antialias: TypeAlias = Literal["box-normalized", "box", "none"]
ANTIALIAS_MODES: tuple[Antialias, ...] = ("box-normalized", "box", "none")
"""Registered antialias modes, in the order of their numeric ids in the kernels."""

KERNEL = "gaussian-compact-10"
"""The only registered kernel: w = (exp(-q/2) - 2^-10) / (1 - 2^-10) where positive, else 0."""

Array: TypeAlias = Any
"""A NumPy array or a torch tensor; torch is never imported to find out which."""


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A ragged batch of B images with G Gaussians in all; image b owns rows offsets[b]:offsets[b+1].

    Attributes:
        means: (G, 2) float, x and y in [-1, 1] (values outside are allowed; they lie off the image).
        cholesky: (G, 3) float, l11 > 0, l21, l22 > 0 in pixels of ``size``.
        colors: (G, C) float, C from 1 to 4.
        counts: (B,) int64 NumPy array (also when the values are torch tensors: structure stays on the host).
        size: reference size (H0, W0) in pixels.
        opacities: (G, 1) float, or None; only while training. ``fold`` multiplies them into the colours.
        antialias: one of ``ANTIALIAS_MODES``.
        background: C floats that every pixel starts from; () means zeros.
        kernel: name of the weight function; ``KERNEL`` is the only one.
    """

    means: Array
    cholesky: Array
    colors: Array
    counts: NDArray[np.int64]
    size: tuple[int, int]
    opacities: Array | None = None
    antialias: Antialias = "box-normalized"
    background: tuple[float, ...] = ()
    kernel: str = KERNEL

    def __post_init__(self) -> None:
        counts = np.asarray(self.counts)
        if counts.ndim != 1 or (counts.size and (counts.dtype.kind not in "iu" or int(counts.min()) < 0)):
            raise ValueError(f"counts must be a vector of non-negative integers, found {counts.dtype} {counts.shape}")
        counts = np.ascontiguousarray(counts, dtype=np.int64)
        object.__setattr__(self, "counts", counts)
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        total = int(counts.sum())
        channels = int(self.colors.shape[1]) if len(self.colors.shape) == 2 else 0
        shapes = {"means": (total, 2), "cholesky": (total, 3), "colors": (total, channels), "opacities": (total, 1)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {shape} (counts sum to {total}), found {tuple(value.shape)}")
        if not 1 <= channels <= 4:
            raise ValueError(f"colors must have 1 to 4 columns, found {channels}")
        if min(self.size) < 1:
            raise ValueError(f"size must be positive, found {self.size}")
        if self.antialias not in ANTIALIAS_MODES:
            raise ValueError(f"antialias must be one of {ANTIALIAS_MODES}, found {self.antialias!r}")
        if self.kernel != KERNEL:
            raise ValueError(f"kernel must be {KERNEL!r}, found {self.kernel!r}")
        background = tuple(float(v) for v in self.background) or (0.0,) * channels
        if len(background) != channels:
            raise ValueError(f"background must have {channels} values, found {len(background)}")
        object.__setattr__(self, "background", background)

    @property
    def num_images(self) -> int:
        """B, the number of images."""
        return len(self.counts)

    @property
    def num_gaussians(self) -> int:
        """G, the number of Gaussians of all images together."""
        return int(self.means.shape[0])

    @property
    def channels(self) -> int:
        """C, the number of colour channels (1 to 4)."""
        return int(self.colors.shape[1])

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(B + 1,) int64: image b owns rows offsets[b]:offsets[b + 1] of every attribute."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])

    def fold(self) -> Gaussians:
        """The same picture without ``opacities``: they are multiplied into the colours."""
        if self.opacities is None:
            return self
        return replace(self, colors=self.colors * self.opacities, opacities=None)

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Gaussians:
        """The images at ``indices`` (any order, repeats allowed), as a new batch.

        Raises:
            IndexError: an index is outside [-B, B).
        """
        rows: Array = self.rows(indices)
        if not isinstance(self.means, np.ndarray):
            import torch

            rows = torch.from_numpy(rows).to(self.means.device)
        values: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[rows]
            for name in ("means", "cholesky", "colors", "opacities")
        }
        return replace(self, counts=self.counts[np.asarray(indices, dtype=np.int64)], **values)

    def rows(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers of the Gaussians of the images at ``indices``, image after image."""
        return ragged_rows(self.counts, np.asarray(indices, dtype=np.int64))

    def numpy(self) -> Gaussians:
        """The same batch as NumPy arrays (detached, on the host); itself if it already is."""
        if isinstance(self.means, np.ndarray):
            return self
        values: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name).detach().cpu().numpy()
            for name in ("means", "cholesky", "colors", "opacities")
        }
        return replace(self, **values)

    def torch(self, device: str | torch.device | None = None) -> Gaussians:
        """The same batch as torch tensors on ``device`` (default: where they are, else the CPU)."""
        import torch

        def move(value: Array | None) -> Array | None:
            return None if value is None else torch.as_tensor(value, device=device)

        return replace(
            self,
            means=move(self.means),
            cholesky=move(self.cholesky),
            colors=move(self.colors),
            opacities=move(self.opacities),
        )


def ragged_rows(counts: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row numbers that the items at ``indices`` own in a ragged batch with ``counts`` rows per item.

    Raises:
        IndexError: an index is outside [-len(counts), len(counts)).
    """
    taken = counts[indices]
    starts = (np.cumsum(counts) - counts)[indices]
    ends = np.cumsum(taken)
    rows: NDArray[np.int64] = np.arange(int(taken.sum()), dtype=np.int64)
    rows += np.repeat(starts - (ends - taken), taken)
    return rows
