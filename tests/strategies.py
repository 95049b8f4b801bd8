"""Random well-typed IR for property tests: expressions, masks and whole variants that the verifier accepts.

A ``Space`` says which leaves an expression may use; ``expressions`` draws from it, ``variants`` puts hooks together.
``points`` draws values for the leaves. Depth is bounded by construction, so that a failure shrinks to something small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from attncc.ir import build
from attncc.ir.nodes import (
    Binary,
    Branch,
    Cast,
    Const,
    Coord,
    Emit,
    Expr,
    Extent,
    Input,
    Load,
    Param,
    ParamDecl,
    Reduce,
    Require,
    Rotate,
    Select,
    Tensor,
    Unary,
    Variant,
)
from attncc.ir.types import I32_MAX, I32_MIN, U32_MAX, Storage, Type
from attncc.ir.verify import BINARY, UNARY

PARAMS = (
    ParamDecl("c", Type.F32, 30.0),
    ParamDecl("w", Type.I32, 16),
    ParamDecl("u", Type.U32),
    ParamDecl("flag", Type.BOOL),
)
_DIM = {name: Extent(name) for name in ("batch", "num_heads", "kv_len", "qo_len", "head_dim")}
TENSORS = (
    Tensor("slopes", Storage.F32, (_DIM["num_heads"],)),
    Tensor("prefix", Storage.I32, (_DIM["batch"],)),
    Tensor("doc", Storage.I32, (_DIM["batch"], _DIM["kv_len"])),
    Tensor("table", Storage.F16, (_DIM["num_heads"], Extent("n"))),
    Tensor("flags", Storage.BOOL, (Extent("n"),)),
    Tensor("words", Storage.U32, (_DIM["qo_len"], Extent("n"))),
    Tensor("small", Storage.I8, (Extent("n"),)),
    Tensor("cosines", Storage.F32, (Extent("n"), _DIM["head_dim"])),
)
_ROW_AXES = ("b", "h", "hk", "row", "q", "own")
PAIR_AXES = (*_ROW_AXES, "col", "k")


@dataclass(frozen=True)
class Space:
    """The leaves expressions are made of. ``floats``: inputs of type f32; ``rounding``: operations that round alike
    everywhere only (no transcendental functions, no float division or remainder)."""

    axes: tuple[str, ...] = PAIR_AXES
    floats: tuple[Expr, ...] = ()
    params: tuple[ParamDecl, ...] = PARAMS
    tensors: tuple[Tensor, ...] = TENSORS
    rounding: bool = False
    loops: bool = True
    depth: int = 4


ROWS = Space(axes=_ROW_AXES)
LOGITS = Space(floats=(Input("score"),))
EXACT = Space(floats=(Input("score"),), rounding=True)

# Without min and max: which of 0.0 and −0.0 is the smaller is not defined.
_ROUNDS_ALIKE = frozenset(["neg", "abs", "floor", "round", "add", "sub", "mul", "lt", "le", "eq"])
_INTERESTING = (0, 1, 2, -1, 3, 7, 16, 31, 32, 64, 4096, I32_MAX, I32_MIN)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 1e-3, 30.0, 1e30, float("inf"), float("-inf"))


def constants(kind: Type) -> st.SearchStrategy[Expr]:
    """Constants of one type, edge values often."""
    values: st.SearchStrategy[float | int | bool]
    match kind:
        case Type.BOOL:
            values = st.booleans()
        case Type.I32:
            values = st.sampled_from(_INTERESTING) | st.integers(I32_MIN, I32_MAX)
        case Type.U32:
            values = st.sampled_from([n & U32_MAX for n in _INTERESTING]) | st.integers(0, U32_MAX)
        case Type.F32:
            values = st.sampled_from(_FLOATS) | st.floats(-64, 64, width=32)
    return values.map(lambda value: Const(value, kind))


def leaves(kind: Type, space: Space) -> st.SearchStrategy[Expr]:
    """Constants, parameters and, by type, inputs, coordinates and sizes."""
    found: list[Expr] = [Param(decl.name, decl.type) for decl in space.params if decl.type is kind]
    if kind is Type.I32:
        found += [Coord(axis) for axis in space.axes]
        found += [Extent(name) for name in ("kv_len", "qo_len", "head_dim", "num_heads")]
    if kind is Type.F32:
        found += space.floats
    return st.sampled_from(found) | constants(kind) if found else constants(kind)


@st.composite
def expressions(draw: st.DrawFn, kind: Type, space: Space = LOGITS, depth: int | None = None, loop: int = 0) -> Expr:
    """A well-typed expression of type ``kind`` over the leaves of ``space``."""
    depth = space.depth if depth is None else depth
    if depth <= 0 or draw(st.integers(0, 5)) == 0:
        return draw(leaves(kind, space))

    def inner(of: Type, by: int = 1) -> Expr:
        return draw(expressions(of, space, depth - by, loop))

    makers: list[Callable[[], Expr]] = [
        lambda: Select(inner(Type.BOOL), inner(kind), inner(kind)),
        lambda: _unary(draw, kind, space, inner),
        *[lambda: _binary(draw, kind, space, inner)] * 3,
        lambda: _cast(draw, kind, space, inner),
    ]
    if any(tensor.storage.loaded is kind and _loadable(tensor, space) for tensor in space.tensors):
        makers.append(lambda: _load(draw, kind, space, inner))
    if kind is Type.BOOL:
        makers += [lambda: _comparison(draw, inner)] * 3
    if space.loops and loop < 2 and (kind is not Type.F32 or not space.rounding):
        makers.append(lambda: _loop(draw, kind, space, depth, loop))
    return draw(st.sampled_from(makers))()


def _ops(table: dict[str, frozenset[Type]], kind: Type, space: Space) -> list[str]:
    limited = space.rounding and kind is Type.F32
    return [op for op, types in table.items() if kind in types and (not limited or op in _ROUNDS_ALIKE)]


def _unary(draw: st.DrawFn, kind: Type, space: Space, inner: Callable[[Type], Expr]) -> Expr:
    ops = _ops(UNARY, kind, space)
    return Unary(draw(st.sampled_from(ops)), inner(kind))


def _binary(draw: st.DrawFn, kind: Type, space: Space, inner: Callable[[Type], Expr]) -> Expr:
    ops = [op for op in _ops(BINARY, kind, space) if op not in ("lt", "le", "eq")]
    return Binary(draw(st.sampled_from(ops)), inner(kind), inner(kind))


def _comparison(draw: st.DrawFn, inner: Callable[[Type], Expr]) -> Expr:
    kind = draw(st.sampled_from([Type.I32, Type.I32, Type.U32, Type.F32, Type.BOOL]))
    return Binary("eq" if kind is Type.BOOL else draw(st.sampled_from(["lt", "le", "eq"])), inner(kind), inner(kind))


def _cast(draw: st.DrawFn, kind: Type, space: Space, inner: Callable[[Type], Expr]) -> Expr:
    source = draw(st.sampled_from([other for other in Type if other is not kind]))
    return Cast(kind, inner(source))


def _loadable(tensor: Tensor, space: Space) -> bool:
    return "d" in space.axes or tensor.name != "cosines"


def _load(draw: st.DrawFn, kind: Type, space: Space, inner: Callable[[Type, int], Expr]) -> Expr:
    fitting = [tensor for tensor in space.tensors if tensor.storage.loaded is kind and _loadable(tensor, space)]
    tensor = draw(st.sampled_from(fitting))
    indices = tuple(Coord("d") if dim is _DIM["head_dim"] else inner(Type.I32, 2) for dim in tensor.dims)
    return Load(tensor.name, indices, kind)


def _loop(draw: st.DrawFn, kind: Type, space: Space, depth: int, loop: int) -> Expr:
    axis = f"i{loop}"
    inside = replace(space, axes=(*space.axes, axis))
    body = draw(expressions(kind, inside, min(depth - 1, 2), loop + 1))
    reduction = draw(st.sampled_from(["any", "all"])) if kind is Type.BOOL else "sum"
    return Reduce(reduction, body, axis, Const(draw(st.integers(0, 4)), Type.I32))


def masks(space: Space | None = None) -> st.SearchStrategy[Expr]:
    """Conditions over pairs: formulas as people write them, and arbitrary ones."""
    arbitrary = replace(space or Space(), floats=())
    position = st.sampled_from([Coord(axis) for axis in ("q", "k", "row", "col", "own")])
    limit = st.sampled_from([Param("w", Type.I32), Load("prefix", (Coord("b"),), Type.I32)]) | constants(Type.I32)
    delta = st.builds(lambda x, y: Binary("sub", x, y), position, position)
    block = st.builds(lambda x, n: Binary("floordiv", x, Const(n, Type.I32)), position, st.sampled_from([1, 4, 16, -3]))
    number = position | limit | delta | block | delta.map(lambda x: Unary("abs", x))
    compare = st.builds(lambda op, x, y: Binary(op, x, y), st.sampled_from(["lt", "le", "eq"]), number, number)
    joined = st.recursive(
        compare | compare.map(build.invert),
        lambda inner: st.builds(lambda op, x, y: Binary(op, x, y), st.sampled_from(["and", "or"]), inner, inner),
        max_leaves=5,
    )
    return joined | expressions(Type.BOOL, arbitrary)


def smooth_logits() -> st.SearchStrategy[Expr]:
    """Formulas of the score, ``c`` and ``slopes`` whose value moves little when an operation rounds differently."""
    score, cap, slope = Input("score"), Param("c", Type.F32), Load("slopes", (Coord("h"),), Type.F32)
    distance = Cast(Type.F32, Binary("sub", Coord("k"), Coord("q")))
    numbers = st.sampled_from([0.5, -1.5, 2.0, 30.0]).map(build.f32)
    free = st.sampled_from([cap, slope, distance, Binary("mul", slope, distance), Binary("div", slope, cap)]) | numbers
    uniform = st.sampled_from([cap, Unary("neg", cap)]) | numbers
    near = Binary("lt", Coord("k"), Coord("q"))

    def binary(ops: str, left: st.SearchStrategy[Expr], right: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        return st.builds(Binary, st.sampled_from(ops.split()), left, right)

    def extend(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
        return st.one_of(
            binary("add sub min max", inner, inner | free),
            binary("add sub mul", free, inner),
            binary("div", inner, uniform | st.just(build.f32(0.0))),
            st.builds(Unary, st.sampled_from(["neg", "abs", "tanh", "sigmoid", "softplus"]), inner),
            inner.map(lambda x: Unary("exp", Binary("min", x, build.f32(3.0)))),
            inner.map(lambda x: Unary("log", Binary("add", Unary("abs", x), build.f32(1.0)))),
            st.builds(Select, st.just(near), inner, inner | free),
            inner.map(lambda x: Binary("mul", x, Unary("sigmoid", x))),
        )

    return st.recursive(st.just(score), extend, max_leaves=6)


@st.composite
def variants(draw: st.DrawFn, served: bool = False) -> Variant:
    """A variant the verifier accepts, with any hooks; ``served`` limits it to scale, logits, mask and sink."""
    depth = draw(st.integers(1, 4))
    pair, row = replace(LOGITS, depth=depth), replace(ROWS, depth=depth)

    def maybe(make: Callable[[], Expr], chance: int = 2) -> Expr | None:
        return make() if draw(st.integers(1, chance)) == 1 else None

    def number(space: Space) -> Callable[[], Expr]:
        return lambda: draw(expressions(Type.F32, space))

    branch = Branch(
        logits=maybe(number(pair)),
        mask=maybe(lambda: draw(masks(replace(pair, floats=())))),
        sm_scale=maybe(number(replace(row, axes=("b", "h", "hk"), tensors=TENSORS[:2], loops=False)), 4),
    )
    output, emits, requires = None, (), ()
    if draw(st.booleans()) and not served:
        weight = number(replace(pair, floats=(Input("score"), Input("logits"))))()
        branch = replace(branch, weight=weight, normalize=maybe(number(replace(row, floats=(Input("total"),)))))
    else:
        branch = replace(branch, sink=maybe(number(row), 3))
    if not served:
        for hook, axes in (("query", _ROW_AXES), ("key", ("b", "hk", "col", "k")), ("value", ("b", "hk", "col", "k"))):
            branch = replace(branch, **{hook: maybe(lambda hook=hook, axes=axes: draw(_vectors(hook, axes)), 6)})
        output = maybe(lambda: draw(_vectors("out", _ROW_AXES)), 6)
        value = maybe(
            lambda: Reduce("expect", draw(expressions(Type.F32, replace(pair, floats=(Input("logits"),))))), 6
        )
        norm = Input("lse" if branch.weight is None else "total")
        emits = () if value is None else (Emit("extra", "row", Binary("sub", norm, value)),)
        cond = maybe(lambda: draw(expressions(Type.BOOL, replace(row, axes=(), tensors=()))), 6)
        requires = () if cond is None else (Require(cond, 'say "why"'),)
    return Variant("random", PARAMS, TENSORS, (), requires, (branch,), output, emits)


def _vectors(name: str, axes: tuple[str, ...]) -> st.SearchStrategy[Expr]:
    """Channel vectors made of input ``name`` and of ``cosines``."""
    vector: Expr = Input(name)
    floats = (vector, Rotate("half", vector), Rotate("pairs", vector))
    whole = Reduce("dot", Binary("mul", vector, vector))
    space = Space(axes=(*axes, "d"), floats=(*floats, whole), tensors=TENSORS[-1:], loops=False, depth=3)
    return expressions(Type.F32, space).map(lambda scale: Binary("mul", vector, scale))


SIZES = {"batch": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "head_dim_v": 8, "n": 5}


@dataclass(frozen=True)
class Values:
    """What the leaves of a variant's expressions stand for; coordinates broadcast to [rows, cols]."""

    coords: dict[str, np.ndarray]
    extents: dict[str, int]
    params: dict[str, float | int | bool]
    tensors: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]


