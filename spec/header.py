"""The header: canonical msgpack, and the rules for what it says (FORMAT.md, "Header" and "Quantisers")."""

import math
import re
import struct
from collections.abc import Iterable
from typing import Any, ClassVar

from errors import FormatError, LimitError, VersionError, need

KEYS = [
    "chunks", "class_count", "classes", "gaussians", "labels", "metadata", "provenance", "quantizers", "recipe", "required",
    "sections", "transforms",
]  # fmt: skip
RECIPE = {
    "augment": str, "batch_size": int, "clamp": bool, "epochs": int, "lr": float, "mean": list, "model": str, "momentum": float,
    "std": list, "steps": int, "value_space": str, "weight_decay": float, "zca": dict,
}  # fmt: skip
LABELS = {
    "none": [],
    "hard": ["labels"],
    "dense": ["label.weights"],
    "sparse": ["label.counts", "label.classes", "label.weights"],
}


class Msgpack:
    """The canonical form, read once from the front; `root` is the outermost map."""

    NUMBERS: ClassVar = {  # struct's letter, and the first number that needs the form
        0xCC: (">B", 1 << 7), 0xCD: (">H", 1 << 8), 0xCE: (">I", 1 << 16), 0xCF: (">Q", 1 << 32),
        0xD0: (">b", -33), 0xD1: (">h", -129), 0xD2: (">i", -32769), 0xD3: (">q", -(1 << 31) - 1),
    }  # fmt: skip
    LENGTHS: ClassVar = {
        0xC4: ("bytes", ">B", 0), 0xC5: ("bytes", ">H", 1 << 8), 0xC6: ("bytes", ">I", 1 << 16),
        0xD9: ("text", ">B", 32), 0xDA: ("text", ">H", 1 << 8), 0xDB: ("text", ">I", 1 << 16),
        0xDC: ("array", ">H", 16), 0xDD: ("array", ">I", 1 << 16), 0xDE: ("map", ">H", 16), 0xDF: ("map", ">I", 1 << 16),
    }  # fmt: skip

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.values = data, 0, 0
        self.root = self.value(1)
        need(isinstance(self.root, dict) and self.at == len(data), 36, "the header is one map and nothing else")

    def take(self, size: int) -> bytes:
        """The next bytes."""
        need(self.at + size <= len(self.data), 36, "the header ends inside a value")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str, first: int) -> int:
        """The next number, `first` being the one nearest to 0 that needs this form."""
        number = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        need(number >= first if first >= 0 else number <= first, 36, "not the shortest form")
        return number

    def value(self, depth: int) -> Any:
        """The next value."""
        self.values += 1
        need(self.values <= 262144, 36, "more than 262,144 values", LimitError)
        tag = self.take(1)[0]
        if tag < 0x80 or tag >= 0xE0:
            return tag if tag < 0x80 else tag - 256
        if tag < 0xC0:
            kind, size = ("map", tag & 15) if tag < 0x90 else ("array", tag & 15) if tag < 0xA0 else ("text", tag & 31)
        elif tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        elif tag == 0xCB:
            number = struct.unpack(">d", self.take(8))[0]
            need(math.isfinite(number), 36, "a float that is not finite")
            return number
        elif tag in self.NUMBERS:
            return self.number(*self.NUMBERS[tag])
        else:
            need(tag in self.LENGTHS, 36, f"type {tag:#x}")
            kind, *form = self.LENGTHS[tag]
            size = self.number(*form)
        if kind == "bytes":
            return self.take(size)
        if kind == "text":
            try:
                return self.take(size).decode()
            except UnicodeDecodeError:
                raise FormatError(36, "text that is not UTF-8") from None
        need(depth <= 8, 36, "nested more than 8 deep", LimitError)
        if kind == "array":
            return [self.value(depth + 1) for _ in range(size)]
        result, last = {}, b""
        for i in range(size):
            key = self.value(depth + 1)
            need(isinstance(key, str) and (i == 0 or last < key.encode()), 36, f"key {key!r} is no text after the last")
            last, result[key] = key.encode(), self.value(depth + 1)
        return result


def check(
    value: Any, kind: type, what: str, low: Any = None, high: Any = None, error: type[FormatError] = FormatError
) -> Any:
    """`value`, if it is of this type and within this range; `error` is for more than `high`."""
    need(type(value) is kind, 36, f"{what} is no {kind.__name__}")
    need(low is None or value >= low, 36, f"{what} is {value}")
    need(high is None or value <= high, 36, f"{what} is {value}", error)
    return value


def items(value: Any, kind: type, what: str, *limits: Any) -> list[Any]:
    """`value`, if it is a list of such values."""
    return [check(item, kind, what, *limits) for item in check(value, list, what)]


