"""From sections to codes and labels, one chunk at a time: what an opened file decodes when it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gsdata import rans, streams
from gsdata.container import PREAMBLE_SIZE, RANS, SECTION, Container, Section
from gsdata.errors import FormatError
from gsdata.header import Header
from gsdata.quantize import Codes
from gsdata.rans import Layout
from gsdata.streams import Labels

_CACHE_BYTES = 64 << 20
# Chunks that are decoded together: rANS in NumPy is faster the more sections it has at a time.
_BATCH_CHUNKS, _BATCH_BYTES = 16, 4 << 20


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
        names: the format's own sections of every chunk, in order.
        optional: rows of the section table that hold optional sections, by name.
    """

    def __init__(self, container: Container, header: Header) -> None:
        """Check that header and section table agree.

        Raises:
            FormatError: they do not.
        """
        self._container, self._header, self._path = container, header, container.source.name
        self.names = streams.section_names(header.label_layout)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(header.images)])
        self._rows, self.optional = self._check_order()
        self._check_sizes()
        self._cache: dict[int, _Gaussians] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self._header.images)

    def _check_order(self) -> tuple[NDArray[np.int64], dict[str, int]]:
        """Rows of the table that hold the format's own sections, (chunks, sections of a chunk), and optional ones by name."""
        table, width, names = self._container.table, len(self.names), self._header.sections
        # Chunk 0 has the optional sections after its own.
        chunks = np.repeat(np.arange(len(self)), width)
        expected = np.stack([chunks, np.arange(len(chunks)) % width], axis=1)
        optional = np.stack([np.zeros(len(names) - width, np.int64), np.arange(width, len(names))], axis=1)
        expected = np.concatenate([expected[:width], optional, expected[width:]])
        found = np.stack([table["chunk"], table["name"]], axis=1).astype(np.int64)
        same = min(len(found), len(expected))
        wrong = (found[:same] != expected[:same]).any(axis=1)
        if wrong.any() or len(found) != len(expected):
            at = int(np.append(wrong, True).argmax())
            chunk, name = expected[at] if at < len(expected) else (0, 0)
            what = f"{names[name]!r} of chunk {chunk}" if at < len(expected) else "nothing more"
            raise FormatError(
                f"{self._entry(at)}: {what} expected; the header lists {len(self)} chunks, each with the sections "
                f"{', '.join(self.names)}, and {len(optional)} optional sections"
            )
        own = expected[:, 1] < width
        coded = np.flatnonzero(~own & (table["codec"] == RANS))
        if len(coded):
            raise FormatError(
                f"{self._entry(int(coded[0]))}: section {names[expected[coded[0], 1]]!r}: codec rans is for sections of the format only"
            )
        rows = np.flatnonzero(~own).tolist()
        return np.flatnonzero(own).reshape(len(self), width), dict(zip(names[width:], rows, strict=True))

    def _check_sizes(self) -> None:
        sizes = np.array([[part.raw_size for part in self.layouts(n).values()] for n in range(len(self))], np.int64)
        found = self._container.table["raw"][self._rows]
        wrong = np.argwhere(found != sizes.reshape(found.shape))
        if len(wrong):
            chunk, name = (int(i) for i in wrong[0])
            raise FormatError(
                f"{self._entry(int(self._rows[chunk, name]))}: section {self.names[name]!r} of chunk {chunk}: "
                f"{int(found[chunk, name])} decoded bytes, the header implies {int(sizes[chunk, name])}"
            )

    def _entry(self, row: int) -> str:
        """An entry of the section table, or the end of it, for messages."""
        start = PREAMBLE_SIZE + self._container.header_size
        return f"{self._path}: section table entry {row} at offset {start + SECTION.size * row}"

    def _where(self, chunk: int, name: str) -> str:
        """A section, for messages about what it holds."""
        return self._container.where(self.section(chunk, name))

    def layouts(self, chunk: int) -> dict[str, Layout]:
        """What every section of a chunk holds, derived from the header."""
        header = self._header
        images, gaussians = int(header.images[chunk]), int(header.gaussians[chunk])
        quantizers = header.quantizers[int(header.chunk_quantizers[chunk])]
        entries = int(header.label_entries[chunk])
        return streams.layouts(
            header.label_layout, header.class_count, images, entries, gaussians, header.channels, quantizers
        )

    def section(self, chunk: int, name: str) -> Section:
        """The table's entry of a section of the format's own."""
        return self._container.section(int(self._rows[chunk, self.names.index(name)]))

    def raw(self, chunk: int, names: Iterable[str] | None = None) -> dict[str, bytes]:
        """Decoded bytes of the sections of a chunk (None: all), in their order.

        Raises:
            GsdError: they are damaged.
        """
        return next(self.raws([chunk], names))

    def raws(self, chunks: Iterable[int], names: Iterable[str] | None = None) -> Iterator[dict[str, bytes]]:
        """The same of many chunks, some of them decoded together.

        Raises:
            GsdError: they are damaged.
        """
        wanted = self.names if names is None else tuple(names)
        batch: list[int] = []
        size = 0
        for chunk in chunks:
            more = sum(self.layouts(chunk)[name].raw_size for name in wanted)
            if batch and (len(batch) == _BATCH_CHUNKS or size + more > _BATCH_BYTES):
                yield from self._read(batch, wanted)
                batch, size = [], 0
            batch.append(chunk)
            size += more
        if batch:
            yield from self._read(batch, wanted)

    def _read(self, chunks: list[int], names: tuple[str, ...]) -> list[dict[str, bytes]]:
        found: list[dict[str, bytes]] = [{} for _ in chunks]
        coded = []
        for of_chunk, chunk in zip(found, chunks, strict=True):
            layouts = self.layouts(chunk)
            for name in names:
                section = self.section(chunk, name)
                if section.codec == RANS:
                    stored = self._container.read_stored(section)
                    coded.append((of_chunk, name, (stored, layouts[name], self._container.where(section))))
                    of_chunk[name] = b""  # keeps its place in the order
                else:
                    of_chunk[name] = self._container.read(section, layouts[name].raw_size)
        for (of_chunk, name, _), raw in zip(coded, rans.decode([job for _, _, job in coded]), strict=True):
            of_chunk[name] = raw
        return found

    def counts(self) -> list[NDArray[np.int64]]:
        """Gaussians of each image, chunk by chunk.

        Raises:
            GsdError: a section is damaged or does not add up.
        """
        return [self._counts(chunk, raw["counts"]) for chunk, raw in enumerate(self.raws(range(len(self)), ["counts"]))]

    def _counts(self, chunk: int, raw: bytes) -> NDArray[np.int64]:
        images, gaussians = int(self._header.images[chunk]), int(self._header.gaussians[chunk])
        return streams.decode_counts(raw, images, gaussians, self._where(chunk, "counts"))

    def check(self) -> None:
        """Decode everything and keep nothing.

        Raises:
            GsdError: the first thing that is wrong.
        """
        for chunk, raw in enumerate(self.raws(range(len(self)))):
            self._decode(chunk, raw)
            self._decode_labels(chunk, raw)

    def _decode(self, chunk: int, raw: dict[str, bytes]) -> _Gaussians:
        counts = self._counts(chunk, raw["counts"])
        quantizers = self._header.quantizers[int(self._header.chunk_quantizers[chunk])]
        where = self._where(chunk, "gaussians")
        return _Gaussians(*streams.decode_codes(raw["gaussians"], counts, self._header.channels, quantizers, where))

    def _gaussians(self, chunks: list[int]) -> list[_Gaussians]:
        found = {chunk: self._cache[chunk] for chunk in chunks if chunk in self._cache}
        missing = [chunk for chunk in dict.fromkeys(chunks) if chunk not in found]
        for chunk, raw in zip(missing, self.raws(missing, ("counts", "gaussians")), strict=True):
            decoded = self._decode(chunk, raw)
            found[chunk] = decoded
            size = decoded.means.nbytes + decoded.cholesky.nbytes + decoded.colors.nbytes
            if self._cached_bytes + size <= _CACHE_BYTES:
                self._cache[chunk] = decoded
                self._cached_bytes += size
        return [found[chunk] for chunk in chunks]

    def codes(self, chunks: Iterable[int], counts: NDArray[np.int64]) -> Codes:
        """The codes of whole chunks; ``counts`` are those of all images of the file.

        Raises:
            GsdError: a chunk is damaged or holds codes out of range.
        """
        header, numbers = self._header, [int(chunk) for chunk in chunks]
        none = _Gaussians(*(np.zeros((0, width), np.uint16) for width in (2, 3, header.channels)))
        parts = self._gaussians(numbers) or [none]
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

    def _decode_labels(self, chunk: int, raw: dict[str, bytes]) -> Labels:
        header = self._header
        layout, classes = header.label_layout, header.class_count
        images, entries = int(header.images[chunk]), int(header.label_entries[chunk])
        where = self._where(chunk, self.names[1]) if layout != "none" else ""
        return streams.decode_labels(raw, layout, classes, images, entries, where)

    def labels_by_chunk(self) -> Iterator[Labels]:
        """The labels of one chunk after another: few bytes may stand for many weights.

        Raises:
            GsdError: a chunk's labels are damaged or out of range.
        """
        names = [name for name in self.names if name in streams.LABEL_SECTIONS]
        for chunk, raw in enumerate(self.raws(range(len(self)), names)):
            yield self._decode_labels(chunk, raw)

    def labels(self) -> Labels:
        """The labels of all images; errors as ``labels_by_chunk``."""
        header, parts = self._header, list(self.labels_by_chunk())
        hard = [part.hard for part in parts if part.hard is not None]
        weights = [part.weights for part in parts if part.weights is not None]
        if header.label_layout == "none":
            return Labels("none", header.class_count)
        if header.label_layout == "hard":
            return Labels("hard", header.class_count, hard=np.concatenate([*hard, np.zeros(0, np.int64)]))
        none = np.zeros((0, header.class_count), np.uint8)
        return Labels(header.label_layout, header.class_count, weights=np.concatenate([*weights, none]))
