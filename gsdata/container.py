"""The container: bytes <-> named, checksummed sections. It knows nothing of Gaussians (FORMAT.md, "Container").

    preamble (36 bytes) | header (canonical msgpack, zstd) | section table (28 bytes each) | sections, without holes

Reading is two steps, so that nothing is allocated on a stranger's word: ``read_container`` checks the structure and the
checksum of everything before the sections; ``Container.read`` checks one section's stored bytes, then the size that its
zstd frame declares against the size that the *caller* derived, and only then decompresses.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from gsdata import canonical
from gsdata.accidents import MAGIC, what_else
from gsdata.byte_source import Source
from gsdata.errors import ChecksumError, FormatError, LimitError, VersionError

VERSION = (1, 0)
"""The newest version that this reader knows, and what is written. With a minor to come, what does not need it stays 1.0 (FORMAT.md)."""
PREAMBLE = struct.Struct("<8sHHIIIQ")  # magic, major, minor, flags, header length, section count, file length
CRC = struct.Struct("<I")
PREAMBLE_SIZE = PREAMBLE.size + CRC.size
SECTION = struct.Struct("<HBBIIIIQ")  # name, codec, zero, chunk, stored size, raw size, crc of stored bytes, offset
STORED, ZSTD, RANS = 0, 1, 2
FLAG_HEADER_ZSTD = 1
CODEC_NAMES = {STORED: "stored", ZSTD: "zstd", RANS: "rans"}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

# The same layout as SECTION, for checking a whole table at once.
_TABLE = np.dtype(
    [
        ("name", "<u2"),
        ("codec", "u1"),
        ("zero", "u1"),
        ("chunk", "<u4"),
        ("stored", "<u4"),
        ("raw", "<u4"),
        ("crc", "<u4"),
        ("offset", "<u8"),
    ]
)

MAX_HEADER = 4 << 20
MAX_SECTIONS = 1 << 18
MAX_RAW = 16 << 20
MAX_WINDOW = 16 << 20
KNOWN_FEATURES: frozenset[str] = frozenset()
"""Names that the header's ``required`` may hold; this version defines none."""


@dataclass(frozen=True)
class Section:
    """One entry of the section table: where a section of a chunk lies and how it is stored."""

    name: str
    chunk: int
    codec: int
    stored_size: int
    raw_size: int
    crc: int
    offset: int


@dataclass(frozen=True, eq=False)
class Container:
    """An opened container: its header, its section table and the source of its sections.

    Attributes:
        source: where the sections are read from.
        version: (major, minor).
        header: the parsed header; header_bytes: in its canonical form; header_size: bytes it takes in the file.
        names: names of the sections, which the table refers to by number.
        table: the section table, checked, as a structured array: ``name``, ``codec``, ``chunk``, ``stored``,
            ``raw``, ``crc``, ``offset``.
    """

    source: Source
    version: tuple[int, int]
    header: dict[str, Any]
    header_bytes: bytes
    header_size: int
    names: tuple[str, ...]
    table: NDArray[np.void]

    def section(self, row: int) -> Section:
        """One entry of the table."""
        name, codec, _, chunk, stored, raw, crc, offset = self.table[row].item()
        return Section(self.names[name], chunk, codec, stored, raw, crc, offset)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All entries of the table."""
        return tuple(self.section(row) for row in range(len(self.table)))

    def where(self, section: Section) -> str:
        """A section's place, for messages."""
        return f"{self.source.name}: section {section.name!r} of chunk {section.chunk} at offset {section.offset}"

    def read_stored(self, section: Section) -> bytes:
        """The stored bytes of a section, once their checksum is right.

        Raises:
            ChecksumError: they differ from what was written.
            FormatError: the file became shorter since it was opened.
        """
        data = self.source.read(section.offset, section.stored_size)
        where = self.where(section)
        if len(data) != section.stored_size:
            raise FormatError(f"{where}: {section.stored_size} bytes expected, {len(data)} found; did the file change?")
        if zlib.crc32(data) != section.crc:
            raise ChecksumError(
                f"{where}: checksum {zlib.crc32(data):08x} found, {section.crc:08x} expected; the file is damaged, get it again"
            )
        return data

    def read(self, section: Section, raw_size: int) -> bytes:
        """The decoded bytes of a section that is stored as it is or by zstd.

        Args:
            section: one of ``sections``.
            raw_size: its decoded size, derived by the caller from counts and bit widths, never from the file's table.

        Raises:
            FormatError, ChecksumError, LimitError: sizes disagree, bytes are damaged, the frame is not as required, or the
                codec needs to know what the section holds.
        """
        where = self.where(section)
        if raw_size > MAX_RAW:
            raise LimitError(f"{where}: {raw_size} bytes decoded, more than the limit of {MAX_RAW}")
        if section.raw_size != raw_size:
            raise FormatError(
                f"{where}: the table says {section.raw_size} decoded bytes, the header implies {raw_size}"
            )
        data = self.read_stored(section)
        if section.codec == STORED:
            return data
        if section.codec != ZSTD:
            raise FormatError(f"{where}: codec {CODEC_NAMES[section.codec]} is for sections of the format only")
        return _decompress(data, raw_size, where)


