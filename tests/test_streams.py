"""Streams: codes and labels <-> raw bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from files import sorted_rows
from gsdata import streams
from gsdata.errors import FormatError
from gsdata.quantize import Codes, QuantizerSet, replace
from gsdata.streams import Labels
from gsdata.testing import SET, codes, make_codes, quantizer_sets


def in_order(codes: Codes) -> Codes:
    order = streams.sort_order(codes)
    return replace(codes, means=codes.means[order], cholesky=codes.cholesky[order], colors=codes.colors[order])


@given(
    quantizer_sets(),
    st.lists(st.integers(0, 20), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_round_trip(quantizers: QuantizerSet, counts: list[int], channels: int, seed: int) -> None:
    codes = in_order(make_codes(seed, counts, channels=channels, sets=(quantizers,)))
    raw = streams.encode_codes(codes)
    layouts = streams.layouts("none", 0, len(counts), 0, sum(counts), channels, quantizers)
    assert {name: len(data) for name, data in raw.items()} == {name: part.raw_size for name, part in layouts.items()}
    assert tuple(raw) == streams.section_names("none")
    decoded_counts = streams.decode_counts(raw["counts"], len(counts), sum(counts), "here")
    assert decoded_counts.tolist() == counts
    means, cholesky, colors = streams.decode_codes(raw["gaussians"], decoded_counts, channels, quantizers, "here")
    np.testing.assert_array_equal(means, codes.means)
    np.testing.assert_array_equal(cholesky, codes.cholesky)
    np.testing.assert_array_equal(colors, codes.colors)


@settings(max_examples=50)
@given(codes(), st.integers(0, 2**32))
def test_the_order_is_canonical(codes: Codes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.cumsum(codes.counts) - codes.counts
    shuffle = np.concatenate(
        [np.zeros(0, int), *(s + rng.permutation(n) for s, n in zip(starts, codes.counts, strict=True))]
    )
    shuffled = replace(
        codes, means=codes.means[shuffle], cholesky=codes.cholesky[shuffle], colors=codes.colors[shuffle]
    )
    a, b = in_order(codes), in_order(shuffled)
    for name in ("means", "cholesky", "colors"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert sorted_rows(a) == sorted_rows(codes)
    rows = np.concatenate([a.means, a.cholesky, a.colors], axis=1).tolist()
    for start, count in zip(starts, a.counts, strict=True):
        assert rows[start : start + count] == sorted(rows[start : start + count])


def parts(raw: bytes, size: int) -> list[bytes]:
    return [raw[i : i + size] for i in range(0, len(raw), size)]


def test_x_is_stored_as_differences_and_colours_turn_around_green() -> None:
    codes = make_codes(0, [2, 1])
    codes.means[:, 0] = [10, 250, 7]
    codes.colors[:] = [[1, 2, 3], [0, 127, 5], [9, 9, 9]]
    raw = streams.encode_codes(codes)
    assert raw["counts"] == bytes([2, 1, 0, 0])
    by_stream = dict(zip(("x", "y", "l11", "l22", "l21", "c0", "c1", "c2"), parts(raw["gaussians"], 3), strict=True))
    assert by_stream["x"] == bytes([10, 240, 7])
    assert [by_stream[name] for name in ("l11", "l21", "l22")] == [bytes(c) for c in codes.cholesky.T.tolist()]
    assert by_stream["c0"] == bytes([2, 127, 9])
    assert by_stream["c1"] == bytes([127, 1, 0])
    assert by_stream["c2"] == bytes([1, 6, 0])


def test_wide_codes_are_split_in_byte_planes() -> None:
    assert streams.pack(np.array([0x0102, 0x0003]), 12) == b"\x02\x03\x01\x00"
    assert streams.unpack(b"\x02\x03\x01\x00", 2, 4096, 12, "here").tolist() == [0x0102, 0x0003]


@pytest.mark.parametrize(
    ("name", "column"), [("means", 1), ("cholesky", 0), ("cholesky", 1), ("cholesky", 2), ("colors", 2)]
)
def test_codes_beyond_their_table_are_refused_when_written_and_when_read(name: str, column: int) -> None:
    codes = make_codes(0, [3])
    getattr(codes, name)[1, column] = 300
    with pytest.raises(ValueError, match=f"{name} hold the code 300"):
        streams.encode_codes(codes)
    good = parts(streams.encode_codes(in_order(make_codes(0, [3], channels=1)))["gaussians"], 3)

    def decode(stream: int, data: bytes) -> None:
        streams.decode_codes(b"".join([*good[:stream], data, *good[stream + 1 :]]), np.array([3]), 1, SET, "here")

    for number, stream in ((2, "l11"), (3, "l22"), (4, "l21"), (5, "c0")):
        with pytest.raises(FormatError, match=f"'{stream}': value 200 at position 1, expected less than"):
            decode(number, b"\0\xc8\0")
    with pytest.raises(FormatError, match="'x': positions add up beyond 255"):
        decode(0, b"\x80\x7f\x01")


def test_counts_must_add_up() -> None:
    with pytest.raises(FormatError, match="add up to 3, the header says 4"):
        streams.decode_counts(b"\1\2\0\0", 2, 4, "here")


# --- labels ----------------------------------------------------------------------------------------------------------


@st.composite
def labels(draw: st.DrawFn) -> Labels:
    count = draw(st.sampled_from([1, 2, 3, 10, 255, 256, 257, 300, 1000]))
    images = draw(st.integers(0, 6))
    layout = draw(st.sampled_from(["hard", "dense", "sparse"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if layout == "hard":
        return Labels("hard", count, hard=rng.integers(0, count, images))
    weights = rng.integers(1, 256, (images, count)) * (rng.random((images, count)) < draw(st.floats(0, 1)))
    weights[np.arange(images), rng.integers(0, count, images)] = 255
    return Labels(layout, count, weights=weights.astype(np.uint8))


@given(labels())
def test_labels_round_trip(stored: Labels) -> None:
    raw = streams.encode_labels(stored)
    reference = stored.hard if stored.weights is None else stored.weights
    assert reference is not None
    images = len(reference)
    entries = len(raw["label.weights"]) if stored.layout == "sparse" else 0
    layouts = streams.label_layouts(stored.layout, stored.class_count, images, entries)
    assert {name: len(data) for name, data in raw.items()} == {name: part.raw_size for name, part in layouts.items()}
    assert list(layouts) == [n for n in streams.section_names(stored.layout) if n in streams.LABEL_SECTIONS]
    again = streams.decode_labels(raw, stored.layout, stored.class_count, images, entries, "here")
    np.testing.assert_array_equal(again.hard if again.weights is None else again.weights, reference)


def test_class_bits() -> None:
    assert [streams.class_bits(k) for k in (0, 1, 2, 3, 256, 257, 65535, 65536)] == [1, 1, 1, 2, 8, 9, 16, 16]


@pytest.mark.parametrize(
    ("raw", "layout", "entries", "message"),
    [
        ({"labels": b"\0\3"}, "hard", 0, "value 3 at position 1, expected less than 3"),
        ({"label.weights": b"\1\0\0\0\0\0"}, "dense", 0, "no weight at all"),
        ({"label.counts": b"\1\1", "label.classes": b"\0\3", "label.weights": b"\1\1"}, "sparse", 2, "less than 3"),
        ({"label.counts": b"\1\2", "label.classes": b"\0\1", "label.weights": b"\1\1"}, "sparse", 2, "add up to 3"),
        ({"label.counts": b"\4\0", "label.classes": b"\0\1", "label.weights": b"\1\1"}, "sparse", 2, "less than 4"),
        ({"label.counts": b"\2\0", "label.classes": b"\0\1", "label.weights": b"\1\1"}, "sparse", 2, "no weight"),
        ({"label.counts": b"\2\1", "label.classes": b"\1\1\0", "label.weights": b"\1\1\1"}, "sparse", 3, "ascending"),
        ({"label.counts": b"\2\1", "label.classes": b"\1\0\0", "label.weights": b"\1\1\1"}, "sparse", 3, "ascending"),
        ({"label.counts": b"\1\1", "label.classes": b"\1\0", "label.weights": b"\1\0"}, "sparse", 2, "above zero"),
    ],
)
def test_bad_labels_are_refused(raw: dict[str, bytes], layout: streams.LabelLayout, entries: int, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        streams.decode_labels(raw, layout, 3, 2, entries, "here")
