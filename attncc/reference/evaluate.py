"""Expressions over a block of rows and columns, evaluated with numpy. Knows nodes, not hooks or reductions.

Every value is an array [heads, rows, columns, channels] whose axes have length 1 where the value does not vary. What
does not depend on the call's data is computed as a kernel computes it, each operation rounded to f32; what does (the
score, a query vector) in the work type of ``Precision`` and rounded as that says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from attncc.ir.nodes import (
    After,
    Binary,
    Cast,
    Const,
    Coord,
    Expr,
    Extent,
    Input,
    Load,
    Param,
    Reduce,
    Rotate,
    Select,
    Slice,
    Unary,
)
from attncc.ir.types import Type
from attncc.ir.walk import walk
from attncc.reference import arithmetic
from attncc.reference.rounding import EXACT, Array, Precision

_Get = Callable[[Expr], Array]

LOOPS = ("sum", "any", "all")
_HEAD, _ROW, _COL, _CHANNEL = range(4)


@functools.lru_cache(maxsize=65536)
def is_data(expr: Expr) -> bool:
    """Whether a value comes from the call's data (a vector, the score and what follows), not from coordinates."""
    if isinstance(expr, Input):
        return expr.name != "sm_scale"
    return any(isinstance(node, Input) and node.name != "sm_scale" for node in walk(expr))


@functools.lru_cache(maxsize=65536)
def free_indices(expr: Expr) -> frozenset[str]:
    """The comprehension indices an expression reads and does not bind itself."""
    found: dict[Expr, frozenset[str]] = {}
    for node in walk(expr):
        if isinstance(node, Coord):
            found[node] = frozenset({node.axis}) if _is_index(node) else frozenset()
            continue
        below = frozenset[str]().union(*(found[operand] for operand in node.operands))
        found[node] = below - {node.axis} if isinstance(node, Reduce) and node.kind in LOOPS else below
    return found[expr]


def _is_index(expr: Expr) -> bool:
    return isinstance(expr, Coord) and expr.axis[0] == "i" and expr.axis[1:].isdigit()


@dataclass(frozen=True)
class Scope:
    """What an expression may refer to, for one block of one request.

    ``coords``, ``params``, ``extents`` and ``inputs`` are arrays of four axes; ``inputs`` also holds reductions that
    were computed elsewhere (a finished ``colsum``). ``tensors`` are captured tensors in their value types. ``attend``
    is the block's mask [heads, rows, columns], needed by ``after`` and by the reductions over keys or rows.
    """

    coords: Mapping[str, Array]
    params: Mapping[str, Array]
    extents: Mapping[str, Array]
    tensors: Mapping[str, Array]
    inputs: Mapping[Expr, Array] = field(default_factory=dict)
    attend: Array | None = None
    prob: Array | None = None
    precision: Precision = EXACT


def scalar(value: float | int | bool, type: Type) -> Array:
    """A value that varies with nothing."""
    return np.full((1, 1, 1, 1), value, arithmetic.DTYPES[type])


def evaluate(root: Expr, scope: Scope) -> Array:
    """The value of ``root``, [heads, rows, columns, channels] with axes of length 1 where it does not vary."""
    with np.errstate(all="ignore"):
        return _Run(scope, {}).value(root)


