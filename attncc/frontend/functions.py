"""The function library of the language, for Python: each name builds the same node as in a ``.attn`` file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from attncc.diagnostics import AttnccError, LanguageError, Span, TracingError
from attncc.frontend.location import caller, operand_spans
from attncc.frontend.trace import current
from attncc.frontend.value import Operand, Value, lift, made
from attncc.ir import build
from attncc.ir.extents import is_shape
from attncc.ir.nodes import Expr, Reduce
from attncc.ir.types import Type

One = Callable[[Operand], Value]
Two = Callable[[Operand, Operand], Value]
Three = Callable[[Operand, Operand, Operand], Value]


def _library(name: str) -> Any:
    def function(*arguments: Operand) -> Value:
        return made(lambda: build.call(name, tuple(lift(argument) for argument in arguments)), *arguments)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"``{build.FUNCTIONS[name].signature}``, of symbolic values."
    return function


exp: One = _library("exp")
exp2: One = _library("exp2")
log: One = _library("log")
log2: One = _library("log2")
log1p: One = _library("log1p")
tanh: One = _library("tanh")
sigmoid: One = _library("sigmoid")
softplus: One = _library("softplus")
sqrt: One = _library("sqrt")
rsqrt: One = _library("rsqrt")
sin: One = _library("sin")
cos: One = _library("cos")
floor: One = _library("floor")
round: One = _library("round")
erf: One = _library("erf")
abs: One = _library("abs")
min: Two = _library("min")
max: Two = _library("max")
clamp: Three = _library("clamp")
pow: Two = _library("pow")
where: Three = _library("where")
relu: One = _library("relu")
silu: One = _library("silu")
gelu: One = _library("gelu")
rotate_half: One = _library("rotate_half")
rotate_pairs: One = _library("rotate_pairs")
dot: Two = _library("dot")
after: One = _library("after")
expect: One = _library("expect")
rowmax: One = _library("rowmax")
colsum: One = _library("colsum")
f32: One = _library("f32")
i32: One = _library("i32")
u32: One = _library("u32")

Body = Callable[[Value], Operand]


def sum_over(n: Operand, body: Body) -> Value:
    """The sum of ``body(i)`` for i in [0, n). ``n`` is a Python int or an extent, such as ``table.shape[1]``."""
    return _over("sum", n, body, build.number)


def any_over(n: Operand, body: Body) -> Value:
    """Whether the condition ``body(i)`` holds for some i in [0, n); false for n = 0."""
    return _over("any", n, body, build.boolean)


def all_over(n: Operand, body: Body) -> Value:
    """Whether the condition ``body(i)`` holds for every i in [0, n); true for n = 0."""
    return _over("all", n, body, build.boolean)


def _over(kind: str, n: Operand, body: Body, check: Callable[[Expr, str], Expr]) -> Value:
    name = f"{kind}_over"
    span = caller()
    trace = current(name, span)
    count = _count(n, span)
    if not _takes_one(body):
        raise TracingError(
            "A0615",
            f"`{name}` takes a function of one index",
            span=span,
            expected="lambda i: ...",
            got=f"{body!r:.60}",
            help=f"write `{name}(n, lambda i: table[at.h, i])`",
        )
    index = trace.fresh_index()
    value = body(Value(index))

    return made(lambda: Reduce(kind, check(lift(value), f"`{name}`"), index.axis, count), sources=(n, value))


def _count(n: object, span: Span | None) -> Expr:
    """The length of a loop, fixed by the variant or by a tensor's shape."""
    place = next(iter(operand_spans(span)), span)
    try:
        count = lift(n)
    except AttnccError as error:
        raise error.with_span(place) from None
    if count.type is Type.I32 and is_shape(count):
        return count
    raise LanguageError(
        "A0214",
        "a loop goes over a fixed number of steps",
        span=place,
        expected="a Python int, a `Const[int]` parameter or the extent of a tensor",
        got=f"a value of type {count.type.value}" if count.type is not Type.I32 else "a runtime value",
        help="declare the parameter `Const[int]`, or use a tensor's own size, `table.shape[0]`",
    )


def _takes_one(body: object) -> bool:
    if isinstance(body, Value) or not callable(body):
        return False
    try:
        inspect.signature(body).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def require(cond: Operand, text: str) -> None:
    """A condition over parameters and sizes that every call must meet; ``text`` says what is wrong if it does not."""
    span = caller()
    trace = current("require", span)
    _check_text(text, span)
    trace.requires.append((made(lambda: build.boolean(lift(cond), "`require`"), cond), text))


def _check_text(text: object, span: Span | None) -> None:
    if not isinstance(text, str):
        raise TracingError(
            "A0615",
            "`require` ends with a text",
            span=span,
            expected="a str",
            got=f"{text!r:.60}",
            help='write `require(cond, "what must hold")`',
        )
