"""Damage at random, for tests of readers: bytes, or what they mean, with checksums and lengths made right again or not.

    mutant = mutating.mutate(data, random.Random(0))

The same file and the same state of the generator give the same mutant.
"""

from __future__ import annotations

import random
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import msgpack

from gsdata import forging, rans, streams
from gsdata.container import CRC, PREAMBLE, PREAMBLE_SIZE, RANS, SECTION, STORED, ZSTD
from gsdata.errors import GsdError
from gsdata.file import open as open_file

Kind: TypeAlias = Literal["damaged", "repaired", "header", "codes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""damaged: bytes, as they are. repaired: bytes of one part, then lengths and checksums. header: values, keys and their forms.
codes: codes, counts or labels, then coded again. All but the first have right checksums."""

_MOST_CODED = 2048  # bytes of a section that is coded by rANS again; fitting a model takes milliseconds
_DEEP: list[Any] = []
for _ in range(9):
    _DEEP = [_DEEP]
_INTEGERS = [-(2**63), -1, 0, 1, 2, 3, 8, 12, 13, 255, 256, 257, 65535, 65536, 65537, 1 << 18, (1 << 18) + 1]
_INTEGERS += [1 << 22, 1 << 24, (1 << 24) + 1, 1 << 32, (1 << 32) + 1, 1 << 53, 1 << 63, (1 << 64) - 1]
_ODD: list[Any] = [None, True, False, "", b"", [], {}, 0.0, -0.0, 0.5, 1e-300, 1e308, -(2.0**24) - 2, 64.5, _DEEP]
_ODD += ["none", "hard", "dense", "sparse", "log2", "uniform", "box", "counts", "a.b", "A b", "x" * 300, b"\xff"]
_ODD += [[0], [1.0, 1.0], ["a.b", "a.b"], {"a": 1}, list(range(300)), {f"{i:03}": i for i in range(20)}]
_ODD += [[f"test.n{i}" for i in range(66)]]


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    Attributes:
        data: its bytes; now and then those of the good file.
        kind: how it was changed.
        whole_frames: whether its zstd frames are still those of an encoder. What is within a damaged frame readers may
            see differently: not every decoder checks the same.
    """

    data: bytes
    kind: Kind
    whole_frames: bool


def mutate(data: bytes, rng: random.Random, kind: Kind | None = None) -> Mutant:
    """A file made from another one.

    Args:
        data: a file; a good one for the kinds ``header`` and ``codes``.
        rng: where all choices come from.
        kind: how; None draws one: a quarter each.

    Raises:
        ValueError: the file is too broken for a change of that kind.
    """
    chosen: Kind = rng.choice(KINDS) if kind is None else kind
    try:
        if chosen == "header":
            return Mutant(_header(data, rng), chosen, True)
        if chosen == "codes":
            return Mutant(_codes(data, rng), chosen, True)
        if chosen == "repaired":
            changed, whole = _repaired(data, rng)
            return Mutant(changed, chosen, whole)
        return Mutant(_bytes(data, rng, anywhere=True), chosen, True)
    except GsdError as error:
        raise ValueError(f"no file to change its {chosen}: {error}") from None


# --- bytes ------------------------------------------------------------------------------------------------------------


def _bytes(data: bytes, rng: random.Random, anywhere: bool = False) -> bytes:
    """One to four bytes changed, or a run of them taken out, put in, repeated or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(changed) + 1)
        run = min(len(changed) - at, rng.choice([1, 1, 2, 4, 8, 28, 100]))
        what = rng.randrange(12 if anywhere else 10)
        if what < 6 and at < len(changed):
            values = [changed[at] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 1, 0x7F, 0x80, 0xFF]
            changed[at] = rng.choice([*values, (changed[at] + 1) & 255, (changed[at] - 1) & 255])
        elif what == 6:
            del changed[at : at + run]
        elif what == 7:
            changed[at:at] = rng.randbytes(run)
        elif what == 8:
            changed[at:at] = changed[at : at + run]
        elif what == 9:
            changed[at : at + run] = bytes(run)
        elif what == 10:
            del changed[at:]
    return bytes(changed)


def _repaired(data: bytes, rng: random.Random) -> tuple[bytes, bool]:
    """Bytes of the preamble, the header, the table or a section; then everything that follows from them is right."""
    if len(data) < PREAMBLE_SIZE:
        return data + _bytes(bytes(8), rng), True
    fields = list(PREAMBLE.unpack_from(data))
    table, end = PREAMBLE_SIZE + fields[4], PREAMBLE_SIZE + fields[4] + SECTION.size * fields[5]
    if end > len(data):
        return forging.repair(_bytes(data, rng)), False
    header, rows = data[PREAMBLE_SIZE:table], [list(row) for row in SECTION.iter_unpack(data[table:end])]
    payloads, at = [], end
    for row in rows:
        payloads.append(data[at : at + row[4]])
        at += row[4]
    whole, part = True, rng.choice(["preamble", "header", "table", "section", "section", "section"])
    if part == "header":
        header, whole = _bytes(header, rng), fields[3] == 0
    elif part == "section" and rows:
        number = rng.randrange(len(rows))
        payloads[number], whole = _bytes(payloads[number], rng), rows[number][1] != ZSTD
        if rows[number][1] == STORED and rng.random() < 0.5:
            rows[number][5] = len(payloads[number])
    elif part == "table" and rows and rng.random() < 0.3:
        number, other = rng.randrange(len(rows)), rng.randrange(len(rows))
        if fields[5] % 2:
            rows[number], rows[other] = rows[other], rows[number]
            payloads[number], payloads[other] = payloads[other], payloads[number]
        else:
            rows.insert(other, list(rows[number]))
            payloads.insert(other, payloads[number])
        part = ""
    fields[4:] = len(header), len(rows), PREAMBLE_SIZE + len(header) + SECTION.size * len(rows)
    for row, payload in zip(rows, payloads, strict=True):
        row[4], row[6], row[7] = len(payload), zlib.crc32(payload), fields[6]
        fields[6] += len(payload)
    if part == "table" and rows:
        row, column = rng.choice(rows), rng.randrange(8)
        top = (1 << (16, 8, 8, 32, 32, 32, 32, 64)[column]) - 1
        row[column] = rng.choice(
            [row[column] ^ 1, (row[column] + rng.randrange(-2, 3)) & top, rng.randint(0, top), top]
        )
        if column == 4 and row[1] == STORED and rng.random() < 0.5:
            row[5] = row[4]
    if part == "preamble":
        number = rng.randrange(1, 7)
        top = (1 << (0, 16, 16, 32, 32, 32, 64)[number]) - 1
        fields[number] = rng.choice([(fields[number] + rng.randrange(-2, 3)) & top, rng.randint(0, top), 1, 2, top])
    start, index = PREAMBLE.pack(*fields), b"".join(SECTION.pack(*row) for row in rows)
    crc = CRC.pack(zlib.crc32(start + header + index))
    return b"".join([start, crc, header, index, *payloads]), whole


# --- what they mean ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _apart(data: bytes) -> tuple[dict[str, Any], forging.Sections]:
    return forging.take_apart(data)


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(path for key, item in inner for path in _paths(item, (*prefix, key)))]


def _replaced(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    """The value with another one at a path; a change gets the container that it is in, and its key or position."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        change(copy, path[0])
    else:
        copy[path[0]] = _replaced(value[path[0]], path[1:], change)
    return copy


def _header(data: bytes, rng: random.Random) -> bytes:
    header, sections = _apart(data)
    for _ in range(rng.choice([1, 1, 2])):
        path = rng.choice(_paths(header)[1:] or [("required",)])
        header = _replaced(header, path, lambda container, key: _change(container, key, rng))
    odd = rng if rng.random() < 0.2 else None
    packed = _pack(header, odd)
    if rng.random() < 0.2 and len(framed := forging.frame(packed)) < len(packed):
        return forging.put_together(framed, sections, flags=1)
    return forging.put_together(packed, sections)


def _change(container: Any, key: Any, rng: random.Random) -> None:
    value, what = container.get(key) if isinstance(container, dict) else container[key], rng.randrange(8)
    if what == 0:
        del container[key]
    elif what == 1 and isinstance(container, dict):
        container[rng.choice(["", "a", "zz-new", "labels", "\U0001f600"])] = rng.choice(_ODD)
    elif what == 1:
        container.insert(key, value)
    elif what == 2 and isinstance(value, list):
        container[key] = rng.choice([value[::-1], value * 2, [], [*value, rng.choice(_ODD)]])
    elif what < 5 and isinstance(value, int | float) and not isinstance(value, bool):
        nudged = rng.choice([value + 1, value - 1, value * 2, -value, value * 1.0, round(value)])
        container[key] = nudged if isinstance(nudged, float) else min(max(nudged, -(2**63)), 2**64 - 1)
    elif what < 6:
        container[key] = rng.choice(_INTEGERS)
    else:
        container[key] = rng.choice(_ODD)


def _pack(value: Any, odd: random.Random | None) -> bytes:
    """Canonical msgpack; with a generator, one value in 30 in a form that is not."""
    strange = odd is not None and odd.random() < 1 / 30
    if isinstance(value, dict):
        items = [(_pack(key, odd), _pack(item, odd)) for key, item in sorted(value.items())]
        if strange and odd is not None:
            items = odd.choice([items[::-1], [*items, *items[-1:]]])
        inner = b"".join(key + item for key, item in items)
        return (
            _length(0x80, 0xDE, len(items))
            if len(items) % 7 or not strange
            else b"\xdf" + len(items).to_bytes(4, "big")
        ) + inner
    if isinstance(value, list):
        inner = b"".join(_pack(item, odd) for item in value)
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


@lru_cache(maxsize=1024)
def _decoded(data: bytes) -> list[tuple[int, bytes, Any]]:
    """(entry of the table, raw bytes, layout) of every section of the format that is not empty."""
    file = open_file(data)
    found = []
    for number, section in enumerate(file.sections):
        if section.name in file._chunks.names:
            raw = file._chunks.raw(section.chunk, [section.name])[section.name]
            if raw:
                found.append((number, raw, file._chunks.layouts(section.chunk)[section.name]))
    return found


def _codes(data: bytes, rng: random.Random) -> bytes:
    header, sections = _apart(data)
    sections = [list(section) for section in sections]
    if not (choices := _decoded(data)):
        raise ValueError("no file to change its codes: it has none")
    for number, raw, layout in rng.sample(choices, min(len(choices), rng.choice([1, 1, 2]))):
        changed = bytearray(raw)
        for _ in range(rng.choice([1, 1, 2, 3, 8])):
            at, other = rng.randrange(len(changed)), rng.randrange(len(changed))
            if rng.random() < 0.2:
                changed[at], changed[other] = changed[other], changed[at]
            else:
                near = [(changed[at] + step) & 255 for step in (-1, 1)]
                changed[at] = rng.choice([0, 1, 255, rng.randrange(256), changed[at] ^ 1 << rng.randrange(8), *near])
        sections[number][1], sections[number][4] = _coded(bytes(changed), layout, rng)
    return forging.put_together(_pack(header, None), sections)


def _coded(raw: bytes, layout: rans.Layout, rng: random.Random) -> tuple[int, bytes]:
    """A codec and what it makes of the bytes."""
    codec, stored = rng.choice([STORED, ZSTD, RANS, RANS]), raw
    if codec == ZSTD:
        stored = forging.frame(raw, level=rng.choice([1, 3, 19]))
    elif codec == RANS and 16 <= len(raw) <= _MOST_CODED:
        planes = [raw[i * layout.count : (i + 1) * layout.count] for i in range(len(layout.planes))]
        if all(max(codes) < 1 << plane.bits for codes, plane in zip(planes, layout.planes, strict=True)):
            stored = rans.encode(raw, layout, streams.CONTEXTS)
    return (codec, stored) if len(stored) < len(raw) else (STORED, raw)
