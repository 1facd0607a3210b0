"""``GsdFile``: an opened ``.gsd`` file. ``gsdata.open`` checks its structure, ``verify`` checks everything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gsdata import streams
from gsdata.budget import Budget
from gsdata.container import PREAMBLE_SIZE, SECTION, Container, FileSource, MemorySource, Section, read_container
from gsdata.errors import FormatError, GsdError
from gsdata.gaussians import Gaussians
from gsdata.header import Header
from gsdata.quantize import Codes, concatenate
from gsdata.recipe import Recipe
from gsdata.streams import Labels
from gsdata.writing import save, to_bytes, write_atomically

__all__ = ["GsdFile", "merge", "open", "save", "to_bytes"]

_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class _Chunk:
    means: NDArray[np.uint16]
    cholesky: NDArray[np.uint16]
    colors: NDArray[np.uint16]


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
            self.header = Header.from_dict(container.header)
        except GsdError as error:
            raise type(error)(f"{self.path}: {error}") from None
        self._sections = self._check_sections()
        ends = np.cumsum(self.header.images)
        self._chunk_starts = np.concatenate([np.zeros(1, np.int64), ends]).astype(np.int64)
        self._cache: dict[int, _Chunk] = {}
        self._cached_bytes = 0

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
        """The section table: stream, chunk, codec, stored and raw size, checksum, offset."""
        return self._container.sections

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(B,) int64: Gaussians of each image."""
        return np.concatenate(
            [self._counts(chunk) for chunk in range(len(self.header.images))] or [np.zeros(0, np.int64)]
        )

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """(B,) int64: class of each image; the largest weight's of a soft label; -1 where there are no labels."""
        if self._labels.hard is not None:
            return self._labels.hard
        if self._labels.weights is not None:
            return np.asarray(self._labels.weights.argmax(axis=1), np.int64)
        return np.full(self.images, -1, np.int64)

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
            return self._assemble(range(len(self.header.images)))
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        wanted = np.where(wanted < 0, wanted + self.images, wanted)
        if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < self.images:
            raise IndexError(f"image index out of range: the file has {self.images} images")
        chunk_of = np.searchsorted(self._chunk_starts, wanted, side="right") - 1
        chunks = np.unique(chunk_of)
        lengths = self.header.images[chunks]
        local_starts = np.cumsum(lengths) - lengths
        place = np.searchsorted(chunks, chunk_of)
        return self._assemble(chunks).select(local_starts[place] + wanted - self._chunk_starts[chunk_of])

    def gaussians(self, indices: Sequence[int] | NDArray[np.int64] | None = None) -> Gaussians:
        """The same as float32 NumPy values."""
        return self.codes(indices).dequantize()

    # --- its bytes -----------------------------------------------------------------------------------------------

    def byte_table(self) -> Budget:
        """Where the bytes go; the parts add up to the size of the file."""
        known = set(streams.stream_names(self.channels, self.header.label_layout))
        payload = labels = other = 0
        for section in self.sections:
            if section.stream in streams.LABEL_STREAMS:
                labels += section.stored_size
            elif section.stream in known:
                payload += section.stored_size
            else:
                other += section.stored_size
        index = SECTION.size * len(self.sections)
        return Budget(payload, labels, index, PREAMBLE_SIZE + len(self._container.header_bytes) + other)

    def read_optional(self, name: str) -> bytes:
        """The decoded bytes of an optional section that the format does not define.

        Raises:
            KeyError: there is none of that name.
            GsdError: it is damaged.
        """
        for section in self.sections:
            if section.stream == name and name not in streams.stream_names(self.channels, self.header.label_layout):
                return self._container.read(section, section.raw_size)
        raise KeyError(name)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the whole file, in hex."""
        digest, source = hashlib.sha256(), self._container.source
        for offset in range(0, source.size, 1 << 20):
            digest.update(source.read(offset, 1 << 20))
        return digest.hexdigest()

    @cached_property
    def content_id(self) -> str:
        """SHA-256 of the header and the decoded streams, in hex: equal files by content, whatever zstd made of them."""
        digest = hashlib.sha256(self._container.header_bytes)
        for chunk in range(len(self.header.images)):
            for raw in self._raw(chunk).values():
                digest.update(raw)
        return digest.hexdigest()

    def verify(self) -> None:
        """Check everything: all checksums, all sizes, all codes and labels, and optional sections.

        Raises:
            GsdError: the first thing that is wrong.
        """
        for chunk in range(len(self.header.images)):
            self._decode(chunk)
        known = streams.stream_names(self.channels, self.header.label_layout)
        for section in self.sections:
            if section.stream not in known:
                self._container.read(section, section.raw_size)
        _ = self._labels

    def save(self, path: str | os.PathLike[str]) -> int:
        """Write the file as it is, byte for byte and atomically; returns its size."""
        source = self._container.source
        write_atomically(path, source.read(0, source.size))
        return source.size

    # --- new files from it ---------------------------------------------------------------------------------------

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> GsdFile:
        """A file in memory with the images at ``indices``: the same codes and quantisers, nothing quantised again.

        Its provenance says which file it was taken from. Optional sections are left out: what they say may be of all
        images.
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        codes = self.codes(wanted)
        return _rebuilt(
            codes,
            self._labels.select(np.where(wanted < 0, wanted + self.images, wanted)),
            self.classes,
            self.recipe,
            {**self.provenance, "subset_of": self.content_id},
            self.metadata,
        )

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

    def _check_sections(self) -> dict[tuple[int, str], Section]:
        header = self.header
        known = streams.stream_names(header.channels, header.label_layout)
        if (
            header.streams[: len(known)] != known
            or tuple(sorted(header.streams[len(known) :])) != header.streams[len(known) :]
        ):
            raise FormatError(f"{self.path}: header streams must be {', '.join(known)}, then others in order of name")
        by_key = {(section.chunk, section.stream): section for section in self._container.sections}
        for chunk in range(len(header.images)):
            for name, raw_size in self._raw_sizes(chunk).items():
                section = by_key.get((chunk, name))
                if section is None:
                    raise FormatError(f"{self.path}: chunk {chunk} has no section {name!r}")
                if section.raw_size != raw_size:
                    raise FormatError(
                        f"{self.path}: section {name!r} of chunk {chunk}: the table says {section.raw_size} decoded bytes, "
                        f"the header implies {raw_size}"
                    )
        surplus = len(by_key) - len(header.images) * len(known)
        optional = sum(1 for _, name in by_key if name not in known)
        if surplus != optional:
            raise FormatError(f"{self.path}: sections of chunks that the header does not list")
        return by_key

    def _raw_sizes(self, chunk: int) -> dict[str, int]:
        header = self.header
        images, gaussians = int(header.images[chunk]), int(header.gaussians[chunk])
        quantizers = header.quantizers[int(header.chunk_quantizers[chunk])]
        sizes = streams.raw_sizes(images, gaussians, header.channels, quantizers)
        entries = int(header.label_entries[chunk])
        sizes |= streams.label_raw_sizes(header.label_layout, header.class_count, images, entries)
        return {name: sizes[name] for name in streams.stream_names(header.channels, header.label_layout)}

    def _raw(self, chunk: int, names: Iterable[str] | None = None) -> dict[str, bytes]:
        sizes = self._raw_sizes(chunk)
        return {
            name: self._container.read(self._sections[chunk, name], sizes[name])
            for name in (sizes if names is None else names)
        }

    def _counts(self, chunk: int) -> NDArray[np.int64]:
        raw = self._raw(chunk, ["counts"])["counts"]
        images, gaussians = int(self.header.images[chunk]), int(self.header.gaussians[chunk])
        return streams.decode_counts(raw, images, gaussians, f"{self.path}: chunk {chunk}, stream 'counts'")

    def _decode(self, chunk: int) -> _Chunk:
        cached = self._cache.get(chunk)
        if cached is not None:
            return cached
        label_streams = streams.LABEL_STREAMS
        raw = self._raw(chunk, [name for name in self._raw_sizes(chunk) if name not in label_streams])
        where = f"{self.path}: chunk {chunk}"
        counts = streams.decode_counts(
            raw["counts"],
            int(self.header.images[chunk]),
            int(self.header.gaussians[chunk]),
            f"{where}, stream 'counts'",
        )
        quantizers = self.header.quantizers[int(self.header.chunk_quantizers[chunk])]
        decoded = _Chunk(*streams.decode_codes(raw, counts, self.channels, quantizers, where))
        size = decoded.means.nbytes + decoded.cholesky.nbytes + decoded.colors.nbytes
        if self._cached_bytes + size <= _CACHE_BYTES:
            self._cache[chunk] = decoded
            self._cached_bytes += size
        return decoded

    def _assemble(self, chunks: Iterable[int]) -> Codes:
        header = self.header
        numbers = [int(chunk) for chunk in chunks]
        parts = [self._decode(chunk) for chunk in numbers]
        empty = _Chunk(
            np.zeros((0, 2), np.uint16), np.zeros((0, 3), np.uint16), np.zeros((0, header.channels), np.uint16)
        )
        spans = [slice(int(self._chunk_starts[n]), int(self._chunk_starts[n + 1])) for n in numbers]
        return Codes(
            means=np.concatenate([part.means for part in parts] or [empty.means]),
            cholesky=np.concatenate([part.cholesky for part in parts] or [empty.cholesky]),
            colors=np.concatenate([part.colors for part in parts] or [empty.colors]),
            counts=np.concatenate([self.counts[span] for span in spans] or [np.zeros(0, np.int64)]),
            size=header.size,
            quantizers=header.quantizers,
            quantizer_index=np.repeat(header.chunk_quantizers[numbers], header.images[numbers]),
            antialias=header.antialias,
            background=header.background,
            kernel=header.kernel,
        )

    @cached_property
    def _labels(self) -> Labels:
        header, parts = self.header, []
        for chunk in range(len(header.images)):
            images, entries = int(header.images[chunk]), int(header.label_entries[chunk])
            names = list(streams.label_raw_sizes(header.label_layout, header.class_count, images, entries))
            where = f"{self.path}: chunk {chunk}, labels"
            raw = self._raw(chunk, names)
            parts.append(streams.decode_labels(raw, header.label_layout, header.class_count, images, entries, where))
        hard = [part.hard for part in parts if part.hard is not None]
        weights = [part.weights for part in parts if part.weights is not None]
        if header.label_layout == "none":
            return Labels("none", header.class_count)
        if header.label_layout == "hard":
            return Labels("hard", header.class_count, hard=np.concatenate([*hard, np.zeros(0, np.int64)]))
        none = np.zeros((0, header.class_count), np.uint8)
        return Labels(header.label_layout, header.class_count, weights=np.concatenate([*weights, none]))


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
            none with class names. The recipe is kept where all agree.

    Raises:
        ValueError: they differ in one of those, and which.
    """
    if not files:
        raise ValueError("nothing to merge")
    codes = concatenate([file.codes() for file in files])
    kinds = {file.label_kind for file in files}
    if len(kinds) > 1:
        raise ValueError(f"cannot unite labels of the kinds {', '.join(sorted(kinds))}")
    if len({bool(file.classes) for file in files}) > 1:
        raise ValueError("cannot unite files with and without class names")
    names = tuple(dict.fromkeys(name for file in files for name in file.classes))
    class_count = len(names) or max(file.class_count for file in files)
    kind, hard, weights = kinds.pop(), [], []
    for file in files:
        column = np.array([names.index(name) for name in file.classes] or range(file.class_count), np.int64)
        stored = file._labels
        if stored.hard is not None:
            hard.append(column[stored.hard])
        if stored.weights is not None:
            wide = np.zeros((file.images, class_count), np.uint8)
            wide[:, column] = stored.weights
            weights.append(wide)
    labels = Labels("none", class_count)
    if kind == "hard":
        labels = Labels("hard", class_count, hard=np.concatenate(hard))
    elif kind == "soft":
        labels = Labels("sparse", class_count, weights=np.concatenate(weights))
    same_recipe = all(file.recipe == files[0].recipe for file in files)
    provenance = {"merged": [file.content_id for file in files]}
    return _rebuilt(codes, labels, names, files[0].recipe if same_recipe else Recipe(), provenance, {})


def _rebuilt(
    codes: Codes,
    labels: Labels,
    classes: tuple[str, ...],
    recipe: Recipe,
    provenance: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> GsdFile:
    options: dict[str, Any] = {"classes": classes, "recipe": recipe, "provenance": provenance, "metadata": metadata}
    if labels.weights is not None:
        return open(to_bytes(codes, soft_labels=labels.weights, **options))
    return open(to_bytes(codes, labels=labels.hard, class_count=labels.class_count, **options))
