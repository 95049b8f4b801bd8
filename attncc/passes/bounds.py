"""How large a logit can be, from its formula: a softcap c·tanh(x) never exceeds c, whatever the scores are.

Interval arithmetic whose ends are expressions over what is known before the first key: constants, parameters,
lengths. A kernel with a bound needs no running maximum. Knows the IR and dependence facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from attncc.ir.nodes import Binary, Cast, Const, Expr, Select, Unary, Variant
from attncc.ir.types import Type
from attncc.ir.walk import walk
from attncc.passes.canonicalize import simplified
from attncc.passes.dependence import facts, stage


@dataclass(frozen=True)
class _Interval:
    """Ends that hold for every pair; None where there is none."""

    low: Expr | None
    high: Expr | None


_UNKNOWN = _Interval(None, None)
_MAX_NODES = 500  # the ends of intervals grow with the formula; none that long is a softcap


def _number(value: float) -> Const:
    return Const(value, Type.F32)


_SYMMETRIC = _Interval(_number(-1.0), _number(1.0))
_RANGES = {
    **dict.fromkeys(("tanh", "erf", "sin", "cos"), _SYMMETRIC),
    "sigmoid": _Interval(_number(0.0), _number(1.0)),
}
_INCREASING = ("exp", "exp2", "softplus", "sqrt", "floor", "round")
_LEAST = {"exp": 0.0, "exp2": 0.0, "softplus": 0.0, "sqrt": 0.0}


def logit_bound_expr(variant: Variant) -> Expr | None:
    """An expression e over item or row values with |logit| <= e for every pair that is not masked; None if none is
    found.

    Natural logits of a canonical softmax variant. A logit of −inf equals masked and is not counted.
    """
    bounds = [_branch_bound(branch.logits, variant) for branch in variant.branches]
    if any(bound is None for bound in bounds):
        return None
    result, *rest = (bound for bound in bounds if bound is not None)
    for bound in rest:
        result = Binary("max", result, bound)
    return simplified(result)


def logit_bound(variant: Variant) -> float | None:
    """``logit_bound_expr`` where it is a finite number: without parameters, for a constant softcap."""
    bound = logit_bound_expr(variant)
    if not isinstance(bound, Const) or not math.isfinite(float(bound.value)):
        return None
    return float(bound.value)


def _branch_bound(logits: Expr | None, variant: Variant) -> Expr | None:
    if logits is None:
        return None
    logits = _unmasked(logits)
    if sum(1 for _ in walk(logits)) > _MAX_NODES:
        return None
    known = facts(logits, variant=variant)
    found: dict[Expr, _Interval] = {}
    for node in walk(logits):
        if node.type is Type.F32 and stage(known[node]) in ("item", "row"):
            found[node] = _Interval(node, node)
        else:
            found[node] = _interval(node, found)
    low, high = found[logits].low, found[logits].high
    if low is None or high is None:
        return None
    return simplified(Binary("max", Unary("neg", low), high))


def _unmasked(node: Expr) -> Expr:
    """The formula of the logits that count: a selection of −inf is a mask."""
    while True:
        match node:
            case Select(then=Const(value=arm), other=rest) | Select(then=rest, other=Const(value=arm)) if (
                arm == -math.inf
            ):
                node = rest
            case _:
                return node


def _interval(node: Expr, found: dict[Expr, _Interval]) -> _Interval:
    match node:
        case Unary():
            return _unary(node, found[node.operand])
        case Binary(op="add" | "sub" | "mul" | "div"):
            return _arithmetic(node, found[node.left], found[node.right])
        case Binary(op="min" | "max"):
            return _extreme(node.op, found[node.left], found[node.right])
        case Select():
            a, b = found[node.then], found[node.other]
            return _Interval(_join("min", a.low, b.low), _join("max", a.high, b.high))
        case Cast() if node.operand.type is Type.BOOL:
            return _Interval(_number(0.0), _number(1.0))
    return _UNKNOWN


def _join(op: str, a: Expr | None, b: Expr | None) -> Expr | None:
    return None if a is None or b is None else simplified(Binary(op, a, b))


def _unary(node: Unary, x: _Interval) -> _Interval:
    if node.op in _RANGES:
        return _RANGES[node.op]
    if node.op == "neg":
        low, high = (None if end is None else simplified(Unary("neg", end)) for end in (x.high, x.low))
        return _Interval(low, high)
    if node.op == "abs":
        largest = _join("max", x.high, None if x.low is None else Unary("neg", x.low))
        return _Interval(_number(0.0), largest)
    if node.op in _INCREASING:
        low, high = (None if end is None else simplified(Unary(node.op, end)) for end in (x.low, x.high))
        least = _LEAST.get(node.op)
        return _Interval(_number(least) if low is None and least is not None else low, high)
    return _UNKNOWN


def _arithmetic(node: Binary, x: _Interval, y: _Interval) -> _Interval:
    if node.op in ("add", "sub"):
        other = (y.low, y.high) if node.op == "add" else (y.high, y.low)
        return _Interval(_join(node.op, x.low, other[0]), _join(node.op, x.high, other[1]))
    if x.low is None or x.high is None or y.low is None or y.high is None:
        return _UNKNOWN
    if node.op == "div" and y.low is not y.high:
        return _UNKNOWN  # the divisor may pass through 0
    corners = [simplified(Binary(node.op, a, b)) for a in {x.low, x.high} for b in {y.low, y.high}]
    low = high = corners[0]
    for corner in corners[1:]:
        low, high = Binary("min", low, corner), Binary("max", high, corner)
    return _Interval(simplified(low), simplified(high))


def _extreme(op: str, x: _Interval, y: _Interval) -> _Interval:
    """min is below each operand's upper end; max above each one's lower end."""
    ends = {"low": (x.low, y.low), "high": (x.high, y.high)}
    free = "high" if op == "min" else "low"
    known = [end for end in ends[free] if end is not None]
    one = _join(op, *known) if len(known) == 2 else known[0] if known else None
    both = _join(op, *ends["low" if free == "high" else "high"])
    return _Interval(both, one) if free == "high" else _Interval(one, both)
