"""Random variants, through IR text, into the oracle; a scalar evaluator in plain Python must give the same."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncc.ir.nodes import Emit, Expr, Input, Reduce, Variant
from attncc.ir.text import dump, parse
from attncc.ir.types import Type
from attncc.ir.verify import verify
from attncc.ir.walk import substitute
from attncc.passes.canonicalize import canonicalize
from attncc.reference import Result, attention
from tests.fuzz.scalar import Scalar
from tests.strategies import LOGITS, PARAMS, TENSORS, constants, expressions, tensor_values, variants

SIZES = {"batch": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "head_dim_v": 4}
Array = Any


@dataclass(frozen=True)
class Inputs:
    """A call of a random variant; the arrays are exact in few bits, so that a dot product is exact in any order."""

    q: Array
    k: Array
    v: Array
    params: dict[str, Any]
    tensors: dict[str, Array]
    extents: dict[str, int]
    q_start: list[int]
    k_start: list[int]


@st.composite
def inputs(draw: st.DrawFn) -> Inputs:
    rows, cols = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    extents = {**SIZES, "qo_len": rows, "kv_len": cols, "n": draw(st.integers(0, 4))}
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    shapes = ((2, rows, 2, 4), (2, cols, 1, 4), (2, cols, 1, 4))
    q, k, v = (rng.integers(-8, 9, shape).astype(np.float32) / 4 for shape in shapes)
    starts = st.lists(st.integers(-5, 40), min_size=2, max_size=2)
    return Inputs(
        q,
        k,
        v,
        {decl.name: draw(constants(decl.type)).value for decl in PARAMS},  # type: ignore[attr-defined]
        {tensor.name: tensor_values(tensor, extents, rng) for tensor in TENSORS},
        extents,
        draw(starts),
        draw(starts),
    )


@st.composite
def with_emits(draw: st.DrawFn) -> Variant:
    """A random variant with one more emit, over the rows of each column."""
    made = draw(variants())
    body = draw(expressions(Type.F32, LOGITS, 2).map(of_logits))
    return Variant(
        made.name,
        made.params,
        made.tensors,
        made.operands,
        made.requires,
        made.branches,
        made.output,
        (*made.emits, Emit("sums", "col", Reduce("colsum", body))),
    )


def of_logits(body: Expr) -> Expr:
    """The score of a random formula as logits, which an emit may read."""
    return substitute(body, {Input("score"): Input("logits")})


def by_scalars(variant: Variant, given: Inputs, seed: int | None) -> Result:
    noise = random.Random(seed)
    nudge = (lambda x: x) if seed is None else (lambda x: x * (1 + 1e-11 * noise.uniform(-1, 1)))
    call = Scalar(
        variant,
        given.q,
        given.k,
        given.v,
        given.params,
        given.tensors,
        given.extents,
        given.q_start,
        given.k_start,
        nudge,
    )
    batch, heads, rows, cols = (given.extents[name] for name in ("batch", "num_heads", "qo_len", "kv_len"))
    softmax = variant.branches[0].weight is None
    out, lse = np.zeros((batch, rows, heads, given.extents["head_dim_v"])), np.zeros((batch, rows, heads))
    tokens = {emit.name: rows if emit.axis == "row" else cols for emit in variant.emits}
    emits = {name: np.zeros((batch, count, heads)) for name, count in tokens.items()}
    for b, h in itertools.product(range(batch), range(heads)):
        env = {"b": b, "h": h, "branch": ""}
        for row in range(rows):
            out[b, row, h] = call.output({**env, "row": row})
            lse[b, row, h] = call.row({**env, "row": row, "hook": ""})["lse"] if softmax else 0
        for emit in variant.emits:
            for token in range(tokens[emit.name]):
                emits[emit.name][b, token, h] = call.emit(emit.name, {**env, emit.axis: token})
    return Result(out, lse if softmax else None, emits)


def agrees(got: Array, expected: Array, nudged: Array, what: str) -> None:
    """Equal wherever the expected value does not hang on the last bits of an intermediate result."""
    with np.errstate(all="ignore"):
        steady = np.isclose(expected, nudged, rtol=1e-8, atol=1e-12, equal_nan=True)
    np.testing.assert_allclose(got[steady], expected[steady], rtol=1e-6, atol=1e-9, err_msg=what)


# an example takes 0.15 s, most of it to draw a variant: a full run stays below ten minutes
@settings(
    max_examples=min(settings().max_examples, 4000),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(variant=with_emits(), given=inputs())
def test_oracle_and_scalars_agree(variant: Variant, given: Inputs) -> None:
    verify(variant)
    expected, nudged = by_scalars(variant, given, None), by_scalars(variant, given, 1)
    if not (np.isfinite(expected.out).all() or _finite_values(variant, given)):
        return  # K and V must be finite; a random `value` hook need not make them so
    for form in (parse(dump(variant)), canonicalize(variant)):
        got = attention(
            form,
            given.q,
            given.k,
            given.v,
            params=given.params,
            tensors=given.tensors,
            q_start=np.array(given.q_start),
            k_start=np.array(given.k_start),
        )
        agrees(got.out, expected.out, nudged.out, "out")
        if expected.lse is not None:
            assert got.lse is not None
            assert nudged.lse is not None
            agrees(got.lse, expected.lse, nudged.lse, "lse")
        for name, values in expected.emits.items():
            agrees(got.emits[name], values, nudged.emits[name], name)


def _finite_values(variant: Variant, given: Inputs) -> bool:
    call = Scalar(
        variant, given.q, given.k, given.v, given.params, given.tensors, given.extents, given.q_start, given.k_start
    )
    places = itertools.product(*(range(given.extents[name]) for name in ("batch", "num_heads", "kv_len", "head_dim_v")))
    return all(
        np.isfinite(call.vector("value", {"b": b, "h": h, "col": col, "d": d, "branch": ""})) for b, h, col, d in places
    )
