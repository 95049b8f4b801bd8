"""Which values are worth keeping by diagonal: those that a pair has in common with every pair of the same row − col.

A tile of m rows and n columns has m + n − 1 diagonals and m·n pairs. Knows the IR; a kernel says where the table is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attncc.ir.nodes import Binary, Cast, Const, Coord, Expr, Load, Param, Unary, Variant
from attncc.ir.walk import walk
from attncc.passes.dependence import Facts, facts

# Instructions of full rate, roughly (CUDA programming guide, "arithmetic instructions"): a special function runs at a
# quarter of it and takes several; a read of a table, with its address, costs about as much as _WORTH.
_SPECIAL = {"exp", "exp2", "log", "log2", "log1p", "tanh", "sigmoid", "softplus", "sin", "cos", "erf", "pow"}
_SPECIAL |= {"sqrt", "rsqrt", "div", "floordiv", "mod"}
_SPECIAL_COST, _CAST_COST, _LOAD_COST, _WORTH = 12, 4, 24, 12


def on_diagonal(of: Facts) -> bool:
    """Whether a value with these facts is the same for all pairs of one row − col and one head of a request."""
    return "delta" in of and of <= {"b", "hk", "h", "geom", "delta"}


def diagonals(roots: Iterable[Expr], variant: Variant) -> list[Expr]:
    """The largest expressions below ``roots`` that are the same along a diagonal and cost more than a look-up."""
    roots = tuple(roots)
    known = facts(*roots, variant=variant)
    found: dict[Expr, None] = {}
    seen: set[Expr] = set()
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if on_diagonal(known[node]):
            if _cost(node, known) > _WORTH:
                found[node] = None
            continue
        stack.extend(reversed(node.operands))
    return list(found)


def _cost(root: Expr, known: Mapping[Expr, Facts]) -> int:
    """Instructions that every pair would spend on ``root``, whatever does not vary over the tile being there."""
    cost = 0
    for node in walk(root):
        if not known[node] & {"row", "col", "delta"} or isinstance(node, Coord | Const | Param):
            continue
        if isinstance(node, Load):
            cost += _LOAD_COST
        elif isinstance(node, Unary | Binary) and node.op in _SPECIAL:
            cost += _SPECIAL_COST if not _shifts(node) else 1
        else:
            cost += _CAST_COST if isinstance(node, Cast) else 1
    return cost


def _shifts(node: Unary | Binary) -> bool:
    """Whether a division is by a power of two, so that it is a shift or a mask."""
    if not isinstance(node, Binary) or node.op not in ("floordiv", "mod") or not isinstance(node.right, Const):
        return False
    value = node.right.value
    return isinstance(value, int) and value > 0 and value & (value - 1) == 0
