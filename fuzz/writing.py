"""Properties of writing and of opening by path, held against random codes, values and damage by hypothesis.

Each is a function under ``target``; ``run`` tries all, ``tests/test_fuzz.py`` a few examples of each. What fails is shrunk and shown.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import pickle
import random
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))
import gsdata
import oracle
from errors import FormatError as SpecError
from gsdata import byte_source, container, mutating, testing
from gsdata.accidents import MAGIC
from gsdata.quantize import Codes, Quantizer, concatenate, fit_quantizers, quantize
from header import table as table_by_reader

TARGETS: dict[str, tuple[Callable[..., None], dict[str, st.SearchStrategy[Any]]]] = {}
TORCH = importlib.util.find_spec("torch") is not None
SEEDS = st.integers(0, 2**32 - 1)


def target(**drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A property and what it takes."""

    def keep(function: Callable[..., None]) -> Callable[..., None]:
        TARGETS[function.__name__] = function, drawn
        return function

    return keep


def run(examples: int, seed: int, names: tuple[str, ...] = (), shrink: bool = True) -> None:
    """Try so many examples of every property, or of some."""
    phases = [hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if shrink else [])]
    checks = list(hypothesis.HealthCheck)
    calm = hypothesis.settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=checks, phases=phases
    )
    for name in names or TARGETS:
        function, drawn = TARGETS[name]
        hypothesis.seed(seed)(calm(hypothesis.given(**drawn)(function)))()


def fails(error: type[BaseException] | tuple[type[BaseException], ...], call: Callable[[], Any]) -> str:
    """What was said; an AssertionError where the call does not end in that error."""
    try:
        result = call()
    except error as said:
        return str(said)
    raise AssertionError(f"no error, but {result!r:.200}")


def rows(codes: Codes) -> list[tuple[Any, ...]]:
    """What a set holds: for each image its quantisers and its Gaussians, whose order does not matter; then the rest."""
    every = np.concatenate([codes.means, codes.cholesky, codes.colors], axis=1).tolist()
    ends, index = np.cumsum(codes.counts).tolist(), np.asarray(codes.quantizer_index).tolist()
    images = [
        (codes.quantizers[i], sorted(every[end - count : end]))
        for i, end, count in zip(index, ends, codes.counts.tolist(), strict=True)
    ]
    return [*images, (codes.size, codes.antialias, codes.background, codes.kernel)]


# --- quantisers and values --------------------------------------------------------------------------------------------

ENDS = st.sampled_from([-(2.0**24), -64.0, -1.0, -0.0, 0.0, 1.0, 64.0, 2.0**24, 2.0**24 + 2, math.inf, math.nan])
BITS: st.SearchStrategy[Any] = st.one_of(st.integers(-1, 14), st.sampled_from([True, 4.0, "4"]))


@target(
    kind=st.sampled_from(["uniform", "log2", "log2", "cubic"]),
    low=ENDS | st.floats(-70, 70),
    width=ENDS | st.floats(0, 70) | st.floats(-40, 8).map(lambda x: 2.0**x),
    bits=st.integers(1, 12) | BITS,
)
def quantizers_are_those_of_the_second_reader(kind: Any, low: float, width: float, bits: Any) -> None:
    """One that is refused is refused by spec/reader.py; others have its table, whose values have their own codes."""
    row = [kind, low, low + width, bits]
    try:
        quantizer = Quantizer(*row)
    except ValueError:
        if type(bits) is int:
            fails(SpecError, lambda: table_by_reader("colors", row))
        return
    assert quantizer.table.tolist() == list(table_by_reader("colors", row))
    every = np.arange(2**bits)
    assert (quantizer.encode(quantizer.table) == every).all()
    assert (quantizer.encode(quantizer.thresholds) == every[1:]).all()
    assert (quantizer.encode(np.nextafter(quantizer.thresholds, np.float32(-np.inf))) == every[:-1]).all()
    fails(ValueError, lambda: quantizer.encode(np.array([0.0, np.nan])))
    fails(IndexError, lambda: quantizer.decode(np.array([2**bits])))


