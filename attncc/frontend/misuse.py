"""What to say when Python asks a symbolic value for something it cannot give. Knows syntax trees, no IR.

Each function returns the TracingError for one kind of misuse; the syntax tree around the span tells what was written.
"""

from __future__ import annotations

import ast

from attncc.diagnostics import Span, TracingError
from attncc.frontend.location import node_span, nodes_at

UFUNC_OPERATORS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "true_divide": "/",
    "floor_divide": "//",
    "remainder": "%",
    "power": "**",
    "bitwise_and": "&",
    "bitwise_or": "|",
    "bitwise_xor": "^",
    "left_shift": "<<",
    "right_shift": ">>",
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
}
_FOREIGN_NAMES = {
    "absolute": "abs",
    "minimum": "min",
    "maximum": "max",
    "clip": "clamp",
    "power": "pow",
    "fabs": "abs",
    "rint": "round",
    "expit": "sigmoid",
    "logical_and": "&",
    "logical_or": "|",
    "logical_not": "~",
}
_SYMBOLIC = "a symbolic value, which stands for every element at once"


def truth(span: Span | None, *, fixed: bool) -> TracingError:
    """Python asked whether a symbolic value is true. ``fixed``: it depends on parameters alone."""
    place, what, help = _reason(span)
    if fixed:
        help += "; to decide while the kernel is compiled, declare the parameter `Const[...]`"
    return TracingError(
        "A0601",
        f"{what} needs one truth value",
        span=place,
        expected="a Python bool",
        got=_SYMBOLIC,
        help=help,
    )


_WHERE = "write `where(cond, a, b)`, which selects per element"


def _reason(span: Span | None) -> tuple[Span | None, str, str]:
    """Where, why and instead of what a truth value was asked for."""
    for node, parent in nodes_at(span):
        match node:
            case ast.BoolOp(op=ast.And(), values=values):
                return span, "`and`", f"write `{' & '.join(_operand(v) for v in values)}`"
            case ast.BoolOp(op=ast.Or(), values=values):
                return span, "`or`", f"write `{' | '.join(_operand(v) for v in values)}`"
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return span, "`not`", f"write `~{_operand(operand)}`"
            case ast.Compare(ops=ops) if any(isinstance(op, ast.In | ast.NotIn) for op in ops):
                return span, "`in`", "compare with each, `(x == a) | (x == b)`"
            case ast.Compare(ops=ops) if len(ops) > 1:
                return span, "a chained comparison", f"write `{_unchained(node)}`"
            case ast.IfExp(test=test, body=body, orelse=other):
                source = span.source if span is not None else None
                place = node_span(source, test) if source is not None else None
                return place, "`if`", f"write `where({_text(test)}, {_text(body)}, {_text(other)})`"
            case ast.Call(func=ast.Name(id="min" | "max" as name)):
                return span, f"Python's `{name}`", f"use `attncc.{name}(x, y)`"
            case ast.Call(func=ast.Name(id="any" | "all" as name)):
                sign = "|" if name == "any" else "&"
                return (
                    span,
                    f"Python's `{name}`",
                    f"join the conditions with `{sign}`, or use `{name}_over(n, lambda i: ...)`",
                )
            case ast.Call(func=ast.Name(id="bool")):
                return span, "`bool()`", "leave it as it is if it is a condition; of a number write `x != 0`"
        match parent:
            case ast.IfExp(test=test, body=body, orelse=other) if test is node:
                return span, "`if`", f"write `where({_text(test)}, {_text(body)}, {_text(other)})`"
            case ast.If(test=test) if test is node:
                return span, "`if`", f"{_WHERE}; or join conditions with `&` and `|`"
            case ast.While(test=test) if test is node:
                return (
                    span,
                    "`while`",
                    "loops run while tracing: loop over a Python `range`, or use `sum_over`, `any_over`",
                )
            case ast.Assert():
                return span, "`assert`", 'write `require(cond, "text")`, which is checked at the call'
            case ast.BoolOp(op=op):
                word, sign = ("and", "&") if isinstance(op, ast.And) else ("or", "|")
                return span, f"`{word}`", f"write `{f' {sign} '.join(_operand(v) for v in parent.values)}`"
            case ast.comprehension() | ast.match_case():
                return span, "`if`", _WHERE
    return span, "a Python condition", f"{_WHERE}; `&`, `|` and `~` instead of `and`, `or` and `not`"


def _text(node: ast.expr) -> str:
    return ast.unparse(node)


def _operand(node: ast.expr) -> str:
    """An operand of ``&``, ``|`` or ``~``, which bind tighter than comparisons."""
    tight = isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant)
    if isinstance(node, ast.BoolOp):
        sign = " & " if isinstance(node.op, ast.And) else " | "
        return f"({sign.join(_operand(value) for value in node.values)})"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"~{_operand(node.operand)}"
    return _text(node) if tight else f"({_text(node)})"


def _unchained(node: ast.Compare) -> str:
    sides = [node.left, *node.comparators]
    pairs = zip(sides, node.ops, sides[1:], strict=False)
    return " & ".join(f"({_text(ast.Compare(left, [op], [right]))})" for left, op, right in pairs)


