"""ZCA whitening, through which the reference method's networks see CIFAR images; fitted to real images, stored in no file.

A. J. Bell and T. J. Sejnowski, "The 'independent components' of natural scenes are edge filters", Vision Research 37, 1997, with
the epsilon that papers on dataset distillation add to the variances. kornia's ``ZCAWhitening`` is the same transform; this one
takes bytes part by part, so that 50,000 images need no float copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata_tools.usage import UsageError

EPSILON = 0.1
"""The published one, for values between 0 and 1."""
MOST_VALUES = 4096
"""Values of an image, at most: the matrix has the square of that, and its eigenvectors take the cube."""
_PART = 2000


@dataclass(frozen=True, eq=False)
class Whitening:
    """y = (x - mean) T for each image x as one row of values.

    Attributes:
        mean: (D,) float32, D = C * H * W.
        matrix: (D, D) float32, symmetric: U (S + epsilon)^(-1/2) U' of the covariance U S U'.
        shape: (C, H, W).
        epsilon: added to each variance.
    """

    mean: torch.Tensor
    matrix: torch.Tensor
    shape: tuple[int, int, int]
    epsilon: float

    @classmethod
    def fit(cls, images: NDArray[np.uint8], epsilon: float = EPSILON) -> Whitening:
        """The whitening of a set of (N, H, W, C) bytes, N at least 2, seen as values between 0 and 1.

        Raises:
            UsageError: an image has more values than ``MOST_VALUES``.
        """
        count, height, width, channels = images.shape
        values = height * width * channels
        if values > MOST_VALUES:
            raise UsageError(
                f"ZCA whitening of {height}x{width} images: at most {MOST_VALUES:,} values each, not {values:,}"
            )
        parts = [images[start : start + _PART].transpose(0, 3, 1, 2) for start in range(0, count, _PART)]
        total = sum((part.reshape(len(part), -1).sum(axis=0, dtype=np.float64) for part in parts), np.zeros(values))
        mean = torch.from_numpy(total / (255.0 * count))
        covariance = torch.zeros(values, values, dtype=torch.float64)
        for part in parts:
            x = torch.from_numpy(part.reshape(len(part), -1).astype(np.float32)) / 255.0 - mean.float()
            covariance += x.T @ x
        variances, axes = torch.linalg.eigh(covariance / (count - 1))
        matrix = (axes * (variances.clamp_min(0.0) + epsilon).rsqrt()) @ axes.T
        return cls(mean.float(), matrix.float(), (channels, height, width), epsilon)

    def apply(self, images: torch.Tensor) -> torch.Tensor:
        """Whitened (B, C, H, W) images of the size that was fitted; differentiable."""
        flat = images.contiguous().flatten(1) - self.mean.to(images)
        return (flat @ self.matrix.to(images)).view(-1, *self.shape)

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {"zca": {"epsilon": self.epsilon}}


def epsilon_of(recipe: Mapping[str, Any]) -> float:
    """The epsilon that a file's ``zca`` recipe names, else the published one.

    Raises:
        UsageError: it is no positive number.
    """
    epsilon = recipe.get("epsilon", EPSILON)
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0.0 < epsilon < float("inf"):
        raise UsageError(f"the file's recipe has a ZCA epsilon of {epsilon!r:.40}: expected a positive number")
    return float(epsilon)
