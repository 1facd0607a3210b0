"""Sharded sets: tars of ``.gsd`` files, for sets that are too large for one file (docs/shards.md).

A *shard* is an uncompressed tar ``NAME-000000.tar``, ``NAME-000001.tar``, ... Each member ``KEY.gsd`` is a *group*: a complete
``.gsd`` file of some of the images, at most ``GROUP_IMAGES`` by custom. The first member, ``__index__``, says how many
images each group has, so that the length of a set is known before a group is read. WebDataset reads such tars too, and passes
over a member of that name.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, TypeAlias

from gsdata.atomic import written_atomically
from gsdata.errors import FormatError
from gsdata.file import GsdFile
from gsdata.file import open as open_gsd

SCHEMA = "gsdata-shard/1"
INDEX = "__index__"
GROUP_IMAGES = 1024
"""Most images of a group that our writers make: what one chunk of a file holds, so that larger groups save next to nothing."""
SHARD_IMAGES = 16384
"""Images of a shard where nobody says how many there should be."""
MAX_SHARDS = 1_000_000

_BLOCK = tarfile.BLOCKSIZE
_MAX_INDEX = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,80}", re.ASCII)
_FILE = re.compile(r"(?P<name>.+)-(?P<number>\d{6})\.tar")

Source: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Group:
    """Some images of a set: a ``.gsd`` file inside a tar.

    Attributes:
        path: the shard.
        key: its name without ``.gsd``, different from that of any other group of the set.
        offset: where its bytes start in the shard.
        size: how many they are.
        images: how many images it holds.
    """

    path: Path
    key: str
    offset: int
    size: int
    images: int

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"{self.path}:{self.key}.gsd"

    def read(self) -> bytes:
        """The bytes of the ``.gsd`` file.

        Raises:
            OSError: the shard cannot be read.
            FormatError: it is shorter than it was.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise FormatError(
                f"{self.where}: the shard ends {self.size - len(data)} bytes before this group does; copy it again"
            )
        return data

    def open(self) -> GsdFile:
        """The ``.gsd`` file, in memory.

        Raises:
            OSError, GsdError: as ``gsdata.open``; or it does not hold the images that the index says.
        """
        file = open_member(self.read(), self.where)
        if file.images != self.images:
            raise FormatError(f"{self.where}: it holds {file.images} images, the shard's index says {self.images}")
        return file


class ShardSet:
    """The shards of a set on disk: their groups, in order, and how many images they hold. Nothing stays open.

    Args:
        source: a folder with the shards of one set, or a pattern such as ``"shards/val-*.tar"``: all shards of a set must be there.
            Or one shard, or a sequence of shards: then these are the set.

    Attributes:
        paths: the shards, in order.
        groups: the groups of all shards, in order: images of a set are counted in this order.

    Raises:
        OSError: a shard cannot be read.
        FormatError: there is no shard, one is missing, cut off or no tar, or its index is damaged.
    """

    def __init__(self, source: Source) -> None:
        self.paths, chosen = _paths(source)
        found = [_read_shard(path) for path in self.paths]
        self.groups: tuple[Group, ...] = tuple(group for groups, _ in found for group in groups)
        if not chosen:
            _check_whole(self.paths, [index for _, index in found])
        keys: dict[str, Group] = {}
        for group in self.groups:
            if group.key in keys:
                raise FormatError(
                    f"{group.where}: {keys[group.key].path} has a group of that name too; give each set its own folder"
                )
            keys[group.key] = group

    def __len__(self) -> int:
        """Number of images."""
        return sum(group.images for group in self.groups)

    def open(self, number: int) -> GsdFile:
        """The file of a group.

        Raises:
            OSError, GsdError: it cannot be read, or its images or classes are not those of the first group.
        """
        file = self.groups[number].open()
        for what, (own, first) in _differences(file, self.first).items():
            raise FormatError(
                f"{file.path}: its {what} is {own!r:.200}, that of {self.first.path} {first!r:.200}; a set has one"
            )
        return file

    def files(self) -> Iterator[GsdFile]:
        """The file of each group, in order."""
        return map(self.open, range(len(self.groups)))

    @cached_property
    def first(self) -> GsdFile:
        """The file of the first group: size, channels, classes and kind of labels are those of the set."""
        return self.groups[0].open()


