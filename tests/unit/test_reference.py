"""The oracle's own rules: requests, missing pairs, empty shapes, precision, blocks. Formulas are in test_variants_*."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from attncc.diagnostics import Source
from attncc.grammar import read
from attncc.ir.nodes import Variant
from attncc.reference import Sizes, attended, attention
from attncc.reference.structure import keys_seen, weights_seen
from tests.dense import problem
from tests.variant_files import variant

Array = Any


def written(text: str, name: str = "v", **constants: Any) -> Variant:
    return read(Source("<test>", text)).definitions[name].instantiate(constants)


def inputs(rows: int, cols: int, *, batch: int = 1, heads: int = 2, kv_heads: int = 1, dim: int = 4) -> list[Array]:
    rng = np.random.default_rng(rows * 100 + cols)
    shapes = ((batch, rows, heads, dim), (batch, cols, kv_heads, dim), (batch, cols, kv_heads, dim))
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


CAUSAL = "variant v { mask = q >= k }"


def test_a_row_without_a_pair_is_zero() -> None:
    q, k, v = inputs(6, 4)  # rows 0 and 1 stand before the first key
    got = attention(written(CAUSAL), q, k, v)
    assert got.lse is not None
    assert np.all(got.out[:, :2] == 0)
    assert np.all(got.lse[:, :2] == -np.inf)
    assert np.all(np.isfinite(got.lse[:, 2:]))


def test_a_row_without_a_pair_has_its_sink_as_lse() -> None:
    got = attention(
        written("variant v(s: f32[num_heads]) { mask = q >= k; normalize = softmax(sink = s[h]) }"),
        *inputs(6, 4),
        tensors={"s": np.array([0.5, -np.inf], np.float32)},
    )
    assert got.lse is not None
    np.testing.assert_array_equal(got.lse[0, 0], [0.5, -np.inf])
    assert np.all(got.out[:, :2] == 0)


def test_a_weighted_row_without_a_pair_is_zero_whatever_its_denominator() -> None:
    for denominator in ("total", "1.0 + 0.0 * log(total)", "0.0", "total - total"):
        got = attention(
            written(f"variant v {{ mask = q >= k; weight = sigmoid(logits); normalize = {denominator} }}"),
            *inputs(6, 4),
        )
        assert np.all(got.out[:, :2] == 0)
        assert not np.isnan(got.out).any()


@pytest.mark.parametrize("rest", ["", "; weight = exp(logits)", "; weight = 1.0", "; normalize = softmax(sink = 1.0)"])
def test_a_logit_of_minus_infinity_equals_masked(rest: str) -> None:
    arrays = inputs(5, 7)
    hidden = attention(written(f"variant v {{ logits = score if q - k < 3 else -inf{rest} }}"), *arrays)
    masked = attention(written(f"variant v {{ mask = q - k < 3{rest} }}"), *arrays)
    np.testing.assert_array_equal(hidden.out, masked.out)


def test_masked_pairs_are_selected_away() -> None:
    q, k, v = inputs(5, 5)
    table = np.where(np.tri(5, dtype=bool), 1.0, np.nan).astype(np.float32)
    text = "variant v(t: f32[qo_len, kv_len]) { mask = q >= k; logits = score * t[row, col]"
    for rest in (" }", "; weight = exp(logits) }", "; weight = exp(after(logits)) }"):
        poisoned = attention(written(text + rest), q, k, v, tensors={"t": table})
        clean = attention(written(text + rest), q, k, v, tensors={"t": np.ones_like(table)})
        np.testing.assert_array_equal(poisoned.out, clean.out)


def test_storage_outside_a_request_is_never_read() -> None:
    given = problem(np.random.default_rng(3), rows=9, cols=12, ragged=True)
    got = attention(written(CAUSAL), given.q, given.k, given.v, **given.call())
    assert got.lse is not None
    for b, (rows, cols) in enumerate(zip(given.qo_lens, given.kv_lens, strict=True)):
        part = slice(b, b + 1)
        alone = attention(written(CAUSAL), given.q[part, :rows], given.k[part, :cols], given.v[part, :cols])
        np.testing.assert_allclose(got.out[part, :rows], alone.out, rtol=1e-12)
        assert np.all(got.out[b, rows:] == 0)
        assert np.all(got.lse[b, rows:] == -np.inf)


@pytest.mark.parametrize(("batch", "rows", "cols"), [(0, 3, 3), (2, 0, 3), (2, 3, 0), (2, 0, 0)])
@pytest.mark.parametrize(
    "text",
    [
        CAUSAL,
        "variant v { mask = q >= k; weight = sigmoid(logits) * exp(after(-softplus(logits))); normalize = total }",
        "variant v { emit m = colsum(prob); emit t = rowmax(logits); emit e = lse - expect(logits) }",
        "variant v { value = value[0 : 2]; output = out * row }",
        "variant v(doc: i32[batch, kv_len]) { mask = doc[b, own] == doc[b, col] }",
        "variant v { score = dot(abs(query - key), query) }",
    ],
)
def test_empty_shapes(batch: int, rows: int, cols: int, text: str) -> None:
    made = written(text)
    got = attention(
        made,
        *inputs(rows, cols, batch=batch),
        tensors={"doc": np.zeros((batch, cols), np.int32)} if "doc" in text else {},
    )
    assert got.out.shape == (batch, rows, 2, 2 if "value[" in text else 4)
    assert np.all(got.out == 0)
    if got.lse is not None:
        assert np.all(got.lse == -np.inf)
    if "emit" in text:
        assert got.emits["m"].shape == (batch, cols, 2)
        assert np.all(got.emits["t"] == -np.inf)


BLOCKED = [
    CAUSAL,
    "variant v { mask = q >= k; weight = sigmoid(logits) * exp(after(-softplus(logits))) }",
    "variant v { emit m = colsum(prob * logits) + col; emit t = rowmax(logits * prob); emit e = lse - expect(logits) }",
    "variant v { score = dot(abs(query - key), query); key = key * (col + 1); value = value * d }",
    "variant v { branch x { mask = q >= k }; branch y { mask = k >= q }; output = x.out - y.out;"
    " emit a = x.lse - y.lse; emit c = colsum(y.prob) }",
]


@pytest.mark.parametrize("text", BLOCKED)
def test_blocks_do_not_show(text: str) -> None:
    given = problem(np.random.default_rng(1), rows=9, cols=11, ragged=True)
    whole, *cut = (
        attention(written(text), given.q, given.k, given.v, **given.call(), block_bytes=size)
        for size in (2**30, 1, 4000)
    )
    for part in cut:
        np.testing.assert_allclose(part.out, whole.out, rtol=1e-12, atol=1e-14)
        assert part.emits.keys() == whole.emits.keys()
        for name, values in part.emits.items():
            np.testing.assert_allclose(values, whole.emits[name], rtol=1e-12, atol=1e-14)


def test_memory_stays_bounded() -> None:
    q, k, v = (np.zeros((1, n, 1, 64), np.float32) for n in (2048, 16384, 16384))
    tracemalloc.start()
    try:
        attention(written("variant v { mask = q >= k; logits = score + 0.1 * (k - q) }"), q, k, v)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 512 * 2**20  # one float64 matrix of these lengths has 256 MiB, of 16k × 16k two GiB


def test_score_free_floats_are_f32_and_scores_are_not() -> None:
    q, k, v = inputs(1, 2)
    k[:] = 0  # scores 0: the logits are what is added
    weights = {
        text: attention(written(f"variant v {{ logits = {text} }}"), q, k, v).lse
        for text in ("score + (16777216.0 + 1.0 - 16777216.0)", "score + 16777216.0 + 1.0 - 16777216.0")
    }
    rounded, kept = weights.values()
    assert rounded is not None
    assert kept is not None
    np.testing.assert_allclose(rounded, np.log(2), rtol=1e-12)  # in f32 the 1 is lost
    np.testing.assert_allclose(kept, 1 + np.log(2), rtol=1e-12)


def test_a_position_is_rounded_where_it_becomes_a_float() -> None:
    got = attention(
        written("variant v { logits = score + (f32(k) - 16777216.0) }"),
        *(0 * array for array in inputs(1, 1)),
        k_start=16777217,
    )
    assert got.lse is not None
    np.testing.assert_array_equal(got.lse, 0.0)


def test_starts_shift_positions_and_nothing_else() -> None:
    q, k, v = inputs(4, 6)
    by_position = written("variant v { logits = score + 0.5 * q - 0.25 * k }")
    moved = attention(by_position, q, k, v, q_start=100, k_start=40)
    still = attention(written("variant v { logits = score + 0.5 * (row + 100) - 0.25 * (col + 40) }"), q, k, v)
    np.testing.assert_array_equal(moved.out, still.out)
    own = "variant v(t: f32[kv_len]) { logits = score + t[own] * t[col] }"
    table = np.arange(6, dtype=np.float32)
    here, there = (
        attention(written(own), q, k, v, tensors={"t": table}, q_start=start, k_start=start) for start in (None, 50)
    )
    np.testing.assert_array_equal(here.out, there.out)


def test_loads_clamp_and_empty_axes_read_zero() -> None:
    q, k, v = inputs(3, 3)
    text = "variant v(t: f32[n]) { logits = score * 0.0 + t[col * 3 - 2] }"
    got = attention(written(text), q, k, v, tensors={"t": np.array([1.0, 2.0, 3.0], np.float32)})
    assert got.lse is not None
    np.testing.assert_allclose(got.lse, np.log(np.exp([1.0, 2.0, 3.0]).sum()), rtol=1e-6)  # −2 → 0, 1 → 1, 4 → 2
    empty = attention(written(text), q, k, v, tensors={"t": np.zeros(0, np.float32)})
    assert empty.lse is not None
    np.testing.assert_allclose(empty.lse, np.log(3), rtol=1e-12)


def test_wide_integers_read_as_i32() -> None:
    q, k, v = inputs(1, 1)
    big = attention(
        written("variant v(t: i64[1]) { logits = 0.0 * score + t[0] }"), q, k, v, tensors={"t": np.array([2**32 + 5])}
    )
    assert big.lse is not None
    np.testing.assert_array_equal(big.lse, 5.0)


def test_comprehensions_see_what_is_around_them() -> None:
    q, k, v = inputs(3, 4)
    nested = "sum(sum(i * 10 + j + col for j in 2) * row for i in n)"
    got = attention(
        written(f"variant v(t: f32[n]) {{ logits = 0.0 * score + {nested} }}"),
        q,
        k,
        v,
        tensors={"t": np.zeros(3, "f4")},
    )
    expected = [[sum(sum(i * 10 + j + c for j in range(2)) * r for i in range(3)) for c in range(4)] for r in range(3)]
    assert got.lse is not None
    top = np.max(expected, axis=1)
    np.testing.assert_allclose(got.lse[0, :, 0], top + np.log(np.exp(np.array(expected).T - top).sum(0)), rtol=1e-6)


def test_channels_by_bare_d_are_cut_to_the_vector() -> None:
    q, k, v = inputs(3, 4)
    got = attention(
        written("variant v { query = query[0 : 2] * (d + 1); key = key[2 : 4]; value = value[1 : 3] }"), q, k, v
    )
    scaled = q[..., :2] * np.array([1, 2])
    plain = attention(written("variant v { sm_scale = 0.5 }"), scaled, k[..., 2:], v[..., 1:3])
    np.testing.assert_allclose(got.out, plain.out, rtol=1e-6)


def test_emits_are_zero_outside_a_request() -> None:
    given = problem(np.random.default_rng(5), rows=6, cols=9, ragged=True)
    text = "variant v { mask = q >= k; emit m = colsum(prob); emit n = rowmax(1.0 + 0.0 * logits) }"
    got = attention(written(text), given.q, given.k, given.v, **given.call())
    for b, (rows, cols) in enumerate(zip(given.qo_lens, given.kv_lens, strict=True)):
        assert np.all(got.emits["m"][b, cols:] == 0)
        assert np.all(got.emits["n"][b, rows:] == 0)
        np.testing.assert_allclose(got.emits["m"][b, :cols].sum(), rows * given.heads, rtol=1e-12)


def test_the_reduction_of_score_free_logits_is_wide_too() -> None:
    q, k, v = inputs(1, 3)
    lse = np.log(np.exp(0.0) + 3 * np.exp(-12.0))
    got = attention(written("variant v { logits = -12.0; normalize = softmax(sink = 0.0) }"), q, k, v)
    assert got.lse is not None
    np.testing.assert_allclose(got.lse, lse, rtol=1e-12)
    weighted = attention(written("variant v { weight = 0.1; normalize = 3.0; emit w = rowmax(prob) }"), q, k, v)
    np.testing.assert_allclose(weighted.emits["w"], float(np.float32(0.1)) / 3, rtol=1e-12)
    long = inputs(1, 4000)
    counted = attention(written("variant v { weight = 0.1; emit t = total }"), *long)
    np.testing.assert_allclose(counted.emits["t"], 4000 * float(np.float32(0.1)), rtol=1e-12)


def test_huge_logits_still_share() -> None:
    q, k, v = inputs(2, 5)
    for rest in ("", "; normalize = softmax(sink = 1e30)"):
        got = attention(
            written(f"variant v {{ logits = 0.0 * score + 1e30{rest}; emit mass = colsum(prob) }}"), q, k, v
        )
        share = 1 / 5 if not rest else 1 / 6
        np.testing.assert_allclose(got.emits["mass"], 2 * share, rtol=1e-12)
        np.testing.assert_allclose(got.out[0, :, 0], np.tile(v[0, :, 0].sum(0) * share, (2, 1)), rtol=1e-6)


def test_a_constant_summed_over_rows_counts_who_attends() -> None:
    got = attention(written("variant v { mask = q >= k; emit rows = colsum(1.0) }"), *inputs(4, 6))
    np.testing.assert_array_equal(got.emits["rows"][0, :, 0], [4, 4, 4, 3, 2, 1])


def test_structural_inputs_show_every_key() -> None:
    sizes = Sizes(batch=2, num_heads=4, num_kv_heads=2, head_dim=8, head_dim_v=4, qo_len=7, kv_len=11)
    made, params = variant("v09_streaming_llm", "streaming_llm"), {"sinks": 2, "w": 3}
    mask = attended(made, sizes=sizes, params=params)

    def run(q: Array, k: Array, v: Array) -> Array:
        return attention(made, q, k, v, params=params).out

    np.testing.assert_array_equal(keys_seen(run, sizes), mask)
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    np.testing.assert_allclose(weights_seen(run, sizes), mask / count, rtol=1e-12)


def test_arrays_that_do_not_fit_are_refused() -> None:
    q, k, v = inputs(3, 4)
    with pytest.raises(ValueError, match="one attention"):
        attention(written(CAUSAL), q, k, v[:, :2])
    with pytest.raises(ValueError, match="axis 1 of `doc`"):
        attention(
            written("variant v(doc: i32[batch, kv_len]) { mask = doc[b, col] == 0 }"),
            q,
            k,
            v,
            tensors={"doc": np.zeros((1, 3), np.int32)},
        )
    with pytest.raises(ValueError, match="without a value: w"):
        attention(written("variant v(w: i32) { mask = q - k < w }"), q, k, v)
