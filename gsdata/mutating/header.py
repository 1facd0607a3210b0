"""Headers that say something else: values, keys and their forms, and what is just within a limit or beyond it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack

from gsdata import header as meaning
from gsdata.canonical import MAX_DEPTH, MAX_VALUES
from gsdata.container import MAX_HEADER
from gsdata.quantize import MAX_BITS
from gsdata.recipe import Recipe

Change = Callable[[Any, Any], None]
"""Changes a list or a map at a position or key."""

_DEEP: list[Any] = []
for _ in range(9):
    _DEEP = [_DEEP]
_INTEGERS = [-(2**63), -1, 0, 1, 2, 3, 8, 12, 13, 255, 256, 257, 65535, 65536, 65537, 1 << 18, (1 << 18) + 1]
_INTEGERS += [1 << 22, 1 << 24, (1 << 24) + 1, 1 << 32, (1 << 32) + 1, 1 << 53, 1 << 63, (1 << 64) - 1]
_ODD: list[Any] = [None, True, False, "", b"", [], {}, 0.0, -0.0, 0.5, 1e-300, 1e308, -(2.0**24) - 2, 64.5, _DEEP]
_ODD += ["none", "hard", "dense", "sparse", "log2", "uniform", "box", "counts", "a.b", "A b", "x" * 2000, b"\xff"]
_ODD += [[0], [1.0, 1.0], ["a.b", "a.b"], {"a": 1}, list(range(300)), {f"{i:03}": i for i in range(20)}]
_ODD += [[f"test.n{i}" for i in range(66)]]
_NAMES = [
    "z",
    "z.Z",
    "z..z",
    "z.z.z.z",
    "z.z.z.z.z",
    f"z.{'z' * 31}",
    f"z.{'z' * 32}",
    "z.z\n",
    "z./z",
    "\xfc.z",
    "label.weights",
]
_FIELDS = tuple(Recipe.__dataclass_fields__)
_LARGE = 1 / 80
"""Share of the changes at limits that make a header which takes a tenth of a second to read."""


def changed(header: dict[str, Any], rng: random.Random) -> bytes:
    """The bytes of a header with one or two changes, now and then in a form that is not canonical."""
    if rng.random() < 0.15:
        header = at_a_limit(header, rng)
    else:
        for _ in range(rng.choice([1, 1, 2])):
            path = _path(header, rng)
            header = _replaced(header, path, lambda container, key: _change(container, key, rng))
    return pack(header, rng if rng.random() < 0.2 else None)


def _path(header: dict[str, Any], rng: random.Random) -> tuple[Any, ...]:
    """Where a value is: any is as likely as any other, or any part of the header is."""
    if rng.random() < 0.5 or not header:
        return rng.choice(_paths(header)[1:] or [("required",)])
    key = rng.choice(list(header))
    return rng.choice(_paths(header[key], (key,)))


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, item in inner for path in _paths(item, (*prefix, key)))]


def _replaced(value: Any, path: tuple[Any, ...], change: Change) -> Any:
    """The value with another one at a path; a change gets the container that it is in, and its key or position."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        change(copy, path[0])
    else:
        copy[path[0]] = _replaced(value[path[0]], path[1:], change)
    return copy


def _change(container: Any, key: Any, rng: random.Random) -> None:
    value, what = container.get(key) if isinstance(container, dict) else container[key], rng.randrange(8)
    if what == 0:
        container.pop(key)
    elif what == 1 and isinstance(container, dict):
        container[rng.choice(["", "a", "zz-new", "labels", "\U0001f600", *_FIELDS])] = rng.choice(_ODD)
    elif what == 1:
        container.insert(key, value)
    elif what == 2 and isinstance(value, list):
        container[key] = rng.choice([value[::-1], value * 2, [], [*value, rng.choice(_ODD)]])
    elif what == 2 and isinstance(value, dict) and "value_space" in value:
        container[key] = {**value, rng.choice(_FIELDS): rng.choice([*_ODD, *_INTEGERS])}
    elif what < 5 and isinstance(value, int | float) and not isinstance(value, bool):
        nudged = rng.choice([value + 1, value - 1, value * 2, -value, value * 1.0, round(value)])
        container[key] = nudged if isinstance(nudged, float) else min(max(nudged, -(2**63)), 2**64 - 1)
    elif what < 6:
        container[key] = rng.choice(_INTEGERS)
    else:
        container[key] = rng.choice(_ODD)


