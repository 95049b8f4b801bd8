"""The text of the IR reads back as what was printed, and damaged text is an error with a place."""

from __future__ import annotations

import random

import pytest

from attncc.diagnostics import ArtifactError
from attncc.ir.build import binary, call, compare, f32, i32, select
from attncc.ir.nodes import (
    After,
    Branch,
    Const,
    Coord,
    Emit,
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
    Variant,
)
from attncc.ir.text import dump, parse
from attncc.ir.types import Storage, Type
from attncc.ir.verify import verify

GEMMA2 = """\
variant gemma2
param softcap f32 = 50.0
%0 = param softcap f32
%1 = input score
%2 = div %1 %0
%3 = tanh %2
%4 = mul %0 %3
%5 = coord k
%6 = coord q
%7 = le %5 %6
branch
  logits %4
  mask %7
"""


def everything() -> Variant:
    """A variant in which every statement and every node of the IR occurs."""
    half = Slice(Input("query"), i32(0), binary("//", Extent("head_dim"), i32(2)))
    load = Load("doc", (Coord("b"), Coord("col")), Type.I32)
    found = Reduce("any", compare("==", load, Coord("i0")), "i0", Extent("n"))
    first = Branch(
        "x",
        sm_scale=f32(0.125),
        query=Rotate("pairs", Input("query")),
        score=call("dot", (half, half)),
        logits=select(found, Input("score", "x"), f32(float("-inf"))),
        mask=compare("==", load, Const(7, Type.U32).value and i32(7)),
        weight=binary("*", Input("logits", "x"), After(Input("logits", "x"))),
        normalize=binary("+", Input("total", "x"), Param("c", Type.F32)),
    )
    return Variant(
        "everything",
        (ParamDecl("c", Type.F32, 1.5), ParamDecl("on", Type.BOOL, True), ParamDecl("m", Type.U32)),
        (Tensor("doc", Storage.I64, (Extent("batch"), Extent("n"))),),
        (Operand("q_pe", "query", Extent("num_heads"), i32(64)),),
        (Require(compare("<", Param("m", Type.U32), i32(9)), 'a "quoted" text,\nü \\ end'),),
        (first, Branch("y", sink=f32(0.0))),
        binary("-", Input("out", "x"), Input("out", "y")),
        (Emit("e", "row", binary("-", Input("lse", "y"), call("expect", (Input("logits", "y"),)))),),
    )


def test_text_is_what_the_document_shows() -> None:
    softcap, score = Param("softcap", Type.F32), Input("score")
    capped = binary("*", softcap, call("tanh", (binary("/", score, softcap),)))
    causal = compare(">=", Coord("q"), Coord("k"))
    variant = Variant("gemma2", (ParamDecl("softcap", Type.F32, 50.0),), branches=(Branch(logits=capped, mask=causal),))
    assert dump(variant) == GEMMA2
    assert parse(GEMMA2) == variant


def test_every_construct_reads_back() -> None:
    variant = everything()
    verify(variant)
    assert parse(dump(variant)) == variant
    assert dump(parse(dump(variant))) == dump(variant)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e-45, 3.4028234663852886e38, -0.0, 0.1])
def test_f32_constants_read_back_to_the_bit(value: float) -> None:
    variant = Variant("x", branches=(Branch(sink=f32(value)),))
    assert parse(dump(variant)).branches[0].sink is f32(value)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 0, 0),
        ("%0 = coord q\n%0 = coord k\n", 2, 1),
        ("variant x\nbranch\n  mask %3\n", 3, 8),
        ("variant x\n%0 = frobnicate\n", 2, 6),
        ("variant x\n%0 = const f64 1.0\n", 2, 12),
        ("variant x\n%0 = const i32 1.0\n", 2, 16),
        ("variant x\n%0 = coord q q\n", 2, 14),
        ("variant x\nvariant y\n", 2, 1),
        ("param x f32\n", 1, 1),
        ("variant x\n%0 = coord q\n  mask %0\n", 3, 3),
        ("variant x\nrequire\n", 2, 1),
        ("variant x\nlogits\n", 2, 1),
    ],
)
def test_damaged_text_is_an_error_where_it_stands(text: str, line: int, column: int) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse(text)
    assert caught.value.code == "A0901"
    if line:
        assert caught.value.span is not None
        assert caught.value.span.begin_position == (line, column)


def test_mutated_text_never_escapes_as_another_error() -> None:
    rng = random.Random(7)
    text = dump(everything())
    words = text.split(" ")
    codes: set[str] = set()
    for _ in range(2000):
        mutated = list(words)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(mutated))
            mutated[at] = rng.choice([*words, "", "%", "\x00", '"', "\n", "%999", "nan"])
        try:
            parse(" ".join(mutated))
        except ArtifactError as error:
            codes.add(error.code)
    assert codes == {"A0901"}
