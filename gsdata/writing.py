"""From codes and labels to the bytes of a file (FORMAT.md, "Writing algorithm")."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gsdata import canonical, streams
from gsdata.container import write_container
from gsdata.errors import LimitError
from gsdata.header import Header
from gsdata.quantize import Codes
from gsdata.recipe import Recipe
from gsdata.streams import Labels

CHUNK_IMAGES = 1024
CHUNK_RAW = 1 << 20
LEVEL = 19


def to_bytes(
    codes: Codes,
    *,
    labels: ArrayLike | None = None,
    soft_labels: ArrayLike | None = None,
    classes: Sequence[str] = (),
    class_count: int | None = None,
    recipe: Recipe | None = None,
    provenance: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    chunk_images: int = CHUNK_IMAGES,
    level: int = LEVEL,
    optional_sections: Mapping[str, bytes] | None = None,
) -> bytes:
    """The bytes of a ``.gsd`` file; the same input and zstd version give the same bytes.

    Args:
        codes: B images.
        labels: (B,) class indices, or None.
        soft_labels: (B, K) weights of the classes, each row non-negative with a positive sum; stored as 8-bit codes
            relative to the row's largest weight, dense or sparse, whichever is smaller.
        classes: K different names, or nothing.
        class_count: K where there are no names (default: as many as the labels need).
        recipe: how to train on it.
        provenance: where it came from; plain values only.
        metadata: anything else; plain values only.
        chunk_images: most images of a chunk; a chunk also ends at 1 MiB of raw streams.
        level: zstd level, 1 to 22.
        optional_sections: further sections by name (``vendor.name``), which readers skip and keep.

    Raises:
        ValueError: labels do not fit the images or classes, or a value cannot be stored.
        LimitError: a limit of the format is exceeded.
    """
    if soft_labels is None:
        stored = _hard_labels(labels, codes.num_images, len(classes) or class_count)
        return _assemble(codes, stored, classes, recipe, provenance, metadata, chunk_images, level, optional_sections)
    if labels is not None:
        raise ValueError("give labels or soft_labels, not both")
    weights = quantize_weights(soft_labels)
    if len(weights) != codes.num_images or (classes and len(classes) != weights.shape[1]):
        raise ValueError(
            f"soft_labels must have shape ({codes.num_images}, {len(classes) or 'K'}), found {weights.shape}"
        )
    layouts = [Labels(layout, weights.shape[1], weights=weights) for layout in ("dense", "sparse")]
    files = [
        _assemble(codes, layout, classes, recipe, provenance, metadata, chunk_images, level, optional_sections)
        for layout in layouts
    ]
    return min(files, key=len)


def save(target: str | os.PathLike[str] | IO[bytes], codes: Codes, *, overwrite: bool = True, **options: Any) -> int:
    """Write a ``.gsd`` file atomically; ``options`` are those of ``to_bytes``.

    Args:
        target: a path (written under a temporary name, flushed to disk, renamed) or a binary file object.
        codes: B images.
        overwrite: whether an existing file may be replaced.
        options: see ``to_bytes``.

    Returns:
        Bytes written.

    Raises:
        FileExistsError: the path exists and ``overwrite`` is false.
        ValueError, LimitError: as ``to_bytes``; nothing was written.
    """
    if isinstance(target, (str, os.PathLike)) and not overwrite and Path(target).exists():
        raise FileExistsError(f"{os.fspath(target)} exists")
    data = to_bytes(codes, **options)
    if isinstance(target, (str, os.PathLike)):
        write_atomically(target, data)
    else:
        target.write(data)
    return len(data)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` under ``path`` so that at no time anything but the old or the new file is there."""
    path = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            # mkstemp makes files private; a saved file gets the permissions that any new file would get.
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def quantize_weights(soft_labels: ArrayLike) -> NDArray[np.uint8]:
    """(B, K) uint8 codes of class weights: 255 for the largest of each row.

    Raises:
        ValueError: not a matrix, or a row with a negative, infinite or missing value, or without any weight.
    """
    values = np.asarray(soft_labels, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"soft_labels must have shape (images, classes), found {values.shape}")
    if not np.isfinite(values).all() or (values < 0).any() or (values.max(axis=1, initial=0) <= 0).any():
        raise ValueError("soft_labels must be finite and non-negative, with a positive weight in every row")
    codes: NDArray[np.uint8] = np.rint(values / values.max(axis=1, keepdims=True, initial=0) * 255).astype(np.uint8)
    return codes


