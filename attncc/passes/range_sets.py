"""Sets of columns whose ends are integer programs, and the builder of those programs. Knows no IR.

A value is an index into the builder's table: an operation, or a sum of such with integer factors in one normal form,
so that equal ends are the same value and ends that differ by a constant are compared at once. Every value has static
bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from attncc.passes.tile_program import EVERYTHING, OPS, TileProgram

Value = int
Ranges = tuple[tuple[Value, Value], ...]
Bounds = tuple[int, int]

_LENGTH, _START, _HEADS, _ANY = (0, 2**28), (-(2**29), 2**29), 2**14, (-(2**31), 2**31 - 1)
_INPUT_BOUNDS: dict[str, Bounds] = {
    "row_lo": _LENGTH,
    "rows": (1, 2**28),
    "b": (0, 2**31 - 1),
    "hk": (0, _HEADS),
    "group": (1, _HEADS),
    "q_start": _START,
    "k_start": _START,
}
_SATURATED = 2**33  # beyond every 32-bit value, and far from overflow
_WIDEST = 2**62  # no value of a program is larger, so that 64 bits hold the sum of two
_MAX_RANGES = 4


class Builder:
    """Makes values, folding what is known and sharing what is equal."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Any, ...]] = []  # ("sum", constant, ((value, factor), ...)) or an instruction
        self.bounds: list[Bounds] = []
        self._index: dict[tuple[Any, ...], Value] = {}
        self.zero, self.true = self.const(0), self.const(1)

    def const(self, number: int) -> Value:
        return self._add(("const", number), (number, number))

    def input(self, name: str) -> Value:
        return self.leaf("input", name, _INPUT_BOUNDS[name])

    def extent(self, name: str) -> Value:
        return self.leaf("extent", name, _LENGTH if name in ("qo_len", "kv_len") else (0, _ANY[1]))

    def leaf(self, kind: str, name: str, bounds: Bounds) -> Value:
        return self._add((kind, name), bounds)

    def load(self, tensor: str, indices: tuple[Value, ...], bounds: Bounds) -> Value:
        return self._add(("load", tensor, *indices), bounds)

    def number(self, value: Value) -> int | None:
        """The number a value always is."""
        low, high = self.bounds[value]
        return low if low == high else None

    def add(self, x: Value, y: Value) -> Value:
        return self._sum(((x, 1), (y, 1)))

    def sub(self, x: Value, y: Value) -> Value:
        return self._sum(((x, 1), (y, -1)))

    def both(self, x: Value, y: Value) -> Value:
        return self.op("and", x, y)

    def ceildiv(self, x: Value, y: Value) -> Value:
        return self.sub(self.zero, self.op("floordiv", self.sub(self.zero, x), y))

    def least(self, values: Iterable[Value]) -> Value:
        return reduce(lambda x, y: self.op("min", x, y), values)

    def greatest(self, values: Iterable[Value]) -> Value:
        return reduce(lambda x, y: self.op("max", x, y), values)

    def saturated(self, value: Value) -> Value:
        return self.op("max", self.op("min", value, self.const(_SATURATED)), self.const(-_SATURATED))

    def select(self, cond: Value, x: Value, y: Value) -> Value:
        known = self.number(cond)
        if known is not None or x == y:
            return x if known or x == y else y
        (a, b), (c, d) = self.bounds[x], self.bounds[y]
        return self._add(("select", cond, x, y), (min(a, c), max(b, d)))

    def op(self, name: str, x: Value, y: Value) -> Value:
        """``x name y``, or what it is known to be."""
        a, b = self.number(x), self.number(y)
        if a is not None and b is not None:
            return self.const(OPS[name](a, b))
        if name in ("add", "sub"):
            return self.add(x, y) if name == "add" else self.sub(x, y)
        if name == "mul" and (a is not None or b is not None):
            return self._sum(((y, a),)) if a is not None else self._sum(((x, b or 0),))
        if name in ("min", "max", "lt", "le", "eq"):
            known = self._ordered(name, x, y)
            if known is not None:
                return known
        if name in ("and", "or") and (x == y or a is not None or b is not None):
            other, fixed = (y, a) if a is not None else (x, b)
            return x if x == y else other if (name == "and") == bool(fixed) else self.const(fixed or 0)
        if name == "floordiv" and b == 1:
            return x
        if name in ("mul", "min", "max", "eq", "and", "or") and x > y:
            x, y = y, x
        return self._add((name, x, y), self._range(name, self.bounds[x], self.bounds[y]))

    def wide(self, *values: Value) -> bool:
        """Whether one of these could come near 64 bits."""
        return any(max(abs(end) for end in self.bounds[value]) > _WIDEST for value in values)

    def fits(self, *ranges: Ranges) -> bool:
        """Whether no value that these ranges need is wide."""
        ends = (end for group in ranges for pair in group for end in pair)
        return not self.wide(*self._used(ends))

    def clamped(self, value: Value) -> Value:
        """A limit for 32-bit values: one beyond them all is as good as any further away."""
        return self.op("max", self.op("min", value, self.const(2**31)), self.const(-(2**31) - 1))

    def finish(self, cover: Ranges, full: Ranges) -> TileProgram:
        """The program of these ranges, with what they do not use left out."""
        code: list[tuple[Any, ...]] = []
        made: dict[tuple[Any, ...], int] = {}
        done: dict[Value, int] = {}

        def emit(*instruction: Any) -> int:
            if instruction not in made:
                made[instruction] = len(code)
                code.append(instruction)
            return made[instruction]

        for value in self._used(end for pair in (*cover, *full) for end in pair):
            kind, *arguments = self.nodes[value]
            if kind == "sum":
                done[value] = _print_sum(emit, arguments[0], [(done[term], n) for term, n in arguments[1]])
            elif kind == "load":
                done[value] = emit(kind, arguments[0], *(done[index] for index in arguments[1:]))
            elif kind in ("const", "input", "param", "extent"):
                done[value] = emit(kind, *arguments)
            else:
                done[value] = emit(kind, *(done[argument] for argument in arguments))
        pairs = [tuple((done[lo], done[hi]) for lo, hi in ranges) for ranges in (cover, full)]
        return TileProgram(tuple(code), *pairs)

    def _add(self, node: tuple[Any, ...], bounds: Bounds) -> Value:
        if bounds[0] == bounds[1]:
            node = ("const", bounds[0])
        if node not in self._index:
            self._index[node] = len(self.nodes)
            self.nodes.append(node)
            self.bounds.append(bounds)
        return self._index[node]

    def _sum(self, parts: Iterable[tuple[Value, int]]) -> Value:
        constant, factors = 0, dict[Value, int]()
        for value, times in parts:
            node = self.nodes[value]
            if node[0] == "const":
                constant += node[1] * times
                continue
            inner = (node[1], node[2]) if node[0] == "sum" else (0, ((value, 1),))
            constant += inner[0] * times
            for term, factor in inner[1]:
                factors[term] = factors.get(term, 0) + factor * times
        terms = tuple(sorted((term, factor) for term, factor in factors.items() if factor))
        if not terms:
            return self.const(constant)
        if terms[0][1] == 1 and len(terms) == 1 and not constant:
            return terms[0][0]
        low = constant + sum(min(n * self.bounds[t][0], n * self.bounds[t][1]) for t, n in terms)
        high = constant + sum(max(n * self.bounds[t][0], n * self.bounds[t][1]) for t, n in terms)
        return self._add(("sum", constant, terms), (low, high))

    def _ordered(self, name: str, x: Value, y: Value) -> Value | None:
        """The result of an order operation, where the difference of the operands has a sign."""
        low, high = self.bounds[self.sub(x, y)]
        if name in ("min", "max"):
            if low >= 0 or high <= 0:
                return x if (high <= 0) == (name == "min") else y
            return None
        always = {"lt": high < 0, "le": high <= 0, "eq": low == high == 0}[name]
        never = {"lt": low >= 0, "le": low > 0, "eq": low > 0 or high < 0}[name]
        return self.true if always else self.zero if never else None

    def _range(self, name: str, x: Bounds, y: Bounds) -> Bounds:
        if name in ("lt", "le", "eq", "and", "or"):
            return 0, 1
        if name in ("min", "max"):
            return OPS[name](x[0], y[0]), OPS[name](x[1], y[1])
        if name == "mod":
            return (0, y[1] - 1) if y[0] > 0 else (min(y[0] + 1, 0), max(y[1] - 1, 0))
        if name == "floordiv" and y[0] <= 0:
            largest = max(abs(x[0]), abs(x[1]))
            return -largest, largest
        corners = [OPS[name](a, b) for a in x for b in y]
        return min(corners), max(corners)

    def _used(self, roots: Iterable[Value]) -> list[Value]:
        used: set[Value] = set()
        stack = list(roots)
        while stack:
            value = stack.pop()
            if value in used:
                continue
            used.add(value)
            kind, *arguments = self.nodes[value]
            if kind == "sum":
                stack += (term for term, _ in arguments[1])
            elif kind not in ("const", "input", "param", "extent"):
                stack += arguments[1:] if kind == "load" else arguments
        return sorted(used)  # operands are made before their users


