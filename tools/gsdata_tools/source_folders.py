"""Folders of image files: one folder per class, or no classes at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gsdata_tools.source_types import (
    IMAGE_SUFFIXES,
    EncodedSource,
    interleaved,
    is_split_folder,
    natural,
)
from gsdata_tools.usage import UsageError


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted by name as torchvision's ``ImageFolder`` sorts classes, so that labels agree with it."""
    return sorted((entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")), key=_name)


def split_folders(folder: Path) -> list[Path]:
    """The folders that are splits: all are, or at least two are; a single ``test`` among others may well be a class."""
    folders = visible_folders(folder)
    splits = [entry for entry in folders if is_split_folder(entry.name)]
    return splits if len(splits) == len(folders) or len(splits) > 1 else []


def image_files(folder: Path, deep: bool) -> list[Path]:
    """The image files of a folder (and, if ``deep``, of all folders in it) in natural order; hidden ones are left out."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
        found += [
            Path(where) / name
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - a million times
        ]
    return sorted(found, key=lambda file: natural(file.relative_to(folder).as_posix()))


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """Image files by class name; empty if no folder in this one holds an image."""
    classes = {entry.name: image_files(entry, deep=True) for entry in visible_folders(folder)}
    return classes if any(classes.values()) else {}


def open_folder(folder: Path, split: str, names: Sequence[str] = ()) -> EncodedSource | None:
    """Open a folder of class folders, or of images.

    Classes are interleaved: the first image of each, then the second of each, so that any first N are balanced.

    Args:
        folder: has no split folders.
        split: what to call it.
        names: the class names that labels count in, such as those of the training split; ``()`` takes the folder's own.

    Returns:
        ``None`` if there are no images.

    Raises:
        UsageError: a class has no images, or is not among ``names``.
    """
    classes = class_folders(folder)
    if not classes:
        files = image_files(folder, deep=False)
        if not files:
            return None
        return EncodedSource(np.full(len(files), -1, dtype=np.int64), (), split, _reader(files))
    empty = next((name for name, files in classes.items() if not files), None)
    if empty is not None:
        raise UsageError(f"{folder / empty}: a class folder without images; remove it or fill it")
    names = names or tuple(classes)
    unknown = next((name for name in classes if name not in names), None)
    if unknown is not None:
        raise UsageError(
            f"{folder / unknown}: the training split has no class of this name; it has {', '.join(names[:5])}, ..."
        )
    number = {name: index for index, name in enumerate(names)}
    files = [file for group in classes.values() for file in group]
    labels = np.concatenate([np.full(len(group), number[name], dtype=np.int64) for name, group in classes.items()])
    order = interleaved(labels)
    return EncodedSource(labels[order], tuple(names), split, _reader([files[index] for index in order]))


def _reader(files: Sequence[Path]) -> Callable[[np.ndarray], Iterator[tuple[str, bytes]]]:
    def read(indices: np.ndarray) -> Iterator[tuple[str, bytes]]:
        return ((str(files[index]), files[index].read_bytes()) for index in indices)

    return read


def _name(path: Path) -> str:
    return path.name
