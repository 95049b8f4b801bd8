"""The masks of the acceptance list as IR, with parameters and tensors to draw: what loop bounds and tile proofs are
tested on. Formulas only; nothing here knows how they are analysed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from attncc.ir import build
from attncc.ir.nodes import Branch, Const, Coord, Expr, Extent, Load, Param, ParamDecl, Reduce, Tensor, Variant
from attncc.ir.types import Storage, Type

Q, K, ROW, COL, OWN, B, H = (Coord(axis) for axis in ("q", "k", "row", "col", "own", "b", "h"))
BATCH, HEADS, KV_LEN, QO_LEN = (Extent(name) for name in ("batch", "num_heads", "kv_len", "qo_len"))


def op(symbol: str, *operands: Expr | int) -> Expr:
    """Folds ``symbol`` from the left over expressions and numbers."""
    first, *rest = (build.i32(item) if isinstance(item, int) else item for item in operands)
    for item in rest:
        match symbol:
            case "and":
                first = build.both(first, item)
            case "or":
                first = build.either(first, item)
            case "<" | "<=" | ">" | ">=" | "==" | "!=":
                first = build.compare(symbol, first, item)
            case "min" | "max":
                first = build.call(symbol, (first, item))
            case _:
                first = build.binary(symbol, first, item)
    return first


def absolute(x: Expr) -> Expr:
    return build.call("abs", (x,))


def param(name: str) -> Expr:
    return Param(name, Type.I32)


def load(name: str, *indices: Expr | int) -> Expr:
    kind = TENSORS[name][0].loaded
    return Load(name, tuple(build.i32(i) if isinstance(i, int) else i for i in indices), kind)


# name → storage, axes, values drawn from [low, high).
TENSORS: dict[str, tuple[Storage, tuple[Expr, ...], int, int]] = {
    "doc": (Storage.I32, (BATCH, KV_LEN), 0, 4),
    "prefix": (Storage.I32, (BATCH,), 0, 120),
    "glob": (Storage.BOOL, (KV_LEN,), 0, 2),
    "ancestor": (Storage.BOOL, (QO_LEN, Extent("tree")), 0, 2),
    "lo": (Storage.I32, (Extent("images"),), 0, 60),
    "hi": (Storage.I32, (Extent("images"),), 40, 140),
    "img": (Storage.I32, (KV_LEN,), -1, 4),
    "chosen": (Storage.BOOL, (HEADS, Extent("row_blocks"), Extent("col_blocks")), 0, 2),
    "vertical": (Storage.BOOL, (HEADS, KV_LEN), 0, 2),
    "slash": (Storage.BOOL, (HEADS, Extent("diagonals")), 0, 2),
    "lts": (Storage.I32, (KV_LEN,), 0, 140),
    "lte": (Storage.I32, (KV_LEN,), 0, 140),
    "uts": (Storage.I32, (KV_LEN,), 0, 140),
    "ute": (Storage.I32, (KV_LEN,), 0, 140),
    "pos_q": (Storage.I32, (QO_LEN,), 0, 140),
    "pos_k": (Storage.I32, (KV_LEN,), 0, 140),
    "bits": (Storage.U32, (QO_LEN, Extent("words")), 0, 2**32),
}
EXTENTS = {"tree": 7, "images": 4, "row_blocks": 3, "col_blocks": 5, "diagonals": 50, "words": 5}


@dataclass(frozen=True)
class MaskCase:
    """``exact``: the ranges must be the smallest possible, tile by tile. ``params``: name → values to try."""

    name: str
    mask: Expr
    params: dict[str, tuple[int, ...]] = field(default_factory=dict)
    exact: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        from attncc.ir.walk import walk

        return tuple(dict.fromkeys(node.tensor for node in walk(self.mask) if isinstance(node, Load)))

    def variant(self) -> Variant:
        """A variant of this mask alone."""
        tensors = tuple(Tensor(name, TENSORS[name][0], TENSORS[name][1]) for name in self.tensors)
        decls = tuple(ParamDecl(name, Type.I32) for name in self.params)
        return Variant("case", params=decls, tensors=tensors, branches=(Branch(mask=self.mask),))


def draw_tensor(name: str, sizes: dict[str, int], random: np.random.Generator) -> np.ndarray:
    """An array for tensor ``name``, with the token axes at this request's lengths."""
    storage, dims, low, high = TENSORS[name]
    shape = [sizes[dim.name] for dim in dims if isinstance(dim, Extent)]
    dtype = {Storage.I32: np.int32, Storage.BOOL: np.bool_, Storage.U32: np.uint32}[storage]
    return random.integers(low, high, shape).astype(dtype)


