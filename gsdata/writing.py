"""From codes and labels to the bytes of a file (FORMAT.md, "Writing algorithm")."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gsdata import canonical, rans, streams
from gsdata.atomic import write_atomically
from gsdata.container import write_container
from gsdata.errors import FormatError, LimitError
from gsdata.header import MAX_CHUNK_IMAGES, RESERVED_MAKERS, Header
from gsdata.quantize import Codes
from gsdata.recipe import Recipe
from gsdata.streams import LabelLayout, Labels

CHUNK_IMAGES = 1024
CHUNK_RAW = 1 << 20
LEVEL = 19
_LEAST_CODED = 16  # bytes of a section: a model and states take about as much
_SOFT_LAYOUTS: tuple[LabelLayout, LabelLayout] = ("dense", "sparse")


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
            relative to the row's largest weight, dense or sparse, whichever takes fewer bytes before compression.
        classes: K different names, or nothing.
        class_count: K where there are no names (default: as many as the labels need).
        recipe: how to train on it.
        provenance: where it came from; plain values only.
        metadata: anything else; plain values only.
        chunk_images: most images of a chunk, 1 to 65,536; a chunk also ends at 1 MiB of raw streams.
        level: zstd level, 1 to 22; 0 stores everything as it is.
        optional_sections: further sections by name (``vendor.name``), which readers skip; ``gsd``,
            ``counts``, ``labels``, ``label`` and ``gaussians`` are no vendors.

    Raises:
        ValueError: labels do not fit the images or classes, or a value cannot be stored.
        LimitError: a limit of the format is exceeded.
    """
    return assemble(
        codes,
        _as_stored(labels, soft_labels, codes.num_images, len(classes) or None, class_count),
        classes=classes,
        recipe=recipe,
        provenance=provenance,
        metadata=metadata,
        chunk_images=chunk_images,
        level=level,
        optional_sections=optional_sections,
    )


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


def soft_labels_of(weights: NDArray[np.uint8]) -> Labels:
    """Soft labels in the layout that takes fewer bytes before compression (so that no zstd version decides)."""
    entries = int(np.count_nonzero(weights))
    dense, sparse = (
        sum(part.raw_size for part in streams.label_layouts(layout, weights.shape[1], len(weights), entries).values())
        for layout in _SOFT_LAYOUTS
    )
    return Labels(_SOFT_LAYOUTS[sparse < dense], weights.shape[1], weights=weights)


def _as_stored(
    labels: ArrayLike | None, soft_labels: ArrayLike | None, images: int, names: int | None, class_count: int | None
) -> Labels:
    if names is not None and class_count not in (None, names):
        raise ValueError(f"class_count is {class_count}, but there are {names} class names")
    count = class_count if names is None else names
    if soft_labels is not None:
        if labels is not None:
            raise ValueError("give labels or soft_labels, not both")
        weights = quantize_weights(soft_labels)
        if len(weights) != images or count not in (None, weights.shape[1]):
            raise ValueError(f"soft_labels must have shape ({images}, {count or 'K'}), found {weights.shape}")
        return soft_labels_of(weights)
    if labels is None:
        return Labels("none", count or 0)
    values = np.asarray(labels)
    if values.shape != (images,) or (images and values.dtype.kind not in "iu"):
        raise ValueError(f"labels must be {images} integers, found {values.dtype} {values.shape}")
    values = values.astype(np.int64)
    if count is None:
        count = int(values.max(initial=0)) + 1
    if images and not 0 <= int(values.min()) <= int(values.max()) < count:
        raise ValueError(f"labels must lie in 0..{count - 1}, found {int(values.min())}..{int(values.max())}")
    return Labels("hard", count, hard=values)


def assemble(
    codes: Codes,
    labels: Labels,
    *,
    classes: Sequence[str] = (),
    recipe: Recipe | None = None,
    provenance: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    chunk_images: int = CHUNK_IMAGES,
    level: int = LEVEL,
    optional_sections: Mapping[str, bytes] | None = None,
) -> bytes:
    """``to_bytes`` for labels as they are stored."""
    if codes.num_images and int(codes.counts.max()) > streams.MAX_COUNT:
        raise LimitError(f"an image has {int(codes.counts.max())} Gaussians, the limit is {streams.MAX_COUNT}")
    codes = _canonical(codes)
    chunks = _chunk_bounds(codes, chunk_images, labels.class_count if labels.weights is not None else 0)
    sections: list[tuple[str, int, bytes]] = []
    coded = {}
    entries = []
    for number, (start, end) in enumerate(chunks):
        part = np.arange(start, end)
        raw = streams.encode_codes(codes.select(part)) | streams.encode_labels(labels.select(part))
        entries.append(len(raw.get("label.weights", b"")) if labels.layout == "sparse" else 0)
        quantizers = codes.quantizers[int(np.asarray(codes.quantizer_index)[start])]
        gaussians = int(codes.counts[start:end].sum())
        layouts = streams.layouts(
            labels.layout, labels.class_count, end - start, entries[-1], gaussians, codes.channels, quantizers
        )
        for name, data in raw.items():
            sections.append((name, number, data))
            if level and len(data) >= _LEAST_CODED:
                coded[name, number] = rans.encode(data, layouts[name], streams.CONTEXTS)
    extra = dict(sorted((optional_sections or {}).items()))
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
        sections=(*streams.section_names(labels.layout), *extra),
        recipe=recipe or Recipe(),
        provenance=dict(provenance or {}),
        metadata=dict(metadata or {}),
    ).to_dict()
    try:
        Header.from_dict(canonical.decode(canonical.encode(header)))  # what is written can be read
    except LimitError:
        raise
    except FormatError as error:
        raise ValueError(str(error)) from None
    if reserved := [name for name in extra if name.split(".")[0] in RESERVED_MAKERS]:
        raise ValueError(
            f"optional section {reserved[0]!r}: such names are the format's; begin with a name of your own"
        )
    sections += [(name, 0, data) for name, data in extra.items()]
    return write_container(header, sections, level, coded)


def _canonical(codes: Codes) -> Codes:
    """Gaussians in canonical order; quantiser sets that are in use, in order of their first image."""
    order = streams.sort_order(codes)
    index = np.asarray(codes.quantizer_index)
    used = tuple(dict.fromkeys(codes.quantizers[i] for i in index.tolist() or [0]))
    number = np.array([used.index(q) if q in used else -1 for q in codes.quantizers], np.int64)
    return replace(
        codes,
        means=codes.means[order],
        cholesky=codes.cholesky[order],
        colors=codes.colors[order],
        quantizers=used,
        quantizer_index=number[index],
    )


def _chunk_bounds(codes: Codes, chunk_images: int, soft_classes: int) -> list[tuple[int, int]]:
    """Chunks of whole images: at most ``chunk_images``, at most 1 MiB raw (an image of more is alone), one quantiser set."""
    if not 1 <= chunk_images <= MAX_CHUNK_IMAGES:
        raise ValueError(f"chunk_images must lie in 1..{MAX_CHUNK_IMAGES}, found {chunk_images}")
    index = np.asarray(codes.quantizer_index)
    cost = [streams.gaussian_layout(1, codes.channels, quantizers).raw_size for quantizers in codes.quantizers]
    bounds, start, size = [], 0, 0
    for image in range(codes.num_images):
        raw = int(codes.counts[image]) * cost[index[image]] + 2 + soft_classes
        full = image - start >= chunk_images or size + raw > CHUNK_RAW or index[image] != index[start]
        if image > start and full:
            bounds.append((start, image))
            start, size = image, 0
        size += raw
    return [*bounds, (start, codes.num_images)] if codes.num_images else []
