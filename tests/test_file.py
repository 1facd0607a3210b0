"""Open, save, verify, subset and merge."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gsdata
from files import same_content
from gsdata.errors import FormatError, LimitError, VersionError
from gsdata.forging import put_together, take_apart
from gsdata.quantize import Codes, Quantizer, QuantizerSet, replace
from gsdata.recipe import Recipe
from gsdata.testing import SET, codes, make_codes

OTHER = QuantizerSet(
    Quantizer("uniform", -1.5, 1.5, 10), Quantizer("log2", -3.0, 3.0, 9), SET.shear, Quantizer("uniform", -1.0, 2.0, 12)
)


@st.composite
def label_options(draw: st.DrawFn, images: int) -> dict[str, Any]:
    kind = draw(st.sampled_from(["none", "hard", "soft"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from([1, 2, 10, 257]))
    named = {"classes": tuple(f"class {i}" for i in range(count))} if draw(st.booleans()) else {"class_count": count}
    if kind == "hard":
        return {"labels": rng.integers(0, count, images), **named}
    if kind == "soft":
        weights = rng.random((images, count)) * (rng.random((images, count)) < draw(st.floats(0, 2)))
        weights[np.arange(images), rng.integers(0, count, images)] = 1
        return {"soft_labels": weights, **named}
    return named if "classes" in named else {}


@settings(max_examples=100)
@given(codes(), st.data())
def test_round_trip(codes: Codes, data: st.DataObject) -> None:
    options = data.draw(label_options(codes.num_images))
    packed = gsdata.to_bytes(codes, chunk_images=data.draw(st.integers(1, 10)), level=3, **options)
    file = gsdata.open(packed)
    file.verify()
    assert same_content(file.codes(), codes)
    assert (len(file), file.gaussian_count, file.channels) == (codes.num_images, codes.num_gaussians, codes.channels)
    assert file.counts.tolist() == codes.counts.tolist()
    assert file.byte_table().total == len(packed)
    assert file.sha256 == hashlib.sha256(packed).hexdigest()
    if "labels" in options:
        assert file.label_kind == "hard"
        assert file.labels.tolist() == options["labels"].tolist()
    elif "soft_labels" in options:
        assert file.label_kind == "soft"
        wanted = options["soft_labels"] / options["soft_labels"].sum(1, keepdims=True)
        assert file.soft_labels is not None
        np.testing.assert_allclose(file.soft_labels, wanted, atol=1 / 255)
        np.testing.assert_allclose(file.soft_labels.sum(1), 1, atol=1e-5)
        largest = options["soft_labels"][np.arange(len(file)), file.labels]
        assert (largest >= options["soft_labels"].max(1, initial=0) * (1 - 1 / 255)).all()
    else:
        assert file.label_kind == "none"
        assert file.labels.tolist() == [-1] * len(file)
    wanted_images = data.draw(st.lists(st.integers(-len(file), len(file) - 1), max_size=5)) if len(file) else []
    assert same_content(file.codes(wanted_images), file.codes().select(wanted_images))
    values = file.gaussians(wanted_images)
    np.testing.assert_array_equal(values.means, file.gaussians().select(wanted_images).means)
    # Written again from what was read, nothing changes but the chunks.
    again = gsdata.to_bytes(file.codes(), chunk_images=data.draw(st.integers(1, 10)), level=3, **options)
    assert same_content(gsdata.open(again).codes(), codes)


def full_file(**options: Any) -> bytes:
    codes = make_codes(1, [3, 0, 5, 2, 70], size=(5, 9), sets=(SET, OTHER), index=[0, 0, 1, 1, 0])
    options = {
        "labels": [0, 1, 2, 1, 0],
        "classes": ("ape", "bee", "cat"),
        "recipe": Recipe(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), lr=0.01, model="ConvNet-D3"),
        "provenance": {"source": {"name": "test", "sha256": "00"}, "seed": 0},
        "metadata": {"note": "é", "list": [1, 2.5, None, b"x"]},
        "chunk_images": 2,
        "optional_sections": {"test.zeros": bytes(500), "test.note": b"note"},
    } | options
    return gsdata.to_bytes(codes, **options)


def test_everything_that_was_written_is_read(tmp_path: Path) -> None:
    file = gsdata.open(full_file())
    file.verify()
    assert file.classes == ("ape", "bee", "cat")
    assert file.class_count == 3
    assert file.size == (5, 9)
    assert file.recipe == Recipe(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), lr=0.01, model="ConvNet-D3")
    assert file.provenance == {"source": {"name": "test", "sha256": "00"}, "seed": 0}
    assert file.metadata == {"note": "é", "list": [1, 2.5, None, b"x"]}
    assert file.format_version == (1, 0)
    assert file.header.quantizers == (SET, OTHER)
    assert file.header.images.tolist() == [2, 2, 1]
    assert file.read_optional("test.zeros") == bytes(500)
    assert file.read_optional("test.note") == b"note"
    with pytest.raises(KeyError):
        file.read_optional("x")
    table = file.byte_table()
    assert table.labels == sum(s.stored_size for s in file.sections if s.name == "labels")
    assert table.index == 28 * len(file.sections)
    assert table.payload == sum(
        s.stored_size for s in file.sections if s.name != "labels" and not s.name.startswith("test.")
    )


def test_unknown_optional_sections_are_skipped_and_kept_on_save(tmp_path: Path) -> None:
    data = full_file()
    file = gsdata.open(data)
    assert file.save(tmp_path / "copy.gsd") == len(data)
    assert (tmp_path / "copy.gsd").read_bytes() == data
    plain = gsdata.open(full_file(optional_sections=None))
    assert same_content(file.codes(), plain.codes())
    assert file.byte_table().payload == plain.byte_table().payload
    for name in ("plain", "Upper.case", "labels", "a.b.c.d.e", "x." + "y" * 32, "a..b"):
        with pytest.raises(ValueError, match=r"optional section must be called|sections must be"):
            full_file(optional_sections={name: b""})
    for name in ("gsd.new", "label.names", "counts.x"):
        with pytest.raises(ValueError, match="the format's; begin with a name of your own"):
            full_file(optional_sections={name: b""})
    with pytest.raises(LimitError, match="65 optional"):
        full_file(optional_sections={f"test.{i:02}": b"" for i in range(65)})


def test_the_same_input_gives_the_same_bytes_in_another_process() -> None:
    script = (
        "import sys, hashlib; sys.path[:0] = sys.argv[1:]; import test_file; "
        "print(hashlib.sha256(test_file.full_file()).hexdigest())"
    )
    roots = [str(Path(__file__).parent), str(Path(gsdata.__file__).parents[1])]
    run = subprocess.run(
        [sys.executable, "-c", script, *roots],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert run.stdout.strip() == hashlib.sha256(full_file()).hexdigest()


@settings(max_examples=30)
@given(codes(), st.integers(0, 2**32))
def test_the_order_of_gaussians_does_not_reach_the_file(codes: Codes, seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.cumsum(codes.counts) - codes.counts
    order = np.concatenate(
        [np.zeros(0, int), *(s + rng.permutation(n) for s, n in zip(starts, codes.counts, strict=True))]
    )
    shuffled = replace(codes, means=codes.means[order], cholesky=codes.cholesky[order], colors=codes.colors[order])
    assert gsdata.to_bytes(shuffled, level=1) == gsdata.to_bytes(codes, level=1)


def test_content_id_is_that_of_the_content() -> None:
    one, other = (gsdata.open(full_file(level=level)) for level in (1, 19))
    assert one.sha256 != other.sha256
    assert one.content_id == other.content_id
    assert gsdata.open(full_file(labels=[0, 1, 2, 1, 1])).content_id != one.content_id
    assert gsdata.open(full_file(metadata={})).content_id != one.content_id


def test_unused_and_reordered_quantiser_sets_do_not_matter() -> None:
    codes = make_codes(0, [2, 2], sets=(SET, OTHER), index=[1, 1])
    file = gsdata.open(gsdata.to_bytes(codes))
    assert file.header.quantizers == (OTHER,)
    doubled = make_codes(0, [2, 2], sets=(OTHER, SET, OTHER), index=[0, 2])
    assert gsdata.to_bytes(doubled) == gsdata.to_bytes(replace(doubled, quantizer_index=np.array([2, 0])))
    assert gsdata.open(gsdata.to_bytes(doubled)).header.quantizers == (OTHER,)
    assert same_content(file.codes(), codes)


# --- where it comes from ----------------------------------------------------------------------------------------------


def test_paths_bytes_and_file_objects(tmp_path: Path) -> None:
    data = full_file()
    path = tmp_path / "x.gsd"
    path.write_bytes(data)
    with path.open("rb") as stream:
        files = [
            gsdata.open(s) for s in (path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), stream)
        ]
    for file in files:
        file.verify()
        assert file.sha256 == files[0].sha256
    assert files[0].path == str(path)
    with pytest.raises(TypeError, match="binary file object"):
        gsdata.open(io.StringIO("text"))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        gsdata.open(tmp_path / "none.gsd")
    with pytest.raises(IsADirectoryError):
        gsdata.open(tmp_path)
    with gsdata.open(path) as file:
        kept = file.codes()
    assert same_content(kept, files[2].codes())
    with pytest.raises(ValueError, match="closed"):
        file.verify()


def _content(file: gsdata.GsdFile) -> tuple[str, int]:
    file.verify()
    return file.content_id, int(file.codes([4]).means.sum())


def test_pickling(tmp_path: Path) -> None:
    path = tmp_path / "x.gsd"
    path.write_bytes(full_file())
    for file in (gsdata.open(path), gsdata.open(full_file())):
        assert _content(pickle.loads(pickle.dumps(file))) == _content(file)
    packed = pickle.dumps(gsdata.open(path))
    gsdata.save(path, make_codes(0, [1]))
    with pytest.raises(FormatError, match="replaced by another"):
        pickle.loads(packed)


def test_fork_and_threads_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gsd"
    path.write_bytes(full_file())
    file = gsdata.open(path)
    expected = _content(gsdata.open(path))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(_content, [file] * 20)) == {expected}
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert set(processes.map(_content, [file] * 4)) == {expected}
    file.verify()


@pytest.mark.parametrize(
    ("indices", "message"), [([5], "out of range"), ([-6], "out of range"), ([0.5], "integers"), ([True], "integers")]
)
def test_bad_indices(indices: list[Any], message: str) -> None:
    with pytest.raises(IndexError, match=message):
        gsdata.open(full_file()).codes(indices)
    with pytest.raises(IndexError, match=message):
        gsdata.open(full_file()).subset(indices)


# --- what a reader says -----------------------------------------------------------------------------------------------


def test_a_newer_version_and_an_unknown_feature_are_named() -> None:
    header, sections = take_apart(full_file())
    with pytest.raises(
        VersionError, match=r"format version 3\.7 at offset 8, this reader knows 1\.x; get a newer gsdata"
    ):
        gsdata.open(put_together(header, sections, major=3, minor=7))
    with pytest.raises(VersionError, match="needs the feature 'hologram'"):
        gsdata.open(put_together(header | {"required": ["hologram"], "new key": 1}, sections))
    with pytest.raises(FormatError, match="header key 'new key' is unknown"):
        gsdata.open(put_together(header | {"new key": 1}, sections))
    with pytest.raises(FormatError, match="header key 'recipe' is missing"):
        gsdata.open(put_together({k: v for k, v in header.items() if k != "recipe"}, sections))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("gaussians", "channels"), 5, "gaussians.channels must lie in 1..4"),
        (("gaussians", "channels"), True, "gaussians.channels must be an integer"),
        (("gaussians", "size"), [0, 9], "gaussians.size must lie in 1..65536"),
        (("gaussians", "size"), [9], "height, width"),
        (("gaussians", "kernel"), "box", "gaussians.kernel must be one of"),
        (("gaussians", "antialias"), "some", "gaussians.antialias must be one of"),
        (("gaussians", "background"), [0.0, 1e9, 0.0], "background"),
        (("gaussians", "background"), [0, 0, 0], "background must be a list of float"),
        (("transforms", "color"), "none", "transforms.color"),
        (("class_count",), 65536, "class_count must lie in"),
        (("class_count",), 4, "classes must be 4 different names"),
        (("labels",), "onehot", "labels must be one of"),
        (("labels",), [], "labels must be one of"),
        (("chunks", "images"), [2, 2], "differ in length"),
        (("chunks", "images"), [2, 0, 3], "chunks.images must lie in"),
        (("chunks", "images"), [2, 3, 1], "decoded bytes, the header implies"),
        (("chunks", "quantizers"), [0, 2, 0], "chunks.quantizers must lie in 0..1"),
        (("sections",), ["counts"], "sections must be|the header lists"),
        (("recipe", "lr"), 1, "recipe: fields without a value"),
        (("recipe", "model"), None, "recipe: fields without a value"),
        (("recipe", "speed"), 1, "unknown recipe field 'speed'"),
        (("quantizers",), [], "number of sets .* found 0"),
    ],
)
def test_bad_headers_are_named(path: tuple[str, ...], value: Any, message: str) -> None:
    header, sections = take_apart(full_file())
    inner = header
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(FormatError, match=message):
        gsdata.open(put_together(header, sections))


# --- subset and merge -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(codes(), st.data())
def test_subset_copies(codes: Codes, data: st.DataObject) -> None:
    count = codes.num_images
    options = data.draw(label_options(count))
    file = gsdata.open(gsdata.to_bytes(codes, level=1, chunk_images=3, **options))
    wanted = data.draw(st.lists(st.integers(-count, count - 1), max_size=6)) if count else []
    part = file.subset(wanted)
    part.verify()
    assert same_content(part.codes(), codes.select(wanted))
    assert part.labels.tolist() == file.labels[wanted].tolist()
    assert (part.classes, part.class_count, part.label_kind) == (file.classes, file.class_count, file.label_kind)
    if file.soft_labels is not None:
        np.testing.assert_array_equal(part.soft_labels, file.soft_labels[wanted])
    assert part.provenance == {"subset_of": file.content_id}


def test_soft_weights_of_another_writer_survive_unchanged() -> None:
    """A row whose largest weight is not 255 must not be scaled again."""
    header, sections = take_apart(gsdata.to_bytes(make_codes(0, [1, 1]), soft_labels=np.array([[3, 2], [1, 1]])))
    at = header["sections"].index("label.weights")
    sections[at][1], sections[at][4] = 0, bytes([3, 2, 7, 7])
    file = gsdata.open(put_together(header, sections))
    file.verify()
    both = gsdata.merge([file.subset([1]), file.subset([0])])
    assert file.soft_labels is not None
    np.testing.assert_array_equal(both.soft_labels, file.soft_labels[[1, 0]])
    np.testing.assert_array_equal(file.soft_labels, np.float32([[0.6, 0.4], [0.5, 0.5]]))


def test_merge_unites_class_names_and_never_quantises() -> None:
    a = gsdata.open(full_file())
    codes = make_codes(5, [4, 1], size=(5, 9), sets=(OTHER,))
    b = gsdata.open(gsdata.to_bytes(codes, labels=[0, 1], classes=("dog", "bee")))
    both = gsdata.merge([a, b])
    both.verify()
    assert both.classes == ("ape", "bee", "cat", "dog")
    assert [both.classes[i] for i in both.labels] == ["ape", "bee", "cat", "bee", "ape", "dog", "bee"]
    assert same_content(both.codes(range(5)), a.codes())
    assert same_content(both.codes([5, 6]), b.codes())
    assert both.header.quantizers == (SET, OTHER)
    assert both.provenance == {"merged": [a.content_id, b.content_id]}
    assert both.recipe == Recipe()
    assert both.metadata == {}
    twice = gsdata.merge([a, a])
    assert twice.recipe == a.recipe
    assert twice.metadata == a.metadata


def test_merge_of_soft_labels_with_renamed_classes() -> None:
    soft = [np.array([[0.0, 1.0, 3.0]]), np.array([[1.0, 1.0]])]
    names = [("a", "b", "c"), ("c", "x")]
    files = [gsdata.open(gsdata.to_bytes(make_codes(i, [2]), soft_labels=soft[i], classes=names[i])) for i in range(2)]
    both = gsdata.merge(files)
    assert both.classes == ("a", "b", "c", "x")
    np.testing.assert_allclose(both.soft_labels, [[0, 0.25, 0.75, 0], [0, 0, 0.5, 0.5]], atol=1 / 255)


def test_merge_refuses_what_differs() -> None:
    def one(**options: Any) -> gsdata.GsdFile:
        shape = {k: options.pop(k) for k in ("size", "channels", "antialias", "background") if k in options}
        return gsdata.open(gsdata.to_bytes(make_codes(0, [1], **shape), **options))

    for other, message in (
        ({"size": (9, 9)}, "size"),
        ({"channels": 1}, "channels"),
        ({"antialias": "none"}, "antialias"),
        ({"background": (0.5, 0.0, 0.0)}, "background"),
        ({"labels": [0]}, "labels of the kinds hard, none"),
        ({"classes": ("a",)}, "with and without class names"),
    ):
        with pytest.raises(ValueError, match=message):
            gsdata.merge([one(), one(**other)])
    with pytest.raises(ValueError, match="nothing"):
        gsdata.merge([])