class _Run:
    """One evaluation. ``bound`` holds the comprehension indices of the loops around it."""

    def __init__(self, scope: Scope, bound: Mapping[str, Array]) -> None:
        self.scope = scope
        self.bound = bound

    def value(self, root: Expr, outer: Mapping[Expr, Array] | None = None) -> Array:
        """``outer`` has values of the loop around that do not change in it."""
        known = outer if outer is not None else {}
        order = list(self._order(root, known))
        last = {need: index for index, node in enumerate(order) for need in self._needs(node)}
        done: dict[Expr, Array] = {}

        def get(node: Expr) -> Array:
            return done[node] if node in done else known[node]

        for index, node in enumerate(order):
            done[node] = self._node(node, get)
            for need in self._needs(node):
                if last[need] == index and need is not root:
                    done.pop(need, None)  # blocks are large: keep what is still needed only
        return get(root)

    def _order(self, root: Expr, known: Mapping[Expr, Array]) -> Iterator[Expr]:
        seen: set[Expr] = set()
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                yield node
            elif node not in seen and node not in known:
                seen.add(node)
                stack.append((node, True))
                stack.extend((need, False) for need in reversed(self._needs(node)))

    def _needs(self, node: Expr) -> tuple[Expr, ...]:
        """What must be evaluated before ``node``: its operands, of a loop what does not change in it."""
        if node in self.scope.inputs:
            return ()
        if isinstance(node, Reduce):
            if node.kind in LOOPS:
                assert node.extent is not None
                return (node.extent, *_invariants(node))
            if node.kind == "dot":
                return _factors(node, self.scope.precision)
        return node.operands

    def _node(self, node: Expr, get: _Get) -> Array:
        scope = self.scope
        if node in scope.inputs:
            return scope.inputs[node]
        match node:
            case Const():
                return scalar(node.value, node.type)
            case Coord():
                return self.bound[node.axis] if _is_index(node) else scope.coords[node.axis]
            case Extent():
                return scope.extents[node.name]
            case Param():
                return scope.params[node.name]
            case Load():
                return self._stored(node, _load(scope.tensors[node.tensor], [get(index) for index in node.indices]))
            case Cast():
                operand = get(node.operand)
                if node.type is Type.F32 and operand.dtype.kind == "f":
                    return operand
                return self._stored(node, arithmetic.convert(node.type, operand))
            case Unary():
                return self._rounded(node, arithmetic.unary(node.op, get(node.operand)))
            case Binary():
                left, right = aligned(*self._same(get(node.left), get(node.right)))
                return self._rounded(node, arithmetic.binary(node.op, left, right))
            case Select():
                cond, then, other = aligned(get(node.cond), *self._same(get(node.then), get(node.other)))
                return self._stored(node, np.where(cond, then, other))
            case Slice():
                return self._slice(get(node.operand), get(node.start), get(node.stop))
            case Rotate():
                return _rotate(node.kind, get(node.operand))
            case After():
                return self._rounded(node, self._after(get(node.operand)))
            case Reduce(kind="dot"):
                wide = [get(factor).astype(scope.precision.work) for factor in _factors(node, scope.precision)]
                return self._rounded(node, _dot(wide))
            case Reduce(kind="sum" | "any" | "all"):
                return self._loop(node, get)
            case Reduce():
                return self._over_pairs(node, get(node.body))
        raise ValueError(f"{type(node).__name__} {node!r} has no value here")

    def _stored(self, node: Expr, value: Array) -> Array:
        """A selected, loaded or converted f32 in the type its expression computes in."""
        if node.type is Type.F32 and is_data(node):
            return value.astype(self.scope.precision.work, copy=False)
        return value

    def _rounded(self, node: Expr, value: Array) -> Array:
        if node.type is not Type.F32:
            return value
        if not is_data(node):
            return value.astype(np.float32, copy=False)
        return self.scope.precision.round(value.astype(self.scope.precision.work, copy=False))

    def _same(self, left: Array, right: Array) -> tuple[Array, Array]:
        """A score-free f32 beside a data-dependent value takes the other's type; it is exact in both."""
        if left.dtype == right.dtype:
            return left, right
        wide = np.result_type(left, right)
        return left.astype(wide), right.astype(wide)

    def _slice(self, operand: Array, start: Array, stop: Array) -> Array:
        if operand.shape[_CHANNEL] == 1:
            return operand
        return operand[..., int(start.item()) : int(stop.item())]

    def _after(self, operand: Array) -> Array:
        assert self.scope.attend is not None
        kept = np.where(self.scope.attend[..., None], operand, 0)
        later = np.zeros_like(kept)
        later[:, :, :-1] = kept[:, :, :0:-1].cumsum(axis=_COL)[:, :, ::-1]
        return later

    def _over_pairs(self, node: Reduce, body: Array) -> Array:
        """``expect``, ``rowmax``, and a block's share of ``colsum``, over the attended pairs."""
        attend = self.scope.attend
        assert attend is not None
        pairs = attend[..., None]
        body = body.astype(self.scope.precision.work, copy=False)
        if node.kind == "rowmax":
            return np.asarray(np.where(pairs, body, -np.inf).max(axis=_COL, keepdims=True, initial=-np.inf))
        if node.kind == "expect":
            assert self.scope.prob is not None
            body = body * self.scope.prob[..., None]
        found: Array = np.where(pairs, body, 0).sum(axis=_ROW if node.kind == "colsum" else _COL, keepdims=True)
        return found

    def _loop(self, node: Reduce, get: _Get) -> Array:
        assert node.extent is not None
        outer = {need: get(need) for need in _invariants(node)}
        kind = node.kind
        empty = False if kind == "any" else True if kind == "all" else 0
        total = scalar(empty, node.type)
        if is_data(node) and node.type is Type.F32:
            total = total.astype(self.scope.precision.work)
        for index in range(int(get(node.extent).item())):
            run = _Run(self.scope, {**self.bound, node.axis: scalar(index, Type.I32)})
            value = run.value(node.body, outer)
            if kind == "sum":
                total, value = aligned(total, value)
                total = self._rounded(node, total + value)
            else:
                total = np.logical_or(total, value) if kind == "any" else np.logical_and(total, value)
        return total


