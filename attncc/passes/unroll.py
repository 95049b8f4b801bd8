"""Short comprehensions written out, so that their terms are shared, hoisted and bounded like any other expression.

Knows the IR. Longer loops stay loops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from attncc.ir.nodes import Binary, Const, Coord, Expr, Reduce, Variant
from attncc.ir.types import Type
from attncc.ir.walk import rewrite, rewrite_variant, substitute, walk

MAX_TERMS, MAX_NODES = 8, 256
_JOIN = {"sum": "add", "any": "or", "all": "and"}
_EMPTY: dict[str, Callable[[Type], Expr]] = {
    "sum": lambda kind: Const(0, kind),
    "any": lambda kind: Const(False, kind),
    "all": lambda kind: Const(True, kind),
}


@dataclass(frozen=True)
class Unroll:
    """``any``, ``all`` and ``sum`` over few and small terms as chains; a sum adds from index 0 upwards, as a
    loop."""

    name: str = "unroll"

    def apply(self, variant: Variant) -> Variant:
        return rewrite_variant(variant, lambda node: _chain(node, MAX_TERMS))


def unrolled(expr: Expr) -> Expr:
    """``expr`` with every comprehension of known length written out, however long: for evaluation on the host."""
    return rewrite(expr, lambda node: _chain(node, None))


def _chain(node: Expr, limit: int | None) -> Expr:
    if not isinstance(node, Reduce) or node.kind not in _JOIN or not isinstance(node.extent, Const):
        return node
    count, index = int(node.extent.value), Coord(node.axis)
    if limit is not None and (count > limit or count * sum(1 for _ in walk(node.body)) > MAX_NODES):
        return node
    terms = [substitute(node.body, {index: Const(i, Type.I32)}) for i in range(count)]
    if not terms:
        return _EMPTY[node.kind](node.type)
    op = _JOIN[node.kind]
    return reduce(lambda left, right: Binary(op, left, right), terms)
