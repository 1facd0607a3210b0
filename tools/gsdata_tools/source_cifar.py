"""CIFAR-10 and CIFAR-100 as their authors publish them: the binary version and the python version, as a folder or as an archive.

A binary record is one label byte (CIFAR-100: coarse, then fine), then 1,024 red, 1,024 green and 1,024 blue bytes, rows first
(https://www.cs.toronto.edu/~kriz/cifar.html). The fine labels of CIFAR-100 are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from gsdata.errors import GsdError
from gsdata_tools import source_tar
from gsdata_tools.source_pickle import load_arrays
from gsdata_tools.source_types import ArraySource, check_labels, choose_split, natural
from gsdata_tools.usage import UsageError

PIXELS = 3 * 32 * 32
_MAX_MEMBER = 1 << 29
_TRAIN = re.compile(r"data_batch_\d+(\.bin)?|train(\.bin)?")
_TEST = re.compile(r"test_batch(\.bin)?|test(\.bin)?")
_NAMES = ("batches.meta.txt", "batches.meta", "fine_label_names.txt", "meta")
# What tells CIFAR's files from others with common names: "train" alone may be anything.
_SURE = re.compile(r"data_batch_\d+(\.bin)?|test_batch(\.bin)?")


def is_cifar(names: Iterable[str]) -> bool:
    """Whether files of these names are one of the four published versions."""
    here = set(names)
    hundred = bool({"train", "test"} & here and "meta" in here)
    hundred_binary = bool({"train.bin", "test.bin"} & here)
    return hundred or hundred_binary or any(_SURE.fullmatch(name) for name in here)


def open_cifar(path: Path, split: str | None, first: int | None) -> ArraySource:
    """Open a folder or an archive (``.tar``, ``.tar.gz``).

    Args:
        path: the folder, or the archive, whose members are read in memory and never written anywhere.
        split: ``train`` or ``test``.
        first: only the first so many images will be asked for, or ``None``.

    Raises:
        GsdError: a file is damaged.
        UsageError: there is no such split.
    """
    return _open(_Folder(path) if path.is_dir() else _Archive(path), split, first)


class _Folder:
    """The files of a folder by name."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self.names = [entry.name for entry in path.iterdir() if entry.is_file()]
        self._path = path

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def array(self, name: str) -> np.ndarray:
        """The bytes as uint8, read only where they are touched."""
        file = self._path / name
        return np.memmap(file, dtype=np.uint8, mode="r") if file.stat().st_size else np.empty(0, dtype=np.uint8)


class _Archive:
    """The files of a tar archive by their names without folders; one pass over the archive."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._contents: dict[str, bytes] = {}
        for archive, member in source_tar.files(path, "r|*"):
            name = PurePosixPath(member.name).name
            wanted = name in _NAMES or _TRAIN.fullmatch(name) or _TEST.fullmatch(name)
            if wanted and member.size <= _MAX_MEMBER:
                self._contents[name] = source_tar.content(archive, member)
        self.names = list(self._contents)

    def read(self, name: str) -> bytes:
        return self._contents[name]

    def array(self, name: str) -> np.ndarray:
        return np.frombuffer(self._contents[name], dtype=np.uint8)


def _open(files: _Folder | _Archive, split: str | None, first: int | None) -> ArraySource:
    train = sorted((name for name in files.names if _TRAIN.fullmatch(name)), key=natural)
    test = sorted((name for name in files.names if _TEST.fullmatch(name)), key=natural)
    binary = [name for name in [*train, *test] if name.endswith(".bin")]
    if binary:  # both versions side by side hold the same images: the binary one is read faster
        train, test = ([name for name in group if name.endswith(".bin")] for group in (train, test))
    available = [name for name, group in (("train", train), ("test", test)) if group]
    chosen = choose_split(split, available, files.where)
    group = train if chosen == "train" else test
    numbers = [int(digits) for name in group for digits in re.findall(r"\d+", name)]
    if numbers and numbers != list(range(1, len(numbers) + 1)):
        missing = next(number for number in range(1, max(numbers) + 1) if number not in numbers)
        raise UsageError(f"{files.where}: data_batch_{missing} is missing beside {group[-1]}")
    hundred = not any(_SURE.fullmatch(name) for name in group)
    classes = _class_names(files, hundred)

    def open_batch(name: str) -> tuple[np.ndarray, np.ndarray]:
        where = f"{files.where}/{name}"
        read = (
            _binary_batch(files.array(name), where, hundred)
            if binary
            else _python_batch(files.read(name), where, hundred)
        )
        return check_labels(read[0], len(classes), where), read[1]

    labels: list[np.ndarray] = []
    pixels: list[np.ndarray | str] = []
    for name in group:
        batch = open_batch(name)
        labels.append(batch[0])
        # A mapped file is mapped anew when it is read: one that stays mapped keeps in memory what was read of it.
        pixels.append(name if binary else batch[1])
        if first is not None and sum(map(len, labels)) >= first:
            break

    starts = np.cumsum([0, *map(len, labels)])

    def take(indices: np.ndarray) -> np.ndarray:
        images = np.empty((len(indices), 32, 32, 3), dtype=np.uint8)
        for start, end, kept in zip(starts[:-1], starts[1:], pixels, strict=True):
            inside = slice(*np.searchsorted(indices, (start, end)))
            if inside.start == inside.stop:
                continue
            rows = open_batch(kept)[1] if isinstance(kept, str) else kept
            images[inside] = rows[indices[inside] - start].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return images

    return ArraySource(np.concatenate(labels), classes, chosen, take)


def _binary_batch(data: np.ndarray, where: str, hundred: bool) -> tuple[np.ndarray, np.ndarray]:
    record = PIXELS + (2 if hundred else 1)
    if data.size == 0 or data.size % record:
        raise GsdError(
            f"{where}: {data.size:,} bytes; expected a multiple of {record:,}: the file is cut off or is not CIFAR's"
        )
    rows = data.reshape(-1, record)
    return np.asarray(rows[:, record - PIXELS - 1]), rows[:, record - PIXELS :]


def _python_batch(data: bytes, where: str, hundred: bool) -> tuple[np.ndarray, np.ndarray]:
    batch = load_arrays(data, where)
    name = "fine_labels" if hundred else "labels"
    pixels, labels = batch.get("data"), batch.get(name)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise GsdError(f"{where}: expected 'data' of uint8 and shape (N, {PIXELS}); is this a batch of CIFAR?")
    if isinstance(labels, list) and all(type(label) is int and abs(label) < 2**31 for label in labels):
        labels = np.array(labels, dtype=np.int64)
    if not isinstance(labels, np.ndarray) or labels.shape != pixels.shape[:1]:
        raise GsdError(f"{where}: expected {len(pixels):,} integers in {name!r}")
    return labels, pixels


def _class_names(files: _Folder | _Archive, hundred: bool) -> tuple[str, ...]:
    count = 100 if hundred else 10
    text, pickled, key = (
        ("fine_label_names.txt", "meta", "fine_label_names")
        if hundred
        else ("batches.meta.txt", "batches.meta", "label_names")
    )
    if text in files.names:
        names = files.read(text).decode("utf-8", "replace").split()
    elif pickled in files.names:
        found = load_arrays(files.read(pickled), f"{files.where}/{pickled}").get(key)
        found = found if isinstance(found, list) else []
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in found]
    else:
        return tuple(str(number) for number in range(count))
    if len(names) != count or len(set(names)) != count:
        raise GsdError(f"{files.where}: the class names are {len(names)}; expected {count} different ones")
    return tuple(names)