def _decompress(data: bytes, raw_size: int, where: str) -> bytes:
    try:
        # Skippable frames and other magics would pass the library's own checks.
        if data[:4] != ZSTD_MAGIC:
            raise FormatError(f"{where}: not a zstd frame")
        frame = zstandard.get_frame_parameters(data)
        # The low five bits of the descriptor: a dictionary, a checksum, and two bits without a use.
        if frame.content_size != raw_size or data[4] & 0x1F:
            raise FormatError(
                f"{where}: the zstd frame must declare {raw_size} decoded bytes, no checksum and no dictionary; found "
                f"{frame.content_size} and the descriptor {data[4]:#04x}"
            )
        if frame.window_size > MAX_WINDOW:
            raise LimitError(f"{where}: a zstd window of {frame.window_size}, the limit is {MAX_WINDOW}")
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        raw = decompressor.decompress(data, max_output_size=raw_size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise FormatError(f"{where}: zstd cannot decode it: {error}") from None
    if len(raw) != raw_size:
        raise FormatError(f"{where}: {raw_size} decoded bytes expected, {len(raw)} found")
    return raw


def write_container(
    header: Mapping[str, Any],
    sections: Sequence[tuple[str, int, bytes]],
    level: int,
    coded: Mapping[tuple[str, int], bytes] | None = None,
) -> bytes:
    """The bytes of a container.

    Args:
        header: becomes canonical msgpack; its ``sections`` lists the names of sections in their order.
        sections: (name, chunk number, raw bytes); sorted here by chunk, then by the order of the names.
        level: zstd level; what zstd does not shrink is stored as it is, and at level 0 everything is.
        coded: by name and chunk number, the bytes of a section as codec ``RANS``, taken where they are fewest.

    Raises:
        LimitError: the header, a section or their number exceeds the limits of the format.
        ValueError: the header holds what canonical msgpack cannot.
    """
    names = list(header["sections"])
    header_bytes = canonical.encode(header)
    if len(header_bytes) > MAX_HEADER:
        raise LimitError(f"the header takes {len(header_bytes)} bytes, the limit is {MAX_HEADER}; shorten the metadata")
    if len(sections) > MAX_SECTIONS:
        raise LimitError(f"{len(sections)} sections, the limit is {MAX_SECTIONS}; use larger chunks")
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True, threads=0)

    def smallest(raw: bytes) -> tuple[int, bytes]:
        packed = compressor.compress(raw) if level else raw
        return (ZSTD, packed) if len(packed) < len(raw) else (STORED, raw)

    codec, header_bytes = smallest(header_bytes)
    flags = FLAG_HEADER_ZSTD if codec == ZSTD else 0
    offset = PREAMBLE_SIZE + len(header_bytes) + SECTION.size * len(sections)
    table, payload = bytearray(), []
    for name, chunk, raw in sorted(sections, key=lambda item: (item[1], names.index(item[0]))):
        if len(raw) > MAX_RAW:
            raise LimitError(
                f"chunk {chunk} of {name!r} has {len(raw)} bytes, the limit is {MAX_RAW}; use smaller chunks"
            )
        codec, stored = smallest(raw)
        other = (coded or {}).get((name, chunk), stored)
        if len(other) < len(stored):
            codec, stored = RANS, other
        table += SECTION.pack(names.index(name), codec, 0, chunk, len(stored), len(raw), zlib.crc32(stored), offset)
        payload.append(stored)
        offset += len(stored)
    preamble = PREAMBLE.pack(MAGIC, *VERSION, flags, len(header_bytes), len(sections), offset)
    crc = zlib.crc32(bytes(table), zlib.crc32(header_bytes, zlib.crc32(preamble)))
    return b"".join([preamble, CRC.pack(crc), header_bytes, bytes(table), *payload])


