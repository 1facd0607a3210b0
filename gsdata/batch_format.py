"""``BatchFormat``: what a batch of rendered images looks like, and how it is brought to look so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata.kernels.threads import num_threads, parallel

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.uint8)
LAYOUTS = (torch.contiguous_format, torch.channels_last)

_PIECE = 1 << 18
"""Pixels' values that one thread finishes at a time: they stay in its cache."""

_SERIAL = 32767
"""Most elements that torch handles without waking its own threads, which fight those of a training step."""


@dataclass(frozen=True)
class BatchFormat:
    """What a batch looks like.

    Attributes:
        size: (H, W) in pixels.
        dtype: float32, float16, bfloat16 (float32 rounded once) or uint8 (clamped to [0, 1], times 255, rounded half to even).
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``; the shape is (n, C, H, W) in both.
        mean, std: one number per channel, images are (image - mean) / std; None leaves them as they are.
        clamp: limit floats to [0, 1] before that.

    Raises:
        ValueError: another type or layout, or ``mean`` with uint8.
    """

    size: tuple[int, int]
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    clamp: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(str, DTYPES))}, found {self.dtype!r}")
        if self.memory_format not in LAYOUTS:
            raise ValueError(f"memory_format must be one of {', '.join(map(str, LAYOUTS))}, found {self.memory_format}")
        if self.dtype == torch.uint8 and self.mean is not None:
            raise ValueError(
                "normalize=True needs a floating-point dtype, found torch.uint8, whose pixels are 0 to 255"
            )

    def finish(self, images: torch.Tensor) -> torch.Tensor:
        """Images of the renderer, float32 or already uint8, in this format; may write into them."""
        if images.dtype != torch.uint8:
            if self.clamp:
                images.clamp_(0, 1)
            if self.mean is not None:
                images.sub_(images.new_tensor(self.mean)[:, None, None])
                images.div_(images.new_tensor(self.std)[:, None, None])
        return images.to(dtype=self.dtype, memory_format=self.memory_format)

    def finish_on_cpu(self, images: NDArray[Any]) -> torch.Tensor:
        """The same of NumPy images, to the bit, on the threads of the renderer."""
        plain = self.dtype in (torch.float32, torch.uint8) and self.memory_format == torch.contiguous_format
        mean, std = (None if v is None else np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        result = torch.from_numpy(images)
        if not plain:
            result = torch.empty(images.shape, dtype=self.dtype, memory_format=self.memory_format)
        elif mean is None and not self.clamp:
            return result

        def piece(part: slice) -> None:
            values = images[part]
            if values.dtype != np.uint8:
                if self.clamp:
                    np.clip(values, 0, 1, out=values)
                if mean is not None and std is not None:
                    values -= mean
                    values /= std
            if not plain:
                if self.memory_format == torch.channels_last:
                    values = np.ascontiguousarray(values.transpose(0, 2, 3, 1))
                    target = result[part].permute(0, 2, 3, 1)
                else:
                    target = result[part]
                wanted, found = target.flatten(), torch.from_numpy(values).flatten()
                for first in range(0, len(found), _SERIAL):
                    wanted[first : first + _SERIAL] = found[first : first + _SERIAL]

        step = max(1, _PIECE // max(1, images[:1].size))
        parts = [slice(first, first + step) for first in range(0, len(images), step)]
        parallel(piece, parts, num_threads())
        return result
