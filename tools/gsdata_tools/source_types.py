"""What every kind of source gives to ``sources.load``, and how splits, names and file orders are read the same way in all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsdata.errors import GsdError
from gsdata_tools.usage import UsageError

ALL = "all"
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
# Every spelling of a split that folders and shards use, and the one that --split and ImageSet.split use.
_SPELLINGS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class ArraySource:
    """Images that are stored as plain pixels.

    Attributes:
        labels: int64 (N,), -1 where an image has none.
        classes: names by label; empty if nothing has a label.
        split: ``train``, ``val``, ``test`` or ``all``.
        take: ascending indices (n,) to uint8 (n, H, W, C); reads no others where the source allows that.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    split: str
    take: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EncodedSource:
    """Images that are stored as PNG, JPEG, WebP, ... files, wherever those lie.

    Attributes are those of ``ArraySource``, except ``read``: ascending indices (n,) to n pairs of a name for messages and the
    bytes of the file.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    split: str
    read: Callable[[np.ndarray], Iterator[tuple[str, bytes]]]


Source = ArraySource | EncodedSource


def natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key under which ``img2`` comes before ``img10``."""
    parts = re.split(r"(\d+)", text)
    key = [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]
    return key, text


def split_of_name(name: str) -> str | None:
    """The split that is a word of a file or folder name: ``"cifar-train-0000.tar"`` is ``"train"``; ``None`` if there is none."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in _SPELLINGS:
            return _SPELLINGS[word]
    return None


def is_split_folder(name: str) -> bool:
    """Whether a folder of this name holds a split rather than a class, if others around it do."""
    return name.lower() in _SPELLINGS


def choose_split(wanted: str | None, available: Sequence[str], what: str) -> str:
    """The split to read: the wanted one, ``val`` for a missing ``test``, ``train`` where none is wanted.

    Args:
        wanted: what ``--split`` says.
        available: canonical names (``train``, ``val``, ``test``); empty for a source without splits, all of which counts as
            ``train``, so that nothing is tested on what may have been trained on.
        what: the source, for the message.

    Raises:
        UsageError: the source has no such split.
    """
    asked = None if wanted is None else _SPELLINGS.get(wanted.lower(), wanted)
    if not available:
        if asked in (None, "train", ALL):
            return ALL
        raise UsageError(
            f"{what} is not divided into splits, so it has no {wanted!r}: leave --split out to use all of it"
        )
    candidates = {None: ("train", *available), "test": ("test", "val")}.get(asked, (str(asked),))
    for candidate in candidates:
        if candidate in available:
            return candidate
    raise UsageError(f"{what} has no split {wanted!r}; it has {', '.join(available)}")


def files_of_split(files: Sequence[Path], wanted: str | None, what: str) -> tuple[list[Path], str]:
    """The shards of one split, told by words in their names, or all of them if no name has such a word."""
    named: Mapping[Path, str | None] = {file: split_of_name(file.name) for file in files}
    available = [split for split in ("train", "val", "test") if split in named.values()]
    if available and None in named.values():
        odd = next(file for file in files if named[file] is None)
        raise UsageError(f"{what}: some files are named by split ({', '.join(available)}) but {odd.name} is not")
    split = choose_split(wanted, available, what)
    return [file for file in files if not available or named[file] == split], split


def interleaved(labels: np.ndarray) -> np.ndarray:
    """Indices that take the first image of each class, then the second of each, ...: (N,) int64."""
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank))


def check_labels(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
    """Labels as int64 (N,), each in [0, classes).

    Raises:
        GsdError: one is not; the message says which.
    """
    wide = labels.astype(np.int64)
    wrong = np.flatnonzero((wide < 0) | (wide >= classes))
    if wrong.size:
        raise GsdError(
            f"{where}: image {wrong[0]} has label {wide[wrong[0]]}; expected 0 to {classes - 1}: is the file damaged?"
        )
    return wide