def at_a_limit(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A good header with something as large as a limit of FORMAT.md allows, or larger."""
    beyond = rng.choice([0, 1, 1, 2, 100])
    names = [f"test.n{i:03}" for i in range(meaning.MAX_OPTIONAL_SECTIONS + beyond)]
    classes = 1 << rng.randrange(6, 16)
    deep: Any = 0
    for _ in range(MAX_DEPTH - 2 + beyond):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    # (what is in the header, what it becomes)
    ways: list[tuple[str, Any]] = [
        ("class_count", meaning.MAX_CLASSES + beyond),
        ("sections", [*(name for name in header["sections"] if "test" not in name), *names]),
        ("sections", [*header["sections"], rng.choice(_NAMES)]),
        ("metadata", {"deep": deep}),
        (
            "quantizers",
            (header["quantizers"] * (meaning.MAX_QUANTIZER_SETS + beyond))[: meaning.MAX_QUANTIZER_SETS + beyond],
        ),
        ("gaussians", {**header["gaussians"], "size": rng.sample([1, meaning.MAX_SIDE + beyond], 2)}),
        (
            "quantizers",
            [{name: [*q[:3], MAX_BITS + beyond] for name, q in one.items()} for one in header["quantizers"]],
        ),
        ("chunks", _chunks(header, "images", 1, meaning.MAX_CHUNK_IMAGES + beyond)),
        ("chunks", _chunks(header, "gaussians", 1, meaning.MAX_CHUNK_GAUSSIANS + beyond)),
        ("chunks", _chunks(header, "images", 256 + beyond, meaning.MAX_CHUNK_IMAGES)),
        ("labels", rng.choice(["dense", "sparse"])),
        ("quantizers", [*header["quantizers"][1:], _quantizers(rng)]),
        ("recipe", header["recipe"] | {rng.choice(_FIELDS): rng.choice([-1, 0, 1, 1.0, -1.0, False, True, "", {}])}),
    ]
    if rng.random() < _LARGE:
        values = MAX_VALUES - _values(header | {"metadata": {"list": []}}) + beyond
        size = MAX_HEADER - len(pack(header | {"metadata": {"bytes": b""}})) - 3 + beyond
        ways = [
            ("metadata", {"list": [0] * values}),
            ("metadata", {"bytes": bytes(size)}),
            ("chunks", _chunks(header, "gaussians", (1 << 14) + beyond, meaning.MAX_CHUNK_GAUSSIANS)),
        ]
    key, value = rng.choice(ways)
    header = header | {key: value}
    if key == "class_count":
        header["classes"] = []
    if key == "labels":
        layout = {"dense": ["label.weights"], "sparse": ["label.counts", "label.classes", "label.weights"]}[value]
        images = meaning.MAX_CHUNK_WEIGHTS // classes + beyond
        header |= {"classes": [], "class_count": classes, "sections": ["counts", *layout, "gaussians"]}
        columns = {"gaussians": [0], "images": [images], "quantizers": [0]}
        header["chunks"] = columns | ({"labels": [images]} if value == "sparse" else {})
    return header


def _chunks(header: dict[str, Any], key: str, count: int, value: int) -> dict[str, Any]:
    """The columns of a header for so many chunks, one of them with another value."""
    columns = {"images": 1, "gaussians": 1, "quantizers": 0} | ({"labels": 1} if header["labels"] == "sparse" else {})
    return {name: [value if name == key else columns[name]] * count for name in columns}


def _quantizers(rng: random.Random) -> dict[str, Any]:
    """A set of quantisers, one of which is about as narrow, low or high as may be."""
    one: dict[str, Any] = {name: ["uniform", 0.5, 1.0, 8] for name in ("colors", "means", "scales", "shear")}
    kind, bound = rng.choice([("uniform", 2.0**24), ("log2", 64.0)])
    low = rng.choice([-bound, -1.0, 0.0, 2.0**-149, 1.0, bound - 1.0]) * rng.choice([1.0, 1.0, 1 + 2.0**-52])
    width = rng.choice([0.0, 2.0**-40, 2.0**-24, 2.0**-14, 2.0**-8, 1.0, bound, bound - low, 2 * bound])
    return one | {rng.choice(list(one)): [kind, low, low + width, rng.randint(1, MAX_BITS)]}


def _values(value: Any) -> int:
    """What a value counts against the limit of values: itself, its keys, and what it holds."""
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_values, inner))


def pack(value: Any, odd: random.Random | None = None) -> bytes:
    """Canonical msgpack; with a generator, one value in 30 in a form that is not."""
    strange = odd is not None and odd.random() < 1 / 30
    if isinstance(value, dict):
        items = [(pack(key, odd), pack(item, odd)) for key, item in sorted(value.items())]
        if strange and odd is not None:
            items = odd.choice([items[::-1], [*items, *items[-1:]]])
        inner = b"".join(key + item for key, item in items)
        return (
            _length(0x80, 0xDE, len(items))
            if len(items) % 7 or not strange
            else b"\xdf" + len(items).to_bytes(4, "big")
        ) + inner
    if isinstance(value, list):
        inner = b"".join(pack(item, odd) for item in value)
        return (b"\xdd" + len(value).to_bytes(4, "big") if strange else _length(0x90, 0xDC, len(value))) + inner
    if strange and odd is not None:
        bits = [b"\xca\x3f\x80\0\0", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xcb\x7f\xf0\0\0\0\0\0\0", b"\xd4\1\0", b"\xc1"]
        bits += [
            b"\xcf\0\0\0\0\0\0\0\5",
            b"\xd3\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xa2\xc0\xaf",
            b"\xd9\1a",
            b"\xa3\xed\xa0\x80",
        ]
        return odd.choice(bits)
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _length(short: int, long: int, count: int) -> bytes:
    if count < 16:
        return bytes([short + count])
    return bytes([long]) + struct.pack(">H", count) if count < 1 << 16 else bytes([long + 1]) + struct.pack(">I", count)
