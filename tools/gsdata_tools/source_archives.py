"""Images inside shards: WebDataset's tar files and the parquet files of Hugging Face data sets.

Nothing is unpacked to disk and no path inside a shard is ever followed: names in it are only names.
"""

from __future__ import annotations

import glob
import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gsdata.errors import GsdError
from gsdata_tools import source_tar
from gsdata_tools.source_types import IMAGE_SUFFIXES, EncodedSource, check_labels, files_of_split, natural
from gsdata_tools.usage import UsageError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")
_MAX_SHARDS = 100_000
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "y", "target")
_IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png", "webp", "picture")


def expand(spec: str) -> list[Path]:
    """The files that ``shard-{000..012}.tar``, ``{a,b}.tar`` or ``shards/*.tar`` name, in order.

    Raises:
        UsageError: one of the named files is missing, or a pattern matches none.
    """
    options = []
    for index, part in enumerate(_BRACES.split(spec)):
        span = _RANGE.fullmatch(part) if index % 2 else None
        if span:
            low, high = int(span[1]), int(span[2])
            if not low <= high < low + _MAX_SHARDS:
                raise UsageError(f"{spec}: {{{part}}} counts no files, or more than {_MAX_SHARDS:,}")
            options.append([str(number).zfill(len(span[1])) for number in range(low, high + 1)])
        else:
            options.append(part.split(",") if index % 2 else [part])
    names = list(itertools.islice(map("".join, itertools.product(*options)), _MAX_SHARDS))
    files: list[Path] = []
    for name in names:
        if glob.has_magic(name):
            matched = sorted(glob.glob(name), key=natural)  # noqa: PTH207 - the pattern may be absolute
            if not matched:
                raise UsageError(f"{name}: no file matches")
            files += map(Path, matched)
        elif Path(name).is_file():
            files.append(Path(name))
        else:
            raise UsageError(f"{name}: no such file")
    return files


def open_tars(files: Sequence[Path], split: str | None, what: str) -> EncodedSource:
    """Open WebDataset shards: members ``KEY.jpg`` (or ``.png``, ``.webp``, ...) and ``KEY.cls``, the label in decimal digits.

    Classes are named by their numbers. Members that are no plain files, and other extensions, are passed over.

    Raises:
        GsdError: a shard is damaged, a label is no number, or some images have labels and others not.
        UsageError: there is no such split, or no image.
    """
    chosen_files, split = files_of_split(files, split, what)
    places: list[tuple[int, str, int, int]] = []  # shard, name, offset, size: a TarInfo would be ten times as large
    labels: list[int | None] = []
    for shard, file in enumerate(chosen_files):
        for key, image, label in _samples(file):
            if labels and (label is None) != (labels[0] is None):
                raise GsdError(
                    f"{file}: {key} has {'no label' if label is None else 'a label'}, unlike the images before it"
                )
            places.append((shard, image.name, image.offset_data, image.size))
            labels.append(label)
    if not places:
        raise UsageError(f"{what}: no images in it (members named KEY.jpg, KEY.png or KEY.webp)")
    if labels[0] is None:
        numbers, count = np.full(len(places), -1, dtype=np.int64), 0
    else:
        numbers = np.array(labels, dtype=np.int64)
        count = int(numbers.max()) + 1

    def read(indices: np.ndarray) -> Iterator[tuple[str, bytes]]:
        for shard, group in itertools.groupby(indices.tolist(), key=lambda index: places[index][0]):
            file = chosen_files[shard]
            with source_tar.open_tar(file) as archive:
                for index in group:
                    _, name, offset, size = places[index]
                    member = tarfile.TarInfo(name)
                    member.offset_data, member.size = offset, size
                    yield f"{file}:{name}", source_tar.content(archive, member)

    return EncodedSource(numbers, tuple(map(str, range(count))), split, read)


