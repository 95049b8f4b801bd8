"""Logits over the raw dot product: the value is kept, and the pair is left with as few multiplications as possible."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from attncc.ir import build
from attncc.ir.nodes import Binary, Branch, Coord, Expr, Extent, Input, Load, Param, Reduce, Variant
from attncc.ir.types import Type
from attncc.ir.walk import substitute, walk
from attncc.passes.canonicalize import canonicalize
from attncc.passes.dependence import facts, stage
from attncc.passes.scale import fold_scale, fold_sink, fold_weight
from tests import strategies
from tests.evaluator import Point, evaluate

SCORE, SCALE, RAW = Input("score"), Input("sm_scale"), Input("score")
C = Param("c", Type.F32)
Q, K, H, COL = (Coord(axis) for axis in ("q", "k", "h", "col"))
LOG2E = math.log2(math.e)


def op(symbol: str, left: Expr, right: Expr) -> Expr:
    return (build.compare if symbol in build.COMPARE else build.binary)(symbol, left, right)


def call(name: str, *arguments: Expr) -> Expr:
    return build.call(name, arguments)


SLOPE = Load("slopes", (H,), Type.F32)
MASKED = build.f32(-math.inf)
SOFTCAP = op("*", C, call("tanh", op("/", SCORE, C)))


# A formula, and how many multiplications or divisions of values that read the score a pair is left with.
@pytest.mark.parametrize(
    ("logits", "products"),
    [
        (None, 1),
        (SOFTCAP, 2),
        (op("+", SCORE, op("*", SLOPE, op("-", K, Q))), 1),
        (op("/", SCORE, C), 1),
        (op("*", SCORE, call("log", Extent("kv_len"))), 1),
        (build.negate(SCORE), 1),
        (call("relu", SCORE), 1),
        (call("clamp", SCORE, build.negate(C), C), 1),
        (call("log", op("+", build.f32(1.0), call("exp", SCORE))), 1),
        (build.select(op(">", SCORE, build.f32(0.0)), SCORE, MASKED), 2),
        (op("*", SCORE, Load("key_scale", (COL,), Type.F32)), 2),
    ],
)
def test_multiplications_of_a_pair(logits: Expr | None, products: int) -> None:
    folded = fold_scale(Branch(logits=logits))
    assert folded is not None
    known = facts(folded)
    left = [n for n in walk(folded) if isinstance(n, Binary) and n.op in ("mul", "div") and "score" in known[n]]
    assert len(left) == products


def test_softcap_in_full() -> None:
    factor = op("*", C, build.f32(LOG2E))
    inner = op("*", RAW, op("/", SCALE, C))
    assert fold_scale(Branch(logits=SOFTCAP)) is op("*", call("tanh", inner), factor)


def test_plain_attention_is_one_hoisted_factor() -> None:
    folded = fold_scale(Branch())
    assert isinstance(folded, Binary)
    assert folded.left is RAW
    assert stage(facts(folded, branch=Branch())[folded.right]) == "item"


def test_uniform_factors_of_a_bias_leave_the_pair() -> None:
    """slopes[h] · log2(e) belongs to the row; the pair multiplies it with the distance once."""
    folded = fold_scale(Branch(logits=op("+", SCORE, op("*", SLOPE, op("-", K, Q)))))
    known = facts(folded)
    assert any(stage(known[node]) == "row" and isinstance(node, Binary) and node.left is SLOPE for node in walk(folded))


def test_masked_logits_stay_minus_infinity() -> None:
    logits = build.select(op("<", K, Q), op("/", SCORE, C), MASKED)
    folded = fold_scale(Branch(logits=logits))
    point = Point({"q": 0, "k": 1}, params={"c": 0.0}, inputs={"score": 3.0, "sm_scale": 0.0})
    assert evaluate(folded, point) == -math.inf


def test_a_score_of_the_dot_product_folds_and_others_do_not() -> None:
    dot = Reduce("dot", op("*", Input("query"), Input("key")))
    assert fold_scale(Branch(score=op("*", dot, C))) is op("*", RAW, op("*", C, build.f32(LOG2E)))
    norm = Reduce("dot", op("*", Input("query"), Input("query")))
    assert fold_scale(Branch(score=op("*", dot, norm))) is None


def test_sink_in_the_log2_domain() -> None:
    assert fold_sink(Branch()) is None
    assert fold_sink(Branch(sink=build.f32(1.0))) is build.f32(LOG2E)


def test_scale_can_be_given() -> None:
    given_scale = Param("scale", Type.F32)
    assert fold_scale(Branch(), given_scale) is op("*", RAW, op("*", given_scale, build.f32(LOG2E)))


def test_branches_keep_their_score() -> None:
    folded = fold_scale(Branch("x"))
    assert folded is op("*", Input("score", "x"), op("*", Input("sm_scale", "x"), build.f32(LOG2E)))


def test_deep_formulas_fold() -> None:
    logits: Expr = SCORE
    for _ in range(3000):
        logits = call("tanh", logits)
    assert fold_scale(Branch(logits=logits)) is not None


@given(strategies.smooth_logits(), strategies.values())
def test_value_is_kept(logits: Expr, values: strategies.Values) -> None:
    """In float64 the folded formula equals log2(e) times the written one at score = sm_scale · dot."""
    branch = canonicalize(Variant("v", branches=(Branch(logits=logits),))).branch()
    folded = fold_scale(branch)
    assert folded is not None
    raw, scale = values.inputs["score"].astype(np.float64), 0.25
    params = {**values.params, "c": 2.5}
    point = Point(values.coords, values.extents, params, values.tensors, {"score": raw, "sm_scale": scale})
    expected = evaluate(logits, replace(point, inputs={"score": raw * scale}), precise=True) * LOG2E
    found = evaluate(folded, point, precise=True)
    np.testing.assert_allclose(*np.broadcast_arrays(found, expected), rtol=1e-5, atol=1e-5)


@given(strategies.smooth_logits(), strategies.values())
def test_weights_are_kept(weight: Expr, values: strategies.Values) -> None:
    weight = substitute(weight, {SCORE: Binary("add", Input("logits"), SCORE)})
    branch = Branch(logits=op("*", SCORE, C), weight=weight)
    folded = fold_weight(branch)
    assert folded is not None
    raw, scale = values.inputs["score"].astype(np.float64), 0.25
    params = {**values.params, "c": 2.5}
    point = Point(values.coords, values.extents, params, values.tensors, {"score": raw, "sm_scale": scale})
    written = {"score": raw * scale, "logits": raw * scale * 2.5}
    expected = evaluate(weight, replace(point, inputs=written), precise=True)
    found = evaluate(folded, point, precise=True)
    np.testing.assert_allclose(*np.broadcast_arrays(found, expected), rtol=1e-5, atol=1e-5)
