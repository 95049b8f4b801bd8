"""Random well-typed variants from a seed: every node and operation that a pairwise hook may hold.

Unlike a hypothesis strategy it makes many at once, so that one compiler run serves all of them. Magnitudes stay small,
and what decides (a comparison, a rounding) is over arithmetic that is exact in f32, so that two correct implementations
agree on the side.
"""

from __future__ import annotations

import numpy as np

from attncc.ir import build
from attncc.ir.nodes import Branch, Coord, Expr, Extent, Input, Load, Param, ParamDecl, Reduce, Tensor, Variant
from attncc.ir.types import Storage, Type
from attncc.ir.verify import verify

PARAMS = (
    ParamDecl("alpha", Type.F32, 1.5),
    ParamDecl("width", Type.I32, 4),
    ParamDecl("bits", Type.U32, 5),
    ParamDecl("flag", Type.BOOL, True),
)
TENSORS = (
    Tensor("per_head", Storage.F32, (Extent("num_heads"),)),
    Tensor("per_token", Storage.I32, (Extent("batch"), Extent("kv_len"))),
    Tensor("table", Storage.BF16, (Extent("num_heads"), Extent("n"))),
    Tensor("small", Storage.I8, (Extent("n"), Extent("m"))),
    Tensor("words", Storage.U32, (Extent("kv_len"),)),
    Tensor("on", Storage.BOOL, (Extent("batch"), Extent("m"))),
    Tensor("long", Storage.I64, ()),
)
ROW_AXES = ("b", "h", "hk", "row", "q", "own")
PAIR_AXES = (*ROW_AXES, "col", "k")


