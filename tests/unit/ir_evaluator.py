"""A few lines that evaluate IR on Python numbers, independent of every other evaluator in the repository.

For tests that state what a text means. Integers must stay within 32 bits: an overflow raises, so no test relies on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attncc.ir.nodes import (
    Binary,
    Cast,
    Const,
    Coord,
    Expr,
    Extent,
    Input,
    Load,
    Param,
    Reduce,
    Select,
    Unary,
)
from attncc.ir.types import Type

_BINARY: dict[str, Any] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "floordiv": lambda x, y: x // y,
    "mod": lambda x, y: x % y,
    "pow": lambda x, y: float(x) ** y,
    "min": min,
    "max": max,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "eq": lambda x, y: x == y,
    "and": lambda x, y: x and y,
    "or": lambda x, y: x or y,
    "xor": lambda x, y: x != y,
    "bitand": lambda x, y: x & y,
    "bitor": lambda x, y: x | y,
    "bitxor": lambda x, y: x ^ y,
    "shl": lambda x, y: x << y,
    "shr": lambda x, y: x >> y,
}
_UNARY: dict[str, Any] = {
    "neg": lambda x: -x,
    "not": lambda x: not x,
    "bitnot": lambda x: ~x,
    "abs": abs,
    "exp": math.exp,
    "tanh": math.tanh,
    "sqrt": math.sqrt,
    "floor": math.floor,
}


def evaluate(expr: Expr, names: Mapping[str, Any]) -> Any:
    """The value of ``expr``; ``names`` holds coordinates, extents, parameters, inputs and tensors (nested lists)."""
    match expr:
        case Const():
            return expr.value
        case Coord():
            return names[expr.axis]
        case Input():
            return names[f"{expr.branch}.{expr.name}" if expr.branch else expr.name]
        case Extent() | Param():
            return names[expr.name]
        case Load():
            element = names[expr.tensor]
            for index in expr.indices:
                element = element[evaluate(index, names)]
            return element
        case Cast():
            value = evaluate(expr.operand, names)
            return {Type.F32: float, Type.I32: int, Type.U32: int, Type.BOOL: bool}[expr.type](value)
        case Unary():
            return _bounded(_UNARY[expr.op](evaluate(expr.operand, names)))
        case Binary():
            return _bounded(_BINARY[expr.op](evaluate(expr.left, names), evaluate(expr.right, names)))
        case Select():
            return evaluate(expr.then if evaluate(expr.cond, names) else expr.other, names)
        case Reduce() if expr.extent is not None:
            steps = range(evaluate(expr.extent, names))
            values = [evaluate(expr.body, {**names, expr.axis: step}) for step in steps]
            return {"sum": sum, "any": any, "all": all}[expr.kind](values)
    raise NotImplementedError(type(expr).__name__)


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and not -(2**31) <= value < 2**31:
        raise OverflowError(value)
    return value
