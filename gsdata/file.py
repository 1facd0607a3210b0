"""``GsdFile``: an opened ``.gsd`` file. ``gsdata.open`` checks its structure, ``verify`` checks everything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gsdata import atomic, streams
from gsdata.budget import Budget
from gsdata.byte_source import FileSource, MemorySource
from gsdata.chunks import Chunks
from gsdata.container import (
    PREAMBLE_SIZE,
    SECTION,
    VERSION,
    Container,
    Section,
    read_container,
)
from gsdata.errors import FormatError, GsdError
from gsdata.gaussians import Gaussians
from gsdata.header import Header
from gsdata.quantize import Codes, concatenate
from gsdata.rates import StreamRate, stream_rates
from gsdata.recipe import Recipe, agreed
from gsdata.streams import Labels
from gsdata.writing import assemble, save, soft_labels_of, to_bytes

__all__ = ["GsdFile", "merge", "open", "save", "to_bytes"]


class GsdFile:
    """An opened file. Codes are decoded chunk by chunk when asked for; nothing is decoded at opening.

    Safe to pickle, to share among threads and to use in forked workers. A context manager; closing it is optional.

    Attributes:
        path: where it was opened from, or ``<bytes>``.
        header: what the file says of itself.
        format_version: (major, minor).
    """

    def __init__(self, container: Container) -> None:
        """Check that header and section table agree; use ``gsdata.open`` instead.

        Raises:
            GsdError: they do not.
        """
        self._container = container
        self.path = container.source.name
        self.format_version = container.version
        try:
            self.header = Header.from_dict(container.header, newer=container.version > VERSION)
        except GsdError as error:
            raise type(error)(f"{self.path}: {error} (header at offset {PREAMBLE_SIZE})") from None
        self._chunks = Chunks(container, self.header)

    # --- what the file holds -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.images

    @property
    def images(self) -> int:
        """B, the number of images."""
        return int(self.header.images.sum())

    @property
    def gaussian_count(self) -> int:
        """G, the number of Gaussians of all images together."""
        return int(self.header.gaussians.sum())

    @property
    def channels(self) -> int:
        """C, 1 to 4."""
        return self.header.channels

    @property
    def size(self) -> tuple[int, int]:
        """Reference size (H0, W0) in pixels."""
        return self.header.size

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; () where the file has none."""
        return self.header.classes

    @property
    def class_count(self) -> int:
        """K, also where classes have no names; 0 without labels."""
        return self.header.class_count

    @property
    def recipe(self) -> Recipe:
        """How to train on it."""
        return self.header.recipe

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it came from."""
        return dict(self.header.provenance)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the user added."""
        return dict(self.header.metadata)

    @property
    def label_kind(self) -> str:
        """``none``, ``hard`` or ``soft``."""
        return {"dense": "soft", "sparse": "soft"}.get(self.header.label_layout, self.header.label_layout)

    @property
    def sections(self) -> tuple[Section, ...]:
        """The section table: name, chunk, codec, stored and raw size, checksum, offset."""
        return self._container.sections

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(B,) int64: Gaussians of each image."""
        parts = self._chunks.counts()
        return np.concatenate([*parts, np.zeros(0, np.int64)])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(B,) int64: class of each image; the largest weight's of a soft label; -1 where there are no labels."""
        if self.label_kind != "soft":
            return np.full(self.images, -1, np.int64) if self._labels.hard is None else self._labels.hard
        # Chunk by chunk: all weights may be a thousand times as large as the file.
        rows = [part.weights.argmax(axis=1) for part in self._chunks.labels_by_chunk() if part.weights is not None]
        return np.concatenate([*rows, np.zeros(0, np.int64)])

    @cached_property
    def soft_labels(self) -> NDArray[np.float32] | None:
        """(B, K) float32, each row a distribution (weights divided by their sum); None unless the labels are soft."""
        weights = self._labels.weights
        if weights is None:
            return None
        return np.asarray(weights / weights.sum(axis=1, keepdims=True, dtype=np.float64), np.float32)

    def codes(self, indices: Sequence[int] | NDArray[np.int64] | None = None) -> Codes:
        """The integer codes of the images at ``indices`` (any order, repeats allowed; None: all), decoding only their chunks.

        Raises:
            GsdError: stored bytes are damaged or hold codes out of range.
            IndexError: an index is outside [-B, B).
        """
        if indices is None:
            return self._chunks.codes(range(len(self._chunks)), self.counts)
        wanted = self._resolve(indices)
        starts = self._chunks.starts
        chunk_of = np.searchsorted(starts, wanted, side="right") - 1
        chunks = np.unique(chunk_of)
        lengths = self.header.images[chunks]
        local_starts = np.cumsum(lengths) - lengths
        place = np.searchsorted(chunks, chunk_of)
        whole = self._chunks.codes(chunks, self.counts)
        return whole.select(local_starts[place] + wanted - starts[chunk_of])

    def gaussians(self, indices: Sequence[int] | NDArray[np.int64] | None = None) -> Gaussians:
        """The same as float32 NumPy values."""
        return self.codes(indices).dequantize()

    # --- its bytes -----------------------------------------------------------------------------------------------

    def byte_table(self) -> Budget:
        """Where the bytes go; the parts add up to the size of the file."""
        table = self._container.table
        stored = np.bincount(table["name"], table["stored"].astype(np.float64), len(self.header.sections)).astype(int)
        labels = [i for i, name in enumerate(self.header.sections) if name in streams.LABEL_SECTIONS]
        optional = int(stored[len(self._chunks.names) :].sum())
        return Budget(
            payload=int(stored.sum()) - int(stored[labels].sum()) - optional,
            labels=int(stored[labels].sum()),
            index=SECTION.size * len(table),
            overhead=PREAMBLE_SIZE + self._container.header_size + optional,
        )

    def stream_rates(self) -> list[StreamRate]:
        """For every stream of the format its entropy and the bits that it takes; [] of a file without images.

        Raises:
            GsdError: a section is damaged.
        """
        return stream_rates(self._container, self._chunks)

    def read_optional(self, name: str) -> bytes:
        """The decoded bytes of an optional section that the format does not define.

        Raises:
            KeyError: there is none of that name.
            GsdError: it is damaged.
        """
        section = self._container.section(self._chunks.optional[name])
        return self._container.read(section, section.raw_size)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the whole file, in hex."""
        digest, source = hashlib.sha256(), self._container.source
        for offset in range(0, source.size, 1 << 20):
            digest.update(source.read(offset, 1 << 20))
        return digest.hexdigest()

    @cached_property
    def content_id(self) -> str:
        """SHA-256 of the header and the decoded sections, in hex: equal files by content, whatever a coder made of them."""
        digest = hashlib.sha256(self._container.header_bytes)
        for raw in self._chunks.raws(range(len(self._chunks))):
            for data in raw.values():
                digest.update(data)
        return digest.hexdigest()

    def verify(self) -> None:
        """Check everything: all checksums, all sizes, all codes and labels, and optional sections.

        Raises:
            GsdError: the first thing that is wrong.
        """
        self._chunks.check()
        for name in self._chunks.optional:
            self.read_optional(name)

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the file as it is, byte for byte and atomically; returns its size."""
        data = self.to_bytes()
        atomic.write_atomically(path, data)
        return len(data)

    def to_bytes(self) -> bytes:
        """The file as it is."""
        source = self._container.source
        return source.read(0, source.size)

    # --- new files from it ---------------------------------------------------------------------------------------

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> GsdFile:
        """A file in memory with the images at ``indices``: the same codes and quantisers, nothing quantised again.

        Its provenance says which file it was taken from. Optional sections are left out: what they say may be of all
        images.
        """
        wanted = self._resolve(indices)
        return _rebuilt(
            self.codes(wanted),
            self._labels.select(wanted),
            classes=self.classes,
            recipe=self.recipe,
            provenance={**self.provenance, "subset_of": self.content_id},
            metadata=self.metadata,
        )

    def _resolve(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Image numbers from 0 on."""
        wanted = np.asarray(indices).reshape(-1)
        if len(wanted) and wanted.dtype.kind not in "iu":
            raise IndexError(f"indices must be integers, found {wanted.dtype}")
        wanted = wanted.astype(np.int64)
        wanted = np.where(wanted < 0, wanted + self.images, wanted)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < self.images:
            raise IndexError(f"image index out of range: the file has {self.images} images")
        return wanted

    # --- machinery -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the file descriptor back; what was decoded stays usable."""
        close = getattr(self._container.source, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> GsdFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        source = self._container.source
        if isinstance(source, MemorySource):
            return (open, (source.data,))
        return (_reopen, (str(Path(self.path).absolute()), self._container.header_bytes))

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"GsdFile({self.path!r}: {self.images} images of {height}x{width}x{self.channels}, "
            f"{self.gaussian_count} Gaussians, {self._container.source.size} bytes)"
        )

    @cached_property
    def _labels(self) -> Labels:
        return self._chunks.labels()


def open(source: str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]) -> GsdFile:
    """Open a ``.gsd`` file and check its structure: preamble, checksum, header, section table, and that they agree.

    Never executes anything from the file, follows no path in it, and allocates no more than the file's own size plus
    sizes that were verified. Sections are checked and decoded when they are asked for; ``verify`` asks for all.

    Args:
        source: a path, the bytes themselves, or a binary file object (read to its end).

    Raises:
        OSError: the path cannot be read.
        GsdError: the bytes are not a good ``.gsd`` file; the message says what and where.
    """
    if isinstance(source, (str, os.PathLike)):
        opened = FileSource(source)
        try:
            return GsdFile(read_container(opened))
        except BaseException:
            opened.close()
            raise
    data = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else source.read()
    if not isinstance(data, bytes):
        raise TypeError(
            f"a binary file object is needed, found one that reads {type(data).__name__}; open it with 'rb'"
        )
    name = "<bytes>" if isinstance(source, (bytes, bytearray, memoryview)) else str(getattr(source, "name", "<file>"))
    return GsdFile(read_container(MemorySource(data, name)))