class _Grower:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.loops = 0

    def pick(self, *choices: str) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def grow(self, kind: Type, depth: int, axes: tuple[str, ...], score: bool = False) -> Expr:
        """An expression of ``kind`` over ``axes``; ``score``: f32 may read the score."""
        makers = {Type.F32: self.f32, Type.I32: self.i32, Type.U32: self.u32, Type.BOOL: self.bool}
        return makers[kind](depth, axes, score)

    def f32(self, depth: int, axes: tuple[str, ...], score: bool) -> Expr:
        if depth <= 0 or self.rng.random() < 0.1:
            match self.pick("score", "param", "load", "table", "const", "coord"):
                case "score" if score:
                    return Input("score")
                case "load":
                    return Load("per_head", (self.i32(1, axes, False),), Type.F32)
                case "table":
                    return Load("table", (self.i32(1, axes, False), self.i32(1, axes, False)), Type.F32)
                case "const":
                    return build.f32(float(self.rng.choice([0.0, 0.5, 1.0, -2.0, 3.25, 0.1])))
                case "coord":
                    return build.cast(Coord(self.pick(*axes)), Type.F32)
            return Param("alpha", Type.F32)
        x = self.f32(depth - 1, axes, score)
        match self.pick(
            "add", "add", "mul", "sub", "div", "bounded", "bounded", "extreme", "select", "sum", "neg", "root"
        ):
            case "add":
                return build.binary("+", x, self.f32(depth - 1, axes, score))
            case "sub":
                return build.binary("-", x, self.f32(depth - 1, axes, score))
            case "mul":
                return build.binary("*", x, self.f32(1, axes, False))
            case "div":
                return build.binary("/", x, self.f32(1, axes, False))
            case "bounded":
                return build.call(self.pick("tanh", "sigmoid", "sin", "cos", "erf"), (x,))
            case "extreme":
                return build.call(self.pick("min", "max"), (x, self.f32(depth - 1, axes, score)))
            case "select":
                return build.select(self.bool(depth - 1, axes, False), x, self.f32(depth - 1, axes, score))
            case "sum":
                return self.loop("sum", Type.F32, depth, axes)
            case "neg":
                return build.negate(x)
        root = build.call(self.pick("sqrt", "log1p", "softplus"), (build.call("abs", (x,)),))
        return root

    def i32(self, depth: int, axes: tuple[str, ...], score: bool) -> Expr:
        if depth <= 0 or self.rng.random() < 0.1:
            match self.pick("coord", "coord", "coord", "param", "load", "small", "const", "extent", "long"):
                case "param":
                    return Param("width", Type.I32)
                case "load":
                    token = Coord(self.pick(*(axis for axis in axes if axis not in ("h", "hk")), "b"))
                    return Load("per_token", (Coord("b"), token), Type.I32)
                case "small":
                    return Load("small", (self.i32(0, axes, False), self.i32(0, axes, False)), Type.I32)
                case "const":
                    return build.i32(int(self.rng.choice([0, 1, -1, 2, 3, 4, 8, 2**31 - 1, -(2**31)])))
                case "extent":
                    return Extent(self.pick("kv_len", "qo_len", "num_heads", "n", "head_dim"))
                case "long":
                    return Load("long", (), Type.I32)
            return Coord(self.pick(*axes))
        x = self.i32(depth - 1, axes, False)
        match self.pick(
            "arithmetic", "arithmetic", "div", "shift", "bits", "extreme", "select", "cast", "sum", "unary"
        ):
            case "arithmetic":
                return build.binary(self.pick("+", "-", "*"), x, self.i32(depth - 1, axes, False))
            case "div":
                return build.binary(self.pick("//", "%"), x, self.i32(min(depth - 1, 1), axes, False))
            case "shift":
                return build.binary(self.pick("<<", ">>"), x, self.i32(0, axes, False))
            case "bits":
                return build.binary(self.pick("&", "|", "^"), x, self.i32(depth - 1, axes, False))
            case "extreme":
                return build.call(self.pick("min", "max"), (x, self.i32(depth - 1, axes, False)))
            case "select":
                return build.select(self.bool(depth - 1, axes, False), x, self.i32(depth - 1, axes, False))
            case "cast":
                return build.cast(self.grow(Type[self.pick("U32", "BOOL")], depth - 1, axes), Type.I32)
            case "sum":
                return self.loop("sum", Type.I32, depth, axes)
        return build.negate(x) if self.rng.random() < 0.5 else build.call("abs", (x,))

    def u32(self, depth: int, axes: tuple[str, ...], score: bool) -> Expr:
        if depth <= 0:
            match self.pick("param", "load", "cast"):
                case "param":
                    return Param("bits", Type.U32)
                case "load":
                    return Load("words", (self.i32(0, axes, False),), Type.U32)
            return build.cast(self.i32(0, axes, False), Type.U32)
        symbol = self.pick("+", "-", "*", "//", "%", "<<", ">>", "&", "|", "^")
        return build.binary(symbol, self.u32(depth - 1, axes, False), self.u32(depth - 1, axes, False))

    def bool(self, depth: int, axes: tuple[str, ...], score: bool) -> Expr:
        if depth <= 0:
            match self.pick("param", "load", "compare", "compare"):
                case "param":
                    return Param("flag", Type.BOOL)
                case "load":
                    return Load("on", (Coord("b"), self.i32(0, axes, False)), Type.BOOL)
            return build.compare(self.pick("<", "<=", "=="), self.i32(0, axes, False), self.i32(0, axes, False))
        match self.pick("both", "either", "not", "compare", "compare", "compare", "xor", "any", "floats", "select"):
            case "both":
                return build.both(self.bool(depth - 1, axes, False), self.bool(depth - 1, axes, False))
            case "either":
                return build.either(self.bool(depth - 1, axes, False), self.bool(depth - 1, axes, False))
            case "not":
                return build.invert(self.bool(depth - 1, axes, False))
            case "xor":
                return build.binary("^", self.bool(depth - 1, axes, False), self.bool(depth - 1, axes, False))
            case "any":
                return self.loop(self.pick("any", "all"), Type.BOOL, depth, axes)
            case "floats":  # exact in f32: halves of small integers
                half = build.binary("*", build.cast(Coord(self.pick(*axes)), Type.F32), build.f32(0.5))
                moved = build.binary("+", half, build.cast(Load("small", (Coord("b"), Coord("b")), Type.I32), Type.F32))
                return build.compare(self.pick("<", "<=", "=="), moved, build.cast(Coord(self.pick(*axes)), Type.F32))
            case "select":
                return build.select(*(self.bool(depth - 1, axes, False) for _ in range(3)))
        kind = Type[self.pick("I32", "I32", "U32")]
        left, right = self.grow(kind, depth - 1, axes), self.grow(kind, depth - 1, axes)
        return build.compare(self.pick("<", "<=", ">", ">=", "==", "!="), left, right)

    def loop(self, kind: str, type: Type, depth: int, axes: tuple[str, ...]) -> Expr:
        """A comprehension; inside it the index is one more axis."""
        if self.loops >= 2:
            return self.grow(type, 0, axes)
        index = f"i{self.loops}"
        self.loops += 1
        body = self.grow(type, depth - 1, (*axes, index, index))
        self.loops -= 1
        extent = build.i32(int(self.rng.integers(0, 4))) if self.rng.random() < 0.5 else Extent("m")
        return Reduce(kind, body, index, extent)


def random_variant(seed: int) -> Variant:
    """The variant of a seed: always logits and a mask, at times a sink and an sm_scale."""
    rng = np.random.default_rng(seed)
    grower = _Grower(rng)
    depth = int(rng.integers(1, 5))
    hooks: dict[str, Expr] = {
        "logits": build.binary("+", Input("score"), grower.f32(depth, PAIR_AXES, True)),
        "mask": grower.bool(depth, PAIR_AXES, False),
    }
    if rng.random() < 0.3:
        hooks["sink"] = grower.f32(depth - 1, ROW_AXES, False)
    if rng.random() < 0.3:
        hooks["sm_scale"] = build.call("sigmoid", (grower.f32(1, ("b", "h", "hk"), False),))
    variant = Variant(f"random_{seed}", PARAMS, TENSORS, branches=(Branch(**hooks),))
    verify(variant)
    return variant