@functools.lru_cache(maxsize=4096)
def _invariants(loop: Reduce) -> tuple[Expr, ...]:
    """The largest expressions of a loop's body that do not read its index."""
    found: list[Expr] = []
    seen: set[Expr] = set()
    stack: list[Expr] = [loop.body]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if loop.axis not in free_indices(node):
            found.append(node)
        elif isinstance(node, Reduce) and node.kind in LOOPS:
            assert node.extent is not None
            stack.append(node.extent)
            stack.extend(_invariants(node))
        else:
            stack.extend(node.operands)
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def _factors(dot: Reduce, precision: Precision) -> tuple[Expr, ...]:
    """What a dot product multiplies. Products of data are exact enough in float64 to be taken in any order."""
    found: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(dot.body, True)]
    while stack:
        node, outermost = stack.pop()
        if isinstance(node, Binary) and node.op == "mul" and is_data(node) and (outermost or precision is EXACT):
            stack.extend(((node.right, False), (node.left, False)))
        else:
            found.append(node)
    return tuple(found)


def aligned(*values: Array) -> tuple[Array, ...]:
    """Values with one number of channels. A bare ``d`` counts to the call's longest vector; others cut it."""
    lengths = {value.shape[_CHANNEL] for value in values} - {1}
    if len(lengths) <= 1:
        return values
    shortest = min(lengths)
    return tuple(value[..., :shortest] for value in values)


def _load(tensor: Array, indices: list[Array]) -> Array:
    """A tensor's elements, each index clamped to its axis; 0 where an axis is empty."""
    shape = np.broadcast_shapes(*(index.shape for index in indices), (1, 1, 1, 1))
    if tensor.size == 0:
        return np.zeros(shape, tensor.dtype)
    indices = list(aligned(*indices)) if indices else []
    places = tuple(
        np.clip(index.astype(np.int64), 0, size - 1) for index, size in zip(indices, tensor.shape, strict=True)
    )
    found: Array = tensor[places] if places else tensor.reshape(1, 1, 1, 1)
    return found


def _rotate(kind: str, operand: Array) -> Array:
    if kind == "half":
        middle = operand.shape[_CHANNEL] // 2
        return np.concatenate((-operand[..., middle:], operand[..., :middle]), axis=_CHANNEL)
    found = np.empty_like(operand)
    found[..., 0::2], found[..., 1::2] = -operand[..., 1::2], operand[..., 0::2]
    return found


def _dot(factors: list[Array]) -> Array:
    """Σ over channels of the product: a matrix product wherever the factors separate into rows and columns."""
    by_row = [factor for factor in factors if factor.shape[_COL] == 1]
    by_col = [factor for factor in factors if factor.shape[_COL] > 1]
    if any(factor.shape[_ROW] > 1 for factor in by_col) or not by_col or not by_row:
        product = functools.reduce(lambda x, y: np.multiply(*aligned(x, y)), factors)
        return np.asarray(product.sum(axis=_CHANNEL, keepdims=True))
    left, right = (functools.reduce(lambda x, y: np.multiply(*aligned(x, y)), side) for side in (by_row, by_col))
    channels = np.broadcast_shapes(left.shape[-1:], right.shape[-1:])
    left, right = (np.broadcast_to(side, (*side.shape[:-1], *channels)) for side in (left, right))
    found: Array = np.matmul(left[:, :, 0], right[:, 0].swapaxes(1, 2))
    return found[..., None]
