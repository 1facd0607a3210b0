"""The header's meaning: a checked dataclass on either side of canonical msgpack (FORMAT.md, "Header")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from gsdata import canonical
from gsdata.errors import FormatError, LimitError
from gsdata.gaussians import ANTIALIAS_MODES, KERNEL, Antialias
from gsdata.quantize import MAX_BITS, Quantizer, QuantizerSet
from gsdata.recipe import Recipe
from gsdata.streams import COLOR_TRANSFORM, LABEL_SECTIONS, ORDER_TRANSFORM, LabelLayout, section_names

MAX_IMAGES = 1 << 24
MAX_GAUSSIANS = 1 << 32
MAX_CLASSES = (1 << 16) - 1
MAX_SIDE = 1 << 16
MAX_QUANTIZER_SETS = 1 << 8
# Of one chunk: what a reader holds at a time.
MAX_CHUNK_IMAGES = 1 << 16
MAX_CHUNK_GAUSSIANS = 1 << 18
MAX_CHUNK_WEIGHTS = 1 << 22
MAX_OPTIONAL_SECTIONS = 64
MAX_BACKGROUND = 2.0**24
OPTIONAL_NAME = re.compile(r"[a-z0-9_-]{1,31}(\.[a-z0-9_-]{1,31}){1,3}")
"""What an optional section may be called: two to four words joined by dots, the first one its maker's."""
RESERVED_MAKERS = ("counts", "gaussians", "gsd", "label", "labels")
"""First words that no writer takes: later minor versions of the format may."""

