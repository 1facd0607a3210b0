"""``vec``: sixteen float32 as one value inside Numba kernels.

LLVM turns a loop over a row into vector code only if it can prove much about lengths and aliasing, and a row of a small
Gaussian is shorter than the loop it would generate. With this type the code says what is a vector, and sums over the
rows of an image stay in registers. Machines without 512-bit registers split the value; results differ only by fused
multiply-adds.

``a + b``, ``a - b``, ``a * b`` work on two vectors or a vector and a float32. Loads and stores are not bounds-checked.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-subclassing-any

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

# Typed as a decorator that keeps the signature; it drops the typing context instead.
_intrinsic: Any = intrinsic

LANES = 16
# Reassociation stays out: it would break the rounding steps of kernels that use this type.
_FLAGS = ("contract", "nsz")
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_FLOATS, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)

# 2^f on [-1/2, 1/2], least error at Chebyshev points: relative error 2e-7. The constant is exactly one.
_NODES = np.cos(np.pi * (np.arange(400) + 0.5) / 400) / 2
_EXP2 = [
    float(np.float32(c))
    for c in np.polynomial.Chebyshev.fit(_NODES, 2.0**_NODES, 5, domain=[-0.5, 0.5])
    .convert(kind=np.polynomial.Polynomial)
    .coef
]
_EXP2[0] = 1.0


class VecType(types.Type):
    """Numba's type of a vector of ``LANES`` float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


vec = VecType()


@register_model(VecType)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _splat(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_INTS, [0] * LANES))


def _same(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * LANES)


def _call(builder: Any, name: str, arguments: list[Any]) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, arguments, fastmath=_FLAGS)


def _define(operation: Any, instruction: str) -> None:
    @infer_global(operation)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == 2 and vec in args and all(a == vec or a == types.float32 for a in args):
                return signature(vec, *args)
            return None

    for left, right in ((vec, vec), (vec, types.float32), (types.float32, vec)):

        @lower_builtin(operation, left, right)
        def _lower(context: Any, builder: Any, typing: Any, values: Any) -> Any:
            a, b = (v if t == vec else _splat(builder, v) for v, t in zip(values, typing.args, strict=True))
            return getattr(builder, instruction)(a, b, flags=_FLAGS)


for _operation, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _define(_operation, _instruction)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    start = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [index]), _FLOATS.as_pointer())


@_intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """``LANES`` consecutive values of a contiguous float32 vector from ``index`` on."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, sig.args[0], args[0], args[1]), align=4)

    return vec(array, types.intp), generate


@_intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write a vector to ``LANES`` consecutive values from ``index`` on."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, sig.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.none(array, types.intp, vec), generate


@_intrinsic
def fill(typing: Any, value: Any) -> Any:
    """One float32 in every lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return vec(types.float32), generate


@_intrinsic
def lane_numbers(typing: Any) -> Any:
    """0, 1, 2, ..."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(_FLOATS, [float(i) for i in range(LANES)])

    return vec(), generate


@_intrinsic
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger of two in every lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return vec(vec, vec), generate


@_intrinsic
def where_positive(typing: Any, condition: Any, value: Any) -> Any:
    """``value`` in lanes whose ``condition`` is above zero, else 0."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], _same(0.0)), args[1], _same(0.0))

    return vec(vec, vec), generate


@_intrinsic
def total(typing: Any, value: Any) -> Any:
    """The sum of the lanes, float32, always in the same order."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (sums,) = args
        half = LANES // 2
        while half:
            order = ir.Constant(_INTS, [(i + half) % LANES for i in range(LANES)])
            sums = builder.fadd(sums, builder.shuffle_vector(sums, sums, order))
            half //= 2
        return builder.extract_element(sums, ir.Constant(_INT, 0))

    return types.float32(vec), generate


@_intrinsic
def exp2(typing: Any, value: Any) -> Any:
    """2^t in every lane, for -126 < t < 127; relative error 2e-7."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (t,) = args
        whole = _call(builder, "rint", [t])
        f = builder.fsub(t, whole, flags=_FLAGS)
        p = _same(_EXP2[-1])
        for coefficient in _EXP2[-2::-1]:
            p = builder.fadd(builder.fmul(p, f, flags=_FLAGS), _same(coefficient), flags=_FLAGS)
        exponent = builder.add(builder.fptosi(whole, _INTS), ir.Constant(_INTS, [127] * LANES))
        power = builder.bitcast(builder.shl(exponent, ir.Constant(_INTS, [23] * LANES)), _FLOATS)
        return builder.fmul(p, power, flags=_FLAGS)

    return vec(vec), generate
