"""Expressions as a person would write them in a .attn file, for comments in generated code. Owns no meaning."""

from __future__ import annotations

import math

from attncc.codegen.emit.diagonals import OnDiagonal
from attncc.codegen.emit.thresholds import Threshold
from attncc.codegen.emit.views import Axes, Element, Fetch, Pointer, Whole
from attncc.ir.nodes import (
    After,
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
    Rotate,
    Select,
    Slice,
    Unary,
)
from attncc.ir.types import Type, round_f32
from attncc.ir.walk import walk

_OPERATORS = {
    "or": ("or", 1),
    "and": ("and", 2),
    "lt": ("<", 4),
    "le": ("<=", 4),
    "eq": ("==", 4),
    "bitor": ("|", 5),
    "bitxor": ("^", 6),
    "xor": ("^", 6),
    "bitand": ("&", 7),
    "shl": ("<<", 8),
    "shr": (">>", 8),
    "add": ("+", 9),
    "sub": ("-", 9),
    "mul": ("*", 10),
    "div": ("/", 10),
    "floordiv": ("//", 10),
    "mod": ("%", 10),
}
_ATOM = 20
_LOG2E = round_f32(math.log2(math.e))


def formula(root: Expr, limit: int = 400) -> str:
    """``root`` in the language's notation, cut off with an ellipsis after ``limit`` characters."""
    done: dict[Expr, tuple[str, int]] = {}
    for node in walk(root):
        text, level = _print(node, done)
        done[node] = (text if len(text) <= limit else f"{text[: limit - 2]} …", level)
    return done[root][0]


def _print(node: Expr, done: dict[Expr, tuple[str, int]]) -> tuple[str, int]:
    def at(expr: Expr, level: int = 0) -> str:
        text, own = done[expr]
        return text if own >= level else f"({text})"

    match node:
        case Const():
            return _constant(node), _ATOM
        case Coord():
            return node.axis, _ATOM
        case Extent() | Param():
            return node.name.removeprefix("$"), _ATOM
        case Input():
            return (f"{node.branch}.{node.name}" if node.branch else node.name), _ATOM
        case Load():
            return f"{node.tensor}[{', '.join(at(index) for index in node.indices)}]", _ATOM
        case Cast():
            if node.type is Type.F32:  # the language converts to f32 by itself
                return done[node.operand]
            return f"{node.type.value}({at(node.operand)})", _ATOM
        case Unary(op="neg"):
            return f"-{at(node.operand, 11)}", 11
        case Unary(op="bitnot"):
            return f"~{at(node.operand, 11)}", 11
        case Unary(op="not"):
            return f"not {at(node.operand, 3)}", 3
        case Unary():
            return f"{node.op}({at(node.operand)})", _ATOM
        case Binary():
            if node.op not in _OPERATORS:
                return f"{node.op}({at(node.left)}, {at(node.right)})", _ATOM
            symbol, level = _OPERATORS[node.op]
            chained = level == 4
            return f"{at(node.left, level + chained)} {symbol} {at(node.right, level + 1)}", level
        case Select():
            return f"{at(node.then, 1)} if {at(node.cond, 1)} else {at(node.other)}", 0
        case Reduce():
            if node.extent is None:
                return f"{node.kind}({at(node.body)})", _ATOM
            return f"{node.kind}({at(node.body)} for {node.axis} in {at(node.extent, 1)})", _ATOM
        case Slice():
            return f"{at(node.operand, _ATOM)}[{at(node.start)} : {at(node.stop)}]", _ATOM
        case Rotate():
            return f"rotate_{node.kind}({at(node.operand)})", _ATOM
        case After():
            return f"after({at(node.operand)})", _ATOM
        case Pointer():
            known = dict(zip(node.axes, node.indices, strict=True))
            rank = 1 + max(known, default=0)
            return f"{node.tensor}[{', '.join(at(known[i]) if i in known else '·' for i in range(rank))}, …]", _ATOM
        case Axes():
            return f"{node.tensor}.axes({', '.join(map(str, node.axes))})", _ATOM
        case OnDiagonal():
            return done[node.value]
        case Threshold():
            added = " + ".join(at(item, 9) for item in node.plus) or "0"
            return " - ".join([added, *(at(item, 10) for item in node.minus)]), 9
        case Whole():
            return f"{node.tensor}[…]", _ATOM
        case Fetch():
            return f"{at(node.whole)}[{', '.join(at(index) for index in node.indices)}]", _ATOM
        case Element():
            return f"{at(node.pointer)}[{', '.join(at(index) for index in node.indices)}]", _ATOM
    raise TypeError(f"not a node of the IR: {node!r}")


def _constant(node: Const) -> str:
    if node.type is Type.BOOL:
        return "true" if node.value else "false"
    if node.type is Type.F32:
        if node.value == _LOG2E:
            return "log2(e)"
        return shortest(float(node.value))
    return str(node.value)


def shortest(value: float) -> str:
    """The shortest decimal that reads back as the f32 ``value``."""
    if math.isnan(value) or math.isinf(value):
        return repr(value)
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if round_f32(float(text)) == value:
            break
    return text if any(char in text for char in ".e") else text + ".0"