_KEYS = (
    "chunks",
    "class_count",
    "classes",
    "gaussians",
    "labels",
    "metadata",
    "provenance",
    "quantizers",
    "recipe",
    "required",
    "sections",
    "transforms",
)
_SET = ("colors", "means", "scales", "shear")
_MAPS: Mapping[str, tuple[str, ...]] = {
    "chunks": ("gaussians", "images", "labels", "quantizers"),
    "gaussians": ("antialias", "background", "channels", "kernel", "size"),
    "recipe": tuple(f.name for f in fields(Recipe)),
    "transforms": ("color", "order"),
}


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of itself.

    Attributes:
        size: reference size (H0, W0); channels: C; antialias, background, kernel: as in ``Gaussians``.
        quantizers: the quantiser sets; chunks refer to them by number.
        images, gaussians, chunk_quantizers: (chunks,) int64 each: contents of every chunk.
        label_layout: how labels are stored; class_count: K; classes: K names, or none.
        label_entries: (chunks,) int64: non-zero weights of sparse soft labels, zeros otherwise.
        recipe, provenance, metadata: how to train, where it came from, anything the user adds.
        sections: names of all sections, in the order that the section table numbers them.
    """

    size: tuple[int, int]
    channels: int
    antialias: Antialias
    background: tuple[float, ...]
    kernel: str
    quantizers: tuple[QuantizerSet, ...]
    images: NDArray[np.int64]
    gaussians: NDArray[np.int64]
    chunk_quantizers: NDArray[np.int64]
    label_layout: LabelLayout
    class_count: int
    classes: tuple[str, ...]
    label_entries: NDArray[np.int64]
    sections: tuple[str, ...]
    recipe: Recipe = field(default_factory=Recipe)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The mapping that becomes canonical msgpack."""
        chunks = {
            "gaussians": self.gaussians.tolist(),
            "images": self.images.tolist(),
            "quantizers": self.chunk_quantizers.tolist(),
        }
        if self.label_layout == "sparse":
            chunks["labels"] = self.label_entries.tolist()
        return {
            "chunks": chunks,
            "class_count": self.class_count,
            "classes": list(self.classes),
            "gaussians": {
                "antialias": self.antialias,
                "background": list(self.background),
                "channels": self.channels,
                "kernel": self.kernel,
                "size": list(self.size),
            },
            "labels": self.label_layout,
            "metadata": dict(self.metadata),
            "provenance": dict(self.provenance),
            "quantizers": [
                {
                    name: [q.kind, q.low, q.high, q.bits]
                    for name, q in (
                        ("colors", s.colors),
                        ("means", s.means),
                        ("scales", s.scales),
                        ("shear", s.shear),
                    )
                }
                for s in self.quantizers
            ],
            "recipe": self.recipe.to_dict(),
            "required": [],
            "sections": list(self.sections),
            "transforms": {"color": color_transform(self.channels), "order": ORDER_TRANSFORM},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], newer: bool = False) -> Header:
        """Check every value of a parsed header; of a ``newer`` minor version, only those that this one knows.

        Raises:
            FormatError, LimitError: a value is missing, unknown, of the wrong type or out of range (the message names it).
        """
        if newer:
            raw = _known_part(raw)
        if tuple(raw) != _KEYS:
            odd = sorted(set(raw) ^ set(_KEYS))[0]
            raise FormatError(f"header key {_short(odd)} is {'unknown' if odd in raw else 'missing'}")
        shape = _map(raw, "gaussians", _MAPS["gaussians"])
        channels = _integer(shape["channels"], "gaussians.channels", 1, 4, FormatError)
        size = _list(shape, "size", int)
        if len(size) != 2:
            raise FormatError(f"header gaussians.size must be [height, width], found {_short(size)}")
        height, width = (_integer(side, "gaussians.size", 1, MAX_SIDE) for side in size)
        background = _list(shape, "background", float)
        if len(background) != channels or max(map(abs, background)) > MAX_BACKGROUND:
            raise FormatError(
                f"header gaussians.background must be {channels} floats up to 2^24, found {_short(background)}"
            )
        antialias = _choice(shape["antialias"], "gaussians.antialias", ANTIALIAS_MODES)
        kernel = _choice(shape["kernel"], "gaussians.kernel", (KERNEL,))
        transforms = _map(raw, "transforms", _MAPS["transforms"])
        _choice(transforms["color"], "transforms.color", (color_transform(channels),))
        _choice(transforms["order"], "transforms.order", (ORDER_TRANSFORM,))
        class_count = _integer(raw["class_count"], "class_count", 0, MAX_CLASSES)
        classes = tuple(_list(raw, "classes", str))
        if classes and (len(classes) != class_count or len(set(classes)) != class_count):
            raise FormatError(f"header classes must be {class_count} different names, found {len(classes)}")
        layout: LabelLayout = _choice(raw["labels"], "labels", get_args(LabelLayout))
        if layout != "none" and class_count == 0:
            raise FormatError(f"header says labels {layout!r} of 0 classes")
        quantizers = _quantizers(_list(raw, "quantizers", dict))
        images, gaussians, sets, entries = _chunks(raw, layout, class_count, len(quantizers))
        written = _map(raw, "recipe")
        try:
            recipe = Recipe.from_dict(written)
        except ValueError as error:
            raise FormatError(f"header: {error}") from None
        if canonical.encode(recipe.to_dict()) != canonical.encode(written):
            raise FormatError("header recipe: fields without a value are left out, real numbers are floats")
        if recipe.mean is not None and len(recipe.mean) != channels:
            raise FormatError(f"header recipe.mean must have {channels} values, found {len(recipe.mean)}")
        return cls(
            size=(height, width),
            channels=channels,
            antialias=antialias,
            background=tuple(background),
            kernel=kernel,
            quantizers=quantizers,
            images=images,
            gaussians=gaussians,
            chunk_quantizers=sets,
            label_layout=layout,
            class_count=class_count,
            classes=classes,
            label_entries=entries,
            sections=_sections(_list(raw, "sections", str), layout),
            recipe=recipe,
            provenance=_map(raw, "provenance"),
            metadata=_map(raw, "metadata"),
        )


def color_transform(channels: int) -> str:
    """Colours of three channels are stored as G, R-G, B-G; others as they are."""
    return COLOR_TRANSFORM if channels == 3 else "none"


