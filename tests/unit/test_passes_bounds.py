"""Bounds of logits: what a softcap proves, what nothing proves, and that no logit exceeds its bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given

from attncc.ir import build
from attncc.ir.nodes import Branch, Coord, Expr, Input, Load, Param, Variant
from attncc.ir.types import Type
from attncc.passes.bounds import logit_bound, logit_bound_expr
from attncc.passes.canonicalize import canonicalize, simplified
from tests import strategies
from tests.evaluator import Point, evaluate

SCORE, C = Input("score"), Param("c", Type.F32)
CAUSAL = build.compare(">=", Coord("q"), Coord("k"))


def op(symbol: str, left: Expr, right: Expr) -> Expr:
    return build.binary(symbol, left, right)


def call(name: str, *arguments: Expr) -> Expr:
    return build.call(name, arguments)


def softcap(c: Expr) -> Expr:
    return op("*", c, call("tanh", op("/", SCORE, c)))


def variant(logits: Expr | None) -> Variant:
    decls, tensors = strategies.PARAMS, strategies.TENSORS
    return canonicalize(Variant("v", decls, tensors, branches=(Branch(logits=logits),)))


@pytest.mark.parametrize(
    ("logits", "bound"),
    [
        (None, None),
        (softcap(build.f32(30.0)), 30.0),
        (op("+", softcap(build.f32(30.0)), build.f32(5.0)), 35.0),
        (build.select(CAUSAL, softcap(build.f32(50.0)), build.f32(-math.inf)), 50.0),
        (call("clamp", SCORE, build.f32(-8.0), build.f32(4.0)), 8.0),
        (build.negate(call("relu", call("tanh", SCORE))), 1.0),
        (call("relu", SCORE), None),
        (op("+", softcap(build.f32(30.0)), Load("table", (Coord("h"), Coord("col")), Type.F32)), None),
        (build.negate(build.select(CAUSAL, call("tanh", SCORE), build.f32(-math.inf))), None),
    ],
)
def test_constant_bounds(logits: Expr | None, bound: float | None) -> None:
    assert logit_bound(variant(logits)) == bound


def test_a_parameter_bounds_at_run_time() -> None:
    bounded = variant(softcap(C))
    assert logit_bound(bounded) is None
    bound = logit_bound_expr(bounded)
    assert bound is not None
    for c in (30.0, -30.0):
        assert evaluate(bound, Point(params={"c": c})) == 30.0


@given(strategies.smooth_logits(), strategies.values())
def test_no_logit_exceeds_its_bound(formula: Expr, values: strategies.Values) -> None:
    for logits in (call("tanh", formula), call("clamp", formula, build.negate(C), C), formula):
        bounded = variant(simplified(logits))
        bound = logit_bound_expr(bounded)
        if bound is None:
            continue
        point = Point(values.coords, values.extents, {**values.params, "c": 2.5}, values.tensors, values.inputs)
        size = np.abs(evaluate(logits, point, precise=True))
        assert (size <= evaluate(bound, point, precise=True) * (1 + 1e-6) + 1e-6).all()