@target(
    values=testing.gaussians(),
    bits=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    coverage=st.sampled_from([1.0, 1.0, 0.99, 0.5]),
)
def fitted_values_come_back(values: gsdata.Gaussians, bits: list[int], coverage: float) -> None:
    """Fitted, quantised, written and read: the nearest values of the table, the same by torch, and again the same codes."""
    names = ("means_bits", "scales_bits", "shear_bits", "colors_bits")
    fitted = fit_quantizers(values, coverage=coverage, **dict(zip(names, bits, strict=True)))
    codes = quantize(values, fitted)
    assert rows(gsdata.open(gsdata.to_bytes(codes, level=1)).codes()) == rows(codes)
    assert fitted.bits(codes.channels) == 2 * bits[0] + 2 * bits[1] + bits[2] + codes.channels * bits[3]
    read, folded = codes.dequantize(), values.fold()
    assert rows(quantize(read, fitted)) == rows(codes)
    if coverage == 1:
        step = (fitted.colors.high - fitted.colors.low) / (2 ** bits[3] - 1)
        assert (np.abs(read.colors - folded.colors) <= step * 0.501 + 1e-6 * np.abs(folded.colors)).all()
    if TORCH:
        assert rows(quantize(values.torch(), fitted)) == rows(codes)
        trained = fitted.fake_quantize(values.torch()).numpy()
        for name in ("means", "cholesky", "colors"):
            assert np.array_equal(getattr(trained, name), getattr(read, name))


@target(
    values=testing.gaussians(),
    odd=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]),
    coverage=st.sampled_from([1.0, 0.9, 0.0, -1.0, 1.1, math.nan]),
    column=st.sampled_from(["cholesky", "colors"]),
)
def values_that_have_no_code_are_refused(values: gsdata.Gaussians, odd: float, coverage: float, column: str) -> None:
    """Values that are none, or too large, and a coverage that is no share."""
    broken = getattr(values, column).copy()
    broken[-1:] = odd
    if not 0 < coverage <= 1:
        fails(ValueError, lambda: fit_quantizers(values, coverage=coverage))
    elif len(broken) and coverage == 1:
        with np.errstate(all="ignore"):
            fails(ValueError, lambda: fit_quantizers(replace(values, **{column: broken}), coverage=coverage))
    if len(broken) and math.isnan(odd):
        fails(ValueError, lambda: quantize(replace(values, **{column: broken}), testing.SET))


