"""One form for variants that mean the same by exact rules: the text that is the cache key and the test of twins.

Rules hold bit for bit (i32 wraps, −0.0 and NaN are kept apart); what rounds differently belongs to another pass.
Declarations are the calling convention and stay, used or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from attncc.ir.nodes import (
    AXES,
    Binary,
    Branch,
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
    Variant,
)
from attncc.ir.types import Type
from attncc.ir.walk import rewrite, rewrite_variant
from attncc.passes import fold

TRUE, FALSE = Const(True, Type.BOOL), Const(False, Type.BOOL)
COMMUTATIVE = frozenset({"add", "mul", "min", "max", "and", "or", "xor", "bitand", "bitor", "bitxor", "eq"})
DEFAULT_SM_SCALE = Unary("rsqrt", Cast(Type.F32, Extent("head_dim")))
_RANK: dict[type[Expr], int] = {Input: 0, Coord: 1, Extent: 2, Param: 3, Load: 4, Const: 9}


@dataclass(frozen=True)
class Canonicalize:
    """The pass; ``apply`` is idempotent."""

    name: str = "canonicalize"

    def apply(self, variant: Variant) -> Variant:
        while True:
            changed = drop_defaults(rewrite_variant(variant, simplify))
            if changed == variant:  # interned nodes: equal roots are the same objects
                return changed
            variant = changed


def canonicalize(variant: Variant) -> Variant:
    """The canonical form of a variant: the same meaning, the same declarations."""
    return Canonicalize().apply(variant)


def simplified(expr: Expr) -> Expr:
    """The canonical form of one expression."""
    while (changed := rewrite(expr, simplify)) is not expr:
        expr = changed
    return expr


def order(expr: Expr) -> tuple[int, int, bytes]:
    """Where an operand of a commutative operation goes: inputs, coordinates, sizes, parameters, formulas, constants."""
    position = AXES.index(expr.axis) if isinstance(expr, Coord) and expr.axis in AXES else len(AXES)
    return _RANK.get(type(expr), 5), position, expr.digest


def default_score(branch: str) -> Expr:
    """``sm_scale * dot(query, key)`` in canonical form."""
    dot = Reduce("dot", _ordered("mul", Input("query", branch), Input("key", branch)))
    return _ordered("mul", Input("sm_scale", branch), dot)


def drop_defaults(variant: Variant) -> Variant:
    """Hooks that say what holds anyway, removed."""
    output = variant.output
    if output is Input("out") and len(variant.branches) == 1:
        output = None
    return replace(variant, branches=tuple(map(_drop_branch_defaults, variant.branches)), output=output)


def _drop_branch_defaults(branch: Branch) -> Branch:
    name = branch.name
    defaults: dict[str, Callable[[Expr], bool]] = {
        "sm_scale": _is_default_scale,
        "query": lambda e: e is Input("query", name),
        "key": lambda e: e is Input("key", name),
        "value": lambda e: e is Input("value", name),
        "score": lambda e: e is default_score(name),
        "logits": lambda e: e is Input("score", name),
        "mask": lambda e: e is TRUE,
        "normalize": lambda e: e is Const(1.0, Type.F32),
        "sink": lambda e: e is Const(-math.inf, Type.F32),
    }
    written = branch.hooks()
    dropped: dict[str, Any] = {
        hook: None for hook, is_default in defaults.items() if hook in written and is_default(written[hook])
    }
    return replace(branch, **dropped) if dropped else branch


def _is_default_scale(expr: Expr) -> bool:
    # 1/√head_dim in each way a person writes it; they differ in the last bit, which no f32 scale is about.
    size, one = Cast(Type.F32, Extent("head_dim")), Const(1.0, Type.F32)
    return expr in (
        DEFAULT_SM_SCALE,
        Binary("div", one, Unary("sqrt", size)),
        Binary("pow", size, Const(-0.5, Type.F32)),
        Binary("div", one, Binary("pow", size, Const(0.5, Type.F32))),
    )


def _ordered(op: str, left: Expr, right: Expr) -> Expr:
    return Binary(op, left, right) if order(left) <= order(right) else Binary(op, right, left)


def simplify(node: Expr) -> Expr:
    """One step of simplification of a node whose operands were already visited; repeated until nothing changes."""
    match node:
        case Cast():
            return _cast(node)
        case Unary():
            return _unary(node)
        case Binary(op="and" | "or"):
            return _junction(node)
        case Binary():
            return _binary(node)
        case Select():
            return _select(node)
        case Reduce():
            return _reduce(node)
    return node


def _cast(node: Cast) -> Expr:
    inner = node.operand
    if isinstance(inner, Const):
        return Const(fold.cast(inner.value, inner.type, node.type), node.type)
    if inner.type is node.type:
        return inner
    if isinstance(inner, Cast):
        source = inner.operand
        reinterprets = inner.type.is_integer and source.type.is_integer
        if source.type is Type.BOOL or (reinterprets and node.type is not Type.F32):
            return source if source.type is node.type else Cast(node.type, source)
    return node


def _unary(node: Unary) -> Expr:
    inner = node.operand
    if isinstance(inner, Const):
        value = fold.unary(node.op, inner.value, inner.type)
        return node if value is None else Const(value, inner.type)
    if isinstance(inner, Unary) and inner.op == node.op:
        if node.op in ("neg", "not", "bitnot"):
            return inner.operand
        if node.op in ("abs", "floor", "round"):
            return inner
    if node.op == "abs" and (node.type is Type.U32 or (isinstance(inner, Unary) and inner.op == "neg")):
        return inner if node.type is Type.U32 else Unary("abs", inner.operands[0])
    if node.op == "not" and isinstance(inner, Binary) and inner.op in ("lt", "le") and inner.left.type.is_integer:
        return Binary("le" if inner.op == "lt" else "lt", inner.right, inner.left)  # not so for f32: NaN
    return node


def _leaves(op: str, node: Expr) -> Iterator[Expr]:
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, Binary) and item.op == op:
            stack += (item.right, item.left)
        else:
            yield item


def _junction(node: Binary) -> Expr:
    """A chain of ``and`` or ``or`` as a sorted set, nested to the left."""
    neutral, absorbing = (TRUE, FALSE) if node.op == "and" else (FALSE, TRUE)
    items = set(_leaves(node.op, node))
    if absorbing in items or any(Unary("not", item) in items or _opposite(item) in items for item in items):
        return absorbing
    items.discard(neutral)
    if not items:
        return neutral
    first, *rest = sorted(items, key=order)
    for item in rest:
        first = Binary(node.op, first, item)
    return first


def _opposite(item: Expr) -> Expr | None:
    if isinstance(item, Binary) and item.op in ("lt", "le") and item.left.type.is_integer:
        return Binary("le" if item.op == "lt" else "lt", item.right, item.left)
    return None


def _binary(node: Binary) -> Expr:
    op, left, right = node.op, node.left, node.right
    if isinstance(left, Const) and isinstance(right, Const):
        value = fold.binary(op, left.value, right.value, left.type)
        return node if value is None else Const(value, node.type)
    if op in COMMUTATIVE and order(left) > order(right):
        node = Binary(op, right, left)
        left, right = right, left
    if left.type is Type.BOOL:
        return _logical(node)
    simpler = _integer(op, left, right) if left.type.is_integer else _float(op, left, right)
    return node if simpler is None else simpler


def _logical(node: Binary) -> Expr:
    """``eq`` and ``xor`` of conditions."""
    if node.op == "xor":
        return Unary("not", Binary("eq", node.left, node.right))
    if node.op != "eq":
        return node
    if node.right is TRUE or node.left is node.right:
        return node.left if node.right is TRUE else TRUE
    if node.right is FALSE:
        return Unary("not", node.left)
    if isinstance(node.left, Unary) and node.left.op == "not":
        return Unary("not", Binary("eq", node.left.operand, node.right))
    if isinstance(node.right, Unary) and node.right.op == "not":
        return Unary("not", Binary("eq", node.left, node.right.operand))
    return node


def _integer(op: str, left: Expr, right: Expr) -> Expr | None:
    """Identities of 32-bit arithmetic; a constant, if there is one, stands on the right of a commutative op."""
    kind = left.type
    zero = Const(0, kind)
    if left is right:
        same = {"sub": zero, "bitxor": zero, "mod": zero, "lt": FALSE, "le": TRUE, "eq": TRUE}
        return same.get(op, left if op in ("min", "max", "bitand", "bitor") else None)
    if right is zero:
        if op in ("add", "sub", "bitor", "bitxor", "shl", "shr"):
            return left
        return zero if op in ("mul", "bitand", "floordiv", "mod") else None
    if right is Const(1, kind):
        return left if op in ("mul", "floordiv") else zero if op == "mod" else None
    if right is Const(-1, kind):
        return left if op == "bitand" else right if op == "bitor" else None
    if left is zero:
        return zero if op in ("floordiv", "mod", "shl", "shr") else None
    if op == "sub" and isinstance(right, Const):
        return Binary("add", left, Const(-int(right.value), kind))
    if op in ("add", "sub") and isinstance(right, Unary) and right.op == "neg":
        return Binary("sub" if op == "add" else "add", left, right.operand)
    if op == "add" and isinstance(left, Unary) and left.op == "neg":
        return Binary("sub", right, left.operand)
    return None


def _float(op: str, left: Expr, right: Expr) -> Expr | None:
    """Identities that hold for NaN, infinities and −0.0 too. x + 0.0 and 0.0 * x are not among them."""
    if left is right and op in ("min", "max"):
        return left
    if isinstance(right, Const):
        value = float(right.value)
        if value == 1.0 and op in ("mul", "div", "pow"):
            return left
        if value == 0.0 and op == "div":
            return Const(0.0, Type.F32)
        if (op, repr(value)) in (("sub", "0.0"), ("add", "-0.0")):
            return left
        if op == "sub":
            return Binary("add", left, Const(-value, Type.F32))
        if op == "div" and abs(math.frexp(value)[0]) == 0.5 and 2.0**-126 <= abs(value) <= 2.0**126:
            return Binary("mul", left, Const(1.0 / value, Type.F32))  # by a power of two: exact
    if op in ("add", "sub") and isinstance(right, Unary) and right.op == "neg":
        return Binary("sub" if op == "add" else "add", left, right.operand)
    if op == "add" and isinstance(left, Unary) and left.op == "neg":
        return Binary("sub", right, left.operand)
    if op in ("mul", "div") and isinstance(left, Unary) and isinstance(right, Unary) and left.op == right.op == "neg":
        return Binary(op, left.operand, right.operand)
    return None


def _select(node: Select) -> Expr:
    cond, then, other = node.cond, node.then, node.other
    if isinstance(cond, Const):
        return then if cond.value else other
    if then is other:
        return then
    if isinstance(cond, Unary) and cond.op == "not":
        return Select(cond.operand, other, then)
    if node.type is Type.BOOL:
        # Every expression has a value everywhere, so a choice of conditions is a formula of them.
        if then is TRUE:
            return Binary("or", cond, other)
        if other is FALSE:
            return Binary("and", cond, then)
        if then is FALSE:
            return Binary("and", Unary("not", cond), other)
        if other is TRUE:
            return Binary("or", Unary("not", cond), then)
    return node


_NEUTRAL = {"sum": 0, "any": False, "all": True}


def _reduce(node: Reduce) -> Expr:
    if node.kind not in _NEUTRAL:
        return node
    neutral = Const(_NEUTRAL[node.kind], node.type)
    empty = isinstance(node.extent, Const) and int(node.extent.value) <= 0
    return neutral if empty or node.body is neutral else node
