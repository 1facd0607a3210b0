"""From sections to codes and labels, one chunk at a time: what an opened file decodes when it is asked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsdata import streams
from gsdata.container import Container
from gsdata.errors import FormatError
from gsdata.header import Header
from gsdata.quantize import Codes
from gsdata.streams import Labels

_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class _Gaussians:
    """Codes of the Gaussians of one chunk."""

    means: NDArray[np.uint16]
    cholesky: NDArray[np.uint16]
    colors: NDArray[np.uint16]


class Chunks:
    """The chunks of an opened file.

    Attributes:
        starts: (chunks + 1,) int64: chunk i holds the images starts[i] to starts[i + 1].
        names: the format's own streams of every chunk, in order.
        optional: rows of the section table that hold optional sections, by name.
    """

    def __init__(self, container: Container, header: Header) -> None:
        """Check that header and section table agree.

        Raises:
            FormatError: they do not.
        """
        self._container, self._header, self._path = container, header, container.source.name
        self.names = streams.stream_names(header.channels, header.label_layout)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(header.images)])
        self._rows = self._check_own()
        self._check_sizes()
        self.optional = self._check_optional()
        self._cache: dict[int, _Gaussians] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self._header.images)

    def _check_own(self) -> NDArray[np.int64]:
        table, width = self._container.table, len(self.names)
        rows = np.flatnonzero(table["stream"] < width)
        expected = np.arange(len(self) * width)
        found = table["chunk"][rows].astype(np.int64) * width + table["stream"][rows]
        if not np.array_equal(found, expected):
            same = min(len(found), len(expected))
            at = int(np.append(found[:same] != expected[:same], True).argmax())
            what = f"{self.names[at % width]!r} of chunk {at // width}" if at < len(expected) else "nothing more"
            raise FormatError(
                f"{self._path}: section table: after {at} of the format's own sections {what} expected; the header "
                f"lists {len(self)} chunks of {width} streams"
            )
        return rows.reshape(len(self), width)

    def _check_sizes(self) -> None:
        sizes = np.array([list(self.raw_sizes(chunk).values()) for chunk in range(len(self))], np.int64)
        found = self._container.table["raw"][self._rows]
        wrong = np.argwhere(found != sizes.reshape(found.shape))
        if len(wrong):
            chunk, stream = (int(i) for i in wrong[0])
            raise FormatError(
                f"{self._path}: section {self.names[stream]!r} of chunk {chunk}: the table says "
                f"{int(found[chunk, stream])} decoded bytes, the header implies {int(sizes[chunk, stream])}"
            )

    def _check_optional(self) -> dict[str, int]:
        rows = [int(row) for row in np.flatnonzero(self._container.table["stream"] >= len(self.names))]
        sections = [self._container.section(row) for row in rows]
        expected = [(name, 0) for name in self._header.streams[len(self.names) :]]
        if [(section.stream, section.chunk) for section in sections] != expected:
            raise FormatError(f"{self._path}: section table: every optional section must be there once, as chunk 0")
        return {section.stream: row for section, row in zip(sections, rows, strict=True)}

    def raw_sizes(self, chunk: int) -> dict[str, int]:
        """Decoded size of every stream of a chunk, derived from the header."""
        header = self._header
        images, gaussians = int(header.images[chunk]), int(header.gaussians[chunk])
        quantizers = header.quantizers[int(header.chunk_quantizers[chunk])]
        sizes = streams.raw_sizes(images, gaussians, header.channels, quantizers)
        entries = int(header.label_entries[chunk])
        sizes |= streams.label_raw_sizes(header.label_layout, header.class_count, images, entries)
        return {name: sizes[name] for name in self.names}

    def raw(self, chunk: int, names: Iterable[str] | None = None) -> dict[str, bytes]:
        """Decoded bytes of the streams of a chunk (None: all), in their order.

        Raises:
            GsdError: they are damaged.
        """
        sizes = self.raw_sizes(chunk)
        rows = dict(zip(self.names, self._rows[chunk].tolist(), strict=True))
        wanted = self.names if names is None else names
        return {name: self._container.read(self._container.section(rows[name]), sizes[name]) for name in wanted}

    def counts(self, chunk: int) -> NDArray[np.int64]:
        """Gaussians of each image of a chunk.

        Raises:
            GsdError: the stream is damaged or does not add up.
        """
        return self._counts(chunk, self.raw(chunk, ["counts"])["counts"])

    def _counts(self, chunk: int, raw: bytes) -> NDArray[np.int64]:
        images, gaussians = int(self._header.images[chunk]), int(self._header.gaussians[chunk])
        return streams.decode_counts(raw, images, gaussians, f"{self._path}: chunk {chunk}, stream 'counts'")

    def check(self, chunk: int) -> None:
        """Decode everything in a chunk and keep nothing.

        Raises:
            GsdError: the first thing that is wrong.
        """
        self._decode(chunk)
        self._decode_labels(chunk)

    def _decode(self, chunk: int) -> _Gaussians:
        raw = self.raw(chunk, [name for name in self.names if name not in streams.LABEL_STREAMS])
        counts = self._counts(chunk, raw["counts"])
        quantizers = self._header.quantizers[int(self._header.chunk_quantizers[chunk])]
        where = f"{self._path}: chunk {chunk}"
        return _Gaussians(*streams.decode_codes(raw, counts, self._header.channels, quantizers, where))

    def _gaussians(self, chunk: int) -> _Gaussians:
        decoded = self._cache.get(chunk)
        if decoded is None:
            decoded = self._decode(chunk)
            size = decoded.means.nbytes + decoded.cholesky.nbytes + decoded.colors.nbytes
            if self._cached_bytes + size <= _CACHE_BYTES:
                self._cache[chunk] = decoded
                self._cached_bytes += size
        return decoded

    def codes(self, chunks: Iterable[int], counts: NDArray[np.int64]) -> Codes:
        """The codes of whole chunks; ``counts`` are those of all images of the file.

        Raises:
            GsdError: a chunk is damaged or holds codes out of range.
        """
        header, numbers = self._header, [int(chunk) for chunk in chunks]
        none = _Gaussians(*(np.zeros((0, width), np.uint16) for width in (2, 3, header.channels)))
        parts = [self._gaussians(chunk) for chunk in numbers] or [none]
        return Codes(
            means=np.concatenate([part.means for part in parts]),
            cholesky=np.concatenate([part.cholesky for part in parts]),
            colors=np.concatenate([part.colors for part in parts]),
            counts=np.concatenate([counts[self.starts[n] : self.starts[n + 1]] for n in numbers] or [counts[:0]]),
            size=header.size,
            quantizers=header.quantizers,
            quantizer_index=np.repeat(header.chunk_quantizers[numbers], header.images[numbers]),
            antialias=header.antialias,
            background=header.background,
            kernel=header.kernel,
        )

    def _decode_labels(self, chunk: int) -> Labels:
        header = self._header
        layout, classes = header.label_layout, header.class_count
        images, entries = int(header.images[chunk]), int(header.label_entries[chunk])
        raw = self.raw(chunk, streams.label_raw_sizes(layout, classes, images, entries))
        return streams.decode_labels(raw, layout, classes, images, entries, f"{self._path}: chunk {chunk}, labels")

    def labels(self) -> Labels:
        """The labels of all images.

        Raises:
            GsdError: a chunk's labels are damaged or out of range.
        """
        header = self._header
        parts = [self._decode_labels(chunk) for chunk in range(len(self))]
        hard = [part.hard for part in parts if part.hard is not None]
        weights = [part.weights for part in parts if part.weights is not None]
        if header.label_layout == "none":
            return Labels("none", header.class_count)
        if header.label_layout == "hard":
            return Labels("hard", header.class_count, hard=np.concatenate([*hard, np.zeros(0, np.int64)]))
        none = np.zeros((0, header.class_count), np.uint8)
        return Labels(header.label_layout, header.class_count, weights=np.concatenate([*weights, none]))
