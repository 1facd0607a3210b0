"""The canonical msgpack subset of the header: exactly one byte string for one value (FORMAT.md, "Header")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack

from gsdata.errors import FormatError, LimitError

MAX_DEPTH = 8


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
        LimitError: nested deeper than ``MAX_DEPTH``.
    """
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_refuse_ext)
    except msgpack.StackError:
        raise LimitError(f"header is nested deeper than {MAX_DEPTH}") from None
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise FormatError(f"header is not valid msgpack: {error or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise FormatError(f"header must be a msgpack map, found {type(value).__name__}")
    if _depth(value) > MAX_DEPTH:
        raise LimitError(f"header is nested deeper than {MAX_DEPTH}")
    try:
        again = encode(value)
    except ValueError as error:
        raise FormatError(f"header holds a value that is not allowed: {error}") from None
    # One comparison finds every deviation at once; duplicate keys have already been lost and shorten the result.
    if again != data:
        first = next(
            (i for i, (a, b) in enumerate(zip(again, data, strict=False)) if a != b), min(len(again), len(data))
        )
        raise FormatError(
            f"header is not in canonical form at its byte {first}: keys sorted and unique, shortest forms"
        )
    return value


def _refuse_ext(code: int, data: bytes) -> Any:
    raise FormatError(f"header holds a msgpack ext type ({code}), which the format does not allow")


def _depth(value: Any) -> int:
    # Iterative: a hostile header may nest as deep as the parser lets it.
    deepest, todo = 0, [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if isinstance(item, (dict, list)):
            deepest = max(deepest, depth)
            todo.extend((child, depth + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


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
