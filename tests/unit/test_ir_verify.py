"""The verifier refuses what the tables forbid, and every row of a table is exercised."""

from __future__ import annotations

import pytest

from attncc.diagnostics import LanguageError
from attncc.ir import build
from attncc.ir.build import binary, call, compare, f32, i32
from attncc.ir.extents import channel_lengths, evaluate
from attncc.ir.nodes import (
    After,
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
    Operand,
    Param,
    ParamDecl,
    Reduce,
    Require,
    Rotate,
    Slice,
    Tensor,
    Unary,
    Variant,
)
from attncc.ir.types import Storage, Type
from attncc.ir.verify import BINARY, HOOKS, UNARY, axes, emit_axis, verify

VALUES: dict[Type, Expr] = {
    Type.F32: f32(0.5),
    Type.I32: Coord("row"),
    Type.U32: Cast(Type.U32, Coord("row")),
    Type.BOOL: compare("<", Coord("row"), i32(3)),
}
SCORE, QUERY, KEY, VALUE = Input("score"), Input("query"), Input("key"), Input("value")


def as_mask(expr: Expr) -> Variant:
    mask = expr if expr.type is Type.BOOL else compare("==", expr, build.literal(0))
    return Variant("x", branches=(Branch(mask=mask),))


def code_of(variant: Variant) -> str | None:
    try:
        verify(variant)
    except LanguageError as error:
        return error.code if error.expected or error.help else "an error without advice"
    return None


@pytest.mark.parametrize("type", Type)
@pytest.mark.parametrize("op", UNARY)
def test_unary_operators_take_what_their_table_says(op: str, type: Type) -> None:
    assert (code_of(as_mask(Unary(op, VALUES[type]))) is None) == (type in UNARY[op])


@pytest.mark.parametrize("type", Type)
@pytest.mark.parametrize("op", BINARY)
def test_binary_operators_take_what_their_table_says(op: str, type: Type) -> None:
    assert (code_of(as_mask(Binary(op, VALUES[type], VALUES[type]))) is None) == (type in BINARY[op])


def test_two_types_do_not_meet_without_a_cast() -> None:
    assert code_of(as_mask(Binary("add", VALUES[Type.I32], VALUES[Type.U32]))) == "A0303"


@pytest.mark.parametrize(
    ("hook", "value", "code"),
    [
        ("mask", f32(1.0), "A0401"),
        ("logits", compare("<", Coord("q"), Coord("k")), "A0401"),
        ("mask", compare("<", SCORE, f32(0.0)), "A0402"),
        ("logits", Input("total"), "A0402"),
        ("query", KEY, "A0402"),
        ("score", SCORE, "A0402"),
        ("logits", QUERY, "A0402"),
        ("score", QUERY, "A0403"),
        ("logits", binary("*", SCORE, Coord("d")), "A0403"),
        ("key", binary("*", KEY, Coord("row")), "A0403"),
        ("key", binary("*", KEY, Coord("h")), "A0403"),
        ("sm_scale", Cast(Type.F32, Coord("row")), "A0403"),
        ("sink", Cast(Type.F32, Coord("col")), "A0403"),
        ("logits", call("expect", (SCORE,)), "A0404"),
        ("logits", After(SCORE), "A0404"),
        ("normalize", Input("total"), "A0409"),
        ("logits", Input("score", "other"), "A0407"),
    ],
)
def test_hooks_read_and_vary_only_as_their_table_says(hook: str, value: Expr, code: str) -> None:
    assert code_of(Variant("x", branches=(Branch(**{hook: value}),))) == code  # type: ignore[arg-type]


def test_every_hook_has_a_use_that_passes() -> None:
    branch = Branch(
        sm_scale=binary("/", f32(1.0), call("sqrt", (build.cast(Extent("head_dim"), Type.F32),))),
        query=binary("*", QUERY, Coord("row")),
        key=binary("*", KEY, Coord("col")),
        value=binary("+", VALUE, Coord("hk")),
        score=binary("*", Input("sm_scale"), call("dot", (QUERY, KEY))),
        logits=binary("+", SCORE, Coord("h")),
        mask=compare(">=", Coord("q"), Coord("k")),
        weight=binary("*", Input("logits"), call("exp", (After(Input("logits")),))),
        normalize=binary("+", Input("total"), Coord("row")),
    )
    output = binary("*", Input("out"), Input("total"))
    emit = Emit("mass", "col", call("colsum", (Input("logits"),)))
    verify(Variant("x", branches=(branch,), output=output, emits=(emit,)))
    verify(Variant("x", branches=(Branch(sink=f32(0.0)),)))
    assert set(branch.hooks()) | {"sink", "output", "emit"} == set(HOOKS)


def test_an_axis_by_itself_binds_a_new_extent() -> None:
    n = Extent("n")
    double = Tensor("double", Storage.F32, (binary("*", n, build.i32(2)),))
    assert code_of(Variant("x", tensors=(double,))) == "A0512"
    assert code_of(Variant("x", tensors=(double, Tensor("single", Storage.F32, (n,))))) is None
    assert code_of(as_mask(n)) == "A0512"


def test_a_sink_and_a_weight_exclude_each_other() -> None:
    assert code_of(Variant("x", branches=(Branch(weight=SCORE, sink=f32(0.0)),))) == "A0409"


def test_emits_are_per_row_or_per_column() -> None:
    prob = Input("prob")
    assert [emit_axis(e) for e in (prob, call("colsum", (prob,)), call("rowmax", (prob,)))] == ["", "col", "row"]
    assert code_of(Variant("x", emits=(Emit("p", "row", prob),))) == "A0410"


