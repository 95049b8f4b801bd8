"""A pair's column as a thread has it: a base that all of its columns of a tile share, and a step that is a constant.

What is linear in the column is split accordingly. The base's part is computed once for each row of a thread; a pair is
left with one multiply-add (f32(k - q) times a slope) or one comparison with a constant. Knows the IR, not C++.
"""

from __future__ import annotations

from collections.abc import Mapping

from attncc.codegen.emit.diagonals import OnDiagonal
from attncc.codegen.emit.expressions import deciding, score_dependent
from attncc.codegen.emit.intervals import Interval, exact_interval, intervals
from attncc.codegen.emit.positions import COL, COL_BASE, COL_STEP
from attncc.codegen.emit.stages import Stage, heavy_keys, stages
from attncc.codegen.emit.thresholds import Threshold
from attncc.ir.nodes import Binary, Cast, Const, Expr, Unary
from attncc.ir.types import I32_MAX, I32_MIN, Type
from attncc.ir.walk import substitute, walk

_Sum = tuple[Expr, Expr]  # what the base gives, and what the step adds
_Terms = tuple[list[Expr], list[Expr]]  # what is added, and what is taken away


def by_step(root: Expr) -> Expr:
    """``root``, a pair's formula over storage indices, with what is linear in the column taken apart.

    q − k < w becomes (q − w − k_start) − base < step, exactly; the left side is one value for each row of a thread.
    a · f32(k − q) becomes a · f32(k_base − q) + a · step: equal but for one more rounding, which is why a value that
    decides something (a comparison, a rounding) stays whole.
    """
    stage, known = stages([root]), intervals([root])
    exact = deciding([root], score_dependent([root]))
    heavy = heavy_keys([root], stage)
    done: dict[Expr, Expr] = {}
    sums: dict[Expr, _Sum] = {}
    for node in walk(root):
        # The function of a diagonal has no column; a key's value that is staged is made of the whole one.
        if isinstance(node, OnDiagonal) or node in heavy:
            done[node] = node
            continue
        split = None if node in exact or node.type is not Type.F32 else _split(node, sums, done, stage, known)
        if split is not None:
            sums[node] = split
            done[node] = Binary("add", *split)
            continue
        operands = tuple(done[operand] for operand in node.operands)
        if isinstance(node, Binary) and node.op in ("lt", "le", "eq") and node.left.type is Type.I32:
            compared = _compare(node, stage, known) or _compare_distance(node, stage, known)
            if compared is not None:
                done[node] = compared
                continue
        done[node] = node if operands == node.operands else node.with_operands(operands)
    return done[root]


def in_columns(mask: Expr) -> bool:
    """Whether ``mask``, after ``by_step``, joins by and, or and not only comparisons of the column's step and what
    holds of a row: then all columns of a thread can be asked about at once."""
    turns = False
    pending = [mask]
    while pending:
        node = pending.pop()
        if (isinstance(node, Binary) and node.op in ("and", "or")) or (isinstance(node, Unary) and node.op == "not"):
            pending += node.operands
        elif isinstance(node, Binary) and node.op in ("lt", "le", "eq") and COL_STEP in (node.left, node.right):
            turns = True
        elif any(below in (COL, COL_BASE, COL_STEP) or isinstance(below, OnDiagonal) for below in walk(node)):
            return False
    return turns


def _split(
    node: Expr,
    sums: Mapping[Expr, _Sum],
    done: Mapping[Expr, Expr],
    stage: Mapping[Expr, Stage],
    known: Mapping[Expr, Interval],
) -> _Sum | None:
    """``node`` as a sum, where it is linear in the column and everything else in it is known before the pair."""
    match node:
        case Cast(operand=operand) if operand.type is Type.I32:
            slope = _slope(operand, stage, known)
            if not slope:
                return None
            step: Expr = COL_STEP if slope == 1 else Binary("mul", Const(slope, Type.I32), COL_STEP)
            return Cast(Type.F32, substitute(operand, {COL: COL_BASE})), Cast(Type.F32, step)
        case Unary(op="neg", operand=operand) if operand in sums:
            first, second = sums[operand]
            return Unary("neg", first), Unary("neg", second)
        case Binary(op="mul", left=left, right=right):
            if left not in sums:
                left, right = right, left
            if left in sums and stage[right] <= Stage.ROW:
                first, second = sums[left]
                return Binary("mul", done[right], first), Binary("mul", done[right], second)
    return None


