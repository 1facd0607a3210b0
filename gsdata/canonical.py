"""The canonical msgpack subset of the header: exactly one byte string for one value (FORMAT.md, "Header").

Decoding is a parser of its own: it checks the form while it reads, so that nothing large is built from few bytes and
every message says at which byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import msgpack

from gsdata.errors import FormatError, LimitError

MAX_DEPTH = 8
MAX_VALUES = 1 << 18

# first byte -> (what, bytes of the length or number, least value that needs this form)
_LENGTHS = {
    0xC4: ("bytes", 1, 0),
    0xC5: ("bytes", 2, 1 << 8),
    0xC6: ("bytes", 4, 1 << 16),
    0xD9: ("text", 1, 1 << 5),
    0xDA: ("text", 2, 1 << 8),
    0xDB: ("text", 4, 1 << 16),
    0xDC: ("list", 2, 1 << 4),
    0xDD: ("list", 4, 1 << 16),
    0xDE: ("map", 2, 1 << 4),
    0xDF: ("map", 4, 1 << 16),
}
_UNSIGNED = {0xCC: (1, 1 << 7), 0xCD: (2, 1 << 8), 0xCE: (4, 1 << 16), 0xCF: (8, 1 << 32)}
_SIGNED = {0xD0: (1, -(1 << 5)), 0xD1: (2, -(1 << 7)), 0xD2: (4, -(1 << 15)), 0xD3: (8, -(1 << 31))}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_FLOAT64 = 0xCB


def encode(value: Any) -> bytes:
    """The canonical bytes of None, bool, int (64 bits), float, str, bytes, lists, tuples and mappings with text keys.

    Raises:
        ValueError: another type, NaN or infinity, an integer beyond 64 bits, or nesting deeper than ``MAX_DEPTH``.
    """
    try:
        packed: bytes = msgpack.packb(_normalise(value, 1), use_bin_type=True)
    except (OverflowError, UnicodeEncodeError) as error:
        raise ValueError(f"cannot be stored in a header: {error}") from None
    return packed


def decode(data: bytes) -> dict[str, Any]:
    """The mapping in ``data``, only if these are its canonical bytes.

    Raises:
        FormatError: not msgpack, not a map, an ext type, or not the canonical form (unsorted or duplicate keys, a
            longer form than needed, a float that is not 64 bits wide, NaN, infinity, trailing bytes).
        LimitError: nested deeper than ``MAX_DEPTH``, or more than ``MAX_VALUES`` values.
    """
    parser = _Parser(data)
    value = parser.value(1)
    if not isinstance(value, dict):
        raise FormatError(f"header must be a msgpack map, found {type(value).__name__}")
    if parser.position != len(data):
        raise parser.error(f"{len(data) - parser.position} bytes follow its end")
    return value


class _Parser:
    """Reads one value after another; never builds more than the bytes read so far justify."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.values = data, 0, 0

    def error(self, what: str, at: int | None = None) -> FormatError:
        at = self.position if at is None else at
        return FormatError(f"header is not canonical msgpack at its byte {at}: {what}")

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.position:
            raise self.error(f"{length} bytes expected, {len(self.data) - self.position} left")
        self.position += length
        return self.data[self.position - length : self.position]

    def value(self, depth: int) -> Any:
        self.values += 1
        if self.values > MAX_VALUES:
            raise LimitError(f"header holds more than {MAX_VALUES} values")
        start = self.position
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 0x100
        if first < 0xC0:
            kind = "map" if first < 0x90 else "list" if first < 0xA0 else "text"
            return self.sized(kind, first & (0x1F if kind == "text" else 0x0F), depth)
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first == _FLOAT64:
            number: float = struct.unpack(">d", self.take(8))[0]
            if math.isfinite(number):
                return number
            raise self.error(f"numbers must be finite, found {number}", start)
        if first in _LENGTHS:
            kind, width, least = _LENGTHS[first]
            length = int.from_bytes(self.take(width), "big")
            if length >= least:
                return self.sized(kind, length, depth)
        elif first in _UNSIGNED or first in _SIGNED:
            width, bound = _UNSIGNED.get(first) or _SIGNED[first]
            integer = int.from_bytes(self.take(width), "big", signed=first in _SIGNED)
            if integer < bound if first in _SIGNED else integer >= bound:
                return integer
        else:
            raise self.error(f"type {first:#04x} is not allowed (no float32, no ext types)", start)
        raise self.error("a shorter form exists", start)

    def sized(self, kind: str, length: int, depth: int) -> Any:
        if kind == "bytes":
            return self.take(length)
        if kind == "text":
            try:
                return self.take(length).decode()
            except UnicodeDecodeError:
                raise self.error("text is not UTF-8") from None
        if depth > MAX_DEPTH:
            raise LimitError(f"header is nested deeper than {MAX_DEPTH}")
        if kind == "list":
            return [self.value(depth + 1) for _ in range(length)]
        result: dict[str, Any] = {}
        previous: bytes | None = None
        for _ in range(length):
            start = self.position
            key = self.value(depth + 1)
            if not isinstance(key, str):
                raise self.error(f"keys must be text, found {type(key).__name__}")
            encoded = key.encode()
            if previous is not None and encoded <= previous:
                raise self.error(f"key {key!r:.80} is a duplicate or out of order", start)
            previous = encoded
            result[key] = self.value(depth + 1)
        return result


def _normalise(value: Any, depth: int) -> Any:
    if isinstance(value, (Mapping, list, tuple)) and depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"keys must be text, found {next(k for k in value if not isinstance(k, str))!r}")
        return {key: _normalise(value[key], depth + 1) for key in sorted(value, key=lambda k: k.encode())}
    if isinstance(value, (list, tuple)):
        return [_normalise(item, depth + 1) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"numbers must be finite, found {value}")
        return value
    if value is None or type(value) in (bool, int, str, bytes):
        return value
    raise ValueError(f"cannot store a {type(value).__name__} in a header")
