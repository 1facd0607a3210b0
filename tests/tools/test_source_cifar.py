from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsdata.errors import GsdError
from gsdata_tools import sources
from gsdata_tools.source_pickle import load_arrays
from gsdata_tools.usage import UsageError

NAMES = [f"class{number}" for number in range(10)]


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def planes(pixels: np.ndarray) -> np.ndarray:
    """Rows of CIFAR's records, one value at a time, straight from the description of the format."""
    rows = np.empty((len(pixels), 3072), dtype=np.uint8)
    for channel in range(3):
        for row in range(32):
            for column in range(32):
                rows[:, channel * 1024 + row * 32 + column] = pixels[:, row, column, channel]
    return rows


BATCHES = {"data_batch_1": images(3, 1), "data_batch_2": images(4, 2), "test_batch": images(2, 3)}
LABELS = {"data_batch_1": [3, 1, 9], "data_batch_2": [0, 0, 5, 6], "test_batch": [7, 2]}
TRAIN = np.concatenate([BATCHES["data_batch_1"], BATCHES["data_batch_2"]])
TRAIN_LABELS = LABELS["data_batch_1"] + LABELS["data_batch_2"]


def python2(content: dict[str, object]) -> bytes:
    """A pickle as Python 2 wrote it: texts are byte strings, arrays are reconstructed by a function of NumPy 1."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    out = b"\x80\x02}("
    for key, value in content.items():
        out += text(key)
        if isinstance(value, np.ndarray):
            raw = value.tobytes()
            out += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
            out += b"".join(b"J" + struct.pack("<i", side) for side in value.shape) + b"\x86"
            out += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            out += b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
        else:
            assert isinstance(value, list)
            out += b"](" + b"".join(text(v) if isinstance(v, str) else b"K" + bytes([v]) for v in value) + b"e"
    return out + b"u."


def python3(protocol: int):
    return lambda content: pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=protocol)


def binary_files(hundred: bool = False) -> dict[str, bytes]:
    files = {"batches.meta.txt": "\n".join([*NAMES, "", ""]).encode()}
    for name, pixels in BATCHES.items():
        label = np.array(LABELS[name], dtype=np.uint8)[:, None]
        files[f"{name}.bin"] = np.hstack([label, planes(pixels)]).tobytes()
    return files


def python_files(dump) -> dict[str, bytes]:
    files = {"batches.meta": dump({"label_names": NAMES})}
    for name, pixels in BATCHES.items():
        files[name] = dump({"data": planes(pixels), "labels": LABELS[name], "filenames": ["a.png"]})
    return files


VERSIONS = {
    "binary": binary_files(),
    "python 2": python_files(python2),
    "protocol 2": python_files(python3(2)),
    "protocol 4": python_files(python3(4)),
    "protocol 5": python_files(python3(5)),
}


def write(folder, files) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def archive(path, files, prefix="cifar-10/") -> None:
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as tar:
        for name, content in reversed(files.items()):
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", ["folder", "wrapped", "c.tar.gz", "c.tar"])
def test_all_versions_give_the_same_images(version, form, tmp_path):
    path = tmp_path / form
    if form == "folder":
        write(path, VERSIONS[version])
    elif form == "wrapped":
        write(path / "cifar-10-batches-py", VERSIONS[version])
    else:
        archive(path, VERSIONS[version])
    train = sources.load(str(path))
    np.testing.assert_array_equal(train.images, TRAIN)
    assert train.labels.tolist() == TRAIN_LABELS
    assert (train.classes, train.split) == (tuple(NAMES), "train")
    test = sources.load(str(path), split="test")
    np.testing.assert_array_equal(test.images, BATCHES["test_batch"])
    assert test.labels.tolist() == LABELS["test_batch"]
    np.testing.assert_array_equal(sources.load(str(path), limit=2).images, TRAIN[:2])
    np.testing.assert_array_equal(sources.load(str(path), limit=5).images, TRAIN[:5])


def test_cifar_100_takes_the_fine_labels(tmp_path):
    pixels = images(3, 5)
    coarse_fine = np.array([[1, 99], [2, 0], [3, 42]], dtype=np.uint8)
    fine = [f"fine{number}" for number in range(100)]
    binary = {
        "train.bin": np.hstack([coarse_fine, planes(pixels)]).tobytes(),
        "test.bin": np.hstack([coarse_fine, planes(pixels)])[:1].tobytes(),
        "fine_label_names.txt": "\n".join(fine).encode(),
    }
    python = {
        name: python2({"data": planes(pixels), "coarse_labels": [1, 2, 3], "fine_labels": [99, 0, 42]})
        for name in ("train", "test")
    } | {"meta": python2({"fine_label_names": fine, "coarse_label_names": NAMES})}
    for name, files in (("binary", binary), ("python", python)):
        write(tmp_path / name, files)
        archive(tmp_path / f"{name}.tar.gz", files)
        for path in (tmp_path / name, tmp_path / f"{name}.tar.gz"):
            loaded = sources.load(str(path), split="train")
            assert loaded.labels.tolist() == [99, 0, 42]
            assert loaded.classes == tuple(fine)
            np.testing.assert_array_equal(loaded.images, pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_batch_1.bin": b"\0" * 3072}, r"data_batch_1.bin: 3,072 bytes; expected a multiple of 3,073"),
        ({"data_batch_1.bin": b""}, r"data_batch_1.bin: 0 bytes"),
        ({"data_batch_1.bin": b"\x0a" + b"\0" * 3072}, r"image 0 has label 10; expected 0 to 9"),
        ({"batches.meta.txt": b"one\ntwo\n"}, r"class names are 2; expected 10"),
    ],
)
def test_damaged_binary_files(change, message, tmp_path):
    write(tmp_path, {**binary_files(), **change})
    with pytest.raises(GsdError, match=message):
        sources.load(str(tmp_path))


def test_a_missing_batch_is_noticed(tmp_path):
    write(tmp_path, {name: data for name, data in binary_files().items() if name != "data_batch_1.bin"})
    with pytest.raises(UsageError, match="data_batch_1 is missing"):
        sources.load(str(tmp_path))
    with pytest.raises(UsageError, match="no split 'val'; it has train, test"):
        sources.load(str(tmp_path), split="val")


@pytest.mark.parametrize("form", [".tar.gz", ".tar"])
def test_a_cut_archive_is_noticed(form, tmp_path):
    path = tmp_path / f"c{form}"
    archive(path, binary_files())
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(GsdError, match="tar archive"):
        sources.load(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": np.zeros((2, 7), np.uint8), "labels": [1, 2]}, "expected 'data' of uint8"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "expected 2 integers in 'labels'"),
        ({"labels": [1]}, "expected 'data'"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [11]}, "label 11"),
    ],
)
def test_wrong_python_batches(content, message, tmp_path):
    write(tmp_path, {**python_files(python2), "data_batch_1": python2(content)})
    with pytest.raises(GsdError, match=message):
        sources.load(str(tmp_path))


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def attacks(marker: str) -> dict[str, bytes]:
    stub = b"cnumpy.core.multiarray\n_reconstruct\n"
    kind = b"cnumpy\ndtype\nX\x02\0\0\0u1\x85R"
    return {
        "system": pickle.dumps({"data": Calls(os.system, f"touch {marker}")}),
        "eval": pickle.dumps(Calls(eval, f"open({marker!r}, 'w')")),
        "open": pickle.dumps({b"data": Calls(open, marker, "w")}, protocol=2),
        "instance": b"(S'touch " + marker.encode() + b"'\nios\nsystem\n.",
        "object": b"(cos\nsystem\nX\x04\0\0\0trueo.",
        "numpy.f2py": b"\x80\x02cnumpy.f2py\ncompile\n)R.",
        "numpy load": b"\x80\x02cnumpy\nload\nX\x01\0\0\0x\x85R.",
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
        "new ndarray": b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.",
        "call ndarray": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
        "change a stub": b"\x80\x02" + stub + b"}X\x09\0\0\0_functionK\x01sb.",
        "change a stub's slots": b"\x80\x02" + stub + b"N}X\x09\0\0\0_functionK\x01s\x86b.",
        "change a type": b"\x80\x02" + kind + b"(K\x03X\x01\0\0\0?NNNK\x00tb.",
        "objects": b"\x80\x02cnumpy\ndtype\nX\x01\0\0\0O\x85R.",
        "persistent": b"\x80\x02X\x01\0\0\0xQ.",
        "extension": b"\x80\x02\x82\x01.",
        "huge memo": b"\x80\x02Nr\xff\xff\xff\xff.",
        "huge text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
        "huge array": b"\x80\x02" + stub + b"NNN\x87R(K\x01J\xff\xff\xff\x7f\x85" + kind + b"\x89U\x01atb.",
        "codec": b"\x80\x02c_codecs\nencode\nX\x01\0\0\0xX\x03\0\0\0hex\x86R.",
        "list": b"\x80\x02].",
        "empty": b"",
        "text": b"hello",
    }


@pytest.mark.parametrize("name", attacks(""))
def test_nothing_that_a_pickle_names_is_run(name, tmp_path):
    marker = tmp_path / "owned"
    with pytest.raises(GsdError, match=r"^batch: not a readable CIFAR batch: ") as caught:
        load_arrays(attacks(str(marker))[name], "batch")
    assert not marker.exists()
    assert "\n" not in str(caught.value)


def test_a_malicious_archive_is_one_line_that_names_the_member(tmp_path):
    marker = tmp_path / "owned"
    archive(tmp_path / "c.tar.gz", {**python_files(python2), "data_batch_1": attacks(str(marker))["system"]})
    with pytest.raises(GsdError, match=r"c.tar.gz/data_batch_1: .*posix\.system, which is refused"):
        sources.load(str(tmp_path / "c.tar.gz"))
    assert not marker.exists()


SMALL = python2({"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [3, 7]})


def test_what_the_small_pickle_holds():
    loaded = load_arrays(SMALL, "batch")
    assert loaded["data"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded["labels"] == [3, 7]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255), st.integers(1, len(SMALL)))
def test_damaged_pickles_are_errors_or_other_values_but_nothing_else(place, value, end):
    changed = bytearray(SMALL)
    changed[place] = value
    for data in (bytes(changed), bytes(changed[:end])):
        try:
            loaded = load_arrays(data, "batch")
        except GsdError:
            continue
        assert all(isinstance(name, str) for name in loaded)


@pytest.mark.parametrize("dtype", ["<i8", ">i2", "u4"])
def test_integer_arrays_of_either_byte_order(dtype):
    array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
    for protocol in (2, 5):
        np.testing.assert_array_equal(load_arrays(pickle.dumps({"a": array}, protocol), "batch")["a"], array)


@pytest.mark.data
def test_the_real_thing():
    train, test = sources.load("cifar10"), sources.load("cifar10", split="test")
    assert (train.images.shape, test.images.shape) == ((50000, 32, 32, 3), (10000, 32, 32, 3))
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.classes[:2] == ("airplane", "automobile")
    mean = train.images.reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=2e-4)  # as published everywhere
