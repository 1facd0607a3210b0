"""The canonical header: one byte string for one value, and no other is accepted."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gsdata import canonical
from gsdata.errors import FormatError, LimitError

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([s * (2**p + d) for p in (5, 7, 8, 15, 16, 31, 32, 62) for d in (-1, 0, 1) for s in (1, -1)]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=40),
    st.binary(max_size=300),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=18) | st.dictionaries(st.text(), inner, max_size=18), max_leaves=15
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def typed(value: Any) -> Any:
    """Equal only where the types are equal too: 1, 1.0 and True differ, and so do 0.0 and -0.0."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return (type(value), struct.pack("<d", value) if isinstance(value, float) else value)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), VALUES, max_size=8).filter(lambda v: depth(v) <= canonical.MAX_DEPTH))
def test_round_trip_and_one_form(value: dict[str, Any]) -> None:
    data = canonical.encode(value)
    assert typed(canonical.decode(data)) == typed(value)
    assert canonical.encode(dict(reversed(value.items()))) == data
    assert msgpack.unpackb(data, strict_map_key=True) == value, "plain msgpack reads it too"


@settings(max_examples=50)
@given(st.dictionaries(st.text(), VALUES, max_size=4).filter(lambda v: depth(v) <= canonical.MAX_DEPTH), st.data())
def test_whatever_is_accepted_is_canonical(value: dict[str, Any], data: st.DataObject) -> None:
    packed = bytearray(canonical.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        again = canonical.decode(bytes(packed))
    except FormatError:
        return
    assert canonical.encode(again) == bytes(packed)


def one(value: bytes) -> bytes:
    return b"\x81\xa1a" + value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x82\xa1a\x01\xa1a\x01", "byte 4: key 'a' is a duplicate"),
        (b"\x82\xa1b\x01\xa1a\x01", "byte 4: key 'a' is a duplicate or out of order"),
        (b"\x82\xa1a\x01\xd9\x01b\x01", "shorter form"),
        (one(b"\xcc\x01"), "byte 3: a shorter form exists"),
        (one(b"\xcd\x00\xff"), "shorter form"),
        (one(b"\xce\x00\x00\xff\xff"), "shorter form"),
        (one(b"\xcf" + bytes(7) + b"\x01"), "shorter form"),
        (one(b"\xd0\x05"), "shorter form"),
        (one(b"\xd0\xff"), "shorter form"),
        (one(b"\xd1\x00\x80"), "shorter form"),
        (one(b"\xd1\xff\x80"), "shorter form"),
        (one(b"\xd2\xff\xff\x80\x00"), "shorter form"),
        (one(b"\xd3" + struct.pack(">q", -(2**31))), "shorter form"),
        (one(b"\xd3" + struct.pack(">q", 2**62)), "shorter form"),
        (one(b"\xd9\x01b"), "shorter form"),
        (one(b"\xda\x00\x20" + b"b" * 32), "shorter form"),
        (one(b"\xdc\x00\x01\x01"), "shorter form"),
        (one(b"\xde\x00\x01\xa1b\x01"), "shorter form"),
        (one(b"\xc5\x00\x01b"), "shorter form"),
        (one(b"\xca\x3f\x80\x00\x00"), "0xca is not allowed"),
        (one(b"\xcb" + struct.pack(">d", float("nan"))), "finite"),
        (one(b"\xcb" + struct.pack(">d", float("-inf"))), "finite"),
        (one(b"\xd4\x00\x00"), "not allowed"),
        (one(b"\xd6\xff\x00\x00\x00\x00"), "not allowed"),
        (one(b"\xc7\x01\x05\x00"), "not allowed"),
        (one(b"\xc1"), "not allowed"),
        (one(b"\xa2\xff\xfe"), "not UTF-8"),
        (one(b"\xa3\xed\xa0\x80"), "not UTF-8"),
        (b"\x81\x01\x01", "keys must be text, found int"),
        (b"\x81\x90\x01", "keys must be text, found list"),
        (b"\x81\xc4\x01a\x01", "keys must be text, found bytes"),
        (one(b"\x01") + b"\x00", "1 bytes follow its end"),
        (b"\x82\xa1a\x01", "left"),
        (b"", "left"),
        (b"\x91\x01", "must be a msgpack map, found list"),
        (b"\x01", "must be a msgpack map, found int"),
        (one(b"\xdd\xff\xff\xff\xff\x01"), "left"),
    ],
)
def test_other_forms_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        canonical.decode(data)


def test_keys_are_sorted_by_their_utf8_bytes() -> None:
    keys = ["￿", "😀", "é", "z", "", "aa", "a"]  # UTF-16 would sort the emoji before U+FFFF
    data = canonical.encode(dict.fromkeys(keys, 0))
    assert list(canonical.decode(data)) == sorted(keys, key=str.encode)


def test_depth_is_limited_on_both_sides() -> None:
    def nested(levels: int) -> Any:
        return {} if levels == 1 else {"a": nested(levels - 1)}

    assert canonical.decode(canonical.encode(nested(8))) == nested(8)
    with pytest.raises(ValueError, match="deeper than 8"):
        canonical.encode(nested(9))
    for data in (b"\x81\xa1a" * 8 + b"\x80", b"\x81\xa1a" + b"\x91" * 8, b"\x81" * 100_000):
        with pytest.raises((LimitError, FormatError)):
            canonical.decode(data)
    with pytest.raises(LimitError, match="deeper than 8"):
        canonical.decode(b"\x81\xa1a" * 8 + b"\x80")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**64, -(2**63) - 1, 1j, object(), {1: 2}, {"a": {b"b": 1}}, "\ud800", {3}]
)
def test_what_cannot_be_stored_is_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical.encode({"a": value})


def test_tuples_are_stored_as_lists() -> None:
    assert canonical.decode(canonical.encode({"a": (1, (2,))})) == {"a": [1, [2]]}
