"""The container: bytes <-> named, checksummed sections."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gsdata
from gsdata import canonical
from gsdata.byte_source import FileSource, MemorySource
from gsdata.container import (
    MAX_HEADER,
    MAX_RAW,
    STORED,
    ZSTD,
    read_container,
    write_container,
)
from gsdata.errors import ChecksumError, FormatError, GsdError, LimitError, VersionError
from gsdata.forging import frame, put_together, take_apart
from gsdata.testing import make_codes
from hostile import HEADERS, MIB, at_most, good_or_refused, read_everything


@given(
    st.lists(st.text("ab.", min_size=1, max_size=4), min_size=1, max_size=4, unique=True),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**32 - 1), st.binary(max_size=500)), max_size=8),
    st.integers(0, 22),
)
def test_round_trip(names: list[str], items: list[tuple[int, int, bytes]], level: int) -> None:
    wanted = {(names[i % len(names)], chunk): raw for i, chunk, raw in items}
    data = write_container({"sections": names}, [(*key, raw) for key, raw in wanted.items()], level)
    container = read_container(MemorySource(data))
    assert {(s.name, s.chunk): container.read(s, s.raw_size) for s in container.sections} == wanted
    assert container.header == {"sections": names}
    order = [(s.chunk, names.index(s.name)) for s in container.sections]
    assert order == sorted(order)
    assert all(s.codec == (ZSTD if s.stored_size < s.raw_size else STORED) for s in container.sections)
    backwards = [(*key, raw) for key, raw in reversed(wanted.items())]
    assert write_container({"sections": names}, backwards, level) == data


def test_a_size_that_the_caller_did_not_derive_is_refused() -> None:
    container = read_container(MemorySource(write_container({"sections": ["a"]}, [("a", 0, bytes(100))], 3)))
    with pytest.raises(FormatError, match="the table says 100 decoded bytes, the header implies 99"):
        container.read(container.sections[0], 99)
    with pytest.raises(LimitError):
        container.read(container.sections[0], MAX_RAW + 1)


def test_writer_keeps_the_limits() -> None:
    with pytest.raises(LimitError, match="smaller chunks"):
        write_container({"sections": ["a"]}, [("a", 0, bytes(MAX_RAW + 1))], 1)
    with pytest.raises(LimitError, match="shorten the metadata"):
        write_container({"sections": ["a"], "x": "x" * MAX_HEADER}, [], 1)


def test_a_file_is_read_by_position_and_survives_replacement(tmp_path: Path) -> None:
    data = write_container({"sections": ["a"]}, [("a", i, bytes([i])) for i in range(3)], 1)
    path = tmp_path / "x.gsd"
    path.write_bytes(data)
    source = FileSource(path)
    container = read_container(source)
    other = tmp_path / "y"
    other.write_bytes(b"something else")
    other.replace(path)
    assert [container.read(s, 1) for s in reversed(container.sections)] == [b"\2", b"\1", b"\0"]
    source.close()
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.read(0, 1)


def test_a_file_that_shrinks_or_changes_after_opening(tmp_path: Path) -> None:
    data = write_container({"sections": ["a"]}, [("a", 0, b"0123456789")], 1)
    path = tmp_path / "x.gsd"
    path.write_bytes(data)
    container = read_container(FileSource(path))
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    with pytest.raises(ChecksumError, match=r"x\.gsd: section 'a' of chunk 0 at offset \d+: checksum"):
        container.read(container.sections[0], 10)
    os.truncate(path, len(data) - 3)
    with pytest.raises(FormatError, match="10 bytes expected, 7 found"):
        container.read(container.sections[0], 10)


GOOD = write_container({"sections": []}, [], 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\x89GSD", "truncated: 4 bytes"),
        (GOOD[:20], "truncated: 20 bytes"),
        (GOOD[:-1], f"truncated: {len(GOOD) - 1} bytes found, {len(GOOD)} expected"),
        (GOOD + b"\n", "trailing bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n <HTML>", "web page"),
        (GOOD.replace(b"\r\n", b"\n"), "text mode"),
        (GOOD.replace(b"\n", b"\r\n"), "text mode"),
        (GOOD.decode("latin-1").encode(), "text mode"),
        (GOOD.decode("utf-8", "replace").encode(), "text mode"),
        (bytes(b & 127 for b in GOOD), "high bit"),
        (b"\x80\x04\x95", "pickle"),
        (b"PK\x03\x04", "pickle or zip"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), r"not a \.gsd file: it starts with"),
    ],
)
def test_what_else_a_file_may_be(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a file.gsd"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        gsdata.open(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(FormatError, match=message):
        gsdata.open(io.BytesIO(data))


# --- zstd frames that lie ---------------------------------------------------------------------------------------------

ZEROS = bytes(1000)
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (frame(bytes(1001)), "must declare 1000"),
        (frame(bytes(999)), "must declare 1000"),
        (frame(bytes(8 * MIB)), "must declare 1000|must shrink"),
        (frame(ZEROS, write_content_size=False), "must declare 1000"),
        (frame(ZEROS, write_checksum=True), "no checksum"),
        (frame(ZEROS) + b"\0", "zstd cannot decode"),
        (frame(ZEROS) + frame(b""), "zstd cannot decode"),
        (frame(ZEROS)[:-1], "zstd cannot decode"),
        (SKIPPABLE + frame(ZEROS), "not a zstd frame"),
        (frame(ZEROS) + SKIPPABLE, "zstd cannot decode"),
        (b"", "not a zstd frame"),
        (b"\x28\xb5\x2f\xfd", "zstd cannot decode"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 20, "zstd"),
    ],
)
def test_a_frame_that_lies_is_refused_before_it_is_decoded(stored: bytes, message: str) -> None:
    header, sections = take_apart(gsdata.to_bytes(make_codes(0, [1]), optional_sections={"test.zeros": ZEROS}))
    assert sections[-1][1] == 1
    sections[-1][4] = stored
    data = put_together(header, sections)
    with at_most(2 * MIB), pytest.raises(FormatError, match=message):
        read_everything(data)


def test_a_frame_declares_the_size_of_the_table_but_holds_another() -> None:
    honest = frame(bytes(2000))
    lying = bytearray(honest)
    at = honest.index((2000 - 256).to_bytes(2, "little"))
    lying[at : at + 2] = (1000 - 256).to_bytes(2, "little")
    header, sections = take_apart(gsdata.to_bytes(make_codes(0, [1]), optional_sections={"test.zeros": ZEROS}))
    sections[-1][4] = bytes(lying)
    with at_most(2 * MIB), pytest.raises(FormatError, match=r"zstd cannot decode|decoded bytes expected"):
        read_everything(put_together(header, sections))


def test_a_huge_window_is_refused() -> None:
    header, sections = take_apart(gsdata.to_bytes(make_codes(0, [1]), optional_sections={"test.zeros": ZEROS}))
    # Frame header with 2-byte content size, not single-segment, window descriptor of 2^31 bytes.
    sections[-1][4] = (
        b"\x28\xb5\x2f\xfd" + b"\x40" + bytes([21 << 3]) + (1000 - 256).to_bytes(2, "little") + b"\x03\x1f\0\0"
    )
    with at_most(2 * MIB), pytest.raises(LimitError, match="window"):
        read_everything(put_together(header, sections))


def test_an_empty_frame_cannot_hide_bytes() -> None:
    header, sections = take_apart(gsdata.to_bytes(make_codes(0, [0])))
    name = header["sections"].index("gaussians")
    for codec in (1, 2):
        sections[name][1], sections[name][4] = codec, frame(b"") + b"hidden"
        with pytest.raises(FormatError, match="must shrink"):
            gsdata.open(put_together(header, sections))


# --- each rule of the container, with checksums that are right -------------------------------------------------------


def swap_rows(rows: list[list[int]]) -> None:
    rows[0], rows[1] = rows[1], rows[0]


def set_to(row: int, column: int, value: int) -> Callable[[list[list[int]]], None]:
    def change(rows: list[list[int]]) -> None:
        rows[row][column] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_rows, "sorted"),
        (set_to(1, 0, 0), "sorted"),
        (set_to(0, 0, 999), "the header lists"),
        (set_to(0, 1, 3), "unknown codec 3"),
        (set_to(0, 2, 1), "reserved byte"),
        (set_to(0, 4, 5), "no holes, no overlap|decoded bytes"),
        (set_to(0, 5, 5), "stored as it is"),
        (set_to(0, 5, 1 << 25), "limit"),
        (set_to(1, 7, 0), "no holes, no overlap"),
        (set_to(1, 7, 2**64 - 1), "no holes, no overlap"),
        (set_to(-1, 4, 5000), "decoded bytes|sections end"),
        (set_to(-1, 3, 7), "of the format's own|optional"),
    ],
)
def test_table_rules(change: Callable[[list[list[int]]], None], message: str) -> None:
    header, sections = HEADERS[0]
    with pytest.raises(FormatError, match=message):
        gsdata.open(put_together(header, sections, table=change))


@pytest.mark.parametrize(
    ("preamble", "error", "message"),
    [
        ({"major": 2}, VersionError, r"version 2\.0 .* knows 1\.x; get a newer gsdata"),
        ({"major": 0, "minor": 3}, VersionError, r"version 0\.3 .* knows 1\.x; .* write it again"),
        ({"flags": 2}, FormatError, "flags"),
        ({"flags": 1}, FormatError, "header at offset 36: not a zstd frame"),
        ({"header_length": 2**32 - 1}, LimitError, "header of 4294967295 bytes"),
        ({"header_length": 10**6}, FormatError, "after the file's"),
        ({"header_length": 0}, ChecksumError, "checksum"),
        ({"section_count": 2**32 - 1}, LimitError, "sections"),
        ({"section_count": 100_000}, FormatError, "after the file's"),
        ({"file_length": 2**64 - 1}, FormatError, "truncated"),
        ({"file_length": 10}, FormatError, "trailing"),
    ],
)
def test_preamble_rules(preamble: dict[str, int], error: type[GsdError], message: str) -> None:
    header, sections = HEADERS[0]
    with pytest.raises(error, match=message):
        gsdata.open(put_together(header, sections, **preamble))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda packed: frame(bytes(MAX_HEADER + 1)), LimitError, "bytes when decoded, the limit is"),
        (lambda packed: frame(packed, write_checksum=True), FormatError, "no checksum"),
        (lambda packed: frame(packed, write_content_size=False), FormatError, "zstd must shrink it|must declare"),
        (lambda packed: frame(packed) + b"x", FormatError, "header at offset 36"),
        (lambda packed: frame(packed)[:-1], FormatError, "header at offset 36"),
        (lambda packed: frame(bytes(range(256))), FormatError, "zstd must shrink it"),
        (lambda packed: b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", FormatError, "header at offset 36"),
        (lambda packed: frame(bytes(len(packed))), FormatError, "header"),
    ],
)
def test_compressed_header_rules(make: Callable[[bytes], bytes], error: type[GsdError], message: str) -> None:
    header, sections = HEADERS[0]
    packed = canonical.encode(header)
    good = gsdata.open(put_together(frame(packed), sections, flags=1))
    good.verify()
    assert good.content_id == gsdata.open(put_together(packed, sections)).content_id
    tracemalloc.start()
    try:
        with pytest.raises(error, match=message):
            gsdata.open(put_together(make(packed), sections, flags=1))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=64), st.integers(0, 2000), st.integers(0, 64))
def test_compressed_header_bytes_of_a_hostile_writer(junk: bytes, position: int, length: int) -> None:
    header, sections = HEADERS[0]
    packed = frame(canonical.encode(header))
    good_or_refused(put_together(packed[:position] + junk + packed[position + length :], sections, flags=1))
