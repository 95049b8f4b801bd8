"""The operations of the IR on Python scalars, with the total semantics of kernels. Knows types, no nodes.

i32 and u32 wrap at 32 bits, division by zero gives 0, ``//`` and ``%`` floor, shifts use the low 5 bits of the amount,
float to int truncates and saturates with NaN → 0, ``min`` and ``max`` drop a NaN, and every f32
result is rounded to f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from attncc.ir.types import Type, Value, round_f32, truncate, wrap


def cast(value: Value, source: Type, target: Type) -> Value:
    """``value`` of type ``source`` converted to ``target``."""
    if target is Type.BOOL:
        return value != 0
    if target is Type.F32:
        return round_f32(float(value))
    return truncate(float(value), target) if source is Type.F32 else wrap(int(value), target)


def unary(op: str, value: Value, type: Type) -> Value | None:
    """``op value``, or None where this op is not defined on ``type``."""
    if type is Type.BOOL:
        return not value if op == "not" else None
    if type.is_integer:
        number = int(value)
        match op:
            case "neg":
                return wrap(-number, type)
            case "bitnot":
                return wrap(~number, type)
            case "abs":
                return wrap(abs(number), type)
        return None
    function = _FLOAT_UNARY.get(op)
    return None if function is None else round_f32(_total(function, float(value)))


def binary(op: str, left: Value, right: Value, type: Type) -> Value | None:
    """``left op right`` of operands of ``type``, or None where this op is not defined on it."""
    if op in _COMPARE:
        return _COMPARE[op](left, right)
    if type is Type.BOOL:
        logical = _LOGICAL.get(op)
        return None if logical is None else logical(bool(left), bool(right))
    if type.is_integer:
        integer = _INTEGER.get(op)
        return None if integer is None else wrap(integer(int(left), int(right)), type)
    function = _FLOAT_BINARY.get(op)
    return None if function is None else round_f32(_total(function, float(left), float(right)))


def _total(function: Callable[..., float], *arguments: float) -> float:
    # Python raises where IEEE 754 gives NaN (math.sin(inf)) or an infinity (math.exp(1000)).
    try:
        return function(*arguments)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.nan


def _log(function: Callable[[float], float], pole: float) -> Callable[[float], float]:
    return lambda x: -math.inf if x == pole else function(x)


def _rsqrt(x: float) -> float:
    return math.copysign(math.inf, x) if x == 0 else 1.0 / math.sqrt(x)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700 else math.exp(x)


def _softplus(x: float) -> float:
    return x if math.isnan(x) else max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _whole(function: Callable[[float], float]) -> Callable[[float], float]:
    # floor and round keep infinities, NaN and the sign of zero, as floorf and rintf do.
    return lambda x: math.copysign(function(x), x) if math.isfinite(x) else x


def _pow(x: float, y: float) -> float:
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and y % 2 == 1 else math.inf
    except ValueError:  # a pole, or a negative base with a broken exponent
        if x != 0:
            return math.nan
        return math.copysign(math.inf, x) if y % 2 == 1 else math.inf


def _float_mod(x: float, y: float) -> float:
    if y == 0:
        return 0.0
    remainder = math.fmod(x, y)
    return round_f32(remainder + y) if remainder != 0 and (remainder < 0) != (y < 0) else remainder


def _float_floordiv(x: float, y: float) -> float:
    if y == 0:
        return 0.0
    remainder = math.fmod(x, y)
    quotient = round_f32(round_f32(x - remainder) / y)
    if remainder != 0 and (remainder < 0) != (y < 0):
        quotient = round_f32(quotient - 1.0)
    if not math.isfinite(quotient):
        return quotient
    whole = float(math.floor(quotient))
    return whole + 1.0 if quotient - whole > 0.5 else whole


def _extreme(pick: Callable[[float, float], float]) -> Callable[[float, float], float]:
    return lambda x, y: y if math.isnan(x) else x if math.isnan(y) else pick(x, y)


_FLOAT_UNARY: dict[str, Callable[[float], float]] = {
    "neg": lambda x: -x,
    "abs": abs,
    "exp": math.exp,
    "exp2": lambda x: math.pow(2.0, x),
    "log": _log(math.log, 0.0),
    "log2": _log(math.log2, 0.0),
    "log1p": _log(math.log1p, -1.0),
    "tanh": math.tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "sqrt": math.sqrt,
    "rsqrt": _rsqrt,
    "sin": math.sin,
    "cos": math.cos,
    "floor": _whole(lambda x: float(math.floor(x))),
    "round": _whole(lambda x: float(round(x))),
    "erf": math.erf,
}
_FLOAT_BINARY: dict[str, Callable[[float, float], float]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y if y != 0 else 0.0,
    "floordiv": _float_floordiv,
    "mod": _float_mod,
    "pow": _pow,
    "min": _extreme(min),
    "max": _extreme(max),
}
_INTEGER: dict[str, Callable[[int, int], int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "floordiv": lambda x, y: x // y if y else 0,
    "mod": lambda x, y: x % y if y else 0,
    "min": min,
    "max": max,
    "bitand": lambda x, y: x & y,
    "bitor": lambda x, y: x | y,
    "bitxor": lambda x, y: x ^ y,
    "shl": lambda x, y: x << (y & 31),
    "shr": lambda x, y: x >> (y & 31),
}
_LOGICAL: dict[str, Callable[[bool, bool], bool]] = {
    "and": lambda x, y: x and y,
    "or": lambda x, y: x or y,
    "xor": lambda x, y: x != y,
}
_COMPARE: dict[str, Callable[[Value, Value], bool]] = {
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
}