def _reopen(path: str, header_bytes: bytes) -> GsdFile:
    file = open(path)
    if file._container.header_bytes != header_bytes:
        raise FormatError(f"{path}: the file was replaced by another one since it was opened; open it again")
    return file


def merge(files: Sequence[GsdFile]) -> GsdFile:
    """One file in memory from several: codes and quantisers are copied, class names united in order of appearance.

    Args:
        files: at least one, with equal size, channels, antialias, background, kernel and kind of labels; either all or
            none with class names. Recipe and metadata are kept where all agree; optional sections are left out.

    Raises:
        ValueError: they differ in one of those, and which.
    """
    if not files:
        raise ValueError("nothing to merge")
    codes = concatenate([file.codes() for file in files])
    names, class_count, columns = unite_classes(files)
    hard, weights = [], []
    for file, column in zip(files, columns, strict=True):
        stored = file._labels
        if stored.hard is not None:
            hard.append(column[stored.hard])
        if stored.weights is not None:
            wide = np.zeros((file.images, class_count), np.uint8)
            wide[:, column] = stored.weights
            weights.append(wide)
    kind = files[0].label_kind
    labels = Labels("none", class_count)
    if kind == "hard":
        labels = Labels("hard", class_count, hard=np.concatenate(hard))
    elif kind == "soft":
        labels = Labels("sparse", class_count, weights=np.concatenate(weights))
    first = files[0]
    return _rebuilt(
        codes,
        labels,
        classes=names,
        recipe=agreed([file.recipe for file in files]),
        provenance={"merged": [file.content_id for file in files]},
        metadata=first.metadata if all(file.metadata == first.metadata for file in files) else {},
    )


def unite_classes(files: Sequence[GsdFile]) -> tuple[tuple[str, ...], int, list[NDArray[np.int64]]]:
    """Class names of several files in order of appearance, how many classes, and where each file's classes went.

    Raises:
        ValueError: their labels are of different kinds, or only some have class names.
    """
    kinds = {file.label_kind for file in files}
    if len(kinds) > 1:
        raise ValueError(f"cannot unite labels of the kinds {', '.join(sorted(kinds))}")
    if len({bool(file.classes) for file in files}) > 1:
        raise ValueError("cannot unite files with and without class names")
    names = tuple(dict.fromkeys(name for file in files for name in file.classes))
    number = {name: k for k, name in enumerate(names)}
    columns = [np.array([number[n] for n in file.classes] or range(file.class_count), np.int64) for file in files]
    return names, len(names) or max(file.class_count for file in files), columns


def _rebuilt(codes: Codes, labels: Labels, **options: Any) -> GsdFile:
    if labels.weights is not None:
        labels = soft_labels_of(labels.weights)
    return open(assemble(codes, labels, **options))
