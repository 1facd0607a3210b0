"""Real images from wherever they are: one name for ``--data``, one result.

``load`` finds out what a name stands for, chooses the images that ``--split`` and ``--limit`` ask for, decodes only those, and
brings them to one size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gsdata.errors import GsdError
from gsdata_tools.draws import rng
from gsdata_tools.source_archives import expand, open_parquet, open_tars
from gsdata_tools.source_arrays import is_idx, open_idx, open_mnist_5k, open_npz
from gsdata_tools.source_cifar import is_cifar, open_cifar
from gsdata_tools.source_folders import class_folders, open_folder, split_folders, visible_folders
from gsdata_tools.source_images import decode_all, resize_all
from gsdata_tools.source_tar import is_tar, open_tar
from gsdata_tools.source_types import ArraySource, Source, choose_split, natural, split_of_name
from gsdata_tools.usage import UsageError, note

# Built-in names and what they are called under GSDATA_DATA; the first is what messages tell users to make.
_BUILT_IN = {
    "cifar10": ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"),
    "mnist": ("mnist", "MNIST/raw"),
    "imagenette-128": ("imagenette-128",),
    "kodak": ("kodak",),
}
# Folders that a download leaves around the data proper.
_WRAPPERS = ("cifar-10-batches-bin", "cifar-10-batches-py", "cifar-100-binary", "cifar-100-python", "raw", "data")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images that a run uses.

    Attributes:
        images: uint8 (N, H, W, C).
        labels: int64 (N,); -1 where an image has none.
        classes: names by label; empty if there are no labels.
        name: a built-in name, or the last part of the path that was given.
        split: ``train``, ``val``, ``test``, or ``all`` where there are no splits.
        digest: SHA-256 (hex) over shape, images and labels, see ``digest_of``.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    split: str
    digest: str


def load(
    spec: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    size: int | tuple[int, int] | None = None,
    balanced_seed: int | None = None,
) -> ImageSet:
    """Load real images.

    Args:
        spec: a built-in name (``cifar10``, ``mnist``, ``imagenette-128``, ``kodak``, ``mnist-5k``) or a path: a folder of class
            folders or of images, a folder or archive of CIFAR, a folder of MNIST's idx files, an ``.npz``, WebDataset tars (braces
            and globs allowed), a parquet file or a folder of them.
        split: ``train``, ``val`` or ``test`` (which falls back to ``val``); ``None`` is ``train`` where there are splits. A source
            without splits counts as ``train``.
        limit: at most so many images. The first in the source's order, in which folders interleave classes; other images are
            not decoded.
        size: S or (H, W) in pixels: the image is scaled, antialiased, until it just covers that, and the centre is kept.
        balanced_seed: with ``limit``, draw the images instead, as many of each class as possible, by this seed. A smaller limit
            gives a part of a larger one's images.

    Raises:
        UsageError: there is no such data, split or size, or the images differ in size and ``size`` is not given.
        GsdError: a file is broken.
    """
    source, name, chosen = open_source(spec, split, limit, size, balanced_seed)
    images, labels = read_pixels(source, chosen, size), source.labels[chosen].astype(np.int64)
    return ImageSet(images, labels, source.classes, name, source.split, digest_of(images, labels))


def open_source(
    spec: str,
    split: str | None,
    limit: int | None,
    size: int | tuple[int, int] | None = None,
    balanced_seed: int | None = None,
) -> tuple[Source, str, np.ndarray]:
    """What ``load`` reads, before anything is decoded: the source, its name, and indices (n,) of the images to use.

    Raises:
        UsageError, GsdError: as ``load``.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: expected at least 1")
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and min(sides) < 1:
        raise UsageError(f"--size {sides[0]}x{sides[1]}: expected at least 1 pixel a side")
    source, name = find(spec, split, limit if balanced_seed is None else None)
    available = len(source.labels)
    if available == 0:
        raise UsageError(f"{spec}: no images in it")
    if limit is not None and limit > available:
        note(f"{name}: --limit {limit:,}, but there are {available:,} images; all of them are used")
    return source, name, choose(source.labels, limit, balanced_seed)


