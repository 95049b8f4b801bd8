"""Canonical form: the same meaning bit for bit, one form for twins, and nothing left to do the second time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given

from attncc.ir import build, text
from attncc.ir.nodes import (
    Binary,
    Branch,
    Cast,
    Const,
    Coord,
    Expr,
    Extent,
    Input,
    Param,
    ParamDecl,
    Reduce,
    Unary,
    Variant,
)
from attncc.ir.types import Type
from attncc.ir.verify import BINARY, UNARY, verify
from attncc.passes import fold
from attncc.passes.canonicalize import canonicalize, simplified
from tests import strategies
from tests.evaluator import DTYPES, Point, evaluate

Q, K, ROW, COL = (Coord(axis) for axis in ("q", "k", "row", "col"))
X, Y = Param("x", Type.F32), Param("y", Type.F32)
M, N = Param("m", Type.I32), Param("n", Type.I32)
S, T = Param("s", Type.BOOL), Param("t", Type.BOOL)
SCORE = Input("score")
F = build.f32
INT = build.i32


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal bits; any NaN equals any NaN."""
    if left.dtype != np.float32:
        return bool(np.array_equal(left, right))
    both_nan = np.isnan(left) & np.isnan(right)
    return bool((both_nan | (left.view(np.int32) == right.view(np.int32))).all())


@pytest.mark.parametrize("kind", list(Type), ids=lambda kind: kind.value)
def test_expressions_keep_their_value(kind: Type) -> None:
    @given(strategies.expressions(kind, strategies.EXACT), strategies.values())
    def check(expr: Expr, values: strategies.Values) -> None:
        point = Point(values.coords, values.extents, values.params, values.tensors, values.inputs)
        before, after = np.broadcast_arrays(evaluate(expr, point), evaluate(simplified(expr), point))
        assert same(np.ascontiguousarray(before), np.ascontiguousarray(after))

    check()


@given(strategies.variants())
def test_variants_stay_well_formed_and_settle(variant: Variant) -> None:
    verify(variant)
    once = canonicalize(variant)
    verify(once)
    assert canonicalize(once) == once
    assert text.parse(text.dump(once)) == once
    assert (once.params, once.tensors, once.operands) == (variant.params, variant.tensors, variant.operands)


_VALUES: dict[Type, list[float | int | bool]] = {
    Type.BOOL: [False, True],
    Type.I32: [0, 1, -1, 2, 7, -7, 31, 32, 33, 2**31 - 1, -(2**31)],
    Type.U32: [0, 1, 2, 7, 31, 32, 33, 2**31, 2**32 - 1],
    Type.F32: [0.0, -0.0, 1.0, -1.5, 0.5, 2.5, -0.3, 7.0, 1e-40, 3e38, math.inf, -math.inf, math.nan],
}


@pytest.mark.parametrize("op", BINARY)
def test_folding_agrees_with_arrays(op: str) -> None:
    for kind in BINARY[op]:
        for x in _VALUES[kind]:
            for y in _VALUES[kind]:
                expr = Binary(op, Const(x, kind), Const(y, kind))
                if op in ("min", "max") and x == y == 0:
                    continue  # which zero of −0.0 and 0.0 is the smaller is not defined
                if op == "pow" and x == -math.inf and not float(y).is_integer():
                    continue  # C gives an infinity or 0, numpy NaN
                folded = fold.binary(op, expr.left.value, expr.right.value, kind)
                assert folded is not None
                _close(folded, evaluate(expr, Point()), expr.type, f"{x} {op} {y}")


@pytest.mark.parametrize("op", UNARY)
def test_folding_functions_agrees_with_arrays(op: str) -> None:
    for kind in UNARY[op]:
        for x in _VALUES[kind]:
            expr = Unary(op, Const(x, kind))
            folded = fold.unary(op, expr.operand.value, kind)
            assert folded is not None
            _close(folded, evaluate(expr, Point()), kind, f"{op} {x}")


@pytest.mark.parametrize("target", list(Type), ids=lambda kind: kind.value)
def test_folding_casts_agrees_with_arrays(target: Type) -> None:
    for source in Type:
        if source is target:
            continue
        for x in [*_VALUES[source], *([1e10, -1e10, 2.9, -2.9] if source is Type.F32 else [])]:
            expr = Cast(target, Const(x, source))
            folded = fold.cast(expr.operand.value, source, target)
            _close(folded, evaluate(expr, Point()), target, f"{source.value} {x} to {target.value}")