@target(codes=testing.codes(), other=testing.quantizer_sets(), what=st.integers(0, 3), name=st.integers(0, 4))
def codes_agree_with_their_quantizers(codes: Codes, other: Any, what: int, name: int) -> None:
    """Indices of quantiser sets are checked; what was cut in parts is put together again, but not with what differs."""
    sets, images = codes.quantizers, codes.num_images
    bad: list[dict[str, Any]] = [
        {"quantizers": ()},
        {"quantizer_index": np.zeros(images + 1, np.int64)},
        {"quantizer_index": np.full(images, len(sets))},
        {"quantizer_index": np.full(images, -1)},
    ]
    if images or what < 2:
        fails(ValueError, lambda: replace(codes, **bad[what]))
    if len(sets) == 1:
        assert rows(replace(codes, quantizer_index=None)) == rows(codes)
    parts = [
        codes.select(range(images // 2)),
        replace(codes, quantizers=(other, *sets), quantizer_index=np.asarray(codes.quantizer_index) + 1),
    ]
    whole = concatenate([parts[0], parts[1].select(range(images // 2, images))])
    assert rows(whole) == rows(codes)
    fails(ValueError, lambda: concatenate([]))
    kept = {
        "size": (301, 1),
        "background": (3.0,) * codes.channels,
        "antialias": "box" if codes.antialias != "box" else "none",
    }
    changed = (
        dict([list(kept.items())[name % 3]])
        if name < 3
        else {"colors": np.zeros((codes.num_gaussians, codes.channels % 4 + 1), np.uint16), "background": ()}
    )
    fails(ValueError, lambda: concatenate([codes, replace(codes, **changed)]))


# --- containers -------------------------------------------------------------------------------------------------------


@target(
    raws=st.lists(st.binary(max_size=60) | st.integers(0, 3000).map(bytes), max_size=6),
    level=st.sampled_from([0, 3]),
    wrong=st.integers(1, 1 << 25),
)
def containers_keep_their_sections(raws: list[bytes], level: int, wrong: int) -> None:
    """What was written is read, under the size that the caller derived and no other; rANS needs to know more."""
    names = [f"test.s{i}" for i in range(len(raws))]
    sections = [(name, 0, raw) for name, raw in zip(names, raws, strict=True)]
    coded = {(names[0], 0): b""} if raws and raws[0] else {}
    data = container.write_container({"sections": names}, sections[::-1], level, coded)
    read = container.read_container(byte_source.MemorySource(data))
    for section, raw in zip(read.sections, raws, strict=True):
        said = (gsdata.FormatError, gsdata.LimitError)[wrong > container.MAX_RAW]
        if wrong != len(raw):
            fails(said, lambda section=section: read.read(section, wrong))
        if section.codec == container.RANS:
            fails(gsdata.FormatError, lambda section=section, raw=raw: read.read(section, len(raw)))
        else:
            assert read.read(section, len(raw)) == raw
            assert zlib.crc32(read.read_stored(section)) == section.crc
            if section.codec == container.ZSTD:
                # A decoder that gives less than the frame declares; the library's own never does.
                with mock.patch("zstandard.ZstdDecompressor") as decoder:
                    decoder().decompress.return_value = raw[:-1]
                    fails(gsdata.FormatError, lambda section=section, raw=raw: read.read(section, len(raw)))


@target(what=st.sampled_from(["header", "sections", "raw"]), more=st.sampled_from([1, 1000]))
def no_container_is_larger_than_a_reader_takes(what: str, more: int) -> None:
    """The limits of the format hold for who writes, too."""
    header: dict[str, Any] = {"sections": ["test.a"]}
    sections = [("test.a", 0, b"")]
    if what == "header":
        header["metadata"] = bytes(container.MAX_HEADER + more)
    elif what == "sections":
        sections *= container.MAX_SECTIONS + more
    else:
        sections = [("test.a", 0, bytes(container.MAX_RAW + more))]
    fails(gsdata.LimitError, lambda: container.write_container(header, sections, 0))


# --- files ------------------------------------------------------------------------------------------------------------


@target(data=testing.files(), other=testing.files(max_images=2))
def a_file_is_the_same_wherever_it_is_read_from(data: bytes, other: bytes) -> None:
    """By path, from memory, a stream, a copy, a pickle, in a new file; and not where another one took its place."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gsd"
        held = oracle.held_by(gsdata.open(data))
        assert gsdata.open(data).save(path) == len(data)
        with gsdata.open(path) as file, gsdata.open(str(path)) as further, path.open("rb") as stream:
            for one in (
                file,
                further,
                gsdata.open(bytearray(data)),
                gsdata.open(memoryview(data)),
                gsdata.open(stream),
            ):
                one.verify()
                oracle.use(one, data)
                assert (oracle.held_by(one), one.to_bytes(), len(one)) == (held, data, one.images)
            pickled = pickle.dumps(file), pickle.dumps(gsdata.open(data))
            for copy in map(pickle.loads, pickled):
                assert copy.to_bytes() == data
                copy.close()
            for name in file.header.sections:
                if "." not in name or name.startswith("label."):
                    fails(KeyError, lambda name=name: file.read_optional(name))
            replacement = gsdata.open(other)
            replacement.save(path)
            assert file.to_bytes() == data  # what is open stays as it was
            if replacement._container.header_bytes != file._container.header_bytes:
                fails(gsdata.FormatError, lambda: pickle.loads(pickled[0]))  # noqa: S301 - our own
        fails(ValueError, file.to_bytes)
        fails(TypeError, lambda: gsdata.open(io.StringIO("text")))  # type: ignore[arg-type]


@target(data=testing.files(), drawn=st.data())
def parts_of_a_file_make_it_up(data: bytes, drawn: st.DataObject) -> None:
    """Subsets hold the images that were asked for; merged, they are one again, if they are alike."""
    file = gsdata.open(data)
    first, second = (drawn.draw(testing.indices_of(file.images)) for _ in range(2))
    one, two = file.subset(first), file.subset(np.array(second, np.int64))
    both = gsdata.merge([one, two])
    both.verify()
    assert rows(both.codes()) == rows(file.codes([*first, *second]))
    assert both.labels.tolist() == file.labels[np.array([*first, *second], np.int64)].tolist()
    assert (both.classes, both.recipe, both.metadata) == (file.classes, file.recipe, file.metadata)
    fails(IndexError, lambda: file.codes([file.images]))
    fails(IndexError, lambda: file.subset([-file.images - 1]))
    fails(IndexError, lambda: file.codes(np.array([0.5])))
    fails(ValueError, lambda: gsdata.merge([]))
    codes, images = two.codes(), two.images
    if file.label_kind != "hard":
        alien = gsdata.to_bytes(codes, labels=np.zeros(images, np.int64), class_count=1)
        assert "kinds" in fails(ValueError, lambda: gsdata.merge([one, gsdata.open(alien)]))
    else:
        names = () if file.classes else [f"class {k}" for k in range(file.class_count)]
        alien = gsdata.to_bytes(codes, labels=two.labels, classes=names, class_count=file.class_count)
        assert "names" in fails(ValueError, lambda: gsdata.merge([one, gsdata.open(alien)]))


# --- accidents --------------------------------------------------------------------------------------------------------

ACCIDENTS = (
    b"",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    b"<!DOCTYPE html>",
    b"PK\3\4",
    b"\x80\4.",
    MAGIC,
)


def check_both_ways(data: bytes, path: Path) -> None:
    """A file by path and the same bytes in memory: the same content, or the same refusal."""
    found = []
    for source in (path, data):
        try:
            file = gsdata.open(source)
            file.verify()
            found.append(file.content_id)
        except gsdata.GsdError as error:
            found.append(f"{type(error).__name__}: {str(error).replace(str(path), '<bytes>')}")
    assert found[0] == found[1], found


@target(data=st.sampled_from(ACCIDENTS) | st.binary(max_size=80) | testing.damaged_files())
def a_path_is_refused_as_its_bytes_are(data: bytes) -> None:
    """Whatever is in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gsd"
        path.write_bytes(data)
        check_both_ways(data, path)


@target(data=testing.files(), seed=SEEDS, shorter=st.booleans())
def a_path_may_lead_nowhere_and_a_file_may_change(data: bytes, seed: int, shorter: bool) -> None:
    """No file and a folder are the system's errors; one that changes while it is open ends in an error or is as it was."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gsd"
        fails(FileNotFoundError, lambda: gsdata.open(path))
        fails(IsADirectoryError, lambda: gsdata.open(folder))
        path.write_bytes(data)
        file = gsdata.open(path)
        rng = random.Random(seed)
        length = rng.randrange(len(data))
        if shorter:
            os.truncate(path, length)
        else:
            path.write_bytes(mutating.mutate(data, rng, "damaged").data)
        try:
            file.verify()
            held = oracle.held_by(file)
        except gsdata.GsdError:
            return
        assert held == oracle.held_by(gsdata.open(data))


def main() -> None:
    """Try all, a number of examples each."""
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 100, 0)


if __name__ == "__main__":
    main()
