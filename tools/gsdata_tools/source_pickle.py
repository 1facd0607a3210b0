"""Reads the pickles of CIFAR's python archive without running anything that they name.

A pickle is a program: it names functions and calls them. Here every name but five is refused, and those five give inert stand-ins
of ours, which can do nothing but hold the integers of a NumPy array. Nothing that a pickle names is ever imported. Before that, the
operations are listed without running them, and any that such a file does not need is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from gsdata.errors import GsdError

# What NumPy arrays, lists, strings and numbers need in protocols 2 to 5.
_NEEDED = """
    PROTO FRAME STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE DICT LIST TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM
    SETITEMS APPEND APPENDS NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINSTRING
    BINSTRING SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINPUT
    LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
"""
_OPERATIONS = frozenset(_NEEDED.split())
_MAX_MEMO = 1 << 20  # an unpickler allocates as many places as the largest number that it is told


def load_arrays(data: bytes, where: str) -> dict[str, Any]:
    """The dictionary that a CIFAR batch or meta file holds: lists, numbers, strings (bytes) and integer arrays.

    Args:
        data: the whole file.
        where: its name, for messages.

    Raises:
        GsdError: the file is damaged, is no dictionary, or names anything but NumPy's array constructors.
    """
    try:
        _check_operations(data)
        found = _Reader(io.BytesIO(data)).load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"found a {type(found).__name__}, expected a dictionary")
        return {_text(key): _filled(value) for key, value in found.items()}
    except MemoryError:
        raise GsdError(f"{where}: damaged pickle (it asks for more memory than there is)") from None
    except Exception as error:  # a damaged pickle can raise nearly every kind
        raise GsdError(f"{where}: not a readable CIFAR batch: {error}") from error


def _check_operations(data: bytes) -> None:
    for operation, argument, place in pickletools.genops(data):
        if operation.name not in _OPERATIONS:
            raise pickle.UnpicklingError(f"it has the operation {operation.name} at byte {place}, which is refused")
        if operation.name == "LONG_BINPUT" and int(argument or 0) > _MAX_MEMO:
            raise pickle.UnpicklingError(f"it remembers more than {_MAX_MEMO:,} values")


class _Reader(pickle.Unpickler):
    """An unpickler that knows five names, none of which is what the pickle thinks it is."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="bytes")  # Python 2 wrote these files: its strings are bytes

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("multiarray", "_reconstruct"): _Call(lambda *_: _Array()),
            ("numpy", "ndarray"): _Call(_refuse),  # an argument of _reconstruct, never called itself
            ("numpy", "dtype"): _Call(_dtype),
            ("_codecs", "encode"): _Call(_latin),
            ("numeric", "_frombuffer"): _Call(_from_buffer),
        }
        inside_numpy = module in (
            "numpy.core.multiarray",
            "numpy._core.multiarray",
            "numpy.core.numeric",
            "numpy._core.numeric",
        )
        stand_in = known.get((module.rpartition(".")[2] if inside_numpy else module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(
                f"it names {module}.{name}, which is refused: a batch needs only integer arrays"
            )
        return stand_in

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it has persistent references, which are refused")


class _Call:
    """A callable without attributes to set and without a type to instantiate."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function, which is refused")


class _Type:
    """The stand-in of a NumPy integer type."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        if code not in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"):
            raise pickle.UnpicklingError(f"an array of type {code[:20]!r}; expected integers")
        self.code = code
        self.order = "|" if code.endswith("1") else "<"

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1])
        if order not in ("|", "<", ">", "="):
            raise pickle.UnpicklingError("an array of unknown byte order")
        self.order = order

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order.replace("|", "") + self.code)


class _Array:
    """The stand-in of an array under reconstruction."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: np.ndarray = np.empty(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self.values = _shaped(raw, kind, shape, "F" if fortran else "C")


def _shaped(raw: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(raw, bytes | bytearray) or not isinstance(shape, tuple):
        raise pickle.UnpicklingError("a malformed array")
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise pickle.UnpicklingError("an array of impossible shape")
    if math.prod(shape) * kind.numpy().itemsize != len(raw):
        raise pickle.UnpicklingError(f"an array of shape {shape} with {len(raw):,} bytes of values")
    return np.frombuffer(raw, dtype=kind.numpy()).reshape(shape, order="F" if order == "F" else "C")


def _refuse(*arguments: Any) -> Any:
    raise pickle.UnpicklingError("it constructs an array in an unknown way")


def _dtype(code: Any, *_: Any) -> _Type:
    return _Type(_text(code))


def _latin(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("an encoded text that is not Latin-1")
    return text.encode("latin1")


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any, *_: Any) -> _Array:
    array = _Array()
    array.values = _shaped(raw, kind, shape, _text(order))
    return array


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    raise pickle.UnpicklingError(f"found a {type(value).__name__}, expected a text")


def _filled(value: Any) -> Any:
    return value.values if isinstance(value, _Array) else value