def keys(value: Any, what: str, newer: bool, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """`value`, if it is a map with these keys; a newer minor version may have more, which are left out."""
    known = {*required, *optional}
    need(set(required) <= set(check(value, dict, what)) and (newer or set(value) <= known), 36, f"keys of {what}")
    return {key: value[key] for key in value if key in known}


def one_of(value: Any, what: str, *choices: str) -> str:
    """`value`, if it is one of these texts."""
    need(check(value, str, what) in choices, 36, f"{what} is {value!r}")
    return value


def check_header(h: dict[str, Any], newer: bool) -> tuple[dict[str, Any], list[dict[str, tuple[float, ...]]]]:
    """All rules for values of the header; returns what is known of it, and the tables of its quantiser sets."""
    for name in items(h.get("required"), str, "required"):
        raise VersionError(36, f"the file needs {name!r}")
    h = keys(h, "header", newer, KEYS)
    layout = one_of(h["labels"], "labels", *LABELS)
    classes = check(h["class_count"], int, "class_count", 0 if layout == "none" else 1, 65535, LimitError)
    names = items(h["classes"], str, "classes")
    need(not names or len(names) == len(set(names)) == classes, 36, "classes are not K different names")
    check(h["metadata"], dict, "metadata")
    check(h["provenance"], dict, "provenance")

    g = keys(h["gaussians"], "gaussians", newer, ["antialias", "background", "channels", "kernel", "size"])
    one_of(g["antialias"], "antialias", "box-normalized", "box", "none")
    one_of(g["kernel"], "kernel", "gaussian-compact-10")
    channels = check(g["channels"], int, "channels", 1, 4)
    need(len(items(g["background"], float, "background", -(2.0**24), 2.0**24)) == channels, 36, "background")
    need(len(items(g["size"], int, "size", 1, 65536, LimitError)) == 2, 36, "size")
    t = keys(h["transforms"], "transforms", newer, ["color", "order"])
    one_of(t["color"], "color", "green-difference" if channels == 3 else "none")
    one_of(t["order"], "order", "sorted-delta")

    recipe = keys(h["recipe"], "recipe", newer, ["value_space"], RECIPE)
    one_of(recipe["value_space"], "value_space", "srgb-unit")
    need(("mean" in recipe) == ("std" in recipe), 36, "mean and std come together")
    for name, value in recipe.items():
        check(value, RECIPE[name], name, 1 if RECIPE[name] is int else None)
        need(value is not False, 36, name)
        if name in ("mean", "std"):
            need(len(items(value, float, name)) == channels and (name == "mean" or min(value) > 0), 36, name)

    check(len(check(h["quantizers"], list, "quantizers")), int, "number of quantiser sets", 1, 256, LimitError)
    sets = h["quantizers"] = [
        keys(s, "quantizers", newer, ["colors", "means", "scales", "shear"]) for s in h["quantizers"]
    ]
    tables = [{name: table(name, quantizer) for name, quantizer in s.items()} for s in sets]

    c = h["chunks"] = keys(
        h["chunks"], "chunks", newer, ["gaussians", "images", "quantizers", *["labels"][: layout == "sparse"]]
    )
    images = items(c["images"], int, "images", 1, 65536, LimitError)
    gaussians = items(c["gaussians"], int, "gaussians", 0, 262144, LimitError)
    items(c["quantizers"], int, "quantizers of a chunk", 0, len(tables) - 1)
    weights = items(c.get("labels", []), int, "labels of a chunk", 0)
    need(len({len(column) for column in c.values()}) == 1, 36, "lists of chunks differ in length")
    need(sum(images) <= 1 << 24 and sum(gaussians) <= 1 << 32, 36, "too many images or Gaussians", LimitError)
    most = max((n * classes for n in images if layout in ("dense", "sparse")), default=0)
    need(most <= 1 << 22, 36, "too many weights in a chunk", LimitError)
    need(all(w <= n * classes for w, n in zip(weights, images)), 36, "more weights than images times K")

    known = ["counts", *LABELS[layout], "gaussians"]
    extra = items(h["sections"], str, "sections")[len(known) :]
    need(h["sections"] == known + sorted(set(extra)), 36, "names of sections")
    need(len(extra) <= 64, 36, "more than 64 optional sections", LimitError)
    for name in extra:
        good = re.fullmatch(r"[a-z0-9_-]{1,31}(\.[a-z0-9_-]{1,31}){1,3}", name) and name not in LABELS["sparse"]
        need(good, 36, f"optional section {name!r}")
    return h, tables


def table(name: str, quantizer: Any) -> tuple[float, ...]:
    """The float32 values of a quantiser."""
    need(type(quantizer) is list and len(quantizer) == 4, 36, name)
    kind, low, high, bits = quantizer
    bound = 2.0**24 if one_of(kind, name, "uniform", "log2") == "uniform" else 64.0
    check(low, float, name, -bound)
    need(low < check(high, float, name, None, bound), 36, f"{name}: low is not below high")
    check(bits, int, f"bits of {name}", 1, 12, LimitError)
    levels = [low + ((high - low) * (k / 2)) / (2**bits - 1) for k in range(2 ** (bits + 1) - 1)]
    form = f"<{len(levels)}f"
    steps = struct.unpack(form, struct.pack(form, *(levels if kind == "uniform" else map(math.exp2, levels))))
    need(all(a < t <= b for a, t, b in zip(steps[::2], steps[1::2], steps[2::2])), 36, f"{name} is too narrow")
    need(name != "scales" or steps[0] > 0, 36, "scales reach 0")
    return steps[::2]