def read_container(source: Source) -> Container:
    """Check everything that comes before the sections, and the table's claims about them.

    Raises:
        FormatError: not a ``.gsd`` file, truncated, or malformed (the message says where).
        VersionError: written for a reader of another version.
        ChecksumError: preamble, header or table were damaged.
        LimitError: a length exceeds the limits of the format.
    """
    name = source.name
    preamble = source.read(0, PREAMBLE_SIZE)
    if preamble[:8] != MAGIC:
        raise FormatError(f"{name}: {what_else(source.read(0, 512))} (offset 0)")
    if len(preamble) < PREAMBLE_SIZE:
        raise FormatError(
            f"{name}: truncated: {len(preamble)} bytes, the preamble at offset 0 has {PREAMBLE_SIZE}; get it again"
        )
    _, major, minor, flags, header_length, section_count, file_length = PREAMBLE.unpack_from(preamble)
    # Any minor of this major may be read: what it needs is in ``required``.
    if major != VERSION[0]:
        what_to_do = (
            "get a newer gsdata"
            if major > VERSION[0]
            else "it is from before 1.0 was fixed: write it again from its source"
        )
        raise VersionError(
            f"{name}: format version {major}.{minor} at offset 8, this reader knows {VERSION[0]}.x; {what_to_do}"
        )
    if file_length != source.size:
        state = "truncated" if source.size < file_length else "has trailing bytes"
        raise FormatError(
            f"{name}: {state}: {source.size} bytes found, {file_length} expected (offset 24); get it again"
        )
    if flags & ~FLAG_HEADER_ZSTD:
        raise FormatError(f"{name}: flags at offset 12 must be 0 or {FLAG_HEADER_ZSTD}, found {flags:#x}")
    if header_length > MAX_HEADER:
        raise LimitError(f"{name}: header of {header_length} bytes at offset 16, the limit is {MAX_HEADER}")
    if section_count > MAX_SECTIONS:
        raise LimitError(f"{name}: {section_count} sections at offset 20, the limit is {MAX_SECTIONS}")
    length = header_length + SECTION.size * section_count
    if PREAMBLE_SIZE + length > file_length:
        raise FormatError(
            f"{name}: header and table end at {PREAMBLE_SIZE + length}, after the file's {file_length} bytes (offset 16)"
        )
    body = source.read(PREAMBLE_SIZE, length)
    (expected,) = CRC.unpack_from(preamble, PREAMBLE.size)
    found = zlib.crc32(body, zlib.crc32(preamble[: PREAMBLE.size]))
    if len(body) != length or found != expected:
        raise ChecksumError(
            f"{name}: checksum of preamble, header and table is {found:08x}, {expected:08x} expected (offset {PREAMBLE.size}); "
            "the file is damaged, get it again"
        )
    header_bytes = _header_bytes(body[:header_length], flags, f"{name}: header at offset {PREAMBLE_SIZE}")
    try:
        header = canonical.decode(header_bytes)
    except FormatError as error:
        raise type(error)(f"{name}: {error} (header starts at offset {PREAMBLE_SIZE})") from None
    names = _check_names(header, name)
    table = np.frombuffer(body, _TABLE, section_count, header_length)
    _check_table(table, len(names), PREAMBLE_SIZE + header_length, file_length, name)
    return Container(source, (major, minor), header, header_bytes, header_length, tuple(names), table)


