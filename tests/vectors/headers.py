"""Bad headers for spec/vectors: not canonical, or canonical and saying what they must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gsdata
from gsdata import canonical
from gsdata.forging import frame, put_together, take_apart
from gsdata.testing import make_codes
from vectors.valid import optional, sparse

Invalid = dict[str, tuple[list[str], str, int, bytes]]
FORMAT, VERSION_, LIMIT = "FormatError", "VersionError", "LimitError"
HEADER = 36

BASE = gsdata.to_bytes(make_codes(0, [2, 1], channels=1), labels=[1, 0], classes=("a", "b"), chunk_images=1, level=0)


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new(value) if callable(new) else new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]] if path[0] in value or isinstance(value, list) else None, path[1:], new)
    return copy


def header_form() -> Invalid:
    """Bytes that are no canonical msgpack, in the metadata of a file."""
    header, sections = take_apart(gsdata.to_bytes(make_codes(0, [1], channels=1), level=0))
    packed = canonical.encode(header)
    deep = b"\x81\xa1a" * 7 + b"\x90"  # `metadata` itself is at depth 2
    metadata: dict[str, tuple[list[str], str, bytes]] = {
        "type-float32": (["F1"], FORMAT, b"\x81\xa1a\xca\x3f\x80\0\0"),
        "type-ext": (["F1"], FORMAT, b"\x81\xa1a\xd4\x01\0"),
        "type-never-used": (["F1"], FORMAT, b"\x81\xa1a\xc1"),
        "long-uint8": (["F2"], FORMAT, b"\x81\xa1a\xcc\x7f"),
        "long-uint16": (["F2"], FORMAT, b"\x81\xa1a\xcd\x00\xff"),
        "long-uint32": (["F2"], FORMAT, b"\x81\xa1a\xce\x00\x00\xff\xff"),
        "long-uint64": (["F2"], FORMAT, b"\x81\xa1a\xcf\0\0\0\0\xff\xff\xff\xff"),
        "long-int8": (["F2"], FORMAT, b"\x81\xa1a\xd0\xe0"),
        "long-int16": (["F2"], FORMAT, b"\x81\xa1a\xd1\xff\x80"),
        "long-int32": (["F2"], FORMAT, b"\x81\xa1a\xd2\xff\xff\x80\x00"),
        "long-int64": (["F2"], FORMAT, b"\x81\xa1a\xd3\xff\xff\xff\xff\x80\0\0\0"),
        "signed-form": (["F2"], FORMAT, b"\x81\xa1a\xd1\x00\xff"),
        "long-text": (["F2"], FORMAT, b"\x81\xa1a\xd9\x01b"),
        "long-text-16": (["F2"], FORMAT, b"\x81\xa1a\xda\x00\x01b"),
        "long-bytes": (["F2"], FORMAT, b"\x81\xa1a\xc5\x00\x01b"),
        "long-array": (["F2"], FORMAT, b"\x81\xa1a\xdc\x00\x01\xc0"),
        "long-map": (["F2"], FORMAT, b"\xde\x00\x01\xa1a\xc0"),
        "float-nan": (["F3"], FORMAT, b"\x81\xa1a\xcb\x7f\xf8\0\0\0\0\0\0"),
        "float-infinity": (["F3"], FORMAT, b"\x81\xa1a\xcb\xff\xf0\0\0\0\0\0\0"),
        "key-integer": (["F4"], FORMAT, b"\x81\x01\xc0"),
        "key-bytes": (["F4"], FORMAT, b"\x81\xc4\x01a\xc0"),
        "keys-repeated": (["F4"], FORMAT, b"\x82\xa1a\xc0\xa1a\xc0"),
        "keys-descend": (["F4"], FORMAT, b"\x82\xa1b\xc0\xa1a\xc0"),
        "keys-by-utf16": (["F4"], FORMAT, b"\x82\xa4\xf0\x9f\xa6\x8a\xc0\xa3\xef\xbf\xbd\xc0"),
        "utf8-surrogate": (["F7"], FORMAT, b"\x81\xa1a\xa3\xed\xa0\x80"),
        "utf8-overlong": (["F7"], FORMAT, b"\x81\xa1a\xa2\xc0\x80"),
        "utf8-key": (["F7"], FORMAT, b"\x81\xa1\xff\xc0"),
        "huge-array": (["F6"], FORMAT, b"\x81\xa1a\xdd\xff\xff\xff\xff"),
        "huge-text": (["F6"], FORMAT, b"\x81\xa1a\xdb\xff\xff\xff\xff"),
        "limit-depth": (["L3"], LIMIT, deep),
    }
    found: Invalid = {}
    for name, (rules, error, value) in metadata.items():
        data = put_together(packed.replace(b"\xa8metadata\x80", b"\xa8metadata" + value), sections)
        found[f"header-{name}"] = rules, error, HEADER, data
    many = packed.replace(b"\xa8metadata\x80", b"\xa8metadata\x81\xa1a\xdd\x00\x04\x00\x00" + b"\xc0" * (1 << 18))
    for name, rule, error, value, flags in (
        ("truncated", "F6", FORMAT, packed[:-1], 0),
        ("trailing-byte", "F6", FORMAT, packed + b"\xc0", 0),
        ("no-map", "F6", FORMAT, b"\x91\xc0", 0),
        ("empty", "F6", FORMAT, b"", 0),
        ("limit-values", "L2", LIMIT, frame(many), 1),
    ):
        found[f"header-{name}"] = [rule], error, HEADER, put_together(value, sections, flags=flags)
    return found


def header_values() -> Invalid:
    """Canonical headers that say what they must not."""
    files = {
        "": BASE,
        "rgb": gsdata.to_bytes(make_codes(0, [1]), recipe=gsdata.Recipe(mean=(0.5,) * 3, std=(1.0,) * 3), level=0),
        "sparse": gsdata.to_bytes(make_codes(0, [2, 1], channels=1), soft_labels=sparse(20), level=0),
        "optional": optional({"test.a": (0, b"", 0), "test.b": (0, b"", 0)}),
    }
    parts = {name: take_apart(data) for name, data in files.items()}
    found: Invalid = {}

    def add(name: str, rule: str, path: str, new: Any, error: str = FORMAT, base: str = "") -> None:
        header, sections = parts[base]
        keys = tuple(int(key) if key.isdigit() else key for key in path.split(".") if key)
        packed: bytes = canonical.encode(replaced(header, keys, new))
        small = frame(packed) if len(packed) > 2000 else packed
        found[f"value-{name}"] = [rule], error, HEADER, put_together(small, sections, flags=int(small != packed))

    def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda value: {k: v for k, v in value.items() if k != key}

    def extended(key: str, value: Any = 0) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda old: old | {key: value}

    def times(number: int) -> Callable[[list[Any]], list[Any]]:
        return lambda value: [*value[:1]] * number

    for part, rule in (
        ("", "H1"),
        ("chunks", "H6"),
        ("gaussians", "H4"),
        ("transforms", "H14"),
        ("quantizers.0", "Q1"),
    ):
        last = part.split(".", maxsplit=1)[0] or "header"
        key = {"": "metadata", "chunks": "images", "gaussians": "kernel", "transforms": "order"}.get(part, "means")
        add(f"{last}-key-missing", rule, part, without(key))
        add(f"{last}-key-unknown", rule, part, extended("zzz"))
    add("required", "H12", "required", ["a-feature"], VERSION_)
    add("required-no-text", "H12", "required", [1])
    for name, rule in (("class_count", "H2"), ("classes", "H3"), ("labels", "H5"), ("metadata", "H8"), ("provenance", "H9"), ("quantizers", "H10"), ("recipe", "H11"), ("sections", "H13"), ("required", "H12"), ("chunks", "H6"), ("gaussians", "H4"), ("transforms", "H14")):  # fmt: skip
        add(f"{name}-nil", rule, name, None)
    add("class_count-0-with-labels", "H2", "", lambda h: h | {"class_count": 0, "classes": []})
    add("class_count-negative", "H2", "", lambda h: h | {"class_count": -1, "classes": []})
    add("class_count-true", "H7", "", lambda h: h | {"class_count": True, "classes": []})
    add("class_count-float", "H7", "class_count", 2.0)
    add("limit-classes", "L14", "", lambda h: h | {"class_count": 65536, "classes": []}, LIMIT)
    add("classes-too-few", "H3", "classes", ["a"])
    add("classes-equal", "H3", "classes", ["a", "a"])
    add("classes-no-text", "H3", "classes", ["a", b"b"])
    add("labels-unknown", "H5", "labels", "soft")
    add("quantizers-none", "H10", "quantizers", [])
    add("limit-quantizers", "L16", "quantizers", times(257), LIMIT)

    add("chunks-lengths", "K1", "chunks.quantizers", [0])
    add("chunks-no-list", "K1", "chunks.images", {})
    add("chunks-gaussians-negative", "K2", "chunks.gaussians.0", -1)
    add("chunks-gaussians-float", "H7", "chunks.gaussians.0", 2.0)
    add("chunks-quantizers-index", "K3", "chunks.quantizers.1", 1)
    add("chunks-quantizers-negative", "K3", "chunks.quantizers.1", -1)
    add("chunks-labels-too-many", "K4", "chunks.labels.0", 41, base="sparse")
    add("chunks-labels-negative", "K4", "chunks.labels.0", -1, base="sparse")
    add("chunks-labels-missing", "K4", "chunks", without("labels"), base="sparse")
    add("chunks-labels-hard", "K4", "chunks", extended("labels", [0, 0]))
    add("chunks-images-0", "K5", "chunks.images.0", 0)
    add("limit-chunk-images", "L11", "chunks.images.0", 65537, LIMIT)
    add("limit-chunk-gaussians", "L12", "chunks.gaussians.0", 262145, LIMIT)
    add(
        "limit-chunk-weights",
        "L13",
        "",
        lambda h: (
            h
            | {
                "labels": "dense",
                "class_count": 65,
                "classes": [],
                "sections": ["counts", "label.weights", "gaussians"],
                "chunks": h["chunks"] | {"images": [64528, 1]},
            }
        ),
        LIMIT,
    )
    chunks = {"gaussians": [0] * 257, "images": [65536] * 257, "quantizers": [0] * 257}
    add("limit-images", "L8", "chunks", chunks, LIMIT)
    chunks = {"gaussians": [262144] * 16385, "images": [1] * 16385, "quantizers": [0] * 16385}
    add("limit-gaussians", "L9", "chunks", chunks, LIMIT)

    add("antialias", "G1", "gaussians.antialias", "mip")
    add("background-length", "G2", "gaussians.background", [0.0, 0.0])
    add("background-integer", "G2", "gaussians.background", [0])
    add("background-large", "G2", "gaussians.background", [2.0**24 + 2])
    add("kernel", "G3", "gaussians.kernel", "gaussian")
    add("channels-0", "G4", "gaussians", lambda g: g | {"channels": 0, "background": []})
    add("channels-5", "G4", "gaussians", lambda g: g | {"channels": 5, "background": [0.0] * 5})
    add("size-0", "G5", "gaussians.size", [0, 8])
    add("size-one", "G5", "gaussians.size", [8])
    add("size-three", "G5", "gaussians.size", [8, 8, 8])
    add("limit-size", "L15", "gaussians.size", [8, 65537], LIMIT)
    add("color-transform", "H14", "transforms.color", "green-difference")
    add("color-transform-rgb", "H14", "transforms.color", "none", base="rgb")
    add("order-transform", "H14", "transforms.order", "none")

    for rule, name, bad in (("R1", "augment", 1), ("R2", "batch_size", 0), ("R3", "epochs", 0), ("R4", "lr", 1), ("R6", "model", None), ("R7", "momentum", 0), ("R9", "steps", 1.0), ("R10", "value_space", "linear"), ("R11", "weight_decay", "0"), ("R12", "zca", []), ("R13", "clamp", False)):  # fmt: skip
        add(f"recipe-{name}", rule, f"recipe.{name}", bad)
    add("recipe-batch_size-true", "R2", "recipe.batch_size", True)
    add("recipe-value_space-missing", "R10", "recipe", {})
    add("recipe-unknown", "H11", "recipe.optimizer", "sgd")
    add("recipe-mean-length", "R5", "recipe.mean", [0.5], base="rgb")
    add("recipe-mean-integer", "R5", "recipe.mean.0", 0, base="rgb")
    add("recipe-mean-alone", "R5", "recipe.mean", [0.5])
    add("recipe-std-alone", "R8", "recipe.std", [0.5])
    add("recipe-std-length", "R8", "recipe.std", [0.5], base="rgb")
    add("recipe-std-0", "R8", "recipe.std.2", 0.0, base="rgb")

    means = "quantizers.0.means"
    add("quantizer-no-list", "Q1", means, {})
    add("quantizer-length", "Q1", means, ["uniform", -1.0, 1.0])
    add("quantizer-integer", "Q1", f"{means}.1", -1)
    add("quantizer-kind", "Q2", f"{means}.0", "log10")
    add("quantizer-low-is-high", "Q3", f"{means}.1", 1.0)
    add("quantizer-low-above-high", "Q3", f"{means}.1", 2.0)
    add("quantizer-uniform-large", "Q3", f"{means}.2", 2.0**24 + 2)
    add("quantizer-log2-large", "Q3", "quantizers.0.scales.2", 64.5)
    add("quantizer-bits-0", "Q1", f"{means}.3", 0)
    add("quantizer-bits-float", "Q1", f"{means}.3", 8.0)
    add("limit-bits", "L17", f"{means}.3", 13, LIMIT)
    add("quantizer-narrow", "Q4", means, ["uniform", 1.0, 1.0 + 2.0**-20, 8])
    add("quantizer-narrow-log2", "Q4", "quantizers.0.scales", ["log2", 0.0, 2.0**-21, 2])
    add("quantizer-scales-0", "Q5", "quantizers.0.scales", ["uniform", 0.0, 4.0, 6])
    add("quantizer-scales-negative", "Q5", "quantizers.0.scales", ["uniform", -1.0, 4.0, 6])

    add("sections-order", "H13", "sections", ["labels", "counts", "gaussians"])
    add("sections-missing", "H13", "sections", ["counts", "gaussians", "test.a"])
    add("sections-of-other-labels", "H13", "sections", ["counts", "label.weights", "gaussians"])
    add("sections-not-sorted", "H13", "sections", ["counts", "gaussians", "test.b", "test.a"], base="optional")
    add("sections-repeated", "H13", "sections", ["counts", "gaussians", "test.a", "test.a"], base="optional")
    for name, bad in (("one-word", "test"), ("upper", "Test.a"), ("five-words", "a.b.c.d.e"), ("empty-word", "test..a"), ("long-word", "test." + "a" * 32), ("path", "test./etc/passwd"), ("newline", "test.a\n"), ("not-ascii", "test.\N{ARABIC-INDIC DIGIT ONE}"), ("known", "label.weights")):  # fmt: skip
        add(
            f"optional-name-{name}",
            "O1",
            "sections",
            ["counts", "gaussians", *sorted([bad, "test.a"])],
            base="optional",
        )
    names = ["counts", "gaussians", *(f"test.n{i:02}" for i in range(65))]
    add("limit-optional-sections", "L7", "sections", names, LIMIT, "optional")
    return found