def _compare(node: Binary, stage: Mapping[Expr, Stage], known: Mapping[Expr, Interval]) -> Expr | None:
    """A comparison in which the column stands alone, on one side, and the rest is known before the pair."""
    return _turn(node.op, _terms(node.left, stage, known), _terms(node.right, stage, known), stage)


def _compare_distance(node: Binary, stage: Mapping[Expr, Stage], known: Mapping[Expr, Interval]) -> Expr | None:
    """The same of an absolute value: abs(x) <= e is x <= e and -x <= e; e < abs(x) is e < x or e < -x."""
    on_left = isinstance(node.left, Unary) and node.left.op == "abs"
    distance, other = (node.left, node.right) if on_left else (node.right, node.left)
    if node.op == "eq" or not isinstance(distance, Unary) or distance.op != "abs":
        return None
    low, _ = exact_interval(distance.operand, known) or (I32_MIN, 0)
    if low <= I32_MIN:  # its negative would wrap
        return None
    plus, minus = _terms(distance.operand, stage, known)
    rest = _terms(other, stage, known)
    halves = [
        _turn(node.op, side, rest, stage) if on_left else _turn(node.op, rest, side, stage)
        for side in ((plus, minus), (minus, plus))
    ]
    first, second = halves
    return None if first is None or second is None else Binary("and" if on_left else "or", first, second)


def _turn(op: str, left: _Terms, right: _Terms, stage: Mapping[Expr, Stage]) -> Expr | None:
    """``left`` compared with ``right``, as the column's step compared with where that turns."""
    plus, minus = [*left[0], *right[1]], [*left[1], *right[0]]  # plus - minus is compared with 0
    if (COL in plus) == (COL in minus):
        return None
    on_left = COL in plus
    column, others = (plus, minus) if on_left else (minus, plus)
    column.remove(COL)
    if COL in column or any(stage[term] > Stage.ROW for term in (*column, *others)):
        return None
    turn = Binary("sub", Threshold(tuple(others), tuple(column)), COL_BASE)
    return Binary(op, COL_STEP, turn) if on_left else Binary(op, turn, COL_STEP)


def _terms(expr: Expr, stage: Mapping[Expr, Stage], known: Mapping[Expr, Interval]) -> _Terms:
    """What an i32 value adds and what it takes away, as far down as nothing wraps."""
    low, high = exact_interval(expr, known) or (I32_MIN - 1, I32_MAX + 1)
    if low >= I32_MIN and high <= I32_MAX:
        match expr:
            case Unary(op="neg", operand=operand):
                plus, minus = _terms(operand, stage, known)
                return minus, plus
            case Binary(op="add" | "sub" as op, left=left, right=right):
                plus, minus = _terms(left, stage, known)
                more, less = _terms(right, stage, known)
                return (plus + more, minus + less) if op == "add" else (plus + less, minus + more)
    return [expr], []


def _slope(expr: Expr, stage: Mapping[Expr, Stage], known: Mapping[Expr, Interval]) -> int | None:
    """By how much an i32 value grows with the column, if that is a constant and nothing wraps."""
    if expr is COL:
        return 1
    if stage[expr] <= Stage.ROW:
        return 0
    low, high = exact_interval(expr, known) or (I32_MIN - 1, I32_MAX + 1)
    if low < I32_MIN or high > I32_MAX:
        return None
    match expr:
        case Unary(op="neg", operand=operand):
            slope = _slope(operand, stage, known)
            return None if slope is None else -slope
        case Binary(op="add" | "sub" as op, left=left, right=right):
            first, second = _slope(left, stage, known), _slope(right, stage, known)
            if first is None or second is None:
                return None
            return first + second if op == "add" else first - second
        case (
            Binary(op="mul", left=Const(value=factor), right=other)
            | Binary(op="mul", left=other, right=Const(value=factor))
        ):
            slope = _slope(other, stage, known)
            return None if slope is None else slope * int(factor)
    return None
