"""The real images of a distillation, normalised and drawn class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata_tools.draws import rng
from gsdata_tools.whitening import Whitening


class RealData:
    """Real images on the host, drawn class by class; pixel values become (value / 255 - mean) / std, or are whitened."""

    whitening: Whitening | None = None

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> None:
        self.images = images
        self.device = device
        self.members = [np.flatnonzero(labels == c) for c in range(classes)]
        self.mean = torch.tensor(mean, dtype=torch.float32, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32, device=device).view(1, -1, 1, 1)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """(x - mean) / std of (B, C, H, W) images in [0, 1], or the images whitened."""
        return (images - self.mean) / self.std if self.whitening is None else self.whitening.apply(images)

    def whiten(self, whitening: Whitening) -> None:
        """Whiten from here on, instead of taking mean and std."""
        mean, matrix = whitening.mean.to(self.device), whitening.matrix.to(self.device)
        self.whitening = replace(whitening, mean=mean, matrix=matrix)

    def take(self, indices: NDArray[np.int64]) -> torch.Tensor:
        """Normalised (len(indices), C, H, W) float32 images."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.images[indices].transpose(0, 3, 1, 2)))
        return self.normalize(pixels.to(self.device, torch.float32) / 255.0)

    def draw(self, count: int, seed: int, iteration: int, label: int) -> torch.Tensor:
        """``count`` different images of a class (all of them where it has fewer)."""
        members = self.members[label]
        draws = rng(seed, "dm-real", iteration, label)
        return self.take(members[draws.permutation(len(members))[:count]])
