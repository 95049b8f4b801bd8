"""The function library of the language, for Python: each name builds the same node as in a ``.attn`` file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from attncc.diagnostics import AttnccError, TracingError
from attncc.frontend.location import caller
from attncc.frontend.trace import current
from attncc.frontend.value import Operand, Value, lift, made
from attncc.ir import build
from attncc.ir.nodes import Expr, Reduce, Require

One = Callable[[Operand], Value]
Two = Callable[[Operand, Operand], Value]
Three = Callable[[Operand, Operand, Operand], Value]


def _library(name: str) -> Any:
    def function(*arguments: Operand) -> Value:
        return made(lambda: build.call(name, tuple(lift(argument) for argument in arguments)))

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
    if not _takes_one(body):
        raise TracingError(
            "A0615",
            f"`{name}` takes a function of one index",
            span=span,
            expected="lambda i: ...",
            got="a symbolic value" if isinstance(body, Value) else f"{body!r:.60}",
            help=f"write `{name}(n, lambda i: table[at.h, i])`",
        )
    index = trace.fresh_index()
    value = body(Value(index))

    def make() -> Expr:
        count = build.integer(lift(n), f"the length of `{name}`")
        return Reduce(kind, check(lift(value), f"`{name}`"), index.axis, count)

    return made(make)


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
    said: object = text
    if not isinstance(said, str):
        raise TracingError(
            "A0615", "`require` ends with a text", span=span, expected="a str", got=f"{text!r:.60}",
            help='write `require(cond, "what must hold")`',
        )  # fmt: skip
    try:
        expr = build.boolean(lift(cond), "`require`")
    except AttnccError as error:
        raise error.with_span(span) from None
    if not trace.spans.get(expr):
        trace.record(expr, span)
    trace.requires.append(Require(expr, text))
