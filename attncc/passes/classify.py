"""Whether a tile of rows and columns is empty, full or partial, from the mask's formula and the values of one call.

Every condition is (can be true, can be false) over the tile, every integer row·r + col·c plus an interval, so that
row − col keeps its sign; elements of captured tensors are bounded by what lies in the slice a tile can read. Exact
numbers, where ranges.py makes a program for all calls: this is for planning with data (documents, block lists) and
for drawing masks.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from attncc.ir.nodes import Binary, Cast, Const, Coord, Expr, Extent, Load, Param, Reduce, Select, Unary
from attncc.ir.types import I32_MAX, I32_MIN, U32_MAX, Type, round_f32
from attncc.ir.walk import substitute, walk
from attncc.passes.tile_program import Environment

_MAX_UNROLLED = 32


class Tile(enum.Enum):
    """What a mask leaves of a tile: no pair, every pair, or it is not known without looking at pairs."""

    EMPTY = "empty"
    FULL = "full"
    PARTIAL = "partial"


@dataclass(frozen=True)
class Box:
    """Rows [row_lo, row_hi), columns [col_lo, col_hi) and query heads [h_lo, h_hi), none of them empty."""

    row_lo: int
    row_hi: int
    col_lo: int
    col_hi: int
    h_lo: int
    h_hi: int


@dataclass(frozen=True)
class _Bool:
    can: bool
    cannot: bool

    @property
    def flipped(self) -> _Bool:
        return _Bool(self.cannot, self.can)


@dataclass(frozen=True)
class _Number:
    """row·r + col·c + x with low <= x <= high, in exact arithmetic."""

    low: float
    high: float
    row: int = 0
    col: int = 0


_EITHER = _Bool(True, True)
_LIMITS = {Type.I32: (I32_MIN, I32_MAX), Type.U32: (0, U32_MAX), Type.F32: (-math.inf, math.inf)}
Fact = _Bool | _Number


def classify(mask: Expr, env: Environment, box: Box) -> Tile:
    """The class of a tile; EMPTY and FULL are proofs. ``env.inputs`` needs b, hk, q_start and k_start."""
    found = _Tile(env, box).fact(mask)
    assert isinstance(found, _Bool)  # a mask is a condition
    if not found.can:
        return Tile.EMPTY
    return Tile.PARTIAL if found.cannot else Tile.FULL


class _Tile:
    def __init__(self, env: Environment, box: Box) -> None:
        self.env = env
        self.box = box
        self.facts: dict[Expr, Fact] = {}

    def fact(self, root: Expr) -> Fact:
        for node in walk(root):
            if node not in self.facts:
                found = self._of(node)
                self.facts[node] = found if isinstance(found, _Bool) else self._fits(node.type, found)
        return self.facts[root]

    def _bool(self, node: Expr) -> _Bool:
        found = self.facts[node]
        return found if isinstance(found, _Bool) else _EITHER

    def _number(self, node: Expr) -> _Number:
        found = self.facts[node]
        return found if isinstance(found, _Number) else _Number(int(found.can and not found.cannot), int(found.can))

    def _of(self, node: Expr) -> Fact:
        anything: Fact = _EITHER if node.type is Type.BOOL else _Number(*_LIMITS[node.type])
        match node:
            case Const():
                return self._value(node.type, node.value)
            case Param():
                return self._value(node.type, self.env.params[node.name])
            case Extent():
                return self._value(node.type, self.env.extents[node.name])
            case Coord():
                return self._coordinate(node.axis) or anything
            case Load():
                return self._load(node) or anything
            case Cast():
                return self._cast(node) or anything
            case Unary(op="not"):
                return self._bool(node.operand).flipped
            case Unary():
                return self._unary(node.op, self._number(node.operand)) or anything
            case Binary(op="lt" | "le" | "eq") if node.left.type is not Type.BOOL:
                return self._compare(node.op, self._number(node.left), self._number(node.right))
            case Binary() if node.left.type is Type.BOOL:
                return _logical(node.op, self._bool(node.left), self._bool(node.right))
            case Binary():
                return self._binary(node.op, node.type, self._number(node.left), self._number(node.right)) or anything
            case Select():
                return self._select(node)
            case Reduce(kind="any" | "all"):
                return self._loop(node)
        return anything

    def _value(self, kind: Type, value: float | int | bool) -> Fact:
        if kind is Type.BOOL:
            return _Bool(bool(value), not value)
        return _Number(*_LIMITS[kind]) if value != value else _Number(value, value)

    def _coordinate(self, axis: str) -> _Number | None:
        inputs, extents = self.env.inputs, self.env.extents
        shift = {
            "row": 0,
            "q": inputs["q_start"],
            "own": extents["kv_len"] - extents["qo_len"],
            "col": 0,
            "k": inputs["k_start"],
        }.get(axis)
        if shift is not None:
            by_col = axis in ("col", "k")
            return _Number(shift, shift, row=int(not by_col), col=int(by_col))
        if axis == "h":
            return _Number(self.box.h_lo, self.box.h_hi - 1)
        return _Number(inputs[axis], inputs[axis]) if axis in ("b", "hk") else None

    def _flat(self, x: _Number) -> _Number:
        low, high = x.low, x.high
        for factor, first, last in (
            (x.row, self.box.row_lo, self.box.row_hi - 1),
            (x.col, self.box.col_lo, self.box.col_hi - 1),
        ):
            low += min(factor * first, factor * last)
            high += max(factor * first, factor * last)
        return _Number(low, high)

    def _fits(self, kind: Type, x: _Number) -> _Number:
        """An integer that may have left 32 bits could be anything now; floats are rounded, and only ever intervals."""
        if kind is Type.F32:
            flat = self._flat(x)
            if math.isnan(flat.low) or math.isnan(flat.high):
                return _Number(-math.inf, math.inf)
            return _Number(round_f32(flat.low), round_f32(flat.high))
        flat, (low, high) = self._flat(x), _LIMITS[kind]
        return x if low <= flat.low and flat.high <= high else _Number(low, high)

    def _load(self, node: Load) -> Fact | None:
        tensor = self.env.tensors[node.tensor]
        if 0 in tensor.shape:
            return self._value(node.type, 0)
        window: list[slice] = []
        for index, size in zip(node.indices, tensor.shape, strict=True):
            at = self._flat(self._number(index))
            first, last = (int(max(0, min(end, size - 1))) for end in (at.low, at.high))
            window.append(slice(first, last + 1))
        part = tensor[tuple(window)]
        if node.type is Type.BOOL:
            return _Bool(bool(part.any()), not bool(part.all()))
        low, high = part.min().item(), part.max().item()
        return None if low != low or high != high else _Number(low, high)  # min and max of a NaN are NaN

    def _cast(self, node: Cast) -> Fact | None:
        if node.operand.type is Type.BOOL:
            return self._number(node.operand)
        x = self._number(node.operand)
        if node.type is Type.BOOL:
            return self._compare("eq", x, _Number(0, 0)).flipped
        flat = self._flat(x)
        if node.operand.type is Type.F32:
            low, high = _LIMITS[node.type]
            if not (low <= flat.low and flat.high <= high):
                return None
            return _Number(math.trunc(flat.low), math.trunc(flat.high))
        low, high = _LIMITS[node.type]
        return x if low <= flat.low and flat.high <= high else None

    def _unary(self, op: str, x: _Number) -> _Number | None:
        match op:
            case "neg":
                return _Number(-x.high, -x.low, -x.row, -x.col)
            case "abs":
                flat = self._flat(x)
                least = max(flat.low, -flat.high, 0)
                return _Number(least, max(-flat.low, flat.high))
            case "bitnot":
                return _Number(-1 - x.high, -1 - x.low, -x.row, -x.col)
            case "floor" if math.isfinite(x.low) and math.isfinite(x.high):
                return _Number(math.floor(x.low), math.floor(x.high))
        return None

    def _compare(self, op: str, x: _Number, y: _Number) -> _Bool:
        difference = self._difference(x, y)
        low, high = difference.low, difference.high
        match op:
            case "lt":
                return _Bool(low < 0, high >= 0)
            case "le":
                return _Bool(low <= 0, high > 0)
        return _Bool(low <= 0 <= high, not (low == high == 0))

    def _difference(self, x: _Number, y: _Number) -> _Number:
        # Only an interval that reaches an infinity can hide a NaN, for which every comparison is false.
        if any(math.isinf(end) for end in (x.low, x.high, y.low, y.high)):
            return _Number(-math.inf, math.inf)
        return self._flat(_Number(x.low - y.high, x.high - y.low, x.row - y.row, x.col - y.col))

    def _binary(self, op: str, kind: Type, x: _Number, y: _Number) -> _Number | None:
        if op == "add":
            return _Number(x.low + y.low, x.high + y.high, x.row + y.row, x.col + y.col)
        if op == "sub":
            return _Number(x.low - y.high, x.high - y.low, x.row - y.row, x.col - y.col)
        if op == "mul" and y.low == y.high and not y.row and not y.col and kind is not Type.F32:
            factor = int(y.low)
            ends = sorted((x.low * factor, x.high * factor))
            return _Number(ends[0], ends[1], x.row * factor, x.col * factor)
        x, y = self._flat(x), self._flat(y)
        if any(math.isinf(end) for end in (x.low, x.high, y.low, y.high)):
            return None
        match op:
            case "mul":
                corners = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
                return _Number(min(corners), max(corners))
            case "min":
                return _Number(min(x.low, y.low), min(x.high, y.high))
            case "max":
                return _Number(max(x.low, y.low), max(x.high, y.high))
        if kind is Type.F32:
            return None
        return _integer(op, (int(x.low), int(x.high)), (int(y.low), int(y.high)))

    def _select(self, node: Select) -> Fact:
        cond = self._bool(node.cond)
        if not (cond.can and cond.cannot):
            return self.facts[node.then if cond.can else node.other]
        if node.type is Type.BOOL:
            a, b = self._bool(node.then), self._bool(node.other)
            return _Bool(a.can or b.can, a.cannot or b.cannot)
        x, y = self._flat(self._number(node.then)), self._flat(self._number(node.other))
        return _Number(min(x.low, y.low), max(x.high, y.high))

    def _loop(self, node: Reduce) -> _Bool:
        assert node.extent is not None  # any and all have one
        count = self._flat(self._number(node.extent))
        if count.low != count.high or count.high > _MAX_UNROLLED:
            return _EITHER
        op = "or" if node.kind == "any" else "and"
        found = _Bool(op == "and", op == "or")
        for i in range(int(count.high)):
            body = self.fact(substitute(node.body, {Coord(node.axis): Const(i, Type.I32)}))
            found = _logical(op, found, body if isinstance(body, _Bool) else _EITHER)
        return found


def _logical(op: str, a: _Bool, b: _Bool) -> _Bool:
    match op:
        case "and":
            return _Bool(a.can and b.can, a.cannot or b.cannot)
        case "or":
            return _Bool(a.can or b.can, a.cannot and b.cannot)
    same = _Bool((a.can and b.can) or (a.cannot and b.cannot), (a.can and b.cannot) or (a.cannot and b.can))
    return same if op == "eq" else same.flipped


def _integer(op: str, x: tuple[int, int], y: tuple[int, int]) -> _Number | None:
    """Operations that round down to blocks; a block size of one known positive value only."""
    if y[0] != y[1]:
        return None
    size = y[0]
    if op == "shr":
        op, size = "floordiv", 1 << (size & 31)
    if op == "bitand" and size >= 0:
        return _Number(x[0], x[1]) if x[0] >= 0 and size & (size + 1) == 0 and x[1] <= size else _Number(0, size)
    if op == "bitand" and size & -size == -size:
        return _Number(x[0] // -size * -size, x[1] // -size * -size)
    if op == "shl":
        return _Number(x[0] << (size & 31), x[1] << (size & 31))
    if size <= 0:
        return None
    if op == "floordiv":
        return _Number(x[0] // size, x[1] // size)
    if op == "mod":
        one_block = x[0] // size == x[1] // size
        return _Number(x[0] % size, x[1] % size) if one_block else _Number(0, size - 1)
    return None
