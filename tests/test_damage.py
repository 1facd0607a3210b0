"""Whatever happened to a file on its way, and whatever a stranger wrote: a GsdError, or a file that is right.

Never another exception, never a silent wrong result, never more than 64 MiB.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gsdata
from gsdata import rans, streams
from gsdata.errors import FormatError, GsdError, LimitError
from gsdata.forging import frame, put_together, take_apart
from gsdata.header import Header
from gsdata.testing import make_codes
from hostile import HEADERS, MIB, at_most, good_or_refused, one_line, read_everything, small_file


def refuse_all(good: bytes, variants: Iterator[bytes]) -> int:
    """Read all variants, expecting a GsdError of each; one in 64 with every allocation traced."""
    count, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in variants:
        assert data != good
        try:
            with at_most(64 * MIB) if count % 64 == 0 else nullcontext():
                read_everything(data)
        except GsdError as error:
            one_line(error)
        else:
            position = next((i for i, (a, b) in enumerate(zip(good, data, strict=False)) if a != b), len(good))
            pytest.fail(f"read without an error, though byte {position} of {len(good)} is wrong")
        count += 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB on Linux
    return count


def changed(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


def test_the_small_file_is_good_and_has_all_codecs() -> None:
    file = read_everything(small_file())
    assert {section.codec for section in file.sections} == {0, 1, 2}
    assert len(file.header.images) == 2


def test_every_value_of_every_byte_before_the_sections() -> None:
    good = small_file()
    start = gsdata.open(good).sections[0].offset
    variants = (changed(good, i, v) for i in range(start) for v in range(256) if v != good[i])
    assert refuse_all(good, variants) == start * 255


def test_every_byte_of_the_sections() -> None:
    good = small_file()
    start = gsdata.open(good).sections[0].offset
    flips = [0x01, 0x10, 0x80, 0xFF]
    variants = (changed(good, i, good[i] ^ flip) for i in range(start, len(good)) for flip in flips)
    assert refuse_all(good, variants) == (len(good) - start) * len(flips)


def test_every_truncation_and_appended_bytes() -> None:
    good = small_file()
    refuse_all(good, (good[:length] for length in range(len(good))))
    refuse_all(good, (good + tail for tail in (b"\0", b"\n", good, b"x" * 1000)))
    refuse_all(good, (good[:i] + good[i + 1 :] for i in range(len(good))))


@pytest.mark.parametrize("soft", [np.eye(3) + 0.01, np.eye(3)])
def test_soft_labels_are_covered_too(soft: np.ndarray) -> None:
    good = small_file(labels=None, soft_labels=soft)
    start = gsdata.open(good).sections[0].offset
    refuse_all(good, (changed(good, i, good[i] ^ 1) for i in range(start, len(good))))


# --- a hostile writer: every checksum is right ------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, 2, 255, 256, 65535, 65536, 2**18, 2**22, 2**24, 2**31, 2**32, 2**53, 2**63, 2**64 - 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.integers(0, 300), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(0, 2**40), max_size=2),
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, item in inner for path in paths(item, (*prefix, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@settings(max_examples=300)
@given(data=st.data())
def test_header_values_of_a_hostile_writer(data: st.DataObject) -> None:
    header, sections = HEADERS[data.draw(st.integers(0, 2))]
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(paths(header)))
        header = replaced(header, path, data.draw(VALUES))
    if isinstance(header, dict):
        good_or_refused(put_together(header, sections))


@settings(max_examples=300)
@given(data=st.data())
def test_table_entries_of_a_hostile_writer(data: st.DataObject) -> None:
    header, sections = HEADERS[data.draw(st.integers(0, 2))]
    widths = [16, 8, 8, 32, 32, 32, 32, 64]

    def change(rows: list[list[int]]) -> None:
        for _ in range(data.draw(st.integers(1, 3))):
            row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 7))
            top = 2 ** widths[column] - 1
            near = st.integers(max(0, rows[row][column] - 2), min(top, rows[row][column] + 2))
            rows[row][column] = data.draw(st.one_of(near, st.integers(0, top), st.just(top)))

    original = put_together(header, sections)
    hostile = put_together(header, sections, table=change)
    assert good_or_refused(hostile) is None or hostile == original


@settings(max_examples=200)
@given(data=st.data())
def test_sections_of_a_hostile_writer(data: st.DataObject) -> None:
    """Any bytes where codes, counts and labels were, stored or as a good frame: refused, or decoded in range."""
    header, sections = HEADERS[data.draw(st.integers(0, 2))]
    sections = [list(section) for section in sections]
    for section in data.draw(st.lists(st.sampled_from(sections), min_size=1, max_size=3)):
        raw = data.draw(st.binary(min_size=section[5], max_size=section[5]))
        section[1], section[4] = data.draw(st.sampled_from([(0, raw), (1, frame(raw)), (1, raw), (2, raw)]))
    file = good_or_refused(put_together(header, sections))
    if file is not None:
        codes = file.codes()
        assert (codes.means < 256).all()
        assert (codes.cholesky < 128).all()
        assert (codes.colors < 128).all()


@settings(max_examples=200)
@given(data=st.data())
def test_coded_bytes_of_a_hostile_writer(data: st.DataObject) -> None:
    """Any change of what the entropy coder wrote, its checksum repaired: refused, or decoded in range."""
    header, sections = HEADERS[data.draw(st.integers(0, 2))]
    sections = [list(section) for section in sections]
    coded = [section for section in sections if section[1] == 2]
    assert coded
    section = data.draw(st.sampled_from(coded))
    stored = bytearray(section[4])
    for _ in range(data.draw(st.integers(1, 3))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    section[4] = bytes(stored[: data.draw(st.just(len(stored)) | st.integers(0, len(stored)))])
    file = good_or_refused(put_together(header, sections))
    if file is not None:
        codes = file.codes()
        assert (codes.means < 256).all()
        assert (codes.cholesky < 128).all()
        assert (codes.colors < 128).all()


def test_every_byte_of_a_coded_section_with_its_checksum_repaired() -> None:
    header, sections = HEADERS[0]
    (at,) = (i for i, section in enumerate(sections) if section[1] == 2 and section[3] == 1)
    stored = sections[at][4]
    for position in range(len(stored)):
        for flip in (0x01, 0x10, 0x80, 0xFF):
            hostile = [list(section) for section in sections]
            hostile[at][4] = changed(stored, position, stored[position] ^ flip)
            try:
                read_everything(put_together(header, hostile))
            except GsdError as error:
                one_line(error)


@settings(max_examples=200)
@given(junk=st.binary(max_size=300), position=st.integers(0, 400), length=st.integers(0, 40))
def test_header_bytes_of_a_hostile_writer(junk: bytes, position: int, length: int) -> None:
    header, sections = HEADERS[0]
    packed = gsdata.canonical.encode(header)
    good_or_refused(put_together(packed[:position] + junk + packed[position + length :], sections))
    good_or_refused(put_together(junk, sections))


def one_chunk(images: int, gaussians: int, **header: Any) -> bytes:
    """A tiny file that declares one huge chunk of zeros, all consistent."""
    base, _ = take_apart(gsdata.to_bytes(make_codes(0, [1])))
    base["chunks"] = {"gaussians": [gaussians], "images": [images], "quantizers": [0]}
    base |= header
    sizes = {"counts": 2 * images}
    sections = []
    for number, name in enumerate(base["sections"]):
        raw = bytes(sizes.get(name, 8 * gaussians))
        if name == "counts" and gaussians:
            each, rest = divmod(gaussians, images)
            counts = np.full(images, each, np.uint16)
            counts[:rest] += 1
            raw = (counts & 255).astype(np.uint8).tobytes() + (counts >> 8).astype(np.uint8).tobytes()
        sections.append([number, 1, 0, 0, frame(raw), len(raw)])
    return put_together(base, sections)


def test_the_largest_chunk_is_read_in_little_memory() -> None:
    data = one_chunk(1 << 16, 1 << 18)
    assert len(data) < 10_000
    with at_most(64 * MIB):
        read_everything(data)


def test_the_largest_coded_chunk_is_read_in_little_memory() -> None:
    """Nine streams of twelve random bits, contexts and all; and a chunk of the most soft labels."""
    rng = np.random.default_rng(0)
    gaussians = 1 << 18
    wide = [["uniform", -1.0, 1.0, 12], ["log2", -2.0, 2.0, 12]]
    base, _ = take_apart(gsdata.to_bytes(make_codes(0, [1], channels=4), soft_labels=np.ones((1, 64)), level=0))
    base["chunks"] = {"gaussians": [gaussians], "images": [1 << 16], "quantizers": [0]}
    base["quantizers"] = [{"colors": wide[0], "means": wide[0], "scales": wide[1], "shear": wide[0]}]
    layouts = streams.layouts("dense", 64, 1 << 16, 0, gaussians, 4, Header.from_dict(base).quantizers[0])
    columns = [np.minimum(rng.geometric(0.01, gaussians) - 1, 4095) for _ in range(9)]
    columns[0] = np.zeros(gaussians, np.int64)  # positions add up
    raw = {
        "counts": streams.pack(np.full(1 << 16, 4), 16),
        "label.weights": rng.integers(1, 200, 1 << 22).astype(np.uint8).tobytes(),
        "gaussians": b"".join(streams.pack(column, 12) for column in columns),
    }
    sections = []
    for number, name in enumerate(base["sections"]):
        stored = rans.encode(raw[name], layouts[name], {"y": [("x",)], "l22": [("y", "l11")], "c3": [("c0",)]})
        assert len(stored) < len(raw[name])
        sections.append([number, 2, 0, 0, stored, len(raw[name])])
    data = put_together(base, sections)
    file = gsdata.open(data)
    with at_most(64 * MIB):
        file.verify()


def test_only_sections_of_the_format_are_coded() -> None:
    header, sections = take_apart(gsdata.to_bytes(make_codes(0, [1]), optional_sections={"test.zeros": bytes(1000)}))
    sections[-1][1] = 2
    with pytest.raises(FormatError, match=r"'test\.zeros'.*codec rans is for sections of the format only"):
        read_everything(put_together(header, sections))


@pytest.mark.parametrize(("images", "gaussians"), [(1 << 17, 100), (1 << 10, 1 << 20), (1 << 23, 1 << 24)])
def test_a_larger_chunk_is_refused_before_decoding(images: int, gaussians: int) -> None:
    data = one_chunk(images, gaussians)
    with at_most(2 * MIB), pytest.raises(LimitError, match=r"chunks|decoded bytes, the limit"):
        gsdata.open(data)


def test_soft_labels_of_many_classes_are_bounded_and_verified_chunk_by_chunk() -> None:
    classes, images, chunks = 65535, 64, 40
    weights = np.zeros((1, classes), np.uint8)
    weights[0, 0] = 255
    base, _ = take_apart(gsdata.to_bytes(make_codes(0, [0]), soft_labels=weights, class_count=classes))
    assert base["labels"] == "sparse"
    base["chunks"] = {
        "gaussians": [0] * chunks,
        "images": [images] * chunks,
        "labels": [images] * chunks,
        "quantizers": [0] * chunks,
    }
    raw = {
        "counts": bytes(2 * images),
        "label.counts": b"\1" * images + bytes(images),
        "label.classes": bytes(2 * images),
    }
    raw["label.weights"] = b"\xff" * images
    sections = []
    for chunk in range(chunks):
        for number, name in enumerate(base["sections"]):
            data = raw.get(name, b"")
            packed = frame(data)
            small = len(packed) < len(data)
            sections.append([number, int(small), 0, chunk, packed if small else data, len(data)])
    data = put_together(base, sections)
    with at_most(64 * MIB):
        read_everything(data)
    base["chunks"]["images"][0] = 65
    with pytest.raises(LimitError, match="weights"):
        gsdata.open(put_together(base, sections))


def test_many_tiny_values_in_the_header_are_counted() -> None:
    header, sections = HEADERS[0]
    packed = gsdata.canonical.encode(header)
    for value in (b"\x90", b"\x80", b"\0", b"\xa0"):
        many = b"\xa8metadata\x81\xa1a\xdd\x00\x04\x00\x00" + value * (1 << 18)
        data = put_together(packed.replace(b"\xa8metadata\x80", many), sections)
        # Empty maps are the largest objects that one byte can ask for; tracing the others would only take time.
        with at_most(64 * MIB) if value == b"\x80" else nullcontext(), pytest.raises(LimitError, match="values"):
            gsdata.open(data)
    deep = packed.replace(b"\xa8metadata\x80", b"\xa8metadata\x81\xa1a" + b"\x91" * 5000 + b"\x90")
    with pytest.raises(LimitError, match="deeper"):
        gsdata.open(put_together(deep, sections))
    for huge in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with at_most(64 * MIB), pytest.raises(FormatError):
            gsdata.open(put_together(packed.replace(b"\xa8metadata\x80", b"\xa8metadata" + huge), sections))


def test_many_quantiser_sets_are_bounded() -> None:
    header, sections = HEADERS[0]
    sets = [
        {name: [kind, low - i / 1000, high, 12] for name, (kind, low, high, _) in header["quantizers"][0].items()}
        for i in range(256)
    ]
    sets.insert(0, header["quantizers"][0])  # the one in use
    data = put_together(header | {"quantizers": sets[:256]}, sections)
    with at_most(64 * MIB):
        gsdata.open(data)
    with pytest.raises(LimitError, match=r"number of sets .* found 257"):
        gsdata.open(put_together(header | {"quantizers": sets}, sections))


def test_many_sections_of_a_good_file_take_little_memory() -> None:
    file = gsdata.to_bytes(make_codes(0, [0] * 3000), chunk_images=1)
    with at_most(len(file) + 32 * MIB):
        gsdata.open(file)
