"""Bounds of i32 expressions from the limits of a launch: where arithmetic cannot wrap, C++ may read as people write it.

The limits are those a launch is checked against: lengths below 2²⁸, starts within ±2²⁹, few channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attncc.codegen.emit.diagonals import OnDiagonal
from attncc.codegen.emit.thresholds import Threshold
from attncc.ir.nodes import Binary, Cast, Const, Coord, Expr, Extent, Load, Reduce, Select, Unary
from attncc.ir.types import I32_MAX, I32_MIN, Type
from attncc.ir.walk import walk

Interval = tuple[int, int]

LENGTH, START, CHANNELS, TILE = 2**28, 2**29, 2**12, 2**10
FULL: Interval = (I32_MIN, I32_MAX)
_NONNEGATIVE: Interval = (0, I32_MAX)
_POSITION: Interval = (-START - LENGTH, START + LENGTH)
_EXTENTS: Mapping[str, Interval] = {
    "qo_len": (0, LENGTH),
    "kv_len": (0, LENGTH),
    "head_dim": (1, CHANNELS),
    "head_dim_v": (1, CHANNELS),
    "$q_start": _POSITION,  # by default k_start + kv_len - qo_len
    "$k_start": (-START, START),
}


def intervals(roots: Iterable[Expr]) -> dict[Expr, Interval]:
    """An interval for every i32 node below the roots. Where the exact result may leave 32 bits, all of i32."""
    found: dict[Expr, Interval] = {}
    for node in walk(*roots):
        if node.type is Type.I32:
            low, high = exact_interval(node, found) or FULL
            found[node] = (low, high) if low >= I32_MIN and high <= I32_MAX else FULL
    return found


def exact_interval(node: Expr, known: Mapping[Expr, Interval]) -> Interval | None:
    """Where the value lies in unbounded arithmetic, given its operands' intervals; None if nothing is known."""
    match node:
        case Const():
            return int(node.value), int(node.value)
        case Coord(axis="q" | "k" | "own"):
            return _POSITION
        case Coord(axis="row" | "col" | "col_base"):
            return 0, LENGTH - 1
        case Coord(axis="col_step"):
            return 0, TILE - 1
        case Coord(axis="d"):
            return 0, CHANNELS - 1
        case Coord(axis="delta"):
            return 1 - LENGTH, LENGTH - 1
        case Threshold():
            return -(2**30), 2**30
        case OnDiagonal():
            return known[node.value]
        case Coord():
            return _NONNEGATIVE
        case Extent():
            return _EXTENTS.get(node.name, _NONNEGATIVE)
        case Binary(op="add", left=Extent(name="$q_start" | "$k_start"), right=Coord(axis="row" | "col" | "col_base")):
            return _POSITION  # tighter than the sum: a default start already counts the rows
        case Cast() if node.operand.type is Type.BOOL:
            return 0, 1
        case Select():
            return _join(known[node.then], known[node.other])
        case Unary(op="neg"):
            low, high = known[node.operand]
            return -high, -low
        case Binary():
            return _binary(node.op, node.right, known[node.left], known[node.right])
        case Load() | Reduce():
            return None
    return None


def _binary(op: str, right: Expr, a: Interval, b: Interval) -> Interval | None:
    match op:
        case "add":
            return a[0] + b[0], a[1] + b[1]
        case "sub":
            return a[0] - b[1], a[1] - b[0]
        case "mul":
            products = [x * y for x in a for y in b]
            return min(products), max(products)
        case "min":
            return min(a[0], b[0]), min(a[1], b[1])
        case "max":
            return max(a[0], b[0]), max(a[1], b[1])
        case "floordiv" if isinstance(right, Const) and b[0] > 0:
            return a[0] // b[0], a[1] // b[0]
        case "mod" if isinstance(right, Const) and b[0] > 0:
            return 0, b[0] - 1
        case "bitand" if b[0] >= 0:
            return 0, b[1]
        case "shr" if isinstance(right, Const):
            return a[0] >> (b[0] & 31), a[1] >> (b[0] & 31)
    return None


def _join(a: Interval, b: Interval) -> Interval:
    return min(a[0], b[0]), max(a[1], b[1])
