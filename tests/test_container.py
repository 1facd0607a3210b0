"""The container: bytes <-> named, checksummed sections."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gsdata
from gsdata.container import (
    MAX_HEADER,
    MAX_RAW,
    STORED,
    ZSTD,
    FileSource,
    MemorySource,
    read_container,
    write_container,
)
from gsdata.errors import ChecksumError, FormatError, LimitError


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
