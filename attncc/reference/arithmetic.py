"""The operations of the IR on numpy arrays, total as section 3 of the design demands. Knows no expressions.

Arrays are bool, int32, uint32, float32 (score-free values, every result rounded to f32 as a kernel rounds it) or the
work type of data-dependent values. int32 and uint32 arithmetic of numpy arrays wraps; what is not total in numpy is
made so here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from attncc.ir.types import I32_MAX, I32_MIN, U32_MAX, Type
from attncc.reference.rounding import Array

DTYPES = {Type.F32: np.float32, Type.I32: np.int32, Type.U32: np.uint32, Type.BOOL: np.bool_}

_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def _softplus(x: Array) -> Array:
    found: Array = np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
    return found


# Evaluated in float64 and rounded once: within half an ulp of the truth, the middle of what kernels may give.
_TRANSCENDENTAL: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "erf": lambda x: np.asarray(_erf(x), np.float64),
}
_UNARY: dict[str, Callable[[Array], Array]] = {
    "neg": np.negative,
    "abs": lambda x: x if x.dtype == np.uint32 else np.abs(x),
    "not": np.logical_not,
    "bitnot": np.invert,
    "sqrt": np.sqrt,
    "floor": np.floor,
    "round": np.rint,
}


def unary(op: str, x: Array) -> Array:
    """One operation on one operand, in the operand's type."""
    exact = _TRANSCENDENTAL.get(op)
    if exact is not None:
        return exact(x.astype(np.float64)).astype(x.dtype)
    return _UNARY[op](x)


def _divide(x: Array, y: Array) -> Array:
    zero = y == 0
    if not zero.any():
        return x / y
    found: Array = np.where(zero, 0, x / np.where(zero, 1, y)).astype(np.result_type(x, y))
    return found


def _floor_divide(x: Array, y: Array) -> Array:
    if x.dtype == np.int32:  # −2³¹ // −1 is 2³¹, which wraps
        wide: Array = np.where(y == 0, 0, x.astype(np.int64) // np.where(y == 0, 1, y))
        return wide.astype(np.int32)
    found: Array = np.where(y == 0, 0, np.floor_divide(x, np.where(y == 0, 1, y))).astype(x.dtype)
    return found


def _modulo(x: Array, y: Array) -> Array:
    if x.dtype == np.int32:
        wide: Array = np.where(y == 0, 0, x.astype(np.int64) % np.where(y == 0, 1, y))
        return wide.astype(np.int32)
    found: Array = np.where(y == 0, 0, np.mod(x, np.where(y == 0, 1, y))).astype(x.dtype)
    return found


def _power(x: Array, y: Array) -> Array:
    return np.power(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)


def _shift(op: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    return lambda x, y: op(x, y & y.dtype.type(31))


_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": _divide,
    "floordiv": _floor_divide,
    "mod": _modulo,
    "pow": _power,
    "min": lambda x, y: np.fmin(x, y) if x.dtype.kind == "f" else np.minimum(x, y),  # a NaN loses, as in fminf
    "max": lambda x, y: np.fmax(x, y) if x.dtype.kind == "f" else np.maximum(x, y),
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "shl": _shift(np.left_shift),
    "shr": _shift(np.right_shift),
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
}


def binary(op: str, x: Array, y: Array) -> Array:
    """One operation on two operands of one type."""
    return _BINARY[op](x, y)


def convert(type: Type, x: Array) -> Array:
    """A cast: int to f32 rounds, float to int truncates and saturates with NaN giving 0, anything to bool is x ≠ 0."""
    if type is Type.BOOL:
        return np.not_equal(x, 0)
    if type is Type.F32:
        return x.astype(np.float32)
    if x.dtype.kind == "f":
        low, high = (I32_MIN, I32_MAX) if type is Type.I32 else (0, U32_MAX)
        whole = np.clip(np.trunc(np.where(np.isnan(x), 0, x).astype(np.float64)), low, high)
        return whole.astype(np.int64).astype(DTYPES[type])
    found: Array = x.astype(DTYPES[type])
    return found