class ShardWriter:
    """Writes a set of which it is not known how large it will be: groups fill shards one after the other.

    ``with ShardWriter("shards", "train") as writer: writer.add(file)``. Each shard is written whole and atomically when it is full,
    the last one at the end of the block; after an error it is not written. Until then its groups are kept in memory.
    Equal groups make equal bytes.

    Args:
        folder: made if it is not there.
        name: of the set: letters, digits, ``_`` and ``-``; usually its split.
        shard_images: a shard is full when it holds so many images or more.

    Attributes:
        paths: the shards that were written.

    Raises:
        ValueError: a bad name or number.
        FileExistsError: the folder has shards of that name already.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, *, shard_images: int = SHARD_IMAGES) -> None:
        if shard_images < 1:
            raise ValueError(f"shard_images must be at least 1, found {shard_images}")
        self.folder, self.name, self.shard_images = Path(folder), name, shard_images
        self.paths: list[Path] = []
        self._waiting: list[tuple[int, bytes]] = []
        self._first: GsdFile | None = None
        shard_path(self.folder, name, 0)
        self.folder.mkdir(exist_ok=True)
        if old := shards_named(self.folder, name):
            raise FileExistsError(f"{old[0]} exists; remove the shards of that set first, or choose another name")

    def add(self, group: GsdFile | bytes) -> None:
        """Add a ``.gsd`` file as a group: an opened one, or its bytes.

        Raises:
            GsdError: the bytes are no ``.gsd`` file.
            ValueError: its images or classes are not those of the first group.
        """
        data = group if isinstance(group, bytes) else _bytes_of(group)
        file = open_member(data, f"group {len(self._waiting)} of shard {len(self.paths)}")
        self._first = self._first or file
        for what, (own, first) in _differences(file, self._first).items():
            raise ValueError(
                f"{file.path}: its {what} is {own!r:.200}, that of the first group {first!r:.200}; a set has one"
            )
        self._waiting.append((file.images, data))
        if sum(images for images, _ in self._waiting) >= self.shard_images:
            self._flush()

    def close(self) -> None:
        """Write the last shard."""
        if self._waiting:
            self._flush()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _flush(self) -> None:
        number = len(self.paths)
        images, groups = [images for images, _ in self._waiting], [data for _, data in self._waiting]
        self.paths.append(write_shard(self.folder, self.name, number, images, groups))
        self._waiting = []


def write_shard(
    folder: str | os.PathLike[str],
    name: str,
    number: int,
    images: Sequence[int],
    groups: Iterable[bytes],
    *,
    shards: int | None = None,
) -> Path:
    """Write one shard atomically; of ``groups`` one at a time is in memory. Owner, time and mode of members are fixed.

    Args:
        folder: where; it must be there.
        name: of the set.
        number: of the shard, from 0.
        images: of each group.
        groups: the bytes of a ``.gsd`` file for each element of ``images``.
        shards: of the whole set, where it is known: readers then notice that one is missing.

    Returns:
        The shard's path.

    Raises:
        ValueError: a bad name, or another number of groups than ``images`` has elements.
        OSError: it cannot be written.
    """
    path = shard_path(folder, name, number)
    keys = [f"{path.stem}-{group:04d}" for group in range(len(images))]
    index = {"schema": SCHEMA, "shard": number, "shards": shards, "groups": dict(zip(keys, images, strict=True))}
    with written_atomically(path) as file:
        _add_member(file, INDEX, json.dumps(index, separators=(",", ":")).encode())
        for key, data in zip(keys, groups, strict=True):
            _add_member(file, f"{key}.gsd", data)
        file.write(bytes(2 * _BLOCK))
    return path


def shard_size(name: str, number: int, images: Sequence[int], sizes: Sequence[int], shards: int | None = None) -> int:
    """Bytes of the shard that ``write_shard`` makes of groups of these images and these sizes in bytes."""
    keys = [f"{name}-{number:06d}-{group:04d}" for group in range(len(images))]
    index = {"schema": SCHEMA, "shard": number, "shards": shards, "groups": dict(zip(keys, images, strict=True))}
    members = [len(json.dumps(index, separators=(",", ":"))), *sizes]
    return sum(_BLOCK + -(-size // _BLOCK) * _BLOCK for size in members) + 2 * _BLOCK


def shard_path(folder: str | os.PathLike[str], name: str, number: int) -> Path:
    """``folder/name-000000.tar``.

    Raises:
        ValueError: the name has other characters than letters, digits, ``_`` and ``-``, or the number more than six digits.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r:.100} is not a name for shards: letters, digits, _ and -, such as train")
    if not 0 <= number < MAX_SHARDS:
        raise ValueError(f"a set has shards 0 to {MAX_SHARDS - 1}, found {number}")
    return Path(folder) / f"{name}-{number:06d}.tar"


def shards_named(folder: str | os.PathLike[str], name: str) -> list[Path]:
    """The shards of a name in a folder, in order."""
    found = sorted(Path(folder).glob("*.tar")) if Path(folder).is_dir() else []
    return [path for path in found if (match := _FILE.fullmatch(path.name)) and match["name"] == name]


def open_member(data: bytes, where: str) -> GsdFile:
    """A ``.gsd`` file in memory, called ``where`` in messages."""
    stream = io.BytesIO(data)
    stream.name = where
    return open_gsd(stream)


def _bytes_of(file: GsdFile) -> bytes:
    source = file._container.source
    return source.read(0, source.size)