CAUSAL = op(">=", Q, K)
DELTA = op("-", Q, K)
WINDOWS = (1, 7, 64, 2**31 - 1)


def _window(w: Expr) -> Expr:
    return op("<", DELTA, w)


def _neighbourhood(width: int, radius: int) -> Expr:
    def axis(of: Callable[[Expr], Expr], size: int) -> Expr:
        centre = op("min", op("max", of(Q), radius), size - 1 - radius)
        return op("<=", absolute(op("-", centre, of(K))), radius)

    return op("and", axis(lambda p: op("%", p, width), width), axis(lambda p: op("//", p, width), 12))


def _block_diffusion(half: int, block: int) -> Expr:
    noisy_q, noisy_k = op("<", Q, half), op("<", K, half)
    bq, bk = op("//", op("%", Q, half), block), op("//", op("%", K, half), block)
    own = op("and", noisy_q, noisy_k, op("==", bq, bk))
    past = op("and", noisy_q, build.invert(noisy_k), op("<", bk, bq))
    clean = op("and", build.invert(noisy_q), build.invert(noisy_k), op("<=", bk, bq))
    return op("or", own, past, clean)


def _morton(x: Expr) -> Expr:
    # Every second bit of x: one coordinate of a Z-order curve.
    x = op("&", x, 0x55555555)
    for shift, mask in ((1, 0x33333333), (2, 0x0F0F0F0F)):
        x = op("&", op("|", x, op(">>", x, shift)), mask)
    return x


def _tile_3d(radius: int) -> Expr:
    def tile(p: Expr) -> tuple[Expr, Expr, Expr]:
        return op("//", p, 64), op("%", op("//", p, 16), 4), op("%", op("//", p, 4), 4)

    near = [op("<=", absolute(op("-", a, b)), radius) for a, b in zip(tile(Q), tile(K), strict=True)]
    return op("and", *near)


def _document_prefix() -> Expr:
    same = op("==", load("doc", B, OWN), load("doc", B, COL))
    return op("and", same, op("or", op("<", op("-", K, load("lo", load("doc", B, COL))), 5), CAUSAL))


def _slashes() -> Expr:
    index = Coord("i0")
    hit = build.either(op("==", DELTA, op("*", index, 9)), op("==", K, op("*", index, 31)))
    return op("and", CAUSAL, Reduce("any", hit, "i0", Const(4, Type.I32)))


W, C, N, P = (param(name) for name in ("w", "c", "n", "p"))
_BIT = op("&", op(">>", load("bits", ROW, op("//", COL, 32)), build.cast(op("%", COL, 32), Type.U32)), 1)

