"""What is exported: the images of a ``.gsd`` or of a sharded set, rendered a few at a time, so that memory does not grow with their number."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gsdata
from gsdata.kernels.arguments import resolve_size
from gsdata.shards import ShardSet
from gsdata_tools.usage import UsageError

BATCH_VALUES = 1 << 22
"""Pixel values that are rendered at once, at most (but at least one image): 16 MiB of float32."""


@dataclass(frozen=True)
class Batch:
    """Images in the order of the set.

    Attributes:
        start: number of the first one.
        pixels: (n, C, H, W), uint8, or float32, limited to [0, 1] where the recipe says so.
        labels: (n,) int64, -1 where there are none.
        soft: (n, K) float32, or None.
    """

    start: int
    pixels: NDArray[Any]
    labels: NDArray[np.int64]
    soft: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class ImageStream:
    """A set of images to be read once or more, from first to last.

    Attributes:
        name: for messages.
        files: gives the files that hold it, in order; more than one if it is in shards.
        size: (H, W) that it is rendered at.
        channels: 1 to 4.
        classes: K names; "0", "1", ... where classes have none; () without labels.
        label_kind: ``none``, ``hard`` or ``soft``.
        labels: (N,) int64; the largest weight's class of a soft label, -1 without labels.
        recipe, provenance: of the first file.
        identity: what says which content this is, for ``export.json``.
    """

    name: str
    files: Callable[[], Iterable[gsdata.GsdFile]]
    size: tuple[int, int]
    channels: int
    classes: tuple[str, ...]
    label_kind: str
    labels: NDArray[np.int64]
    recipe: gsdata.Recipe
    provenance: dict[str, Any]
    identity: dict[str, Any]

    def __len__(self) -> int:
        return len(self.labels)

    def soft_labels(self) -> NDArray[np.float32] | None:
        """(N, K) float32, or None unless the labels are soft."""
        return np.concatenate([file.soft_labels for file in self.files()]) if self.label_kind == "soft" else None

    def batches(self, dtype: str = "uint8") -> Iterator[Batch]:
        """All images, each chunk decoded once. ``dtype`` is ``uint8`` or ``float32``."""
        most = max(1, BATCH_VALUES // (self.channels * self.size[0] * self.size[1]))
        done = 0
        for file in self.files():
            bounds = np.concatenate([[0], np.cumsum(file.header.images)]).tolist()
            for first, last in itertools.pairwise(bounds):
                gaussians = file.gaussians(np.arange(first, last))
                for start in range(first, last, most):
                    stop = min(start + most, last)
                    chosen = np.arange(start - first, stop - first)
                    pixels = np.asarray(gsdata.render(gaussians, self.size, chosen, dtype=dtype))
                    if dtype == "float32" and file.recipe.clamp:
                        pixels = pixels.clip(0, 1)
                    soft = None if file.soft_labels is None else file.soft_labels[start:stop]
                    yield Batch(done + start, pixels, file.labels[start:stop], soft)
            done += len(file)


def stream_of(file: gsdata.GsdFile, size: int | tuple[int, int] | None) -> ImageStream:
    """The images of an opened file.

    Raises:
        UsageError: there is none, or the size is too large.
    """
    return _stream(file, size, lambda: (file,), file.labels, {"file": file.path, "sha256": file.sha256})


@contextmanager
def open_stream(path: Path, size: int | tuple[int, int] | None) -> Iterator[ImageStream]:
    """Open a ``.gsd`` file, or a sharded set: a folder of shards, one of them, or a pattern.

    Raises:
        UsageError: there is no such file, no image in it, or the size is too large.
        GsdError: a file is damaged, or shards are missing.
    """
    if path.is_dir() or path.suffix == ".tar":
        shards = ShardSet(path)
        labels, digest = [np.zeros(0, np.int64)], hashlib.sha256()
        for file in shards.files():
            labels.append(file.labels)
            digest.update(bytes.fromhex(file.sha256))
        identity = {"file": str(path), "groups": len(shards.groups), "groups_sha256": digest.hexdigest()}
        yield _stream(shards.first, size, shards.files, np.concatenate(labels), identity, str(path))
        return
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    with gsdata.open(path) as file:
        yield stream_of(file, size)


def _stream(
    first: gsdata.GsdFile,
    size: int | tuple[int, int] | None,
    files: Callable[[], Iterable[gsdata.GsdFile]],
    labels: NDArray[np.int64],
    identity: dict[str, Any],
    name: str | None = None,
) -> ImageStream:
    """A stream of files that are all like the first one."""
    name = name or first.path
    if len(labels) == 0:
        raise UsageError(f"{name}: it has no images to export")
    try:
        sides = resolve_size(first.gaussians([]), size)
    except ValueError as error:
        raise UsageError(f"{name}: {error}; --size S renders it at another one") from None
    names = first.classes or tuple(map(str, range(first.class_count)))
    return ImageStream(
        name=name,
        files=files,
        size=sides,
        channels=first.channels,
        classes=() if first.label_kind == "none" else names,
        label_kind=first.label_kind,
        labels=labels,
        recipe=first.recipe,
        provenance=first.provenance,
        identity=identity,
    )