def digest_of(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 (hex) of N, H, W, C as little-endian uint64, then the images' bytes, then the labels as little-endian int64."""
    digest = hashlib.sha256(np.asarray(images.shape, dtype="<u8").tobytes())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def choose(labels: np.ndarray, limit: int | None, balanced_seed: int | None) -> np.ndarray:
    """Indices (n,) of the images to use: the first ``limit``, or, with a seed, ``limit`` drawn evenly from the classes.

    The draw goes round the classes, in an order and within each class by a permutation that depend on the seed alone.
    """
    if limit is None or limit >= len(labels):
        return np.arange(len(labels))
    if balanced_seed is None:
        return np.arange(limit)
    present = np.unique(labels)
    turn = rng(balanced_seed, "balanced-classes").permutation(len(present))
    order = np.empty(
        (2, len(labels)), dtype=np.int64
    )  # the round in which an image is drawn, its class's turn in that round
    for index, label in enumerate(present):
        members = np.flatnonzero(labels == label)
        order[0, members] = rng(balanced_seed, "balanced-images", int(label) + 1).permutation(len(members))
        order[1, members] = turn[index]
    return np.lexsort((order[1], order[0]))[:limit]


def find(spec: str, split: str | None, first: int | None = None) -> tuple[Source, str]:
    """What ``spec`` names, opened but not decoded, and the name to record for it."""
    if spec == "mnist-5k":
        return open_mnist_5k(split), spec
    if spec in _BUILT_IN:
        return _open_path(_built_in(spec), split, first), spec
    path = Path(spec)
    if path.exists():
        return _open_path(path, split, first), path.resolve().name
    if "{" in spec or any(mark in spec for mark in "*?["):
        files = expand(spec)
        if all(is_tar(file.name) for file in files):
            return open_tars(files, split, spec), Path(spec).name
        if all(file.suffix == ".parquet" for file in files):
            return open_parquet(files, split, spec), Path(spec).name
        odd = next(file for file in files if not is_tar(file.name))
        raise UsageError(f"{spec}: {odd.name} is no tar; a pattern names WebDataset tars or parquet files")
    names = ", ".join([*_BUILT_IN, "mnist-5k"])
    raise UsageError(f"--data {spec}: no such file or folder, and no built-in name ({names})")


def _built_in(name: str) -> Path:
    root = os.environ.get("GSDATA_DATA")
    expected = _BUILT_IN[name][0]
    if not root:
        raise UsageError(
            f"--data {name} is looked for under GSDATA_DATA, which is not set: export GSDATA_DATA=DIR, with DIR/{expected} in it"
        )
    for place in _BUILT_IN[name]:
        if (path := Path(root) / place).exists():
            return path
    raise UsageError(f"--data {name}: there is no {expected} in {root}, where GSDATA_DATA points")


def _open_path(path: Path, split: str | None, first: int | None) -> Source:
    if path.is_dir():
        return _open_folder(path, split, first)
    if path.suffix == ".npz":
        return open_npz(path, split)
    if path.suffix == ".parquet":
        return open_parquet([path], split, str(path))
    if is_tar(path.name):
        return open_cifar(path, split, first) if _tar_is_cifar(path) else open_tars([path], split, str(path))
    raise UsageError(f"--data {path}: not a folder, an .npz, a .parquet or a .tar; a single image goes into a folder")


def _open_folder(folder: Path, split: str | None, first: int | None) -> Source:
    names = [entry.name for entry in folder.iterdir() if entry.is_file()]
    if is_cifar(names):
        return open_cifar(folder, split, first)
    if is_idx(folder):
        return open_idx(folder, split)
    openers: list[tuple[Callable[[str], bool], Callable[[list[Path], str | None, str], Source]]] = [
        (lambda name: name.endswith(".parquet"), open_parquet),
        (is_tar, open_tars),
    ]
    for belongs, opener in openers:
        files = sorted(
            (folder / name for name in names if belongs(name) and name[0] != "."), key=lambda f: natural(f.name)
        )
        if files:
            return opener(files, split, str(folder))
    if splits := split_folders(folder):
        return _open_split(folder, splits, split, first)
    for wrapper in _WRAPPERS:
        inner = folder / wrapper
        if inner.is_dir() and len(visible_folders(folder)) == 1 and not class_folders(folder):
            return _open_folder(inner, split, first)
    source = open_folder(folder, choose_split(split, (), str(folder)))
    if source is None:
        raise UsageError(f"{folder}: no images, class folders, CIFAR, MNIST, parquet or tar files in it")
    return source


def _open_split(folder: Path, splits: list[Path], split: str | None, first: int | None) -> Source:
    """Open one of the folders ``train``, ``val``, ``test``; class numbers are those of the training split, if there is one."""
    by_name = {str(split_of_name(entry.name)): entry for entry in splits}
    chosen = choose_split(split, [name for name in ("train", "val", "test") if name in by_name], str(folder))
    classes = tuple(class_folders(by_name["train"])) if "train" in by_name else ()
    source = open_folder(by_name[chosen], chosen, classes)
    if source is not None:
        return source
    inner = _open_folder(by_name[chosen], None, first)
    return replace(inner, split=chosen)


def _tar_is_cifar(path: Path) -> bool:
    try:
        with open_tar(path, "r|*") as archive:
            return is_cifar(Path(member.name).name for member, _ in zip(archive, range(20), strict=False))
    except GsdError:
        return False  # the opener will say what is wrong with it


def read_pixels(source: Source, chosen: np.ndarray, size: int | tuple[int, int] | None) -> np.ndarray:
    """The chosen images in the chosen order, uint8 (n, H, W, C), read in ascending order; ``size`` as for ``load``."""
    sides = (size, size) if isinstance(size, int) else size
    ascending = np.sort(chosen)
    if isinstance(source, ArraySource):
        images = source.take(ascending)
        images = images if sides is None else resize_all(images, sides)
    else:
        images = decode_all(source.read(ascending), len(ascending), sides)
    return images if np.array_equal(ascending, chosen) else images[np.searchsorted(ascending, chosen)]
