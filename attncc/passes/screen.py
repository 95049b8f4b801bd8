"""A mask over intervals: which tiles can hold a pair, and which hold every pair, from bounds of captured values.

``ranges`` solves a mask for columns and cannot look at what a tensor holds. Here the values that differ by row, and
those that differ by column, become intervals over a tile's rows and over a chunk of columns, and the mask's own
operations give (can be true, is always true). What is not understood is unknown, so the answer is always sound. Knows
the IR; who computes the bounds, and how, is the kernel's business.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attncc.ir.nodes import Binary, Cast, Const, Coord, Expr, Load, Reduce, Select, Unary
from attncc.ir.types import Type
from attncc.ir.verify import axes_below
from attncc.ir.walk import walk

MAX_KEYS, MAX_ROWS, MAX_OPERATIONS = 6, 12, 100


class Side(enum.Enum):
    """What a value differs by: nothing within an item, the row or the head, the column."""

    ITEM = "item"
    ROW = "row"
    KEY = "key"


@dataclass(frozen=True, eq=False)
class Bound:
    """An interval. ``may`` and ``all`` say whether the ends of a condition tell anything ("can be true", "is always
    true"), and ``data`` which of them depend on captured values; for a number both are the same."""

    type: Type
    may: bool
    all: bool
    may_data: bool
    all_data: bool

    @property
    def known(self) -> bool:
        return self.may or self.all


@dataclass(frozen=True, eq=False)
class Value(Bound):
    """The bounds of ``expr`` over a tile's rows or a chunk of columns; of an item's value, a point."""

    expr: Expr
    side: Side


@dataclass(frozen=True, eq=False)
class Place(Bound):
    """The interval of the tile's rows, or of the chunk's columns, in storage indices."""

    axis: str


@dataclass(frozen=True, eq=False)
class Operation(Bound):
    """An operation of the IR on intervals, by its name there; casts are named ``to_<type>``, ``select`` itself."""

    op: str
    operands: tuple[Bound, ...]


@dataclass(frozen=True)
class Screen:
    """``root`` is the mask over intervals; ``operations`` every operation below it, operands first."""

    root: Bound
    operations: tuple[Operation, ...]
    items: tuple[Expr, ...]
    rows: tuple[Expr, ...]
    keys: tuple[Expr, ...]


def screen(mask: Expr) -> Screen | None:
    """The screen of a mask over storage indices; None where captured values cannot prove a tile empty."""
    root = _Reader(mask).bounds[mask]
    if not root.may_data:
        return None
    found = tuple(_below(root))
    values = [node for node in found if isinstance(node, Value)]
    items, rows, keys = (
        tuple(dict.fromkeys(value.expr for value in values if value.side is side))
        for side in (Side.ITEM, Side.ROW, Side.KEY)
    )
    operations = tuple(node for node in found if isinstance(node, Operation))
    if len(keys) > MAX_KEYS or len(rows) > MAX_ROWS or len(operations) > MAX_OPERATIONS:
        return None
    return Screen(root, operations, items, rows, keys)


def _below(root: Bound) -> Iterator[Bound]:
    """Every bound below the root, operands first, each once."""
    seen: set[int] = set()
    stack: list[tuple[Bound, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if isinstance(node, Operation):
                stack.extend((operand, False) for operand in reversed(node.operands))


# Operations on intervals of numbers (device/interval.cuh), by the type of the result.
_NUMBERS: Mapping[Type, frozenset[str]] = {
    Type.I32: frozenset({"add", "sub", "mul", "neg", "abs", "min", "max", "floordiv", "shr"}),
    Type.F32: frozenset({"add", "sub", "mul", "neg", "abs", "min", "max"}),
    Type.U32: frozenset({"min", "max"}),
    Type.BOOL: frozenset(),
}
_COMPARISONS = frozenset({"lt", "le", "eq"})
_LOGICAL = frozenset({"and", "or", "xor", "eq"})


def _unknown(type: Type) -> Bound:
    return Bound(type, may=False, all=False, may_data=False, all_data=False)


class _Reader:
    def __init__(self, mask: Expr) -> None:
        self.axes = axes_below(mask)
        self.bounds: dict[Expr, Bound] = {}
        self.coords: dict[Expr, int] = {}  # how often a value of one side reads its coordinate, by any path
        self.loads: set[Expr] = set()  # what reads a captured tensor
        self.loops: set[Expr] = set()
        for node in walk(mask):
            below = node.operands
            self.coords[node] = int(isinstance(node, Coord)) + sum(self.coords[operand] for operand in below)
            if isinstance(node, Load) or any(operand in self.loads for operand in below):
                self.loads.add(node)
            if isinstance(node, Reduce) or any(operand in self.loops for operand in below):
                self.loops.add(node)
            self.bounds[node] = self._bound(node)

    def _side(self, node: Expr) -> Side | None:
        axes = self.axes[node]
        if any(axis[0] == "i" for axis in axes):  # inside a comprehension
            return None
        by_row = bool(axes & {"row", "h"})
        if "col" in axes:
            return None if by_row else Side.KEY
        return Side.ROW if by_row else Side.ITEM

    def _bound(self, node: Expr) -> Bound:
        side = self._side(node)
        if side is Side.ITEM:
            return self._value(node, side)
        if isinstance(node, Coord) and node.axis in ("row", "col"):
            return Place(node.type, may=True, all=True, may_data=False, all_data=False, axis=node.axis)
        made = self._operation(node)
        if side is None:
            return made
        if self._exact(node, made):
            return made
        if side is Side.KEY and node in self.loops:
            return _unknown(node.type)  # too dear for every column
        return self._value(node, side)

    def _value(self, node: Expr, side: Side) -> Value:
        data = side is not Side.ITEM and node in self.loads
        may = not (isinstance(node, Const) and node.value is True)
        all_ = not (isinstance(node, Const) and node.value is False)
        return Value(node.type, may=may, all=all_, may_data=data, all_data=data, expr=node, side=side)

    def _exact(self, node: Expr, made: Bound) -> bool:
        """Whether ``made``, of a value that differs by one side only, loses nothing against bounds of the value itself:
        a monotone function of the coordinate, or conditions on values that are there anyway."""
        if not isinstance(made, Operation) or not made.known:
            return False
        if node.type is Type.BOOL and made.op in ("logical_and", "logical_or", "logical_not"):
            return True
        points = [isinstance(item, Value) and item.side is Side.ITEM for item in made.operands]
        if made.op in _COMPARISONS and any(points):
            return True
        if node in self.loads or self.coords[node] != 1:
            return False
        return sum(points) >= len(points) - 1

    def _operation(self, node: Expr) -> Bound:
        operands = tuple(self.bounds[operand] for operand in node.operands)
        match node:
            case Unary(op="not"):
                (x,) = operands
                return self._made(node, "logical_not", operands, (x.all, x.may), (x.all_data, x.may_data))
            case Binary(op="and" | "or"):
                return self._joined(node, operands)
            case Binary() if node.left.type is Type.BOOL and node.op in _LOGICAL:
                return self._strict(node, "eq" if node.op == "eq" else "logical_xor", operands)
            case Binary() if node.op in _COMPARISONS or node.op in _NUMBERS[node.type]:
                return self._strict(node, node.op, operands)
            case Unary() if node.op in _NUMBERS[node.type]:
                return self._strict(node, node.op, operands)
            case Cast() if not (node.type is Type.U32 and node.operand.type is Type.F32):
                return self._strict(node, f"to_{node.type.value}", operands)
            case Select():
                return self._strict(node, "select", operands)
        return _unknown(node.type)

    def _joined(self, node: Binary, operands: tuple[Bound, ...]) -> Bound:
        """``and`` can be false if one side can; it is always true only if both sides are. ``or`` the other way."""
        x, y = operands
        both = node.op == "and"
        may = (x.may or y.may) if both else (x.may and y.may)
        all_ = (x.all and y.all) if both else (x.all or y.all)
        data = (may and (x.may_data or y.may_data), all_ and (x.all_data or y.all_data))
        return self._made(node, f"logical_{node.op}", operands, (may, all_), data)

    def _strict(self, node: Expr, op: str, operands: tuple[Bound, ...]) -> Bound:
        """An operation that tells something only if each operand does."""
        known = all(operand.known for operand in operands)
        data = known and any(operand.may_data or operand.all_data for operand in operands)
        return self._made(node, op, operands, (known, known), (data, data))

    def _made(
        self, node: Expr, op: str, operands: tuple[Bound, ...], known: tuple[bool, bool], data: tuple[bool, bool]
    ) -> Bound:
        if not any(known):
            return _unknown(node.type)
        return Operation(node.type, *known, *data, op=op, operands=operands)