@st.composite
def values(draw: st.DrawFn, variant_params: tuple[ParamDecl, ...] = PARAMS) -> Values:
    """A small geometry, parameters with edge values, tensors and scores."""
    rows, cols = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    q_start, k_start = draw(st.integers(-20, 40)), draw(st.integers(-20, 40))
    row, col = np.arange(rows, dtype=np.int32)[:, None], np.arange(cols, dtype=np.int32)[None, :]
    hk = draw(st.integers(0, 1))
    coords = {"row": row, "col": col, "q": q_start + row, "k": k_start + col, "own": row + cols - rows}
    numbers = {"b": draw(st.integers(0, 2)), "hk": hk, "h": hk * 2 + draw(st.integers(0, 1)), "d": 3}
    coords |= {name: np.asarray(number, np.int32) for name, number in numbers.items()}
    sizes = {**SIZES, "qo_len": rows, "kv_len": cols, "n": draw(st.integers(0, 5))}
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    params = {decl.name: draw(constants(decl.type)).value for decl in variant_params}  # type: ignore[attr-defined]
    score = random.normal(size=(rows, cols)).astype(np.float32) * 3
    inputs = {"score": score, "logits": score + 1, "total": np.float32(2.0), "lse": np.float32(1.0)}
    tensors = {tensor.name: tensor_values(tensor, sizes, random) for tensor in TENSORS}
    return Values(coords, sizes, params, tensors, inputs)


def tensor_values(tensor: Tensor, sizes: dict[str, int], random: np.random.Generator) -> np.ndarray:
    """An array for a captured tensor, in the type a load of it yields."""
    shape = [sizes[dim.name] for dim in tensor.dims if isinstance(dim, Extent)]
    match tensor.storage.loaded:
        case Type.F32:
            return random.normal(size=shape).astype(np.float16).astype(np.float32)
        case Type.BOOL:
            return random.integers(0, 2, shape).astype(np.bool_)
        case Type.U32:
            return random.integers(0, 2**32, shape).astype(np.uint32)
    low, high = (-128, 128) if tensor.storage is Storage.I8 else (-3, 12)
    return random.integers(low, high, shape).astype(np.int32)