def _known_part(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The header of a newer minor version without the keys that this one does not know."""

    def cut(value: Any, keys: tuple[str, ...]) -> Any:
        return {key: value[key] for key in value if key in keys} if isinstance(value, dict) else value

    known = {key: cut(value, _MAPS[key]) if key in _MAPS else value for key, value in raw.items() if key in _KEYS}
    if known.get("labels") != "sparse" and isinstance(known.get("chunks"), dict):
        known["chunks"].pop("labels", None)  # a key of this version, but not in this place
    if isinstance(known.get("quantizers"), list):
        known["quantizers"] = [cut(row, _SET) for row in known["quantizers"]]
    return known


def _chunks(
    raw: Mapping[str, Any], layout: LabelLayout, class_count: int, sets: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    names = tuple(name for name in _MAPS["chunks"] if name != "labels" or layout == "sparse")
    chunks = _map(raw, "chunks", names)
    columns = {name: _list(chunks, name, int) for name in names}
    length = len(columns["images"])
    if any(len(column) != length for column in columns.values()):
        raise FormatError("header chunks: the lists differ in length")
    columns.setdefault("labels", [0] * length)
    for images, gaussians, entries, number in zip(
        columns["images"], columns["gaussians"], columns["labels"], columns["quantizers"], strict=True
    ):
        _integer(images, "chunks.images", 1, MAX_CHUNK_IMAGES)
        _integer(gaussians, "chunks.gaussians", 0, MAX_CHUNK_GAUSSIANS)
        _integer(number, "chunks.quantizers", 0, sets - 1, FormatError)
        _integer(entries, "chunks.labels", 0, images * class_count, FormatError)
        if layout in ("dense", "sparse") and images * class_count > MAX_CHUNK_WEIGHTS:
            raise LimitError(
                f"header chunks: soft labels of {images} images x {class_count} classes exceed the limit of "
                f"{MAX_CHUNK_WEIGHTS} weights in a chunk"
            )
    if sum(columns["images"]) > MAX_IMAGES or sum(columns["gaussians"]) > MAX_GAUSSIANS:
        raise LimitError(f"header chunks: more than {MAX_IMAGES} images or {MAX_GAUSSIANS} Gaussians")
    arrays = [np.array(columns[name], np.int64) for name in ("images", "gaussians", "quantizers", "labels")]
    return arrays[0], arrays[1], arrays[2], arrays[3]


def _sections(names: list[str], layout: LabelLayout) -> tuple[str, ...]:
    known = section_names(layout)
    optional = names[len(known) :]
    if tuple(names[: len(known)]) != known or sorted(set(optional)) != optional:
        raise FormatError(
            f"header sections must be {', '.join(known)}, then optional ones sorted by name; found {_short(names)}"
        )
    for name in optional:
        if not OPTIONAL_NAME.fullmatch(name) or name in LABEL_SECTIONS:
            raise FormatError(
                f"header sections: an optional section must be called like 'maker.name', found {_short(name)}"
            )
    if len(optional) > MAX_OPTIONAL_SECTIONS:
        raise LimitError(f"header sections: {len(optional)} optional sections, the limit is {MAX_OPTIONAL_SECTIONS}")
    return tuple(names)


def _quantizers(rows: list[Any]) -> tuple[QuantizerSet, ...]:
    _integer(len(rows), "quantizers: number of sets", 1, MAX_QUANTIZER_SETS)
    sets = []
    for row in rows:
        checked = _map({"quantizers": row}, "quantizers", _SET)
        for name, value in checked.items():
            good = isinstance(value, list) and [type(v) for v in value] == [str, float, float, int]
            if not good:
                raise FormatError(f"header quantizers.{name} must be [kind, low, high, bits], found {_short(value)}")
            _integer(value[3], f"quantizers.{name}: bits", 1, MAX_BITS)
        try:
            sets.append(QuantizerSet(**{name: Quantizer(*value) for name, value in checked.items()}))
        except ValueError as error:
            raise FormatError(f"header quantizers: {error}") from None
    return tuple(sets)


def _short(value: Any) -> str:
    # A stranger's value in a message that is one line.
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _map(raw: Mapping[str, Any], name: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    value = raw[name]
    if not isinstance(value, dict):
        raise FormatError(f"header {name} must be a map, found {type(value).__name__}")
    if keys is not None and tuple(value) != keys:
        raise FormatError(f"header {name} must have the keys {', '.join(keys)}, found {_short(list(value))}")
    return value


def _list(raw: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = raw.get(name)
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        raise FormatError(f"header {name} must be a list of {kind.__name__}")
    return value


def _integer(value: Any, name: str, low: int, high: int, error: type[FormatError] = LimitError) -> int:
    # More than ``high`` is a limit exceeded, unless it was never one of FORMAT.md's limits.
    if type(value) is not int:
        raise FormatError(f"header {name} must be an integer, found {_short(value)}")
    if not low <= value <= high:
        raise (error if value > high else FormatError)(f"header {name} must lie in {low}..{high}, found {value}")
    return value


def _choice(value: Any, name: str, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise FormatError(f"header {name} must be one of {', '.join(allowed)}, found {_short(value)}")
    return value
