"""Work on many images in blocks: what is saved together, and how running kernels are told to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK_PIXELS = 128 * 32 * 32


class Store(Protocol):
    """Where finished blocks go; ``gsdata_tools.checkpoints.Checkpoint`` is one."""

    def names(self) -> list[str]: ...  # noqa: D102
    def save(self, name: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None) -> None: ...  # noqa: D102
    def load(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]: ...  # noqa: D102


Progress = Callable[[int, float], None]
"""Called after each block with the images done and their mean PSNR in dB so far."""


def as_target(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W, C) uint8 as (C, H, W) float32 in [0, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def blocks_of(images: NDArray[np.uint8]) -> list[range]:
    """Ranges of images that are computed and saved together: 128 at 32x32, fewer where images are larger."""
    size = min(128, max(4, BLOCK_PIXELS // (images.shape[1] * images.shape[2])))
    return [range(first, min(first + size, len(images))) for first in range(0, len(images), size)]


class stopping:  # noqa: N801
    """Makes running kernels return soon when the block is left by an exception such as Ctrl-C."""

    def __init__(self, stop: NDArray[np.uint8]) -> None:
        self._stop = stop

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._stop[0] = 1
