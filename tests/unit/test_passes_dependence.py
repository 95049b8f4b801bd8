"""What values vary with: worked examples, and the truth of the facts on random expressions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from attncc.ir import build
from attncc.ir.nodes import Branch, Coord, Expr, Extent, Input, Load, Operand, Param, Reduce, Tensor, Variant
from attncc.ir.types import Storage, Type
from attncc.passes.canonicalize import canonicalize
from attncc.passes.dependence import dependence, facts, stage
from tests import strategies
from tests.evaluator import Point, evaluate

Q, K, ROW, COL, OWN, B, H, HK, D = (Coord(axis) for axis in ("q", "k", "row", "col", "own", "b", "h", "hk", "d"))
SCORE = Input("score")
W = Param("w", Type.I32)
C = Param("c", Type.F32)


def op(symbol: str, left: Expr, right: Expr | int) -> Expr:
    other = build.i32(right) if isinstance(right, int) else right
    make = build.compare if symbol in build.COMPARE else build.binary
    return make(symbol, left, other)


def load(name: str, *indices: Expr) -> Expr:
    return Load(name, indices, Type.I32 if name in ("doc", "prefix") else Type.F32)


DELTA = op("-", Q, K)
BUCKET = build.cast(build.call("log", (build.cast(build.call("abs", (DELTA,)), Type.F32),)), Type.I32)

EXAMPLES: list[tuple[str, Expr, str, str]] = [
    ("constant", build.f32(1.0), "", "item"),
    ("position", Q, "row geom", "row"),
    ("key position", K, "col geom", "key"),
    ("own slot", OWN, "row geom", "row"),
    ("parameter", W, "b", "item"),
    ("length", Extent("kv_len"), "geom", "item"),
    ("head_dim", Extent("head_dim"), "", "item"),
    ("causal", op(">=", Q, K), "delta geom", "delta"),
    ("causal by storage", op(">=", ROW, COL), "delta", "delta"),
    ("window", op("<", DELTA, W), "b delta geom", "delta"),
    ("window by addition", op("<", Q, op("+", K, W)), "b row col geom", "element"),  # k + w may wrap
    ("window by constant addition", op("<", Q, op("+", K, 128)), "delta geom", "delta"),
    ("distance", build.call("abs", (DELTA,)), "delta geom", "delta"),
    ("T5 bucket", load("table", H, BUCKET), "h delta geom", "element"),
    ("table by distance", load("table", HK, DELTA), "hk delta geom", "delta"),
    ("alibi", op("*", load("slopes", H), op("-", K, Q)), "h delta geom", "element"),
    ("twice the distance", op("-", op("*", Q, 2), op("*", K, 2)), "delta geom", "delta"),
    ("scaled unevenly", op("-", op("*", Q, 2), K), "row col geom", "element"),
    ("sum of positions", op("+", Q, K), "row col geom", "element"),
    ("row cancels", op("-", op("+", Q, K), Q), "col geom", "key"),
    ("chunks", op("==", op("//", Q, 16), op("//", K, 16)), "row col geom", "element"),
    ("diagonal beside a row", op("<", DELTA, op("*", ROW, ROW)), "row col geom", "element"),
    ("difference without its row", op("<", DELTA, ROW), "col geom", "key"),
    ("documents", op("==", load("doc", B, OWN), load("doc", B, COL)), "b row col geom", "element"),
    ("prefix", op("<", K, load("prefix", B)), "b col geom", "key"),
    ("key bias", load("bias", HK, COL), "hk col", "key"),
    ("head of the row", load("slopes", H), "h", "row"),
    ("softcap", op("*", C, build.call("tanh", (op("/", SCORE, C),))), "b score", "element"),
    ("gate", load("gate", H, D), "h d", "element"),
    ("loop", Reduce("sum", op("*", Coord("i0"), Q), "i0", build.i32(4)), "row geom", "row"),
    ("query norm", Reduce("dot", op("*", Input("query"), Input("query"))), "b h row", "row"),
    ("expectation", Reduce("expect", Input("logits")), "b h row", "row"),
    ("column mass", Reduce("colsum", Input("prob")), "b h col", "element"),
]


@pytest.mark.parametrize(("name", "expr", "expected", "where"), EXAMPLES, ids=[example[0] for example in EXAMPLES])
def test_examples(name: str, expr: Expr, expected: str, where: str) -> None:
    found = facts(expr)[expr]
    assert found == set(expected.split())
    assert stage(found) == where


def test_token_axes_depend_on_lengths() -> None:
    tensor = Tensor("flags", Storage.BOOL, (Extent("kv_len"),))
    mask = Load("flags", (COL,), Type.BOOL)
    variant = Variant("v", tensors=(tensor,), branches=(Branch(mask=mask),))
    assert dependence(variant)[mask] == {"col", "geom"}


def test_operands_vary_as_their_role() -> None:
    operand = Operand("q_pe", "query", Extent("num_heads"), build.i32(64))
    part = Input("q_pe")
    score = Reduce("dot", op("*", part, part))
    variant = Variant("v", operands=(operand,), branches=(Branch(score=score),))
    assert dependence(variant)[part] == {"b", "h", "row", "d"}


def test_scale_varies_as_its_hook() -> None:
    leaf = Input("sm_scale")
    assert facts(leaf)[leaf] == {"b", "h"}
    assert facts(leaf, branch=Branch())[leaf] == {"b"}
    assert facts(leaf, branch=Branch(sm_scale=load("slopes", H)))[leaf] == {"b", "h"}


SPACE = strategies.Space(axes=("row", "col", "q", "k", "own"), floats=(), tensors=strategies.TENSORS[1:2], depth=3)


@given(strategies.expressions(Type.I32, SPACE) | strategies.masks(SPACE), strategies.values())
def test_facts_hold(expr: Expr, values: strategies.Values) -> None:
    """A value without ``row`` is the same in all rows, one of ``delta`` alone the same along diagonals."""
    point = Point(values.coords, values.extents, values.params, values.tensors, values.inputs)
    found = facts(expr)[expr]
    rows, cols = values.extents["qo_len"], values.extents["kv_len"]
    table = np.broadcast_to(evaluate(expr, point), (rows, cols))
    if not found & {"row", "delta"}:
        assert (table == table[:1]).all()
    if not found & {"col", "delta"}:
        assert (table == table[:, :1]).all()
    if not found & {"row", "col"}:
        assert (table[1:, 1:] == table[:-1, :-1]).all()


@given(strategies.variants())
def test_facts_are_never_both(variant: Variant) -> None:
    for found in dependence(canonicalize(variant)).values():
        assert not ("delta" in found and found & {"row", "col"})