def _add_member(file: Any, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o644, 0
    file.write(member.tobuf(tarfile.USTAR_FORMAT))
    file.write(data)
    file.write(bytes(-len(data) % _BLOCK))


def _paths(source: Source) -> tuple[tuple[Path, ...], bool]:
    """The shards in order, and whether they were named one by one."""
    if not isinstance(source, (str, os.PathLike)):
        paths = tuple(map(Path, source))
        if not paths:
            raise FormatError("no shards were given")
        return paths, True
    path = Path(source)
    if path.is_file():
        return (path,), True
    found = sorted(path.glob("*.tar") if path.is_dir() else map(Path, glob.glob(os.fspath(source))))  # noqa: PTH207 - may be absolute
    if not found:
        raise FormatError(
            f"{source}: no shards; expected a folder with files such as train-000000.tar, or a pattern that names them"
        )
    names = sorted({match["name"] if (match := _FILE.fullmatch(file.name)) else file.stem for file in found})
    if len(names) > 1:
        raise FormatError(
            f"{source}: several sets, {names[0]} and {names[1]}: name one, such as {found[0].parent / names[0]}-*.tar"
        )
    return tuple(found), False


def _read_shard(path: Path) -> tuple[list[Group], Mapping[str, Any]]:
    """The groups of a shard and its index ({} where it has none)."""
    length = path.stat().st_size
    index: Mapping[str, Any] = {}
    found: list[tuple[str, int, int]] = []
    try:
        with path.open("rb") as file:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                        continue
                    if member.name == INDEX:
                        file.seek(member.offset_data)
                        index = _index(file.read(min(member.size, _MAX_INDEX)), path)
                    stem, _, extension = PurePosixPath(member.name).name.partition(".")
                    if extension.lower() == "gsd":
                        found.append((str(PurePosixPath(member.name).with_name(stem)), member.offset_data, member.size))
            file.seek(max(0, length - 2 * _BLOCK))
            ended = file.read() == bytes(2 * _BLOCK) and length % _BLOCK == 0
    except tarfile.TarError as error:
        raise FormatError(f"{path}: not a readable tar ({error}); shards are tars that are not compressed") from error
    if not ended or any(offset + size > length for _, offset, size in found):
        raise FormatError(
            f"{path}: the tar is cut off: {length} bytes, and no block of zeros at the end; copy it again"
        )
    images = index.get("groups") or {}
    if index and [key for key, _, _ in found] != list(images):
        raise FormatError(
            f"{path}: {len(found)} groups, and its index names {len(images)} or other ones; make the shard again"
        )
    groups = [Group(path, key, offset, size, images.get(key, -1)) for key, offset, size in found]
    if not index:
        groups = [Group(g.path, g.key, g.offset, g.size, open_member(g.read(), g.where).images) for g in groups]
    if not groups:
        raise FormatError(f"{path}: no group in it; expected members named KEY.gsd")
    return groups, index


def _index(data: bytes, path: Path) -> Mapping[str, Any]:
    try:
        index = json.loads(data)
    except ValueError as error:
        raise FormatError(f"{path}: {INDEX}: not JSON ({error}); make the shard again") from error
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        found = index.get("schema") if isinstance(index, dict) else type(index).__name__
        raise FormatError(f"{path}: {INDEX}: schema {found!r:.80}, expected {SCHEMA!r}; a newer gsdata may read it")
    groups, shard, shards = index.get("groups"), index.get("shard"), index.get("shards")
    if not isinstance(groups, dict) or not all(type(images) is int and images >= 0 for images in groups.values()):
        raise FormatError(f"{path}: {INDEX}: groups must be numbers of images by name, found {groups!r:.80}")
    if type(shard) is not int or not (shards is None or (type(shards) is int and 0 <= shard < shards)):
        raise FormatError(f"{path}: {INDEX}: shard {shard!r:.40} of {shards!r:.40}; expected whole numbers")
    return index


def _check_whole(paths: Sequence[Path], indices: Sequence[Mapping[str, Any]]) -> None:
    """Shards whose indices say how many there are must all be there, once, in order."""
    for position, (path, index) in enumerate(zip(paths, indices, strict=True)):
        shards = index.get("shards")
        if shards is None:
            continue
        if index["shard"] != position or shards != len(paths):
            missing = sorted(set(range(shards)) - {other.get("shard") for other in indices})
            what = f"shard {missing[0]} is missing" if missing else f"{len(paths)} are here, or in another order"
            raise FormatError(
                f"{path}: shard {index['shard']} of {shards}, of which {what}; copy the set again, or name the shards one by one"
            )


def _differences(file: GsdFile, other: GsdFile) -> dict[str, tuple[object, object]]:
    facts = {
        "size (height, width)": (file.size, other.size),
        "number of channels": (file.channels, other.channels),
        "kind of labels": (file.label_kind, other.label_kind),
        "number of classes": (file.class_count, other.class_count),
        "list of classes": (file.classes, other.classes),
    }
    return {what: pair for what, pair in facts.items() if pair[0] != pair[1]}
