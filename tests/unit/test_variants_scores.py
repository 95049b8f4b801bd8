"""The score variants (25 to 33), against formulas over whole matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attncc.passes.canonicalize import canonicalize
from attncc.reference import attention
from tests.dense import Problem, by_query_head, problem, scores, softmax
from tests.variant_files import variant

Array = Any


@pytest.fixture(params=range(3))
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


def distance(given: Problem) -> Array:
    """q − k, [batch, heads, rows, cols]."""
    return given.over_pairs(lambda at: at.q - at.k)


def agrees(given: Problem, file: str, name: str, logits: Array, mask: Array | None = None, **call: Any) -> None:
    """The variant gives softmax attention of ``logits`` under ``mask``, as written and in canonical form."""
    expected = softmax(given, logits, np.ones(logits.shape, bool) if mask is None else mask)
    made = variant(file, name)
    for form in (made, canonicalize(made)):
        got = attention(form, given.q, given.k, given.v, **given.call(), **call)
        np.testing.assert_allclose(got.out, expected.out, rtol=1e-5, atol=1e-6)
        assert got.lse is not None
        np.testing.assert_allclose(got.lse, expected.lse, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [{"ragged": True}, {"starts": True}], ids=str)
def test_alibi(rng: np.random.Generator, shape: dict[str, Any]) -> None:
    given = problem(rng, **shape)
    slopes = np.array([2.0 ** (-8 * (h + 1) / given.heads) for h in range(given.heads)], np.float32)
    bias = -slopes.astype(np.float64)[None, :, None, None] * distance(given)
    agrees(given, "v25_alibi", "alibi", scores(given) + bias, distance(given) >= 0, tensors={"slopes": slopes})


def test_softcap_takes_a_value_per_request(rng: np.random.Generator) -> None:
    given, caps = problem(rng, starts=True), np.array([0.5, 3.0])
    logits = caps[:, None, None, None] * np.tanh(scores(given) / caps[:, None, None, None])
    mask = (distance(given) >= 0) & (distance(given) < 5)
    agrees(given, "v26_softcap", "softcap", logits, mask, params={"softcap": caps, "w": 5})


def t5_bucket(relative: Array, bidirectional: bool, buckets: int, far: int) -> Array:
    """Mesh TensorFlow's _relative_position_bucket; ``relative`` is memory − query. In f32, as there."""
    found = np.zeros(relative.shape, np.int64)
    if bidirectional:
        buckets //= 2
        found += (relative > 0) * buckets
        relative = np.abs(relative)
    else:
        relative = -np.minimum(relative, 0)
    exact = buckets // 2
    ratio = np.maximum(relative, 1).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(np.log(np.float32(far / exact))) * np.float32(buckets - exact)
    return found + np.where(relative < exact, relative, np.minimum(exact + steps.astype(np.int64), buckets - 1))


@pytest.mark.parametrize("name", ["t5_encoder", "t5_decoder"])
def test_t5_bias(rng: np.random.Generator, name: str) -> None:
    given = problem(rng, rows=12, cols=60, heads=2, batch=1)
    table, far = rng.normal(size=(given.heads, 16)).astype(np.float32), 50
    which = t5_bucket(-distance(given).astype(np.int64), name == "t5_encoder", 16, far)
    bias = table[np.arange(given.heads)[None, :, None, None], which]
    mask = None if name == "t5_encoder" else distance(given) >= 0
    agrees(given, "v27_t5_bias", name, scores(given, 1.0) + bias, mask, params={"far": far}, tensors={"table": table})


def test_relative_table(rng: np.random.Generator) -> None:
    given = problem(rng, starts=True)
    table = rng.normal(size=(given.heads, 7)).astype(np.float32)
    places = np.minimum(np.maximum(distance(given), -3), 3).astype(int) + 3
    bias = table[np.arange(given.heads)[None, :, None, None], places]
    agrees(given, "v28_relative_table", "relative_table", scores(given) + bias, tensors={"table": table})


