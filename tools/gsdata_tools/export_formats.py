"""The formats that ``gsd-export`` writes, each from a stream of images to one file or folder; ``ddranking`` writes the tensors.

A writer takes the stream, the path to write to, which nothing else sees before it is complete, and what was asked for; it returns what
``--json`` adds for its format. The same input and versions give the same bytes.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata_tools import export_folder
from gsdata_tools.export_names import folder_names
from gsdata_tools.export_source import ImageStream

SCHEMA = "gsd-export/1"
SHARD_IMAGES = 10_000
_ROWS = 1_000  # of a row group: what a reader of parquet holds at a time
_NAME_LENGTH = 255  # NumPy pads every text to the longest one
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        layout: of PNGs, ``classes`` (a folder for each class) or ``flat``.
        split: first word of the names of shards and parquet files, or None.
        shard_images: images of each, at most.
        progress: called with the number of images that are done.
    """

    layout: str = "classes"
    split: str | None = None
    shard_images: int = SHARD_IMAGES
    progress: Callable[[int], None] = lambda done: None


@dataclass(frozen=True)
class Png:
    """An encoded image: its number in the set, its bytes, its label (-1: none) and the weights of its classes, if there are any."""

    number: int
    data: bytes
    label: int
    soft: NDArray[np.float32] | None


def write_png(stream: ImageStream, folder: Path, options: Options) -> dict[str, Any]:
    """Files NUMBER.png, each in the folder of its class, or all in one."""
    flat = options.layout == "flat" or not stream.classes
    folders = [] if flat else folder_names(stream.classes)
    digits = _digits(stream)
    for label in np.unique(stream.labels) if folders else ():
        (folder / folders[label]).mkdir()
    for png in _pngs(stream, options.progress):
        where = folder if flat else folder / folders[png.label]
        (where / f"{png.number:0{digits}d}.png").write_bytes(png.data)
    index: dict[str, Any] = {"folders": folders} if folders else {"labels": stream.labels.tolist()}
    export_folder.write_index(folder, describe(stream, "png") | index)
    missing = np.setdiff1d(np.arange(len(folders)), stream.labels)
    return {"classes_without_images": [stream.classes[k] for k in missing]}


def write_npz(stream: ImageStream, file: Path, options: Options) -> dict[str, Any]:
    """Arrays ``x`` (uint8 NHWC), ``y`` (int64), ``classes`` (text) and, of soft labels, ``soft`` (float32 NxK)."""
    height, width = stream.size
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with _member(archive, "x.npy") as member:
            shape = (len(stream), height, width, stream.channels)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for batch in stream.batches():
                member.write(np.ascontiguousarray(batch.pixels.transpose(0, 2, 3, 1)).data)
                options.progress(batch.start + len(batch.pixels))
        small: dict[str, NDArray[Any]] = {}
        if stream.classes:
            # NUL ends a text in NumPy.
            names = [name[:_NAME_LENGTH].replace("\0", "\ufffd") for name in stream.classes]
            small |= {"y": stream.labels, "classes": np.array(names)}
        if (soft := stream.soft_labels()) is not None:
            small["soft"] = soft
        for name, array in small.items():
            with _member(archive, f"{name}.npy") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return {}


def write_wds(stream: ImageStream, folder: Path, options: Options) -> dict[str, Any]:
    """WebDataset tars of KEY.png, KEY.cls and, of soft labels, KEY.soft.npy."""
    digits = _digits(stream)
    pngs = _pngs(stream, options.progress)
    count = -(-len(stream) // options.shard_images)
    for number in range(count):
        file = folder / f"{options.split or 'shard'}-{number:06d}.tar"
        with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
            for png in itertools.islice(pngs, options.shard_images):
                key = f"{png.number:0{digits}d}"
                _add(tar, f"{key}.png", png.data)
                if png.label >= 0:
                    _add(tar, f"{key}.cls", str(png.label).encode())
                if png.soft is not None:
                    weights = io.BytesIO()
                    np.lib.format.write_array(weights, png.soft, allow_pickle=False)
                    _add(tar, f"{key}.soft.npy", weights.getvalue())
    export_folder.write_index(folder, describe(stream, "wds") | {"shards": count})
    return {"shards": count}


def write_parquet(stream: ImageStream, folder: Path, options: Options) -> dict[str, Any]:
    """Parquet files of Hugging Face's ``datasets``: ``image`` (struct of bytes and path), ``label`` and, if soft, ``soft_label``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if stream.classes:
        fields.append(("label", pa.int64()))
        features["label"] = {"names": list(stream.classes), "_type": "ClassLabel"}
    if stream.label_kind == "soft":
        fields.append(("soft_label", pa.list_(pa.float32())))
        features["soft_label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    # The text must be UTF-8 for whoever reads it, and class names may hold anything: JSON escapes it.
    schema = pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})
    digits = _digits(stream)
    pngs = _pngs(stream, options.progress)
    count = -(-len(stream) // options.shard_images)
    for number in range(count):
        file = folder / f"{options.split or 'train'}-{number:05d}-of-{count:05d}.parquet"
        with pq.ParquetWriter(file, schema, compression="none", use_dictionary=False) as writer:
            part = itertools.islice(pngs, options.shard_images)
            while rows := list(itertools.islice(part, _ROWS)):
                images = [{"bytes": png.data, "path": f"{png.number:0{digits}d}.png"} for png in rows]
                columns: dict[str, list[Any]] = {"image": images, "label": [png.label for png in rows]}
                columns["soft_label"] = [png.soft for png in rows]
                writer.write_table(pa.table({name: columns[name] for name, _ in fields}, schema=schema))
    export_folder.write_index(folder, describe(stream, "parquet") | {"shards": count})
    return {"shards": count}


KEPT = {
    "png": "the class of the largest weight",
    "npz": "y: the class of the largest weight; soft: all weights",
    "wds": "cls: the class of the largest weight; soft.npy: all weights",
    "parquet": "label: the class of the largest weight; soft_label: all weights",
    "pt": "labels.pt: logarithms of all weights",
}
"""What becomes of soft labels, by format."""


def describe(stream: ImageStream, form: str) -> dict[str, Any]:
    """What ``export.json`` says for every format."""
    return {
        "schema": SCHEMA,
        "format": form,
        **stream.identity,
        "images": len(stream),
        "size": list(stream.size),
        "channels": stream.channels,
        "classes": list(stream.classes),
        "labels": stream.label_kind,
        "labels_kept": KEPT[form] if stream.label_kind == "soft" else stream.label_kind,
    }


def _pngs(stream: ImageStream, progress: Callable[[int], None]) -> Iterator[Png]:
    """Every image as a PNG, in order; a batch is encoded by as many threads as there are cores."""
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        for batch in stream.batches():
            pixels = np.ascontiguousarray(batch.pixels.transpose(0, 2, 3, 1))
            for offset, data in enumerate(pool.map(_encode, pixels)):
                soft = None if batch.soft is None else batch.soft[offset]
                yield Png(batch.start + offset, data, int(batch.labels[offset]), soft)
            progress(batch.start + len(pixels))


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, C) as a PNG: gray, gray with alpha, RGB or RGBA for 1 to 4 channels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _digits(stream: ImageStream) -> int:
    return len(str(len(stream) - 1))


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    info = zipfile.ZipInfo(name, _EPOCH)
    return archive.open(info, "w", force_zip64=True)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A plain file without owner or time, so that equal contents are equal archives."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))