def _close(folded: float | int | bool, expected: np.ndarray, kind: Type, what: str) -> None:
    value = np.asarray(folded).astype(DTYPES[kind])
    if kind is Type.F32:
        np.testing.assert_array_max_ulp(np.nan_to_num(value, nan=0.25), np.nan_to_num(expected, nan=0.25), 1)
        assert bool(np.isnan(value)) == bool(np.isnan(expected)), what
    else:
        assert value == expected, what


@pytest.mark.parametrize(
    ("written", "meaning"),
    [
        (build.compare(">=", Q, K), build.compare("<=", K, Q)),
        (build.both(S, T), build.both(T, S)),
        (build.both(build.both(S, T), S), build.both(T, S)),
        (build.either(S, build.invert(S)), build.TRUE),
        (build.both(build.compare("<", Q, K), build.compare("<=", K, Q)), build.FALSE),
        (build.invert(build.compare("<", Q, K)), build.compare("<=", K, Q)),
        (build.select(S, build.TRUE, build.FALSE), S),
        (build.select(build.invert(S), X, Y), build.select(S, Y, X)),
        (build.binary("^", S, T), build.compare("!=", T, S)),
        (build.binary("*", F(2.0), X), build.binary("*", X, F(2.0))),
        (build.binary("*", X, F(1.0)), X),
        (build.binary("-", X, F(0.0)), X),
        (build.binary("/", X, F(4.0)), build.binary("*", X, F(0.25))),
        (build.binary("/", X, F(0.0)), F(0.0)),
        (build.binary("+", X, build.negate(Y)), build.binary("-", X, Y)),
        (build.binary("-", M, INT(3)), build.binary("+", M, INT(-3))),
        (build.binary("-", M, M), INT(0)),
        (build.binary("//", M, INT(0)), INT(0)),
        (build.binary("+", INT(2**31 - 1), INT(1)), INT(-(2**31))),
        (build.cast(build.cast(M, Type.U32), Type.I32), M),
        (build.call("abs", (build.negate(X),)), build.call("abs", (X,))),
    ],
)
def test_twins_meet(written: Expr, meaning: Expr) -> None:
    assert simplified(written) is simplified(meaning)


@pytest.mark.parametrize(
    "expr",
    [
        build.binary("+", X, F(0.0)),  # −0.0 + 0.0 is 0.0
        build.binary("*", X, F(0.0)),  # NaN, infinities, −0.0
        build.binary("-", X, X),  # infinities
        build.invert(build.compare("<", X, Y)),  # NaN
        build.binary("/", X, F(3.0)),  # 1/3 is no f32
        build.binary("/", X, X),
    ],
)
def test_what_is_not_exact_stays(expr: Expr) -> None:
    assert simplified(expr) is expr


def test_defaults_are_dropped() -> None:
    one_over_root = build.binary("/", F(1.0), build.call("sqrt", (Extent("head_dim"),)))
    dot = Reduce("dot", build.binary("*", Input("key"), Input("query")))
    written = Branch(
        sm_scale=one_over_root,
        query=Input("query"),
        key=Input("key"),
        value=Input("value"),
        score=build.binary("*", dot, Input("sm_scale")),
        logits=build.binary("*", SCORE, F(1.0)),
        mask=build.either(build.TRUE, build.compare("<", Q, K)),
        sink=F(-math.inf),
    )
    variant = Variant("plain", branches=(written,), output=Input("out"))
    assert canonicalize(variant) == Variant("plain")


def test_what_only_looks_like_a_default_stays() -> None:
    scale = build.call("rsqrt", (Extent("head_dim_v"),))
    unscaled = Reduce("dot", build.binary("*", Input("query"), Input("key")))
    variant = canonicalize(Variant("other", branches=(Branch(sm_scale=scale, score=unscaled),)))
    assert set(variant.branch().hooks()) == {"sm_scale", "score"}


def test_unused_declarations_stay() -> None:
    variant = Variant("idle", params=(ParamDecl("w", Type.I32, 3),))
    assert canonicalize(variant).params == variant.params


def test_deep_formulas() -> None:
    expr: Expr = SCORE
    for i in range(5000):
        expr = build.binary("+", expr, F(float(i % 7)))
    assert simplified(expr).type is Type.F32