def _print_sum(emit: Callable[..., int], constant: int, terms: list[tuple[int, int]]) -> int:
    terms = sorted(terms, key=lambda term: term[1] < 0)  # begin with what is added
    scaled = [(index if abs(n) == 1 else emit("mul", index, emit("const", abs(n))), n) for index, n in terms]
    if terms[0][1] < 0:
        result, constant = emit("const", constant), 0
    else:
        result = scaled.pop(0)[0]
    for index, n in scaled:
        result = emit("add" if n > 0 else "sub", result, index)
    if constant:
        result = emit("add" if constant > 0 else "sub", result, emit("const", abs(constant)))
    return result


@dataclass(frozen=True)
class ColumnSet:
    """``may``: unions of these hold every column where a condition can be true; ``must``: it is true on all of
    these."""

    may: Ranges
    must: Ranges


class Sets:
    """The algebra of ColumnSets; every operation keeps ``may`` too large and ``must`` too small, never otherwise."""

    def __init__(self, build: Builder) -> None:
        self.build = build
        self.first, self.last = build.const(-EVERYTHING), build.const(EVERYTHING)
        whole: Ranges = ((self.first, self.last),)
        self.everything, self.nothing = ColumnSet(whole, whole), ColumnSet((), ())
        self.unknown = ColumnSet(whole, ())
        self._uniform: dict[ColumnSet, Value] = {}

    def below(self, end: Value) -> Ranges:
        return ((self.first, end),)

    def from_(self, start: Value) -> Ranges:
        return ((start, self.last),)

    def uniform(self, can_hold: Value, must_hold: Value | None = None) -> ColumnSet:
        """A condition that is the same for all columns, true at least where ``must_hold``, at most where
        ``can_hold``."""
        held = can_hold if must_hold is None else must_hold
        may, must = (
            self._union(((self.first, self.build.select(cond, self.last, self.first)),), exact=True)
            for cond in (can_hold, held)
        )
        found = ColumnSet(may, must)
        if held == can_hold:
            self._uniform[found] = held
        return found

    def is_uniform(self, condition: ColumnSet) -> Value | None:
        """The 0 or 1 that a condition is for the whole tile."""
        return self._uniform.get(condition)

    def both(self, a: ColumnSet, b: ColumnSet) -> ColumnSet:
        return ColumnSet(self._intersect(a.may, b.may, exact=False), self.intersect_must(a.must, b.must))

    def either(self, a: ColumnSet, b: ColumnSet) -> ColumnSet:
        return ColumnSet(self.union_may(a.may, b.may), self._union(a.must + b.must, exact=True))

    def complement(self, a: ColumnSet) -> ColumnSet:
        found = ColumnSet(self._outside(a.must, exact=False), self._outside(a.may, exact=True))
        cond = self._uniform.get(a)
        return found if cond is None else self.uniform(self.build.op("eq", cond, self.build.zero))

    def select(self, cond: ColumnSet, then: ColumnSet, other: ColumnSet) -> ColumnSet:
        chosen = self.either(self.both(cond, then), self.both(self.complement(cond), other))
        either_way = self.intersect_must(then.must, other.must)
        return ColumnSet(chosen.may, self._union(chosen.must + either_way, exact=True))

    def where(self, sure: Value, found: ColumnSet) -> ColumnSet:
        """``found`` if ``sure`` holds, else anything."""
        build = self.build
        if build.number(sure) == 1:
            return found
        first, *rest = found.may or ((self.first, self.first),)
        widened = (build.select(sure, first[0], self.first), build.select(sure, first[1], self.last))
        must = tuple((lo, build.select(sure, hi, self.first)) for lo, hi in found.must)
        return ColumnSet(self._union((widened, *rest), exact=False), self._union(must, exact=True))

    def union_may(self, a: Ranges, b: Ranges) -> Ranges:
        return self._union(a + b, exact=False)

    def intersect_must(self, a: Ranges, b: Ranges) -> Ranges:
        return self._intersect(a, b, exact=True)

    def _intersect(self, a: Ranges, b: Ranges, *, exact: bool) -> Ranges:
        op = self.build.op
        return self._union(tuple((op("max", x[0], y[0]), op("min", x[1], y[1])) for x in a for y in b), exact=exact)

    def _outside(self, ranges: Ranges, *, exact: bool) -> Ranges:
        """The complement; what lies outside an empty range is everything, as its two sides overlap."""
        result: Ranges = ((self.first, self.last),)
        for lo, hi in ranges:
            result = self._intersect(result, ((self.first, lo), (hi, self.last)), exact=exact)
        return result

    def _union(self, ranges: Ranges, *, exact: bool) -> Ranges:
        """The ranges with the provably empty left out and those with a common end joined. Too many are covered by fewer
        larger ones, or, where the result must be ``exact`` at least, left out."""
        build = self.build
        found: list[tuple[Value, Value]] = []
        for lo, hi in ranges:
            if build.number(build.op("lt", lo, hi)) == 0:
                continue
            for i, (first, last) in enumerate(found):
                if first == lo or last == hi:
                    found[i] = (build.op("min", first, lo), build.op("max", last, hi))
                    break
            else:
                found.append((lo, hi))
        if len(found) < len(ranges):
            return self._union(tuple(found), exact=exact)
        if any(pair == (self.first, self.last) for pair in found):
            return ((self.first, self.last),)
        if exact:
            return tuple(found[:_MAX_RANGES])
        while len(found) > _MAX_RANGES:
            (a, b), (c, d) = found.pop(), found.pop()
            found.append((build.op("min", a, c), build.op("max", b, d)))
        return tuple(found)