def test_branches_need_names_and_an_output() -> None:
    pair = (Branch("x"), Branch("y"))
    assert code_of(Variant("v", branches=pair)) == "A0408"
    difference = binary("-", Input("out", "x"), Input("out", "y"))
    assert code_of(Variant("v", branches=pair, output=difference)) is None
    assert code_of(Variant("v", branches=pair, output=Input("out"))) == "A0407"
    assert code_of(Variant("v", branches=(Branch("x"), Branch("x")), output=difference)) == "A0407"
    assert code_of(Variant("v", branches=())) == "A0407"


def test_declarations_are_checked_against_their_uses() -> None:
    slopes = Tensor("slopes", Storage.F16, (Extent("num_heads"),))
    load = Load("slopes", (Coord("h"),), Type.F32)
    good = Variant("x", tensors=(slopes,), branches=(Branch(logits=binary("+", SCORE, load)),))
    assert code_of(good) is None
    assert code_of(Variant("x", branches=good.branches)) == "A0509"
    two = Load("slopes", (Coord("h"), Coord("b")), Type.F32)
    assert code_of(Variant("x", tensors=(slopes,), branches=(Branch(logits=two),))) == "A0510"
    wrong = Load("slopes", (f32(1.0),), Type.F32)
    assert code_of(Variant("x", tensors=(slopes,), branches=(Branch(logits=wrong),))) == "A0304"
    assert code_of(Variant("x", branches=(Branch(logits=Param("c", Type.F32)),))) == "A0509"
    assert code_of(Variant("x", tensors=(slopes,), params=(ParamDecl("slopes", Type.F32),))) == "A0507"
    odd = Tensor("t", Storage.F32, (Coord("row"),))
    assert code_of(Variant("x", tensors=(odd,))) == "A0508"


def test_requirements_read_no_elements() -> None:
    good = Require(compare("==", binary("%", Extent("head_dim"), i32(2)), i32(0)), "even")
    assert code_of(Variant("x", requires=(good,))) is None
    assert code_of(Variant("x", requires=(Require(compare("<", Coord("q"), i32(2)), "no"),))) == "A0411"
    assert code_of(Variant("x", requires=(Require(f32(1.0), "no"),))) == "A0302"


def test_axes_follow_reductions_and_requests() -> None:
    assert axes(compare(">=", Coord("q"), Coord("k"))) == {"b", "row", "col"}
    assert axes(call("dot", (QUERY, KEY))) == {"b", "h", "hk", "row", "col"}
    assert axes(Reduce("sum", binary("*", Coord("i0"), Coord("row")), "i0", i32(4))) == {"row"}
    assert axes(Param("p", Type.F32)) == {"b"}
    assert axes(Extent("num_heads")) == frozenset()


def test_shapes_evaluate_with_floor_division_and_unknowns() -> None:
    half = binary("//", Extent("head_dim"), i32(2))
    assert evaluate(half, {"head_dim": 129}) == 64
    assert evaluate(half, {}) is None
    assert evaluate(binary("//", Extent("head_dim"), i32(0)), {"head_dim": 5}) == 0
    assert evaluate(binary("%", i32(-7), i32(4)), {}) == 1


EXTENTS = {"head_dim": 64, "head_dim_v": 32}


def test_channel_lengths_follow_slices_and_rotations() -> None:
    half = Slice(QUERY, i32(0), binary("//", Extent("head_dim"), i32(2)))
    turned = binary("*", Rotate("half", half), Load("c", (Coord("row"), Coord("d")), Type.F32))
    lengths = channel_lengths(turned, Variant("x"), EXTENTS)
    assert lengths[half] == lengths[turned] == 32
    pe = Variant("x", operands=(Operand("q_pe", "query", Extent("num_heads"), i32(16)),))
    assert channel_lengths(Input("q_pe"), pe, EXTENTS)[Input("q_pe")] == 16


@pytest.mark.parametrize(
    ("expr", "code"),
    [
        (binary("*", QUERY, VALUE), "A0405"),
        (Slice(QUERY, i32(0), i32(65)), "A0406"),
        (Slice(QUERY, i32(8), i32(8)), "A0406"),
        (Slice(Coord("d"), i32(0), i32(1)), "A0406"),
        (Rotate("half", Slice(QUERY, i32(0), i32(3))), "A0406"),
        (Rotate("pairs", f32(1.0)), "A0406"),
    ],
)
def test_channel_mistakes_are_found_when_the_head_dim_is_known(expr: Expr, code: str) -> None:
    with pytest.raises(LanguageError) as caught:
        channel_lengths(expr, Variant("x"), EXTENTS)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: binary("+", VALUES[Type.BOOL], i32(1)), "A0301"),
        (lambda: binary("+", VALUES[Type.I32], VALUES[Type.U32]), "A0303"),
        (lambda: binary("<<", f32(1.0), i32(1)), "A0304"),
        (lambda: build.both(VALUES[Type.I32], VALUES[Type.BOOL]), "A0302"),
        (lambda: build.select(i32(1), i32(1), i32(2)), "A0302"),
        (lambda: call("tanh", ()), "A0305"),
        (lambda: build.literal(2**32), "A0306"),
    ],
)
def test_construction_refuses_wrong_types(make: object, code: str) -> None:
    assert callable(make)
    with pytest.raises(LanguageError) as caught:
        make()
    assert caught.value.code == code
    assert caught.value.help


def test_promotion_is_int_to_float_and_literals_adapt() -> None:
    assert binary("+", i32(1), f32(1.0)).type is Type.F32
    assert binary("/", i32(1), i32(2)).type is Type.F32
    bits = binary("&", binary(">>", VALUES[Type.U32], Coord("col")), Const(1, Type.I32))
    assert bits.type is Type.U32
    verify(as_mask(bits))