def test_decomposed_bias(rng: np.random.Generator) -> None:
    height, width = 3, 4
    given = problem(rng, rows=height * width, cols=height * width)
    rh = rng.normal(size=(given.batch, given.heads, given.rows, height)).astype(np.float32)
    rw = rng.normal(size=(given.batch, given.heads, given.rows, width)).astype(np.float32)
    both = (rh[..., :, None].astype(np.float64) + rw[..., None, :]).reshape(*rh.shape[:3], height * width)
    agrees(given, "v29_decomposed_bias", "decomposed_bias", scores(given) + both, tensors={"rh": rh, "rw": rw})


def test_graph_bias(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    table = rng.normal(size=(given.heads, 5)).astype(np.float16)
    dist = rng.integers(0, 5, (given.batch, given.rows, given.cols)).astype(np.uint8)
    bias = table.astype(np.float64)[:, dist].swapaxes(0, 1)
    agrees(given, "v30_graph_bias", "graph_bias", scores(given) + bias, tensors={"table": table, "dist": dist})


def test_forgetting(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    gates = rng.uniform(0.5, 1.0, (given.batch, given.heads, given.cols))
    f = np.cumsum(np.log(gates), axis=-1).astype(np.float32)

    def decay(at: Any) -> float:
        return float(np.sum(np.log(gates[at.b, at.h, at.col + 1 : at.own + 1])))

    bias = given.over_pairs(decay)
    agrees(given, "v31_forgetting", "forgetting", scores(given) + bias, distance(given) >= 0, tensors={"f": f})


@pytest.mark.parametrize(("dim", "dim_v"), [(512, 512), (128, 128), (8, 6)])
def test_mla(rng: np.random.Generator, dim: int, dim_v: int) -> None:
    given = problem(rng, dim=dim, dim_v=dim_v, kv_heads=1 if dim == 512 else 4)
    q_pe = rng.normal(size=(given.batch, given.rows, given.heads, 64)).astype(np.float32)
    k_pe = rng.normal(size=(given.batch, given.cols, 1, 64)).astype(np.float32)
    q, k = np.concatenate([given.q, q_pe], -1), np.concatenate([given.k, np.repeat(k_pe, given.kv_heads, 2)], -1)
    logits = scores(given, (dim + 64) ** -0.5, q, k)
    agrees(given, "v32_mla", "mla", logits, distance(given) >= 0, operands={"q_pe": q_pe, "k_pe": k_pe})


def test_temperature(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    mask = distance(given) >= 0
    position = given.over_pairs(lambda at: at.q)
    agrees(given, "v33_temperature", "by_position", scores(given) * np.log(position + 1), mask)
    length = np.array(given.kv_lens)[:, None, None, None]
    agrees(given, "v33_temperature", "by_length", scores(given) * np.log(length) / np.log(7), params={"trained": 7.0})
    steps = 1 + 0.5 * np.log(1 + (position + 1) // 3)
    agrees(given, "v33_temperature", "by_steps", scores(given) * steps, mask, params={"floor_scale": 3.0, "scale": 0.5})


def test_a_call_overrides_the_scale(rng: np.random.Generator) -> None:
    given = problem(rng)
    per_request = np.array([0.25, 1.5], np.float32)
    agrees(given, "v01_causal", "causal", scores(given, 0.7), distance(given) >= 0, sm_scale=0.7)
    scaled = scores(given, 1.0) * per_request[:, None, None, None]
    agrees(given, "v01_causal", "causal", scaled, distance(given) >= 0, sm_scale=per_request)
    table = np.zeros((given.heads, 16), np.float32)
    agrees(given, "v27_t5_bias", "t5_encoder", scores(given, 0.7), sm_scale=0.7, tensors={"table": table})


def test_scores_by_head_group(rng: np.random.Generator) -> None:
    given = problem(rng, heads=6, kv_heads=2)
    expected = np.einsum("bihd,bjhd->bhij", given.q[:, :, 4:5], given.k[:, :, 1:2])[:, 0] * given.dim**-0.5
    np.testing.assert_allclose(scores(given)[:, 4], expected, rtol=1e-6, atol=1e-6)
    assert by_query_head(given, given.k).shape[1] == 6
    agrees(given, "v01_causal", "causal", scores(given), distance(given) >= 0)
