"""Loop bounds from a mask's formula: which KV columns a tile of rows can attend, and which it attends entirely.

Every condition becomes two sets of columns, each a few half-open ranges whose ends are integer programs: ``may``
holds each column that some row of the tile (in some head of the group) attends, ``must`` only columns that all of
them attend. What is not understood is "any column" and "no column", so the answer is always sound. Comparisons are
solved for ``col`` as affine forms, or through monotone operations (``//``, min, max, abs, selection). An i32
operation that could wrap, for the parameters of a call, is checked by the program itself, which then answers as for a
condition it does not understand. Knows the IR; the result, a TileProgram, does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

from attncc.ir.nodes import (
    Binary,
    Branch,
    Cast,
    Const,
    Coord,
    Expr,
    Extent,
    Load,
    Param,
    Reduce,
    Select,
    Unary,
    Variant,
)
from attncc.ir.types import I32_MAX, I32_MIN, Storage, Type
from attncc.ir.verify import axes_below
from attncc.ir.walk import substitute, walk
from attncc.passes.range_sets import Builder, ColumnSet, Ranges, Sets, Value
from attncc.passes.tile_program import TileProgram

_MAX_UNROLLED = 16
_MAX_STEPS = 1000  # of solving; shared operands are solved once for each way they are reached
_MAX_DEPTH = 60
_MAX_CODE = 600  # a program longer than this costs more than the tiles it saves
_STORAGE_BOUNDS = {
    Storage.U8: (0, 255),
    Storage.I8: (-128, 127),
    Storage.I16: (-(2**15), 2**15 - 1),
    Storage.BOOL: (0, 1),
}
_TOKEN_AXES = frozenset({Extent("qo_len"), Extent("kv_len")})


def tile_program(variant: Variant) -> TileProgram:
    """The loop bounds of a canonical variant. Branches share their loop: a column is visited if one of them attends
    it."""
    solver = _Solver(variant)
    sets = [solver.condition(_mask(branch)) for branch in variant.branches]
    may = reduce(solver.sets.union_may, (item.may for item in sets))
    must = reduce(solver.sets.intersect_must, (item.must for item in sets))
    if len(solver.build.nodes) > _MAX_CODE or not solver.build.fits(may, must):
        solver = _Solver(variant)
        may, must = solver.sets.unknown.may, solver.sets.unknown.must
    return solver.build.finish(may, must)


def _mask(branch: Branch) -> Expr:
    return Const(True, Type.BOOL) if branch.mask is None else branch.mask


@dataclass(frozen=True)
class _Form:
    """row·row + col·col + rest, with ``rest`` anywhere in [low, high]; not wrapped to 32 bits where ``sure`` is 1.

    ``opaque``: col also enters in a way this form does not show; [low, high] then holds for all columns of the request.
    """

    row: int
    col: int
    low: Value
    high: Value
    sure: Value
    opaque: bool = False

    @property
    def exact(self) -> bool:
        return self.low == self.high and not self.row and not self.col and not self.opaque


class _Solver:
    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.build = Builder()
        self.sets = Sets(self.build)
        self.forms: dict[Expr, _Form] = {}
        self.unwrapped: dict[Expr, Value] = {}  # 1 where an integer operation does not leave 32 bits in the tile
        self.conditions: dict[Expr, ColumnSet] = {}
        self.axes: dict[Expr, frozenset[str]] = {}
        self.steps = self.depth = 0

    # ---- conditions --------------------------------------------------------------------------------------------------

    def condition(self, root: Expr) -> ColumnSet:
        """The columns where ``root`` can be true and where it must be, operands first so that depth does not matter."""
        self.axes.update(axes_below(root))
        for node in walk(root):
            if node in self.conditions or node in self.forms:
                continue
            if any(axis.startswith("i") for axis in self.axes[node]):
                continue  # the body of a comprehension has a value per index; _loop substitutes it
            if node.type is Type.BOOL:
                self.conditions[node] = self._condition(node)
            elif node.type is Type.I32:
                self.forms[node] = self._guarded(node, self._form(node))
        return self.conditions[root]

    def _condition(self, node: Expr) -> ColumnSet:
        sets, known = self.sets, self.conditions
        match node:
            case Const():
                return sets.everything if node.value else sets.nothing
            case Param():
                return sets.uniform(self.build.leaf("param", node.name, (0, 1)))
            case Load():
                value = self._load(node)
                return sets.unknown if value is None else sets.uniform(value)
            case Unary(op="not"):
                return sets.complement(known[node.operand])
            case Binary(op="and"):
                return sets.both(known[node.left], known[node.right])
            case Binary(op="or"):
                return sets.either(known[node.left], known[node.right])
            case Binary(op="xor" | "eq") if node.left.type is Type.BOOL:
                left, right = known[node.left], known[node.right]
                same = sets.select(left, right, sets.complement(right))
                return same if node.op == "eq" else sets.complement(same)
            case Binary(op="lt" | "le" | "eq") if node.left.type is Type.I32:
                return self._compare(node.op, node.left, node.right)
            case Cast() if node.operand.type is Type.I32:
                return sets.complement(self._solve("eq", node.operand, self._number(0)))
            case Select():
                return sets.select(known[node.cond], known[node.then], known[node.other])
            case Reduce(kind="any" | "all"):
                return self._loop(node)
        return sets.unknown

    def _loop(self, node: Reduce) -> ColumnSet:
        if not isinstance(node.extent, Const) or int(node.extent.value) > _MAX_UNROLLED:
            return self.sets.unknown
        self.steps += int(node.extent.value) * sum(1 for _ in walk(node.body))
        if self.steps > _MAX_STEPS:
            return self.sets.unknown
        join, result = (
            (self.sets.either, self.sets.nothing) if node.kind == "any" else (self.sets.both, self.sets.everything)
        )
        for i in range(int(node.extent.value)):
            result = join(result, self.condition(substitute(node.body, {Coord(node.axis): Const(i, Type.I32)})))
        return result

    def _compare(self, op: str, left: Expr, right: Expr) -> ColumnSet:
        a, b = self.forms[left], self.forms[right]
        if not a.opaque and not b.opaque:
            return self._affine(op, a, b)
        if not b.opaque and not b.col:
            return self._solve(op, left, self._flat(b), strict=op == "lt")
        if not a.opaque and not a.col:
            return self._solve("eq" if op == "eq" else "ge", right, self._flat(a), strict=op == "lt")
        return self.sets.unknown

    def _affine(self, op: str, a: _Form, b: _Form) -> ColumnSet:
        """{col : a op b}, where col·c + [m, M] ≤ 0 over the tile's rows is solved for col."""
        build = self.build
        difference = self._flat(
            _Form(
                a.row - b.row,
                a.col - b.col,
                build.sub(a.low, b.high),
                build.sub(a.high, b.low),
                build.both(a.sure, b.sure),
            )
        )
        if op == "eq":
            found = self.sets.both(self._below(difference, 0), self._below(self._negated(difference), 0))
        else:
            found = self._below(difference, -1 if op == "lt" else 0)
        return self.sets.where(difference.sure, found)

    def _below(self, form: _Form, limit: int) -> ColumnSet:
        """{col : col·c + rest ≤ limit}: for some value of rest, and for every one."""
        build, sets = self.build, self.sets
        bound = build.const(limit)
        if not form.col:
            return sets.uniform(build.op("le", form.low, bound), build.op("le", form.high, bound))
        step = build.const(abs(form.col))

        def solve(rest: Value) -> Ranges:
            if form.col > 0:
                last = build.op("floordiv", build.sub(bound, rest), step)
                return sets.below(build.add(last, build.const(1)))
            return sets.from_(build.ceildiv(build.sub(rest, bound), step))

        return ColumnSet(solve(form.low), solve(form.high))

    def _solve(self, op: str, node: Expr, limit: _Form, strict: bool = False) -> ColumnSet:
        """{col : node op limit} for ``limit`` without col, by undoing the operations between ``node`` and col."""
        if op == "eq":
            return self.sets.both(self._solve("le", node, limit), self._solve("ge", node, limit))
        build, sets = self.build, self.sets
        if strict:
            limit = self._shifted(limit, build.const(-1 if op in ("lt", "le") else 1))
        op = "le" if op == "lt" else op
        form = self.forms[node]
        self.steps += 1
        if form.opaque and self.depth < _MAX_DEPTH and self.steps < _MAX_STEPS:
            limit = replace(limit, low=build.clamped(limit.low), high=build.clamped(limit.high))
            self.depth += 1
            found = self._undo(op, node, limit)
            self.depth -= 1
            if found is not None:
                return sets.where(limit.sure, found)
        form = replace(form, opaque=False)
        return self._affine("le", form, limit) if op == "le" else self._affine("le", limit, form)

    def _undo(self, op: str, node: Expr, t: _Form) -> ColumnSet | None:
        build, sets = self.build, self.sets
        le = op == "le"
        match node:
            case Select():
                then, other = self._solve(op, node.then, t), self._solve(op, node.other, t)
                return sets.select(self.conditions[node.cond], then, other)
            case Binary(op="min" | "max"):
                join = sets.either if (node.op == "min") == le else sets.both
                return join(self._solve(op, node.left, t), self._solve(op, node.right, t))
            case Unary(op="abs" | "neg"):
                negated = self._negated(t)
                mirrored = self._solve("ge" if le else "le", node.operand, negated)
                if node.op == "abs":
                    mirrored = (sets.both if le else sets.either)(self._solve(op, node.operand, t), mirrored)
                lowest = self._whole(self.forms[node.operand]).low
                inside = build.op("lt", build.const(I32_MIN), lowest)  # -INT_MIN wraps
                return sets.where(inside, mirrored)
            case Binary(op="floordiv" | "shr" | "bitand"):
                step = self._step(node)
                if step is None:
                    return None
                block = self._rounded(t, step, up=not le) if node.op == "bitand" else self._times(t, step)
                if le:
                    block = self._shifted(block, build.sub(step, build.const(1)))
                return sets.where(build.op("lt", build.const(0), step), self._solve(op, node.left, block))
            case Binary(op="mul"):
                factor = self.forms[node.right]
                if not factor.exact:
                    return None
                positive = build.op("lt", build.const(0), factor.low)
                divisor = build.op("max", factor.low, build.const(1))
                found = self._solve(op, node.left, self._divided(t, divisor, up=not le))
                return sets.where(build.both(positive, self.unwrapped[node]), found)
            case Binary(op="add" | "sub"):
                return self._undo_sum(op, node, t)
        return None

    def _undo_sum(self, op: str, node: Binary, t: _Form) -> ColumnSet | None:
        build = self.build
        left, right = self.forms[node.left], self.forms[node.right]
        sure = self.unwrapped[node]
        if not right.opaque and not right.col:
            u = self._flat(right)
            u = u if node.op == "sub" else self._negated(u)
            limit = replace(t, low=build.add(t.low, u.low), high=build.add(t.high, u.high))
            return self.sets.where(sure, self._solve(op, node.left, limit))
        if left.opaque or left.col:
            return None
        u = self._flat(left)
        if node.op == "add":
            limit = replace(t, low=build.sub(t.low, u.high), high=build.sub(t.high, u.low))
            return self.sets.where(sure, self._solve(op, node.right, limit))
        limit = replace(t, low=build.sub(u.low, t.high), high=build.sub(u.high, t.low))
        return self.sets.where(sure, self._solve("ge" if op == "le" else "le", node.right, limit))

    # ---- integers ----------------------------------------------------------------------------------------------------

    def _form(self, node: Expr) -> _Form:
        build = self.build
        match node:
            case Const():
                return self._number(int(node.value))
            case Coord():
                return self._coordinate(node)
            case Extent():
                return self._exact(build.extent(node.name))
            case Param():
                return self._exact(build.leaf("param", node.name, (I32_MIN, I32_MAX)))
            case Load():
                value = self._load(node)
                return self._anything(node) if value is None else self._exact(value)
            case Unary(op="neg"):
                return self._negated(self.forms[node.operand])
            case Unary(op="abs"):
                return self._abs(self.forms[node.operand])
            case Binary(op="add" | "sub"):
                return self._sum(node)
            case Binary(op="mul" | "shl"):
                return self._product(node)
            case Binary(op="min" | "max"):
                return self._extreme(node)
            case Binary(op="floordiv" | "shr" | "bitand"):
                return self._blocks(node)
            case Binary(op="mod"):
                return self._mod(node)
            case Select():
                return self._chosen(node)
            case Cast() if node.operand.type is Type.BOOL:
                return self._between(node, 0, 1)
        return self._anything(node)

    def _coordinate(self, node: Coord) -> _Form:
        build = self.build
        match node.axis:
            case "row":
                return _Form(1, 0, build.zero, build.zero, build.true)
            case "col":
                return _Form(0, 1, build.zero, build.zero, build.true)
            case "q":
                return replace(self._exact(build.input("q_start")), row=1)
            case "k":
                return replace(self._exact(build.input("k_start")), col=1)
            case "own":
                return replace(self._exact(build.sub(build.extent("kv_len"), build.extent("qo_len"))), row=1)
            case "h":
                first = build.op("mul", build.input("hk"), build.input("group"))
                last = build.add(first, build.sub(build.input("group"), build.const(1)))
                return _Form(0, 0, first, last, build.true)
            case "b" | "hk":
                return self._exact(build.input(node.axis))
        return self._anything(node)

    def _load(self, node: Load) -> Value | None:
        """The element, where one element is read by the whole tile."""
        tensor = self.variant.tensor(node.tensor)
        indices = [self.forms.get(index) for index in node.indices]
        tokens = any(part in _TOKEN_AXES for dim in tensor.dims for part in walk(dim))
        if tokens or not all(index is not None and index.exact for index in indices):
            return None
        if tensor.storage.loaded not in (Type.I32, Type.BOOL):
            return None
        bounds = _STORAGE_BOUNDS.get(tensor.storage, (I32_MIN, I32_MAX))
        return self.build.load(node.tensor, tuple(index.low for index in indices if index is not None), bounds)

    def _sum(self, node: Binary) -> _Form:
        build = self.build
        a, b = self.forms[node.left], self.forms[node.right]
        b = b if node.op == "add" else self._negated(b)
        if a.opaque or b.opaque:
            a, b = self._whole(a), self._whole(b)
        return self._with(
            a, b, _Form(a.row + b.row, a.col + b.col, build.add(a.low, b.low), build.add(a.high, b.high), build.true)
        )

    def _product(self, node: Binary) -> _Form:
        build = self.build
        a, b = self.forms[node.left], self.forms[node.right]
        if node.op == "shl":
            if not isinstance(node.right, Const):
                return self._anything(node)
            b = self._number(1 << (int(node.right.value) & 31))
        for form, factor in ((a, b), (b, a)):
            number = build.number(factor.low) if factor.exact else None
            if number is not None and abs(number) < 2**31:
                ends = (build.op("mul", form.low, factor.low), build.op("mul", form.high, factor.low))
                low, high = ends if number >= 0 else ends[::-1]
                made = _Form(form.row * number, form.col * number, low, high, form.sure, form.opaque)
                return made
        opaque = a.opaque or b.opaque or bool(a.col) or bool(b.col)
        a, b = self._whole(a), self._whole(b)
        corners = [build.op("mul", x, y) for x in {a.low, a.high} for y in {b.low, b.high}]
        low, high = build.least(corners), build.greatest(corners)
        return self._with(a, b, _Form(0, 0, low, high, build.true, opaque))

    def _extreme(self, node: Binary) -> _Form:
        a, b = self.forms[node.left], self.forms[node.right]
        opaque = a.opaque or b.opaque or bool(a.col) or bool(b.col)
        a, b = self._whole(a), self._whole(b)
        low, high = self.build.op(node.op, a.low, b.low), self.build.op(node.op, a.high, b.high)
        return self._with(a, b, _Form(0, 0, low, high, self.build.true, opaque))

    def _abs(self, form: _Form) -> _Form:
        build = self.build
        whole = self._whole(form)
        low, high = whole.low, build.sub(build.zero, whole.high)
        low = build.op("max", build.op("max", low, high), build.zero)
        top = build.op("max", build.sub(build.zero, whole.low), whole.high)
        return replace(whole, low=low, high=top, opaque=form.opaque or bool(form.col))

    def _step(self, node: Binary) -> Value | None:
        """Block size of an operation that rounds down: x // c, x >> s, x & −2ˢ."""
        if node.op == "floordiv":
            form = self.forms[node.right]
            return form.low if form.exact else None
        if not isinstance(node.right, Const):
            return None
        value = int(node.right.value)
        if node.op == "shr":
            return self.build.const(1 << (value & 31))
        return self.build.const(-value) if value < 0 and value & -value == -value else None

    def _blocks(self, node: Binary) -> _Form:
        build = self.build
        form, step = self.forms[node.left], self._step(node)
        opaque = form.opaque or bool(form.col)
        if step is None:
            if node.op == "bitand" and isinstance(node.right, Const) and int(node.right.value) >= 0:
                return self._between(node, 0, int(node.right.value))
            return self._anything(node)
        whole = self._whole(form)
        positive = build.op("lt", build.zero, step)
        low, high = (build.op("floordiv", end, step) for end in (whole.low, whole.high))
        if node.op == "bitand":
            low, high = build.op("mul", low, step), build.op("mul", high, step)
        anything = self._anything(node)
        return replace(
            whole,
            low=build.select(positive, low, anything.low),
            high=build.select(positive, high, anything.high),
            opaque=opaque,
        )

    def _mod(self, node: Binary) -> _Form:
        build = self.build
        form, size = self.forms[node.left], self.forms[node.right]
        if not size.exact:
            return self._anything(node)
        whole, step, anything = self._whole(form), size.low, self._anything(node)
        one_block = build.op("eq", build.op("floordiv", whole.low, step), build.op("floordiv", whole.high, step))
        low = build.select(one_block, build.op("mod", whole.low, step), build.zero)
        high = build.select(one_block, build.op("mod", whole.high, step), build.sub(step, build.const(1)))
        positive = build.op("lt", build.zero, step)
        return replace(
            whole,
            low=build.select(positive, low, anything.low),
            high=build.select(positive, high, anything.high),
            opaque=form.opaque or bool(form.col),
        )

    def _chosen(self, node: Select) -> _Form:
        build = self.build
        a, b = self.forms[node.then], self.forms[node.other]
        opaque = "col" in self.axes[node]
        a, b = self._whole(a), self._whole(b)
        low, high = build.op("min", a.low, b.low), build.op("max", a.high, b.high)
        cond = self.sets.is_uniform(self.conditions[node.cond])
        if cond is not None:
            low, high = build.select(cond, a.low, b.low), build.select(cond, a.high, b.high)
        return self._with(a, b, _Form(0, 0, low, high, build.true, opaque))

    # ---- forms -------------------------------------------------------------------------------------------------------

    def _number(self, value: int) -> _Form:
        return self._exact(self.build.const(value))

    def _exact(self, value: Value) -> _Form:
        return _Form(0, 0, value, value, self.build.true)

    def _between(self, node: Expr, low: int, high: int) -> _Form:
        opaque = "col" in self.axes[node]
        return _Form(0, 0, self.build.const(low), self.build.const(high), self.build.true, opaque)

    def _anything(self, node: Expr) -> _Form:
        storage = self.variant.tensor(node.tensor).storage if isinstance(node, Load) else Storage.I32
        return self._between(node, *_STORAGE_BOUNDS.get(storage, (I32_MIN, I32_MAX)))

    def _with(self, a: _Form, b: _Form, made: _Form) -> _Form:
        """``made`` from a and b: as sure as they are, and opaque where they are."""
        return replace(made, sure=self.build.both(a.sure, b.sure), opaque=made.opaque or a.opaque or b.opaque)

    def _negated(self, form: _Form) -> _Form:
        zero = self.build.zero
        low, high = self.build.sub(zero, form.high), self.build.sub(zero, form.low)
        return replace(form, row=-form.row, col=-form.col, low=low, high=high)

    def _flat(self, form: _Form) -> _Form:
        """The tile's rows taken into [low, high]."""
        if not form.row:
            return form
        build, factor = self.build, self.build.const(form.row)
        first = build.op("mul", factor, build.input("row_lo"))
        last = build.op("mul", factor, build.sub(build.add(build.input("row_lo"), build.input("rows")), build.true))
        low, high = (first, last) if form.row > 0 else (last, first)
        return replace(form, row=0, low=build.add(form.low, low), high=build.add(form.high, high))

    def _whole(self, form: _Form) -> _Form:
        """The tile's rows and all columns of the request taken into [low, high]."""
        form = self._flat(form)
        if not form.col:
            return form
        build = self.build
        last = build.op("max", build.sub(build.extent("kv_len"), build.const(1)), build.zero)
        far = build.op("mul", build.const(form.col), last)
        low = build.add(form.low, far) if form.col < 0 else form.low
        high = build.add(form.high, far) if form.col > 0 else form.high
        return replace(form, col=0, low=low, high=high, opaque=True)

    def _guarded(self, node: Expr, form: _Form) -> _Form:
        """What an i32 result is, given what it would be without wrapping."""
        build, whole = self.build, self._whole(form)
        low, high = build.const(I32_MIN), build.const(I32_MAX)
        if build.wide(form.low, form.high, whole.low, whole.high):
            form = whole = self._anything(node)
        inside = build.both(build.op("le", low, whole.low), build.op("le", whole.high, high))
        self.unwrapped[node] = build.both(form.sure, inside)
        if build.number(inside) == 1:
            return form
        if form.col:
            return replace(form, sure=build.both(form.sure, inside))
        return replace(
            whole,
            low=build.select(inside, whole.low, low),
            high=build.select(inside, whole.high, high),
            opaque=form.opaque,
        )

    def _shifted(self, form: _Form, by: Value) -> _Form:
        return replace(form, low=self.build.add(form.low, by), high=self.build.add(form.high, by))

    def _times(self, form: _Form, step: Value) -> _Form:
        low, high = self.build.op("mul", form.low, step), self.build.op("mul", form.high, step)
        return replace(form, low=self.build.saturated(low), high=self.build.saturated(high))

    def _divided(self, form: _Form, step: Value, *, up: bool) -> _Form:
        def divide(value: Value) -> Value:
            return self.build.ceildiv(value, step) if up else self.build.op("floordiv", value, step)

        return replace(form, low=divide(form.low), high=divide(form.high))

    def _rounded(self, form: _Form, step: Value, *, up: bool) -> _Form:
        return self._times(self._divided(form, step, up=up), step)