def _samples(file: Path) -> Iterator[tuple[str, tarfile.TarInfo, int | None]]:
    """Key, image and label of each sample of a shard, in the order of the images' members."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    for archive, member in source_tar.files(file):
        path = PurePosixPath(member.name)
        stem, _, extension = path.name.partition(".")
        key = str(path.with_name(stem)) if stem else ""
        if key and "." + extension.lower().rpartition(".")[2] in IMAGE_SUFFIXES:
            if key in images:
                raise GsdError(f"{file}: two images of the same key: {images[key].name} and {member.name}")
            images[key] = member
        elif key and extension.lower() == "cls":
            text = source_tar.content(archive, member, 64).strip()
            if not text.isdigit() or len(text) > 6:
                raise GsdError(f"{file}: {member.name} holds {text[:20]!r}; expected a class number in decimal digits")
            labels[key] = int(text)
    for key, image in images.items():
        yield key, image, labels.get(key)


def open_parquet(files: Sequence[Path], split: str | None, what: str) -> EncodedSource:
    """Open parquet files with a column of encoded images (bytes, or Hugging Face's struct of bytes and path) and one of labels.

    Columns and class names are taken from the ``huggingface`` entry of the schema where there is one, else by their names and types.

    Raises:
        GsdError: a file is damaged, has no such column, or holds paths instead of images.
        UsageError: there is no such split.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen_files, split = files_of_split(files, split, what)
    groups: list[tuple[Path, int, int, int]] = []  # file, row group, first image, number of images
    labels: list[np.ndarray] = []
    image_column = ""
    label_column: str | None = None
    classes: tuple[str, ...] = ()
    total = 0
    try:
        for file in chosen_files:
            table = pq.ParquetFile(file)
            columns = _columns(table.schema_arrow, file)
            if not labels:
                image_column, label_column, classes = columns
            elif columns != (image_column, label_column, classes):
                raise GsdError(f"{file}: other columns or class names than in {chosen_files[0].name}")
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                groups.append((file, group, total, rows))
                total += rows
            labels.append(
                np.full(table.metadata.num_rows, -1, dtype=np.int64)
                if label_column is None
                else _label_values(table.read(columns=[label_column]).column(0), file, label_column)
            )
    except (pa.ArrowException, OSError) as error:
        raise GsdError(f"{file}: not a readable parquet file ({error})") from error
    numbers = np.concatenate(labels) if labels else np.empty(0, dtype=np.int64)
    if label_column is not None and numbers.size:
        classes = classes or tuple(map(str, range(int(numbers.max()) + 1)))
        numbers = check_labels(numbers, len(classes), what)

    def read(indices: np.ndarray) -> Iterator[tuple[str, bytes]]:
        for file, group, first, rows in groups:
            wanted = indices[slice(*np.searchsorted(indices, (first, first + rows)))] - first
            if not wanted.size:
                continue
            try:
                table = pq.ParquetFile(file)
                is_struct = pa.types.is_struct(table.schema_arrow.field(image_column).type)
                part = f"{image_column}.bytes" if is_struct else image_column
                column = table.read_row_group(group, columns=[part]).column(0).take(pa.array(wanted))
            except (pa.ArrowException, OSError) as error:
                raise GsdError(f"{file}: damaged parquet file ({error})") from error
            for row, value in zip(wanted.tolist(), column, strict=True):
                content = value.as_py()
                data = content["bytes"] if isinstance(content, dict) else content
                where = f"{file}, row {first + row}"
                if not isinstance(data, bytes):
                    raise GsdError(
                        f"{where}: no image bytes in the column {image_column!r} (paths in a table are not followed)"
                    )
                yield where, data

    return EncodedSource(numbers, classes, split, read)


def _columns(schema: Any, file: Path) -> tuple[str, str | None, tuple[str, ...]]:
    """The names of the image column and the label column (or ``None``), and the class names if they are known."""
    import pyarrow.types as kinds

    features = _features(schema)

    def is_image(name: str) -> bool:
        kind = schema.field(name).type
        is_struct = kinds.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return is_struct or kinds.is_binary(kind) or kinds.is_large_binary(kind)

    def rank(name: str, preferred: Sequence[str], feature: str) -> tuple[bool, int]:
        described = features.get(name, {}).get("_type") == feature
        return not described, preferred.index(name) if name in preferred else len(preferred)

    images = sorted(filter(is_image, schema.names), key=lambda name: rank(name, _IMAGE_COLUMNS, "Image"))
    if not images:
        raise GsdError(
            f"{file}: no column of images (bytes, or a struct with bytes); found {', '.join(schema.names[:8])}"
        )
    integers = [name for name in schema.names if kinds.is_integer(schema.field(name).type)]
    described = [name for name in integers if features.get(name, {}).get("_type") == "ClassLabel"]
    candidates = sorted(
        described or [name for name in integers if name in _LABEL_COLUMNS],
        key=lambda name: rank(name, _LABEL_COLUMNS, "ClassLabel"),
    )
    label = candidates[0] if candidates else None
    names = features.get(label, {}).get("names") if label else None
    return images[0], label, tuple(map(str, names)) if isinstance(names, list) else ()


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Hugging Face's description of the columns; empty if there is none that can be read."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return (
        {name: value for name, value in features.items() if isinstance(value, dict)}
        if isinstance(features, dict)
        else {}
    )


def _label_values(column: Any, file: Path, name: str) -> np.ndarray:
    if column.null_count:
        raise GsdError(
            f"{file}: {column.null_count} rows have no value in the column {name!r}; expected a class number in each"
        )
    return np.asarray(column.to_numpy()).astype(np.int64)
