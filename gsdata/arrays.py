"""``to_numpy``: a whole set as two NumPy arrays, for everything that is not PyTorch. Needs no PyTorch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gsdata.file import GsdFile
from gsdata.file import open as open_gsd
from gsdata.gaussians import Gaussians
from gsdata.kernels.arguments import Size, resolve_indices, resolve_size
from gsdata.rendering import render

if TYPE_CHECKING:
    from gsdata.dataset import GaussianDataset

Source: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | GsdFile | Gaussians | GaussianDataset"

_DECODED = 2048  # images whose Gaussians are taken from a file at a time
_BATCH_VALUES = 1 << 22  # pixel values that are rendered at a time


def to_numpy(
    source: Source,
    *,
    size: Size = None,
    indices: Sequence[int] | NDArray[np.integer] | None = None,
    dtype: Literal["uint8", "float32"] = "uint8",
    layout: Literal["NHWC", "NCHW"] = "NHWC",
    labels: Literal["hard", "soft"] = "hard",
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images and labels as NumPy arrays, C-contiguous and owned by the caller.

    Both arrays can be handed on without a copy by DLPack: ``jax.dlpack.from_dlpack(images)``, ``torch.from_dlpack(images)``.

    Args:
        source: a path, bytes, a binary file object, an opened ``GsdFile``, a ``GaussianDataset`` (its file and its size; transforms and
            normalisation are not applied), or ``Gaussians`` (NumPy arrays or torch tensors).
        size: output size in pixels: None is the reference size (of a ``GaussianDataset`` its own), S is (S, S), else (H, W).
        indices: images to take, in any order, with repeats; negative ones count from the end; None is all.
        dtype: ``uint8``: 0 to 255. ``float32``: 0 black, 1 white, not clamped.
        layout: order of the axes of the images.
        labels: ``hard``: int64; the class of the largest weight where the file holds soft labels, -1 where there are none.
            ``soft``: float32 rows that sum to 1; one-hot where the file holds hard labels.

    Returns:
        Images, (N, H, W, C) or (N, C, H, W), and labels, (N,) int64 or (N, K) float32.

    Raises:
        OSError: the path cannot be read.
        GsdError: the file is damaged, or is no ``.gsd`` file.
        ValueError: an unknown ``dtype``, ``layout`` or ``labels``; a bad size; ``labels="soft"`` where there are no labels.
        IndexError: an index is out of range.
    """
    for name, value, allowed in (
        ("dtype", dtype, ("uint8", "float32")),
        ("layout", layout, ("NHWC", "NCHW")),
        ("labels", labels, ("hard", "soft")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be {' or '.join(allowed)}, found {value!r}")
    if isinstance(source, Gaussians):
        if labels == "soft":
            raise ValueError("labels='soft' needs labels, and Gaussians have none")
        gaussians = source.numpy()
        chosen = resolve_indices(gaussians, indices)
        return _images(gaussians, chosen, resolve_size(gaussians, size), dtype, layout), np.full(len(chosen), -1)
    with ExitStack() as opened:
        file: Any = source
        resident, own = None, None
        if isinstance(getattr(source, "file", None), GsdFile):  # a data set; naming its class would load PyTorch
            file, resident, own = file.file, file._resident, file.size
        elif not isinstance(source, GsdFile):
            file = opened.enter_context(open_gsd(file))
        empty = file.gaussians([])
        sides = resolve_size(empty, own if size is None else size)
        chosen = _resolved(file, indices)
        targets = _labels(file, chosen, labels)
        return _images(file if resident is None else resident, chosen, sides, dtype, layout), targets


def _resolved(file: GsdFile, indices: Sequence[int] | NDArray[np.integer] | None) -> NDArray[np.int64]:
    if indices is None:
        return np.arange(file.images)
    found = np.asarray(indices).reshape(-1)
    if len(found) and found.dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, found {found.dtype}")
    outside = (found < -file.images) | (found >= file.images)
    if outside.any():
        raise IndexError(f"image index {found[outside][0]} is out of range for {file.images} images")
    return np.where(found < 0, found + file.images, found).astype(np.int64)


def _labels(file: GsdFile, chosen: NDArray[np.int64], kind: str) -> NDArray[Any]:
    if kind == "hard":
        return file.labels[chosen]
    if file.label_kind == "none":
        raise ValueError(f"{file.path}: labels='soft' needs labels, and this file has none")
    if file.soft_labels is not None:
        return file.soft_labels[chosen]
    return np.eye(file.class_count, dtype=np.float32)[file.labels[chosen]]


def _images(
    source: GsdFile | Gaussians, chosen: NDArray[np.int64], size: tuple[int, int], dtype: str, layout: str
) -> NDArray[Any]:
    """The chosen images, a few at a time, so that nothing but the result is large."""
    height, width = size
    last = layout == "NHWC"
    channels = source.channels
    images = np.empty((len(chosen), *((height, width, channels) if last else (channels, height, width))), dtype)
    batch = max(1, _BATCH_VALUES // (height * width * channels))
    for start in range(0, len(chosen), _DECODED):
        part = chosen[start : start + _DECODED]
        gaussians, numbers = source, part
        if isinstance(gaussians, GsdFile):
            gaussians, numbers = gaussians.gaussians(part), np.arange(len(part))
        for first in range(0, len(part), batch):
            rendered = render(gaussians, size, numbers[first : first + batch], dtype=dtype)
            stop = start + first + len(rendered)
            images[start + first : stop] = rendered.transpose(0, 2, 3, 1) if last else rendered
    return images
