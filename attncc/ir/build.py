"""Typed construction of expressions: promotion, the operators and the function library of both front ends.

The grammar and the Python tracer call the same functions, so a mistake reads the same in both. Errors are raised
without a span; the caller, who knows the place, adds it with ``with_span``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from attncc.diagnostics import LanguageError
from attncc.ir.nodes import Binary, Cast, Const, Expr, Reduce, Rotate, Select, Unary
from attncc.ir.types import I32_MAX, I32_MIN, U32_MAX, Type, Value

TRUE, FALSE = Const(True, Type.BOOL), Const(False, Type.BOOL)
ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "//": "floordiv", "%": "mod"}
BITWISE = {"&": "bitand", "|": "bitor", "^": "bitxor"}
LOGICAL = {"&": "and", "|": "or", "^": "xor"}
SHIFTS = {"<<": "shl", ">>": "shr"}
COMPARE = ("<", "<=", ">", ">=", "==", "!=")
_NO_BOOL = "write `1 if x else 0`, or `f32(x)`, to use a condition as a number"


def f32(value: float) -> Const:
    return Const(value, Type.F32)


def i32(value: int) -> Const:
    return Const(value, Type.I32)


def literal(value: Value) -> Const:
    """A Python literal as a constant: bool, i32 (u32 above 2³¹−1), or f32."""
    if isinstance(value, bool):
        return Const(value, Type.BOOL)
    if isinstance(value, int):
        if I32_MIN <= value <= I32_MAX:
            return Const(value, Type.I32)
        if 0 <= value <= U32_MAX:
            return Const(value, Type.U32)
        raise LanguageError(
            "A0306",
            "integer literal out of range",
            expected=f"{I32_MIN} to {U32_MAX}",
            got=str(value),
            help="integers have 32 bits; write a float (with a point) for larger magnitudes",
        )
    return Const(value, Type.F32)


def cast(operand: Expr, type: Type) -> Expr:
    """An explicit conversion; none where the type is already right."""
    return operand if operand.type is type else Cast(type, operand)


def number(operand: Expr, what: str) -> Expr:
    """``operand`` if it is a number, else an error naming ``what`` needs one."""
    if operand.type is Type.BOOL:
        raise LanguageError("A0301", f"{what} takes numbers", expected="f32, i32 or u32", got="bool", help=_NO_BOOL)
    return operand


def floating(operand: Expr, what: str) -> Expr:
    return cast(number(operand, what), Type.F32)


def integer(operand: Expr, what: str) -> Expr:
    if not operand.type.is_integer:
        raise LanguageError(
            "A0304",
            f"{what} takes integers",
            expected="i32 or u32",
            got=operand.type.value,
            help=_NO_BOOL if operand.type is Type.BOOL else "convert: `i32(x)` truncates, `i32(floor(x))` floors",
        )
    return operand


def boolean(operand: Expr, what: str) -> Expr:
    if operand.type is not Type.BOOL:
        raise LanguageError(
            "A0302",
            f"{what} takes a condition",
            expected="bool",
            got=operand.type.value,
            help="compare it, for example `x != 0`",
        )
    return operand


def promote(left: Expr, right: Expr, what: str) -> tuple[Expr, Expr]:
    """Both operands in one number type: int with float is f32; i32 and u32 mix only through a literal or a cast."""
    number(left, what)
    number(right, what)
    if left.type is right.type:
        return left, right
    if Type.F32 in (left.type, right.type):
        return cast(left, Type.F32), cast(right, Type.F32)
    for constant, other in ((left, right), (right, left)):
        if isinstance(constant, Const) and constant.type is Type.I32 and int(constant.value) >= 0:
            as_u32 = Const(constant.value, other.type)
            return (as_u32, right) if constant is left else (left, as_u32)
    raise LanguageError(
        "A0303",
        f"{what} mixes i32 and u32",
        expected="one integer type",
        got=f"{left.type.value} and {right.type.value}",
        help="convert one side with `i32(x)` or `u32(x)`",
    )


def binary(symbol: str, left: Expr, right: Expr) -> Expr:
    """``left symbol right`` for every binary operator of the language but ``and``, ``or`` and comparisons."""
    what = f"`{symbol}`"
    if symbol in ARITHMETIC:
        return Binary(ARITHMETIC[symbol], *promote(left, right, what))
    if symbol == "/":
        return Binary("div", floating(left, what), floating(right, what))
    if symbol == "**":
        return Binary("pow", floating(left, what), floating(right, what))
    if symbol in LOGICAL and Type.BOOL in (left.type, right.type):
        return Binary(LOGICAL[symbol], boolean(left, what), boolean(right, what))
    integer(left, what)
    integer(right, what)
    if symbol in SHIFTS:
        return Binary(SHIFTS[symbol], left, cast(right, left.type))
    return Binary(BITWISE[symbol], *promote(left, right, what))


def compare(symbol: str, left: Expr, right: Expr) -> Expr:
    """A comparison, expressed by ``<``, ``<=`` and ``==``; ``==`` and ``!=`` also compare conditions."""
    what = f"`{symbol}`"
    if symbol in ("==", "!="):
        if left.type is Type.BOOL and right.type is Type.BOOL:
            equal: Expr = Binary("eq", left, right)
        else:
            equal = Binary("eq", *promote(left, right, what))
        return equal if symbol == "==" else Unary("not", equal)
    left, right = promote(left, right, what)
    if symbol in (">", ">="):
        left, right = right, left
    return Binary("lt" if symbol in ("<", ">") else "le", left, right)


def both(left: Expr, right: Expr) -> Expr:
    return Binary("and", boolean(left, "`and`"), boolean(right, "`and`"))


def either(left: Expr, right: Expr) -> Expr:
    return Binary("or", boolean(left, "`or`"), boolean(right, "`or`"))


def negate(operand: Expr) -> Expr:
    if isinstance(operand, Const) and operand.type is not Type.BOOL:
        return Const(-operand.value, operand.type)
    return Unary("neg", number(operand, "`-`"))


def invert(operand: Expr) -> Expr:
    """``not x`` of a condition, and ``~x``: of a condition the same, of an integer its complement."""
    if operand.type is Type.BOOL:
        return Unary("not", operand)
    return Unary("bitnot", integer(operand, "`~`"))


def select(cond: Expr, then: Expr, other: Expr) -> Expr:
    boolean(cond, "the condition of a selection")
    if not (then.type is Type.BOOL and other.type is Type.BOOL):
        then, other = promote(then, other, "a selection")
    return Select(cond, then, other)


# The function library -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """A library function: its signature for errors and docs, and how to build it from arguments of any number type."""

    signature: str
    arity: int
    build: Callable[..., Expr]


def _unary(name: str) -> Function:
    return Function(f"{name}(x: f32) -> f32", 1, lambda x: Unary(name, floating(x, f"`{name}`")))


def _abs(x: Expr) -> Expr:
    return Unary("abs", number(x, "`abs`"))


def _extreme(op: str) -> Callable[[Expr, Expr], Expr]:
    return lambda x, y: Binary(op, *promote(x, y, f"`{op}`"))


def _clamp(x: Expr, low: Expr, high: Expr) -> Expr:
    raised = Binary("max", *promote(x, low, "`clamp`"))
    return Binary("min", *promote(raised, high, "`clamp`"))


def _relu(x: Expr) -> Expr:
    return Binary("max", floating(x, "`relu`"), f32(0.0))


def _silu(x: Expr) -> Expr:
    x = floating(x, "`silu`")
    return Binary("mul", x, Unary("sigmoid", x))


def _gelu(x: Expr) -> Expr:
    # Hendrycks and Gimpel, arXiv 1606.08415, the exact form: x·Φ(x).
    x = floating(x, "`gelu`")
    phi = Binary("add", f32(1.0), Unary("erf", Binary("mul", x, f32(math.sqrt(0.5)))))
    return Binary("mul", Binary("mul", f32(0.5), x), phi)


def _dot(x: Expr, y: Expr) -> Expr:
    return Reduce("dot", Binary("mul", floating(x, "`dot`"), floating(y, "`dot`")))


def _over(kind: str) -> Function:
    return Function(f"{kind}(x: f32) -> f32", 1, lambda x: Reduce(kind, floating(x, f"`{kind}`")))


def _rotate(kind: str) -> Function:
    name = f"rotate_{kind}"
    return Function(f"{name}(x: channels) -> channels", 1, lambda x: Rotate(kind, floating(x, f"`{name}`")))


def _after(x: Expr) -> Expr:
    from attncc.ir.nodes import After

    return After(floating(x, "`after`"))


def _cast_to(type: Type) -> Function:
    return Function(f"{type.value}(x) -> {type.value}", 1, lambda x: cast(x, type))


_SIMPLE = "exp exp2 log log2 log1p tanh sigmoid softplus sqrt rsqrt sin cos floor round erf"
FUNCTIONS: dict[str, Function] = {
    **{name: _unary(name) for name in _SIMPLE.split()},
    "abs": Function("abs(x: number) -> number", 1, _abs),
    "min": Function("min(x: number, y: number) -> number", 2, _extreme("min")),
    "max": Function("max(x: number, y: number) -> number", 2, _extreme("max")),
    "clamp": Function("clamp(x: number, low: number, high: number) -> number", 3, _clamp),
    "pow": Function("pow(x: f32, y: f32) -> f32", 2, lambda x, y: binary("**", x, y)),
    "where": Function("where(cond: bool, x, y) -> x or y", 3, select),
    "relu": Function("relu(x: f32) -> f32", 1, _relu),
    "silu": Function("silu(x: f32) -> f32", 1, _silu),
    "gelu": Function("gelu(x: f32) -> f32", 1, _gelu),
    "rotate_half": _rotate("half"),
    "rotate_pairs": _rotate("pairs"),
    "dot": Function("dot(x: channels, y: channels) -> f32", 2, _dot),
    "after": Function("after(x: f32) -> f32", 1, _after),
    "expect": _over("expect"),
    "rowmax": _over("rowmax"),
    "colsum": _over("colsum"),
    "f32": _cast_to(Type.F32),
    "i32": _cast_to(Type.I32),
    "u32": _cast_to(Type.U32),
    "bool": _cast_to(Type.BOOL),
}


def call(name: str, arguments: tuple[Expr, ...]) -> Expr:
    """Apply a library function; the caller has looked the name up."""
    function = FUNCTIONS[name]
    if len(arguments) != function.arity:
        raise LanguageError(
            "A0305",
            f"`{name}` takes {function.arity} argument{'s' if function.arity != 1 else ''}",
            expected=function.signature,
            got=f"{len(arguments)} argument{'s' if len(arguments) != 1 else ''}",
            help=f"the function is `{function.signature}`",
        )
    return function.build(*arguments)
