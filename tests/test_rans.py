"""The entropy coder: codes -> stored bytes -> codes, in NumPy and in Numba."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gsdata import rans
from gsdata.errors import FormatError
from gsdata.rans import coder, fitting, model
from gsdata.rans.layout import Layout


def draw_planes(layout: Layout, seed: int) -> np.ndarray:
    """Planes of streams with different distributions, each but the first one related to the one before it."""
    rng = np.random.default_rng(seed)
    streams: list[np.ndarray] = []
    for number, (_, bits) in enumerate(layout.streams):
        top = 2**bits
        kind = rng.integers(4)
        if kind == 0:
            values = rng.integers(0, top, layout.count)
        elif kind == 1:
            values = np.minimum(rng.geometric(rng.uniform(0.02, 0.9), layout.count) - 1, top - 1)
        else:
            values = np.full(layout.count, int(rng.integers(top)))
        if number and kind != 2:
            values = (values + streams[-1]) % top
        streams.append(values)
    return np.stack([streams[p.stream] >> p.shift & 255 for p in layout.planes]).astype(np.uint8)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    widths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=9) | st.just([16]))
    count = draw(st.integers(1, 40) | st.integers(200, 3000))
    return Layout(count, tuple((f"s{i}", bits) for i, bits in enumerate(widths)))


def sources(layout: Layout, seed: int) -> dict[str, list[tuple[str, ...]]]:
    rng = np.random.default_rng(seed)
    names = [name for name, _ in layout.streams]
    return {
        name: [tuple(rng.choice(names[:i], rng.integers(1, i + 1), replace=False).tolist()) for _ in range(2)]
        for i, name in enumerate(names)
        if i
    }


def decode_both(data: bytes, layout: Layout) -> np.ndarray:
    """Decoded by NumPy and by Numba, which must agree in what they decode and in what they refuse."""
    compiled = pytest.importorskip("gsdata.rans.compiled")
    found: list[Any] = []
    for decode in (lambda job: coder.decode([job])[0], compiled.decode):
        job = coder.open_job(data, layout)
        states, used = decode(job)
        try:
            coder.check_end(job, states, used)
            found.append(job.planes)
        except FormatError:
            found.append(None)
    if found[0] is None or found[1] is None:
        assert found == [None, None]
        raise FormatError("both refuse it")
    np.testing.assert_array_equal(*found)
    for plane, symbols in zip(layout.planes, found[0], strict=True):
        assert int(symbols.max()) < 2**plane.bits
    return found[0]


@settings(max_examples=60)
@given(layouts(), st.integers(0, 2**32))
@example(Layout(1, (("a", 1),)), 0)
@example(Layout(5000, (("a", 12), ("b", 9), ("c", 8))), 1)
def test_round_trip(layout: Layout, seed: int) -> None:
    planes = draw_planes(layout, seed)
    raw = planes.tobytes()
    assert len(raw) == layout.raw_size
    data = rans.encode(raw, layout, sources(layout, seed))
    assert rans.encode(raw, layout, sources(layout, seed)) == data
    assert rans.decode([(data, layout, "here")]) == [raw]
    np.testing.assert_array_equal(decode_both(data, layout), planes)


@pytest.mark.parametrize("count", [511, 512, 1023, 40_000])
def test_lanes(count: int) -> None:
    layout = Layout(count, (("a", 6), ("b", 7)))
    data = rans.encode(draw_planes(layout, 0).tobytes(), layout, {"b": [("a",)]})
    assert data[0] == {511: 0, 512: 1, 1023: 1, 40_000: 7}[count]
    decode_both(data, layout)


def test_many_sections_decode_as_each_alone() -> None:
    """Other lengths, lanes and alphabets; contexts and none; NumPy takes those of equal shape together."""
    found = []
    for seed, (count, bits) in enumerate([(3000, 6), (2100, 8), (700, 6), (2900, 3), (2500, 12), (9, 6), (2999, 6)]):
        layout = Layout(count, (("a", bits), ("b", 5), ("c", bits)))
        raw = draw_planes(layout, seed).tobytes()
        found.append(((rans.encode(raw, layout, {"b": [("a",)], "c": [("a", "b")]}), layout, "here"), raw))
    jobs = [coder.open_job(*section[:2]) for section, _ in found]
    for group in ([0, 3], [0, 1, 3, 6], [6, 1]):
        again = [coder.open_job(*found[i][0][:2]) for i in group]
        ends = coder.decode(again)
        for i, job, end in zip(group, again, ends, strict=True):
            coder.check_end(job, *end)
            assert job.planes.tobytes() == found[i][1]
    assert len({(len(job.models), len(job.states)) for job in jobs}) == 4
    assert rans.decode([section for section, _ in found]) == [raw for _, raw in found]


def test_without_numba_it_is_numpy_that_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(3000, (("a", 6), ("b", 7)))
    raws = [draw_planes(layout, seed).tobytes() for seed in range(3)]
    found = [(rans.encode(raw, layout, {"b": [("a",)]}), layout, "here") for raw in raws]
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    monkeypatch.setitem(sys.modules, "gsdata.rans.compiled", None)
    assert rans.decode(found) == raws
    with pytest.raises(FormatError, match="here: rans: "):
        rans.decode([*found, (found[0][0][:-2], layout, "here")])


def test_numba_is_not_loaded_for_it() -> None:
    code = (
        "import sys, test_rans as t\nassert 'numba' not in sys.modules\n"
        "layout = t.Layout(900, (('a', 6),)); raw = t.draw_planes(layout, 0).tobytes()\n"
        "assert t.rans.decode([(t.rans.encode(raw, layout, {}), layout, 'here')]) == [raw]\n"
        "assert 'numba' not in sys.modules"
    )
    path = [p for p in sys.path if p]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"], check=True)


# --- what it gains ------------------------------------------------------------------------------------------------------


def entropy(values: np.ndarray) -> float:
    counts = np.bincount(values)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def test_it_comes_close_to_the_entropy() -> None:
    rng = np.random.default_rng(0)
    values = np.minimum(rng.geometric(0.1, 20_000) - 1, 63).astype(np.uint8)
    layout = Layout(len(values), (("a", 6),))
    data = rans.encode(values.tobytes(), layout, {})
    assert 8 * len(data) < 1.005 * entropy(values) + 8 * (40 + 4 * 64)
    bits = rans.stream_bits(data, layout, values[None])[0]
    assert 8 * len(data) - 32 * 65 < bits < 8 * len(data)
    assert bits < 1.005 * entropy(values) + 8 * 40


def test_equally_likely_symbols_cost_one_bit_of_model() -> None:
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(128), 4)).astype(np.uint8)
    data = rans.encode(values.tobytes(), Layout(512, (("a", 7),)), {})
    assert len(data) <= 512 * 7 // 8 + 1 + 1 + 2 * 4
    only = rans.encode(bytes(1000), Layout(1000, (("a", 7),)), {})
    assert len(only) <= 1 + (4 + 3 + 128 + 32) // 8 + 2 * 4  # no words at all: a certain symbol takes no bits


def test_contexts_are_taken_where_they_pay() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 64, 20_000)
    second = np.clip(first + rng.integers(-2, 3, len(first)), 0, 63)
    third = rng.integers(0, 64, len(first))
    planes = np.stack([first, second, third]).astype(np.uint8)
    layout = Layout(len(first), (("a", 6), ("b", 6), ("c", 6)))
    fitted = fitting.fit_model(planes, layout, {"b": [("a",)], "c": [("a",), ("b",), ("a", "b")]})
    assert [m.sources for _, m, _ in fitted] == [(), (0,), ()]
    assert len(fitted[1][1].thresholds) == model.MAX_THRESHOLDS
    few = fitting.fit_model(planes[:, :60], Layout(60, layout.streams), {"b": [("a",)]})
    assert [len(m.thresholds) for _, m, _ in few] == [0, few[1][1].thresholds.size, 0]
    assert few[1][1].thresholds.size < 4
    plain, coded = (len(rans.encode(planes.tobytes(), layout, s)) for s in ({}, {"b": [("a",)]}))
    assert coded < plain - 20_000 * 2 / 8


def test_wide_codes_cost_about_their_entropy_too() -> None:
    """The high plane is coded by what the low one is."""
    values = np.minimum(np.random.default_rng(0).geometric(0.004, 30_000) - 1, 4095)
    layout = Layout(len(values), (("a", 12),))
    data = rans.encode((values & 255).astype(np.uint8).tobytes() + (values >> 8).astype(np.uint8).tobytes(), layout, {})
    assert 8 * len(data) < 1.02 * entropy(values)


# --- the model ----------------------------------------------------------------------------------------------------------


def test_weights_and_frequencies() -> None:
    assert model.WEIGHTS[:12].tolist() == [0, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24]
    assert (len(model.WEIGHTS), model.WEIGHTS[-1]) == (49, 14336)
    found = model.frequencies(np.array([[1, 5, 0, 1], [0, 48, 0, 0], [3, 3, 3, 3]]))
    assert found.tolist() == [[1024, 2048, 0, 1024], [0, 4096, 0, 0], [1024] * 4]
    assert model.frequencies(np.array([[7, 7, 7, 0]])).tolist() == [[1366, 1365, 1365, 0]]
    # What is left over goes to the largest; a weight above 0 is never rounded to frequency 0.
    assert model.frequencies(np.array([[48] + [1] * 3])).tolist() == [[4090, 2, 2, 2]]


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_frequencies_add_up(seed: int, bits: int) -> None:
    weights = np.random.default_rng(seed).integers(0, 49, (5, 2**bits))
    weights[:, 0] = np.maximum(weights[:, 0], 1)
    found = model.frequencies(weights)
    assert (found.sum(axis=1) == 4096).all()
    assert ((found > 0) == (weights > 0)).all()


def bits(text: str, states: str = "00000100", words: str = "") -> bytes:
    """A section of one lane from the bits of its model, its state and words in hex."""
    text = text.replace(" ", "")
    size = -(-len(text) // 8)
    return b"\0" + int(text.ljust(8 * size, "0"), 2).to_bytes(size, "big") + bytes.fromhex(states + words)


ONE_BIT = Layout(3, (("a", 1),))
TWO = Layout(3, (("a", 1), ("b", 1)))
FLAT = "0000 1"


@pytest.mark.parametrize(
    ("data", "layout", "message"),
    [
        (b"", ONE_BIT, "no bytes"),
        (b"\x09" + bits(FLAT)[1:], ONE_BIT, "2.9 lanes"),
        (bits(FLAT), Layout(2049, ONE_BIT.streams), "2.0 lanes for 2049 codes"),
        (b"\x06" + bits(FLAT)[1:], Layout((2048 << 6) + 1, ONE_BIT.streams), "2.6 lanes for 131073 codes"),
        (b"\x07" + bits(FLAT)[1:], Layout(1 << 19, ONE_BIT.streams), "bytes after the model"),
        (b"\0", ONE_BIT, "plane 0 of stream 'a': ends within the model"),
        (bits("0001 "), ONE_BIT, "plane 0 of stream 'a': contexts, but no stream"),
        (bits(FLAT + "0001 0 10001 1 1"), TWO, "plane 1 of stream 'b': contexts, but no stream"),
        (bits(FLAT + "0001 1 " + "0" * 17), TWO, "no number"),
        (bits(FLAT + "0001 1 " + "0" * 13 + "1" + "0" * 20), TWO, "threshold 131057 is beyond"),
        (bits("0000 000 1 1"), ONE_BIT, "one of them above 0; found 0..0"),
        (bits("0000 000 01 1 0"), ONE_BIT, r"log-weights must lie in 0\.\.48.*found -1\.\.-1"),
        (bits("0000 000 0000001 0000001 100001 100001"), ONE_BIT, r"found 48\.\.96"),
        (bits("0000 000" + "0" * 40), ONE_BIT, "too large or missing"),
        (bits("0000 000 00000001 1" + "1" * 20), ONE_BIT, "too large or missing"),
        (bits("0000 000 0000001 1")[:3], ONE_BIT, "ends within the model"),
        (bits(FLAT + "001"), ONE_BIT, "padded with zeros"),
        (bits(FLAT)[:-1], ONE_BIT, "3 bytes after the model, expected 4"),
        (bits(FLAT, words="ab"), ONE_BIT, "5 bytes after the model"),
        (bits(FLAT, "ffff0000"), ONE_BIT, "the state 65535, expected 65536"),
    ],
)
def test_bad_models_are_refused(data: bytes, layout: Layout, message: str) -> None:
    with pytest.raises(FormatError, match=f"^here: rans: .*{message}"):
        rans.decode([(data, layout, "here")])


def test_decoding_must_end_where_encoding_starts() -> None:
    # Three symbols of one bit each: the state 2^16 * 8 + 5 * ... is made by hand from the definition.
    state = 1 << 16
    for symbol in (1, 0, 1):
        frequency, start = 2048, 2048 * symbol
        state = (state // frequency << 12) + state % frequency + start
    good = bits(FLAT, state.to_bytes(4, "little").hex())
    assert decode_both(good, ONE_BIT).tolist() == [[1, 0, 1]]
    for bad in (bits(FLAT, (state + 1).to_bytes(4, "little").hex()), good + b"\0\0", bits(FLAT)):
        with pytest.raises(FormatError, match="both refuse"):
            decode_both(bad, ONE_BIT)
        with pytest.raises(FormatError, match="do not end as they must"):
            rans.decode([(bad, ONE_BIT, "here")])


def test_words_that_are_missing_are_not_read() -> None:
    """Every plane asks for words after the last one; NUMBA_BOUNDSCHECK=1 shows a read beyond them."""
    layout = Layout(4000, (("a", 8), ("b", 8), ("c", 12), ("d", 5)))
    rng = np.random.default_rng(0)
    planes = np.stack([rng.integers(0, 2**p.bits, 4000) for p in layout.planes]).astype(np.uint8)
    planes[1] = planes[0] ^ 1
    good = rans.encode(planes.tobytes(), layout, {"b": [("a",)], "c": [("a", "b")]})
    job = coder.open_job(good, layout)
    assert len(job.states) > 1
    start = len(good) - 2 * len(job.words)
    for words in (0, 1, 5, len(job.words) // 2, len(job.words) - 1):
        with pytest.raises(FormatError, match="both refuse"):
            decode_both(good[: start + 2 * words], layout)


# --- damage that no checksum catches ---------------------------------------------------------------------------------------

SMALL = Layout(600, (("x", 7), ("y", 9), ("c", 6)))
GOOD = rans.encode(draw_planes(SMALL, 3).tobytes(), SMALL, {"y": [("x",)], "c": [("x", "y"), ("y",)]})


@settings(max_examples=300)
@given(st.data())
def test_both_decoders_say_the_same_of_anything(data: st.DataObject) -> None:
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        # Half of all changes in the model and the states.
        place = data.draw(st.integers(0, len(GOOD) - 1) | st.integers(0, 200))
        changed[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(GOOD)) | st.integers(0, len(GOOD)))
    tail = data.draw(st.just(b"") | st.binary(max_size=8))
    tracemalloc.start()
    try:
        decode_both(bytes(changed[:cut]) + tail, SMALL)
    except FormatError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_noise_is_refused_or_decoded_in_range(noise: bytes) -> None:
    for start in (b"", b"\0", b"\3", GOOD[:150]):
        with suppress(FormatError):
            decode_both(start + noise, SMALL)
