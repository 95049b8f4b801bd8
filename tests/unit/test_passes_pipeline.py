"""The pipeline as a whole, and the small passes in textual IR: text in, text out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from attncc.grammar import read
from attncc.ir import text
from attncc.ir.nodes import (
    Binary,
    Branch,
    Cast,
    Const,
    Coord,
    Emit,
    Expr,
    Input,
    Param,
    ParamDecl,
    Reduce,
    Require,
    Select,
    Unary,
    Variant,
)
from attncc.ir.types import Type
from attncc.passes.bounds import logit_bound_expr
from attncc.passes.dependence import dependence
from attncc.passes.pipeline import PIPELINE, Step, run
from attncc.passes.ranges import tile_program
from attncc.passes.scale import fold_scale, fold_weight
from attncc.passes.strength import ReduceStrength
from attncc.passes.unroll import Unroll
from tests import strategies
from tests.evaluator import Point, evaluate

ROOT = Path(__file__).parents[2]


def lines(source: str) -> str:
    """Textual IR without the indentation of the test that holds it."""
    rows = [row[4:] for row in source.splitlines() if row.strip()]
    return "\n".join(rows) + "\n"


def test_unroll() -> None:
    before = """
    variant slashes
    %0 = const i32 2
    %1 = coord k
    %2 = coord i0
    %3 = load s i32 %2
    %4 = eq %1 %3
    %5 = any i0 %4 %0
    tensor s i32 %0
    branch
      mask %5
    """
    after = """
    variant slashes
    %0 = const i32 2
    %1 = coord k
    %2 = const i32 0
    %3 = load s i32 %2
    %4 = eq %1 %3
    %5 = const i32 1
    %6 = load s i32 %5
    %7 = eq %1 %6
    %8 = or %4 %7
    tensor s i32 %0
    branch
      mask %8
    """
    assert text.dump(Unroll().apply(text.parse(lines(before)))) == lines(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("floordiv %0 %1", "shr"),
        ("mod %0 %1", "bitand"),
    ],
)
def test_division_by_a_power_of_two(before: str, after: str) -> None:
    source = f"""
    variant v
    %0 = coord k
    %1 = const i32 16
    %2 = {before}
    %3 = coord q
    %4 = lt %2 %3
    branch
      mask %4
    """
    assert f"= {after} " in text.dump(ReduceStrength().apply(text.parse(lines(source))))


def test_observer_sees_every_pass() -> None:
    steps: list[Step] = []
    run(Variant("plain"), observer=steps.append)
    assert [step.name for step in steps] == [item.name for item in PIPELINE]
    assert len({item.name for item in PIPELINE}) == len(PIPELINE)
    assert all(step.seconds >= 0 for step in steps)


@dataclass(frozen=True)
class Breaks:
    name: str = "breaks"

    def apply(self, variant: Variant) -> Variant:
        return replace(variant, requires=(Require(Param("nobody", Type.BOOL), ""),))


def test_a_pass_that_breaks_the_variant_is_named() -> None:
    with pytest.raises(RuntimeError, match="pass `breaks`"):
        run(Variant("plain"), [Breaks()])


@given(strategies.variants())
def test_the_pipeline_settles(variant: Variant) -> None:
    once = run(variant)
    assert run(once) == once


@given(strategies.masks(strategies.EXACT), strategies.values())
def test_masks_keep_their_meaning(mask: Expr, values: strategies.Values) -> None:
    before = Variant("v", strategies.PARAMS, strategies.TENSORS, branches=(Branch(mask=mask),))
    after = run(before).branch().mask
    point = Point(values.coords, values.extents, values.params, values.tensors, {})
    found = True if after is None else evaluate(after, point)
    assert (np.broadcast_arrays(found, evaluate(mask, point))[0] == evaluate(mask, point)).all()


def test_an_emit_that_turns_out_constant_keeps_its_axis() -> None:
    col = Coord("col")
    value = Cast(Type.F32, Binary("sub", col, col))
    variant = Variant("v", emits=(Emit("zero", "col", value),))
    assert run(variant).emits == (Emit("zero", "col", Const(0.0, Type.F32)),)


FILES = sorted([*(ROOT / "examples").glob("*.attn"), *(ROOT / "tests" / "variants").glob("*.attn")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_listed_variants_pass_through(path: Path) -> None:
    """Every listed variant settles, has small loop bounds, and leaves the pair what its score needs."""
    for definition in read(path).definitions.values():
        if any(constant.default is None for constant in definition.constants):
            continue
        variant = run(definition.instantiate())
        assert run(variant) == variant
        program = tile_program(variant)
        assert len(program.code) <= 250
        assert len(program.cover) <= 4
        for branch in variant.branches:
            folded = (
                fold_scale(branch, variant=variant) if branch.weight is None else fold_weight(branch, variant=variant)
            )
            assert (folded is None) == bool(variant.operands)


def _repeat(start: Expr, step: Callable[[Expr], Expr], times: int) -> Expr:
    for _ in range(times):
        start = step(start)
    return start


SCORE, K, Q, W = Input("score"), Coord("k"), Coord("q"), Param("w", Type.I32)
SHARED = {
    "squares": Branch(logits=_repeat(SCORE, lambda x: Binary("mul", x, x), 60)),
    "silus": Branch(logits=_repeat(SCORE, lambda x: Binary("mul", x, Unary("sigmoid", x)), 60)),
    "sums": Branch(logits=_repeat(SCORE, lambda x: Binary("add", x, Unary("tanh", x)), 60)),
    "scales": Branch(logits=Binary("mul", SCORE, _repeat(Cast(Type.F32, W), lambda x: Binary("mul", x, x), 60))),
    "selections": Branch(
        mask=Binary("lt", _repeat(K, lambda x: Select(Binary("lt", x, W), x, Unary("abs", x)), 60), Q)
    ),
    "limits": Branch(mask=Binary("lt", _repeat(K, lambda x: Binary("min", x, Unary("abs", x)), 60), Q)),
    "conditions": Branch(
        mask=_repeat(
            Binary("lt", K, Q), lambda x: Binary("or", Unary("not", x), Binary("and", x, Binary("eq", K, W))), 30
        )
    ),
    "deep": Branch(mask=Binary("lt", _repeat(K, lambda x: Unary("abs", Binary("sub", x, W)), 2000), Q)),
    "loops": Branch(
        mask=_repeat(
            Binary("lt", K, Coord("i0")), lambda x: Reduce("any", Binary("and", x, x), "i0", Const(8, Type.I32)), 20
        )
    ),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.timeout(60)
def test_shared_and_deep_formulas_take_no_exponential_time(name: str) -> None:
    variant = run(Variant("v", (ParamDecl("w", Type.I32),), branches=(SHARED[name],)))
    tile_program(variant)
    fold_scale(variant.branch())
    logit_bound_expr(variant)
    dependence(variant)
