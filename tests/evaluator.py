"""An evaluator of scalar IR expressions on numpy arrays, written from the language's rules; shares no code with attncc.

Tests hold passes, the reference and generated code against it. Arrays broadcast; i32 is computed in int64 and wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attncc.ir.nodes import Binary, Cast, Const, Coord, Expr, Extent, Input, Load, Param, Reduce, Select, Unary
from attncc.ir.types import Type

Array = np.ndarray[Any, Any]
DTYPES = {Type.F32: np.float32, Type.I32: np.int32, Type.U32: np.uint32, Type.BOOL: np.bool_}


@dataclass(frozen=True)
class Point:
    """Values for every leaf. ``coords`` also holds q, k, own where an expression reads them."""

    coords: Mapping[str, Any] = field(default_factory=dict)
    extents: Mapping[str, int] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)


def evaluate(expr: Expr, point: Point, *, precise: bool = False) -> Array:
    """The value of ``expr``, of the numpy type of its IR type; ``precise``: f32 formulas in float64."""
    types = {**DTYPES, Type.F32: np.float64} if precise else DTYPES
    done: dict[Expr, Array] = {}
    with np.errstate(all="ignore"):
        for node in _outside_loops(expr):
            done[node] = np.asarray(_node(node, point, done, precise)).astype(types[node.type])
    return done[expr]


def _outside_loops(root: Expr) -> Iterator[Expr]:
    """Operands before users, iteratively; the body of a comprehension is evaluated by its Reduce, once an index."""
    stack, seen = [(root, False)], set()
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            operands = node.operands[1:] if isinstance(node, Reduce) else node.operands
            stack.extend((operand, False) for operand in operands)


def _node(expr: Expr, point: Point, done: Mapping[Expr, Array], precise: bool) -> Any:
    def value(operand: Expr) -> Array:
        return done[operand]

    match expr:
        case Const():
            return np.asarray(expr.value, DTYPES[expr.type])
        case Coord():
            return np.asarray(point.coords[expr.axis], np.int32)
        case Extent():
            return np.asarray(point.extents[expr.name], np.int32)
        case Param():
            return np.asarray(point.params[expr.name], DTYPES[expr.type])
        case Input():
            return np.asarray(point.inputs[expr.name])
        case Load():
            return _load(point.tensors[expr.tensor], [value(index) for index in expr.indices])
        case Cast():
            return _cast(value(expr.operand), expr.operand.type, expr.type)
        case Unary():
            return _unary(expr.op, value(expr.operand), expr.type)
        case Binary():
            return _binary(expr.op, value(expr.left), value(expr.right), expr.left.type)
        case Select():
            return np.where(value(expr.cond), value(expr.then), value(expr.other))
        case Reduce(kind="sum" | "any" | "all"):
            assert expr.extent is not None
            count = int(value(expr.extent))
            bodies = [
                evaluate(expr.body, replace(point, coords={**point.coords, expr.axis: i}), precise=precise)
                for i in range(count)
            ]
            total: Any = {"sum": 0, "any": False, "all": True}[expr.kind]
            for body in bodies:
                if expr.kind == "sum":
                    total = _binary("add", np.asarray(total, body.dtype), body, expr.type)
                else:
                    total = total | body if expr.kind == "any" else total & body
            return total
    raise NotImplementedError(type(expr).__name__)


def _wrap(x: Array, kind: Type) -> Array:
    x = x & 0xFFFFFFFF
    return np.where(x >= 2**31, x - 2**32, x) if kind is Type.I32 else x


def _load(tensor: Array, indices: list[Array]) -> Array:
    if tensor.size == 0:
        return np.zeros(np.broadcast_shapes(*(i.shape for i in indices)), tensor.dtype)
    clamped = [np.clip(i.astype(np.int64), 0, n - 1) for i, n in zip(indices, tensor.shape, strict=True)]
    return tensor[tuple(np.broadcast_arrays(*clamped))] if clamped else tensor


def _cast(x: Array, source: Type, target: Type) -> Any:
    if target is Type.BOOL:
        return x != 0
    if target is Type.F32:
        return x.astype(np.float32)
    if source is Type.F32:
        low, high = (-(2**31), 2**31 - 1) if target is Type.I32 else (0, 2**32 - 1)
        return np.clip(np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0), low, high).astype(np.int64)
    return _wrap(x.astype(np.int64), target)


_erf = np.vectorize(math.erf, otypes=[np.float64])
_FLOAT_UNARY: dict[str, Callable[[Array], Any]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(x, 0),
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "floor": np.floor,
    "round": np.round,
    "erf": lambda x: _erf(x) if x.size else x,
    "neg": np.negative,
    "abs": np.abs,
}


def _unary(op: str, x: Array, kind: Type) -> Any:
    if kind is Type.BOOL:
        return ~x
    if kind is Type.F32:
        return _FLOAT_UNARY[op](x.astype(np.float64))
    wide = x.astype(np.int64)
    return _wrap({"neg": -wide, "abs": np.abs(wide), "bitnot": ~wide}[op], kind)


_COMPARE = {"lt": np.less, "le": np.less_equal, "eq": np.equal}
_LOGICAL = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _binary(op: str, x: Array, y: Array, kind: Type) -> Any:
    if op in _COMPARE:
        return _COMPARE[op](x, y)
    if kind is Type.BOOL:
        return _LOGICAL[op](x, y)
    return _float_binary(op, x, y) if kind is Type.F32 else _wrap(_int_binary(op, x, y), kind)


def _float_binary(op: str, x: Array, y: Array) -> Any:
    match op:
        case "add" | "sub" | "mul":
            return {"add": np.add, "sub": np.subtract, "mul": np.multiply}[op](x, y)
        case "div":
            return np.where(y == 0, np.zeros_like(x), x / np.where(y == 0, 1, y))
        case "floordiv":
            return np.where(y == 0, np.zeros_like(x), np.floor_divide(x, np.where(y == 0, 1, y)))
        case "mod":
            return np.where(y == 0, np.zeros_like(x), np.remainder(x, np.where(y == 0, 1, y)))
        case "pow":
            return np.power(x.astype(np.float64), y.astype(np.float64))
        case "min":
            return np.fmin(x, y)
        case "max":
            return np.fmax(x, y)
    raise NotImplementedError(op)


def _int_binary(op: str, x: Array, y: Array) -> Any:
    a, b = x.astype(np.int64), y.astype(np.int64)
    one = np.where(b == 0, 1, b)
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":  # u32 products exceed int64; the low half does not care
            return (a.astype(np.uint64) * b.astype(np.uint64)).astype(np.int64)
        case "floordiv":
            return np.where(b == 0, 0, a // one)
        case "mod":
            return np.where(b == 0, 0, a % one)
        case "min":
            return np.minimum(a, b)
        case "max":
            return np.maximum(a, b)
        case "bitand":
            return a & b
        case "bitor":
            return a | b
        case "bitxor":
            return a ^ b
        case "shl":
            return a << (b & 31)
        case "shr":
            return a >> (b & 31)
    raise NotImplementedError(op)
