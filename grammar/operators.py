"""Operators, literals and types, with each error placed at the operand it is about. Knows no names."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

from attncc.diagnostics import LanguageError, Span
from attncc.grammar import tree
from attncc.grammar.scope import suggest
from attncc.ir import build
from attncc.ir.nodes import Const, Coord, Expr, Input, Load, Param
from attncc.ir.types import I32_MAX, Storage, Type, round_f32
from attncc.ir.walk import walk

_SCALARS = {type.value: type for type in Type}
_TYPE_HABITS = {
    "float": "f32",
    "double": "f32",
    "f64": "f32",
    "f16": "f32",
    "bf16": "f32",
    "int": "i32",
    "i64": "i32",
    "i16": "i32",
    "i8": "i32",
    "u8": "i32",
    "uint": "u32",
    "u64": "u32",
    "boolean": "bool",
}


def apply(node: tree.Binary, left: Expr, right: Expr) -> Expr:
    """``left op right`` for every operator but comparisons. Raises LanguageError A0301 to A0304."""
    op, what = node.op, f"`{node.op}`"
    rule: Callable[[Expr, str], Expr]
    if op in ("and", "or") or (op in build.LOGICAL and Type.BOOL in (left.type, right.type)):
        rule = build.boolean
    elif op in build.BITWISE or op in build.SHIFTS:
        rule = build.integer
    else:
        rule = build.number
    demand(rule, left, what, node.left)
    demand(rule, right, what, node.right)
    if op == "and":
        return build.both(left, right)
    if op == "or":
        return build.either(left, right)
    with at(node.span):
        return build.binary(op, left, right)


def demand(rule: Callable[[Expr, str], Expr], value: Expr, what: str, node: tree.Expr) -> Expr:
    """``value`` if ``rule`` holds for it; otherwise its error, placed at the operand it is about."""
    with at(node.span):
        rule(value, what)
    return value


@contextlib.contextmanager
def at(span: Span) -> Iterator[None]:
    """Place errors that have no place yet at ``span``."""
    try:
        yield
    except LanguageError as error:
        raise error.with_span(span) from None


def guilty(name: str, error: LanguageError, values: tuple[Expr, ...], node: tree.Call) -> Span:
    """The argument a library function complains about, or the call where it is their number or their mixture."""
    if error.code not in ("A0301", "A0302", "A0304"):
        return node.span
    first = 1 if name == "where" and error.code == "A0301" else 0
    for value, argument in list(zip(values, node.arguments, strict=True))[first:]:
        if value.type.value == error.got:
            return argument.span
    return node.span


def number(value: int | float, span: Span) -> Expr:
    """A literal as a constant. Raises LanguageError A0306 where 32 bits do not hold it."""
    if isinstance(value, float) and math.isinf(round_f32(value)):
        raise LanguageError(
            "A0306",
            "float literal out of range",
            span=span,
            expected="a magnitude below 3.4028236e38",
            got=span.text,
            help="floats have 32 bits; infinity is `inf`",
        )
    with at(span):
        return build.literal(value)


def converted(value: Expr, type: Type, span: Span, what: str) -> Expr:
    """An argument in the type its parameter declares: int becomes f32, nothing else changes by itself."""
    if value.type is type:
        return value
    if type is Type.F32 and value.type.is_integer:
        return build.cast(value, type)
    if isinstance(value, Const) and type.is_integer and value.type.is_integer and 0 <= int(value.value) <= I32_MAX:
        return Const(value.value, type)
    help = f"convert it: `{type.value}({span.text})`" if type is not Type.BOOL else "compare it, for example `x != 0`"
    raise LanguageError(
        "A0308",
        f"{what} has another type",
        span=span,
        expected=type.value,
        got=value.type.value,
        help=help if len(span.text) < 40 else f"convert it with `{type.value}(...)`",
    )


def scalar_type(type: tree.TypeName) -> Type:
    """The value type a name stands for. Raises LanguageError A0511."""
    name = type.name.text
    if name in _SCALARS and type.dims is None:
        return _SCALARS[name]
    if type.dims is not None and (name in _SCALARS or name in {storage.value for storage in Storage}):
        return Storage(name).loaded
    near = _TYPE_HABITS.get(name) or suggest(name, _SCALARS)
    raise LanguageError(
        "A0511",
        f"no type `{name}` for a value",
        span=type.name.span,
        expected="f32, i32, u32 or bool",
        got=f"`{name}`",
        help=f"write `{near}`" if near else "values are f32, i32, u32 or bool; tensors have axes: `x: f32[num_heads]`",
    )


def shape_problem(value: Expr) -> str:
    """Why a value is no shape, for the ``got`` line."""
    for node in walk(value):
        if isinstance(node, Param):
            return f"the runtime parameter `{node.name}`"
        if isinstance(node, Coord):
            return f"the coordinate `{node.axis}`"
        if isinstance(node, Load):
            return f"an element of `{node.tensor}`"
        if isinstance(node, Input):
            return f"`{node.name}`"
    return f"a value of type {value.type.value}" if value.type is not Type.I32 else "another operator than + - * // %"