def _hard_labels(labels: ArrayLike | None, images: int, class_count: int | None) -> Labels:
    if labels is None:
        return Labels("none", class_count or 0)
    values = np.asarray(labels)
    if values.shape != (images,) or (images and values.dtype.kind not in "iu"):
        raise ValueError(f"labels must be {images} integers, found {values.dtype} {values.shape}")
    values = values.astype(np.int64)
    count = class_count if class_count is not None else int(values.max(initial=0)) + 1
    if images and not 0 <= int(values.min()) <= int(values.max()) < count:
        raise ValueError(f"labels must lie in 0..{count - 1}, found {int(values.min())}..{int(values.max())}")
    return Labels("hard", count, hard=values)


def _assemble(
    codes: Codes,
    labels: Labels,
    classes: Sequence[str],
    recipe: Recipe | None,
    provenance: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None,
    chunk_images: int,
    level: int,
    optional_sections: Mapping[str, bytes] | None,
) -> bytes:
    if codes.num_images and int(codes.counts.max()) > streams.MAX_COUNT:
        raise LimitError(f"an image has {int(codes.counts.max())} Gaussians, the limit is {streams.MAX_COUNT}")
    order = streams.sort_order(codes)
    codes = _reordered(codes, order)
    chunks = _chunk_bounds(codes, chunk_images)
    sections: list[tuple[str, int, bytes]] = []
    entries = []
    for number, (start, end) in enumerate(chunks):
        part = np.arange(start, end)
        raw = streams.encode_codes(codes.select(part)) | streams.encode_labels(labels.select(part))
        entries.append(len(raw.get("label.weights", b"")) if labels.layout == "sparse" else 0)
        sections += [(name, number, data) for name, data in raw.items()]
    extra = dict(sorted((optional_sections or {}).items()))
    known = streams.stream_names(codes.channels, labels.layout)
    clash = set(extra) & set(known)
    if clash:
        raise ValueError(f"an optional section cannot be called {sorted(clash)[0]!r}, which the format uses")
    sections += [(name, 0, data) for name, data in extra.items()]
    header = Header(
        size=codes.size,
        channels=codes.channels,
        antialias=codes.antialias,
        background=codes.background,
        kernel=codes.kernel,
        quantizers=codes.quantizers,
        images=np.array([end - start for start, end in chunks], np.int64),
        gaussians=np.array([int(codes.counts[start:end].sum()) for start, end in chunks], np.int64),
        chunk_quantizers=np.array([np.asarray(codes.quantizer_index)[start] for start, _ in chunks], np.int64),
        label_layout=labels.layout,
        class_count=labels.class_count,
        classes=tuple(classes),
        label_entries=np.array(entries, np.int64),
        streams=(*known, *extra),
        recipe=recipe or Recipe(),
        provenance=dict(provenance or {}),
        metadata=dict(metadata or {}),
    ).to_dict()
    try:
        Header.from_dict(canonical.decode(canonical.encode(header)))  # what is written can be read
    except LimitError:
        raise
    except Exception as error:
        raise ValueError(str(error)) from None
    return write_container(header, sections, level)


def _reordered(codes: Codes, order: NDArray[np.int64]) -> Codes:
    return Codes(
        codes.means[order],
        codes.cholesky[order],
        codes.colors[order],
        codes.counts,
        codes.size,
        codes.quantizers,
        codes.quantizer_index,
        codes.antialias,
        codes.background,
        codes.kernel,
    )


def _chunk_bounds(codes: Codes, chunk_images: int) -> list[tuple[int, int]]:
    """Chunks of whole images: at most ``chunk_images``, at most 1 MiB raw (an image of more is alone), one quantiser set."""
    if chunk_images < 1:
        raise ValueError(f"chunk_images must be at least 1, found {chunk_images}")
    index = np.asarray(codes.quantizer_index)
    cost = [sum(streams.raw_sizes(0, 1, codes.channels, quantizers).values()) for quantizers in codes.quantizers]
    bounds, start, size = [], 0, 0
    for image in range(codes.num_images):
        raw = int(codes.counts[image]) * cost[index[image]] + 2
        full = image - start >= chunk_images or size + raw > CHUNK_RAW or index[image] != index[start]
        if image > start and full:
            bounds.append((start, image))
            start, size = image, 0
        size += raw
    return [*bounds, (start, codes.num_images)] if codes.num_images else []