def number(span: Span | None, what: str, instead: str) -> TracingError:
    """Python asked a symbolic value for a number: ``float(x)``, ``math.exp(x)``."""
    help = f"write `{instead}`, which converts each element"
    if span is None:
        help += "; of functions use attncc's, not `math`'s"
    for node, _ in nodes_at(span):
        if isinstance(node, ast.Call):
            match node.func:
                case ast.Attribute(value=ast.Name(id=module), attr=name) if module in ("math", "cmath"):
                    return foreign_function(span, module, name)
                case ast.Name(id=name) if name not in ("float", "int", "complex"):
                    return foreign_function(span, "Python", name)
    return TracingError("A0602", f"a symbolic value is not {what}", span=span, expected=what, got=_SYMBOLIC, help=help)


def index(span: Span | None) -> TracingError:
    """Python asked a symbolic value for an index: ``range(n)``, ``table[at.h]`` of a list or a captured array."""
    help = (
        'a table must be a tensor parameter, `table: F32[Tensor, "num_heads"]`; a loop is `sum_over(n, lambda i: ...)`'
    )
    for node, _ in nodes_at(span):
        match node:
            case ast.Call(func=ast.Name(id="range")):
                help = "loop over a `Const[int]` number, or write `sum_over(n, lambda i: ...)`, `any_over`, `all_over`"
            case ast.Subscript(value=value):
                help = f'make it a tensor parameter of the variant: `{_text(value)}: F32[Tensor, "num_heads"]`'
            case ast.Call(func=ast.Name(id="int")):
                help = "write `i32(x)`, which converts each element"
    return TracingError(
        "A0602", "a symbolic value is not an int", span=span, expected="a Python int", got=_SYMBOLIC, help=help
    )


def iterated(span: Span | None) -> TracingError:
    """Python iterated over a symbolic value: a loop, unpacking, ``*x``, ``sum(x)``."""
    place = span
    for node, _ in nodes_at(span):
        if isinstance(node, ast.For) and span is not None:
            place = node_span(span.source, node.iter)
    return TracingError(
        "A0603",
        "a symbolic value is not a sequence",
        span=place,
        expected="a Python sequence",
        got=_SYMBOLIC,
        help="loop over a Python `range`, or write `sum_over(n, lambda i: ...)`, `any_over`, `all_over`",
    )


def length(span: Span | None) -> TracingError:
    """``len(x)`` of a symbolic value or tensor."""
    return TracingError(
        "A0603",
        "a symbolic value has no Python length",
        span=span,
        expected="a Python sequence",
        got=_SYMBOLIC,
        help="the sizes are `at.qo_len`, `at.kv_len`, `at.num_heads`, `at.head_dim`; of a tensor, `table.shape[0]`",
    )


def hashed(span: Span | None) -> TracingError:
    return TracingError(
        "A0613",
        "a symbolic value is no key of a dict or set",
        span=span,
        expected="a Python value",
        got=_SYMBOLIC,
        help="look a table up with a tensor parameter, `table[at.h]`; select with `where`",
    )


def assigned(span: Span | None) -> TracingError:
    return TracingError(
        "A0613",
        "symbolic values cannot be changed",
        span=span,
        expected="a new value",
        got="an assignment into one",
        help="compute a new value and return it: `return hooks(logits=..., mask=...)`",
    )


def called(span: Span | None) -> TracingError:
    return TracingError(
        "A0604",
        "a symbolic value is not a function",
        span=span,
        expected="a function",
        got=_SYMBOLIC,
        help="write `x * y` for a product; a tensor is indexed with `[...]`",
    )


def attribute(span: Span | None, name: str) -> TracingError:
    """``x.name`` of a symbolic value."""
    from attncc.ir.build import FUNCTIONS

    if name in FUNCTIONS:
        help = f"write it as a function: `{name}(x)`, from `attncc`"
    else:
        help = "coordinates, inputs and sizes are attributes of `at`; functions come from `attncc`"
    return TracingError(
        "A0611",
        f"a symbolic value has no attribute `{name}`",
        span=span,
        expected="an operator",
        got=f".{name}",
        help=help,
    )


def foreign_function(span: Span | None, library: str, name: str) -> TracingError:
    """A function of numpy, torch or math was applied to a symbolic value."""
    from attncc.ir.build import FUNCTIONS

    ours = _FOREIGN_NAMES.get(name, name)
    if ours in FUNCTIONS:
        help = f"use `attncc.{ours}`"
    elif ours in ("&", "|", "~"):
        help = f"use the operator `{ours}`"
    else:
        help = "a formula is made of operators and the functions of `attncc`; tensors are parameters of the variant"
    return TracingError(
        "A0612",
        f"{library}'s `{name}` cannot take a symbolic value",
        span=span,
        expected="a function of attncc",
        got=f"{library}'s `{name}`",
        help=help,
    )


def not_a_value(value: object) -> TracingError:
    """Something stands in a formula that no formula is made of."""
    kind = type(value).__name__
    if hasattr(type(value), "shape") and hasattr(type(value), "dtype"):
        got = f"a {type(value).__module__.partition('.')[0]} {kind}"
        help = 'make it a parameter of the variant, `table: F32[Tensor, "num_heads"]`, and index it'
    elif callable(value):
        got, help = f"the function `{getattr(value, '__name__', kind)}`", "call it"
    elif value is None:
        got, help = "None", "does a helper lack its `return`?"
    elif isinstance(value, tuple | list):
        got, help = f"a {kind}", "join conditions with `&` and `|`; a table is a tensor parameter"
    else:
        got, help = f"{value!r:.60} of type {kind}", "convert it to a Python number first"
    return TracingError(
        "A0604", "this cannot stand in a formula", expected="a number or a symbolic value", got=got, help=help
    )
