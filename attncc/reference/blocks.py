"""How a request is cut into blocks of heads and rows so that evaluation fits a number of bytes."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.ir.nodes import Coord, Expr, Input, Load, Reduce, Slice, Variant
from attncc.ir.verify import COORD_AXES, INPUT_AXES
from attncc.ir.walk import walk

_WORD = 8  # float64, and the int64 of an index
_SPARE = 6  # arrays over pairs of the reduction, and an operation's temporaries


def pair_bytes(variant: Variant, channels: int) -> int:
    """Bytes per (head, row, column) at the worst moment of evaluating one branch of ``variant``."""
    worst = 1
    for branch in variant.branches:
        for expr in branch.hooks().values():
            worst = max(worst, _peak(variant, expr, channels))
    for emit in variant.emits:
        worst = max(worst, _peak(variant, emit.value, channels))
    return _WORD * (worst + _SPARE)


def split(num_heads: int, rows: int, cols: int, pair: int, budget: int) -> Iterator[tuple[range, tuple[range, ...]]]:
    """Blocks of heads, each with its blocks of rows; at least one head and one row at a time."""
    pairs = max(1, budget // pair)
    heads = min(num_heads, max(1, pairs // max(1, rows * cols)))
    height = max(1, pairs // max(1, heads * cols))
    parts = tuple(range(first, min(first + height, rows)) for first in range(0, rows, height))
    for first in range(0, num_heads, max(1, heads)):
        yield range(first, min(first + heads, num_heads)), parts


def _peak(variant: Variant, root: Expr, channels: int) -> int:
    """The most values per pair that are alive at once, each used until its last user is done."""
    sizes = _sizes(variant, root, channels)
    order = list(walk(root))
    last = {operand: index for index, node in enumerate(order) for operand in node.operands}
    alive = worst = 0
    for index, node in enumerate(order):
        alive += sizes[node]
        # a load makes an index per axis, an operation a temporary
        worst = max(worst, alive + sizes[node] * (len(node.indices) if isinstance(node, Load) else 1))
        alive -= sum(sizes[operand] for operand in set(node.operands) if last[operand] == index)
    return worst


def _sizes(variant: Variant, root: Expr, channels: int) -> dict[Expr, int]:
    """Values per pair that each node holds: 0 unless it varies with row and column, ``channels`` if also with d."""
    roles = {operand.name: INPUT_AXES[operand.role] for operand in variant.operands}
    axes: dict[Expr, frozenset[str]] = {}
    for node in walk(root):
        below = frozenset[str]().union(*(axes[operand] for operand in node.operands))
        if isinstance(node, Coord):
            below = COORD_AXES.get(node.axis, frozenset())
        elif isinstance(node, Input):
            below = roles[node.name] if node.name in roles else INPUT_AXES[node.name]
        elif isinstance(node, Reduce):
            below -= {"dot": {"d"}, "expect": {"col"}, "rowmax": {"col"}, "colsum": {"row"}}.get(node.kind, set())
        elif isinstance(node, Slice):
            below = axes[node.operand]
        axes[node] = below
    sizes = {node: (channels if "d" in over else 1) if {"row", "col"} <= over else 0 for node, over in axes.items()}
    for node in axes:
        if isinstance(node, Reduce) and node.kind == "dot" and _separates(node.body, axes):
            sizes[node.body] = 0  # a matrix product never holds it
    return sizes


def _separates(body: Expr, axes: dict[Expr, frozenset[str]]) -> bool:
    stack = [body]
    while stack:
        node = stack.pop()
        if not {"row", "col"} <= axes[node]:
            continue
        if getattr(node, "op", "") != "mul":
            return False
        stack.extend(node.operands)
    return True