CASES: tuple[MaskCase, ...] = (
    MaskCase("none", build.TRUE, exact=True),
    MaskCase("never", build.FALSE, exact=True),
    MaskCase("1 causal", CAUSAL, exact=True),
    MaskCase("1 causal by storage", op(">=", ROW, COL), exact=True),
    MaskCase("1 strictly causal", op("<", K, Q), exact=True),
    MaskCase("2 window", op("and", CAUSAL, _window(W)), {"w": WINDOWS}, exact=True),
    MaskCase("2 window by addition", op("and", CAUSAL, op("<", Q, op("+", K, W))), {"w": WINDOWS}),
    MaskCase("2 window, constant", op("and", op("<=", 0, DELTA), op("<", DELTA, 16)), exact=True),
    MaskCase("3 symmetric", op("<=", absolute(DELTA), W), {"w": WINDOWS}, exact=True),
    MaskCase("3 both sides", op("and", op("<=", DELTA, W), op("<=", op("-", K, Q), W)), {"w": WINDOWS}, exact=True),
    MaskCase("3 outside", op("<", W, absolute(DELTA)), {"w": WINDOWS}, exact=True),
    MaskCase("4 dilated", op("and", op("<=", absolute(DELTA), W), op("==", op("%", DELTA, 3), 0)), {"w": WINDOWS}),
    MaskCase("5 prefix", op("or", op("<", K, P), CAUSAL), {"p": (0, 5, 40, 10**6, -3)}, exact=True),
    MaskCase("5 prefix per request", op("or", op("<", K, load("prefix", B)), CAUSAL), exact=True),
    MaskCase("6 documents", op("and", op("==", load("doc", B, OWN), load("doc", B, COL)), CAUSAL)),
    MaskCase("7 documents of prefix-LMs", _document_prefix()),
    MaskCase("8 longformer", op("or", op("<=", absolute(DELTA), W), load("glob", OWN), load("glob", COL)), {"w": (7,)}),
    MaskCase(
        "8 global prefix and window",
        op("or", op("<=", absolute(DELTA), W), op("<", Q, N), op("<", K, N)),
        {"w": WINDOWS, "n": (0, 3, 70)},
    ),
    MaskCase(
        "9 sinks", op("and", CAUSAL, op("or", op("<", K, N), _window(W))), {"w": WINDOWS, "n": (0, 4)}, exact=True
    ),
    MaskCase("10 chunked", op("and", op("==", op("//", Q, C), op("//", K, C)), CAUSAL), {"c": (1, 16, 37, 0, -5)}),
    MaskCase("10 chunked, constant", op("and", op("==", op("//", Q, 32), op("//", K, 32)), CAUSAL), exact=True),
    MaskCase("10 chunk by start", op("and", CAUSAL, op("<=", op("*", op("//", Q, 32), 32), K)), exact=True),
    MaskCase("10 chunk by bits", op("and", CAUSAL, op("<=", op("&", Q, -32), K)), exact=True),
    MaskCase("11 block diffusion", _block_diffusion(64, 8)),
    MaskCase(
        "12 shared prefix",
        op("or", op("<", K, N), op("and", op("==", load("doc", B, OWN), load("doc", B, COL)), CAUSAL)),
        {"n": (0, 20)},
    ),
    MaskCase("13 tree", op("or", op("<", K, P), load("ancestor", ROW, op("-", K, P))), {"p": (0, 30)}),
    MaskCase("14 neighbourhood", _neighbourhood(12, 2)),
    MaskCase("15 morton", op("<=", absolute(op("-", _morton(Q), _morton(K))), 2)),
    MaskCase("16 sliding tiles", _tile_3d(1)),
    MaskCase("17 temporal", op("and", op("==", op("%", Q, 20), op("%", K, 20)), CAUSAL)),
    MaskCase("17 spatial", op("==", op("//", Q, 20), op("//", K, 20)), exact=True),
    MaskCase(
        "18 interleaved", op("and", op("<=", load("lo", load("img", COL)), Q), op("<", Q, load("hi", load("img", COL))))
    ),
    MaskCase(
        "19 modalities",
        op("or", CAUSAL, op("and", op("==", load("img", OWN), load("img", COL)), op("<=", 0, load("img", COL)))),
    ),
    MaskCase("20 block sparse", load("chosen", H, op("//", ROW, 16), op("//", COL, 16))),
    MaskCase("21 vertical-slash", op("and", CAUSAL, op("or", load("vertical", H, COL), load("slash", H, DELTA)))),
    MaskCase("21 a few slashes", _slashes()),
    MaskCase(
        "22 column ranges",
        build.invert(
            op(
                "or",
                op("and", op("<=", load("lts", COL), ROW), op("<", ROW, load("lte", COL))),
                op("and", op("<=", load("uts", COL), ROW), op("<", ROW, load("ute", COL))),
            )
        ),
    ),
    MaskCase("23 permuted", op(">=", load("pos_q", ROW), load("pos_k", COL))),
    MaskCase("24 packed bits", build.compare("==", _BIT, Const(1, Type.U32))),
    MaskCase("by head", op("and", CAUSAL, op("<", DELTA, op("*", op("+", H, 1), 8)))),
    MaskCase("odd parameters", op("<", op("-", op("*", K, W), Q), N), {"w": WINDOWS, "n": (0, 2**31 - 1, -(2**31))}),
    MaskCase(
        "products upon products",
        op("<", op("*", op("*", K, 2**30), 2**30), op("*", op("*", Q, W), 2**30)),
        {"w": WINDOWS},
    ),
    MaskCase(
        "chunks of chunks", op("<=", op("//", op("//", op("*", K, C), C), C), W), {"c": (3, 2**31 - 1), "w": WINDOWS}
    ),
    MaskCase("not causal", build.invert(CAUSAL), exact=True),
    MaskCase("doubled", op("<=", op("*", K, 2), Q)),
    MaskCase("halves", op("and", op("<", op("//", K, 2), 9), op("<", op(">>", Q, 1), K)), exact=False),
    MaskCase(
        "chosen by parameter",
        build.select(op("<", W, 10), CAUSAL, op("<=", absolute(DELTA), W)),
        {"w": WINDOWS},
    ),
    MaskCase(
        "selected limit",
        op("<=", build.select(op("<", K, 30), op("+", K, W), op("-", K, W)), Q),
        {"w": (0, 5, 2**31 - 1)},
    ),
)