def _check_names(header: Mapping[str, Any], name: str) -> list[str]:
    """The names of the sections, once it is clear that this reader may read the table."""
    lists = {"required": header.get("required", []), "sections": header.get("sections")}
    # Before all else that the header says: a feature may give it another meaning.
    for feature in lists["required"] if _is_texts(lists["required"]) else ():
        if feature not in KNOWN_FEATURES:
            raise VersionError(
                f"{name}: the file needs the feature {feature!r:.80}, which this reader does not know (header at offset "
                f"{PREAMBLE_SIZE}); update gsdata"
            )
    for key, names in lists.items():
        if not _is_texts(names) or len(set(names)) != len(names):
            raise FormatError(
                f"{name}: '{key}' in the header at offset {PREAMBLE_SIZE} must be a list of different names"
            )
    return list(header["sections"])


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _header_bytes(stored: bytes, flags: int, where: str) -> bytes:
    """The canonical header, decompressed where the flag says so: its size is checked before it is allocated."""
    if not flags & FLAG_HEADER_ZSTD:
        return stored
    try:
        size = zstandard.frame_content_size(stored)
    except zstandard.ZstdError as error:
        raise FormatError(f"{where}: not a zstd frame: {error}") from None
    if size > MAX_HEADER:
        raise LimitError(f"{where}: {size} bytes when decoded, the limit is {MAX_HEADER}")
    if size <= len(stored):
        raise FormatError(f"{where}: zstd must shrink it, yet {len(stored)} stored and {size} decoded bytes")
    return _decompress(stored, size, where)


def _check_table(table: NDArray[np.void], names: int, start: int, file_length: int, name: str) -> None:
    stored, raw = table["stored"].astype(np.int64), table["raw"]
    expected = start + table.nbytes + np.cumsum(stored) - stored
    # (chunk, name) as one number; entries ascend strictly.
    order = (table["chunk"].astype(np.int64) << 16) + table["name"]
    kept, packed = table["codec"] == STORED, (table["codec"] == ZSTD) | (table["codec"] == RANS)

    def refuse(bad: NDArray[np.bool_], what: str, error: type[FormatError] = FormatError) -> None:
        if bad.any():
            row = int(bad.argmax())
            values = {
                key: int(table[key][row]) for key in ("name", "codec", "zero", "chunk", "stored", "raw", "offset")
            }
            where = f"{name}: section table entry {row} at offset {start + row * SECTION.size}"
            raise error(f"{where}: {what.format(**values, expected=int(expected[row]))}")

    refuse(table["name"] >= names, f"section name {{name}}, but the header lists {names}")
    refuse(table["zero"] != 0, "the reserved byte must be 0, found {zero}")
    refuse(~(kept | packed), f"unknown codec {{codec}}, expected one of {sorted(CODEC_NAMES)}")
    refuse(np.diff(order, prepend=-1) <= 0, "sections must be sorted by chunk, then name, without repeats")
    refuse(table["offset"] != expected.astype(np.uint64), "offset {offset}, expected {expected}: no holes, no overlap")
    refuse(raw > MAX_RAW, f"{{raw}} decoded bytes, the limit is {MAX_RAW}", LimitError)
    refuse(kept & (raw != stored), "stored as it is, yet {stored} stored and {raw} decoded bytes")
    refuse(packed & (stored >= raw), "codec {codec} must shrink it, yet {stored} stored and {raw} decoded bytes")
    end = start + table.nbytes + int(stored.sum())
    if end != file_length:
        raise FormatError(f"{name}: sections end at {end}, the file at {file_length} (offset 24)")
