"""The normalisers, transforms and outputs (34 to 45), against formulas over whole matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attncc.passes.canonicalize import canonicalize
from attncc.reference import Result, attention
from tests.dense import Problem, problem, scores, softmax, weighted
from tests.variant_files import variant

Array = Any
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(params=range(3))
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


def results(given: Problem, file: str, name: str, **call: Any) -> list[Result]:
    """The variant as written and in canonical form."""
    made = variant(file, name)
    return [attention(form, given.q, given.k, given.v, **given.call(), **call) for form in (made, canonicalize(made))]


def causal(given: Problem) -> Array:
    return given.over_pairs(lambda at: at.q >= at.k, False)


def test_gpt_oss_sink(rng: np.random.Generator) -> None:
    given, w = problem(rng, starts=True), 4  # some rows see their sink only
    sink = rng.normal(size=given.heads).astype(np.float32)
    mask = given.over_pairs(lambda at: at.k in range(at.q - w + 1, at.q + 1), False)
    expected = softmax(given, scores(given), mask, sink)
    for got in results(given, "v34_gpt_oss", "gpt_oss", params={"w": w}, tensors={"sink": sink}):
        np.testing.assert_allclose(got.out, expected.out, **CLOSE)
        np.testing.assert_allclose(got.lse, expected.lse, **CLOSE)


def test_softmax_plus_one(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    expected = softmax(given, scores(given), causal(given), np.zeros(given.heads))
    for got in results(given, "v35_softmax_plus_one", "softmax_plus_one"):
        np.testing.assert_allclose(got.out, expected.out, **CLOSE)
        np.testing.assert_allclose(got.lse, expected.lse, **CLOSE)


def test_sigmoid(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    bias = -np.log(given.cols)
    expected = weighted(given, 1 / (1 + np.exp(-(scores(given) + bias))), causal(given))
    for got in results(given, "v36_sigmoid", "sigmoid_attention", params={"bias": bias}):
        np.testing.assert_allclose(got.out, expected, **CLOSE)
        assert got.lse is None


@pytest.mark.parametrize(("name", "power"), [("relu_attention", 1), ("relu_squared", 2)])
def test_relu(rng: np.random.Generator, name: str, power: int) -> None:
    given = problem(rng, ragged=True)
    length = np.array(given.kv_lens)[:, None, None, None]
    expected = weighted(given, np.where(scores(given) > 0, scores(given), 0.0) ** power / length, given.inside())
    for got in results(given, "v37_relu", name):
        np.testing.assert_allclose(got.out, expected, **CLOSE)


def test_retention(rng: np.random.Generator) -> None:
    given = problem(rng, starts=True)
    gamma = (1 - 2.0 ** (-2 - np.arange(given.heads))).astype(np.float32)
    decay = given.over_pairs(lambda at: float(gamma[at.h]) ** max(at.q - at.k, 0))
    weights = np.where(causal(given), scores(given) * decay, 0.0)
    denominator = np.maximum(np.abs(weights.sum(-1)), 1.0)
    expected = weighted(given, weights, causal(given)) / denominator.transpose(0, 2, 1)[..., None]
    for got in results(given, "v38_retention", "retention", tensors={"gamma": gamma}):
        np.testing.assert_allclose(got.out, expected, **CLOSE)


def test_differential(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    half, lam = given.dim // 2, rng.uniform(0.1, 0.9, given.heads).astype(np.float32)
    first, second = (
        softmax(given, scores(given, half**-0.5, given.q[..., part], given.k[..., part]), causal(given)).out
        for part in (slice(None, half), slice(half, None))
    )
    for got in results(given, "v39_differential", "differential", tensors={"lam": lam}):
        np.testing.assert_allclose(got.out, first - lam[:, None] * second, **CLOSE)
        assert got.lse is None


def rotated(vectors: Array, positions: Array, theta: float, pairs: list[tuple[int, int]]) -> Array:
    """Channel pair i of [batch, tokens, heads, dim] turned by position · theta^(−2i/dim)."""
    found = vectors.astype(np.float64).copy()
    for i, (a, b) in enumerate(pairs):
        angle = (positions * theta ** (-2 * i / vectors.shape[-1]))[:, :, None]
        found[..., a] = vectors[..., a] * np.cos(angle) - vectors[..., b] * np.sin(angle)
        found[..., b] = vectors[..., a] * np.sin(angle) + vectors[..., b] * np.cos(angle)
    return found


@pytest.mark.parametrize("form", ["rope_half", "rope_interleaved", "rope_table"])
def test_rope(rng: np.random.Generator, form: str) -> None:
    given, theta = problem(rng, starts=form != "rope_table", dim=8), 100.0
    offset = np.array([0, 7]) if form != "rope_table" else np.zeros(2, int)
    q_at, k_at = (
        np.array([[first(b) + n + offset[b] for n in range(count)] for b in range(given.batch)])
        for first, count in ((given.first_q, given.rows), (given.first_k, given.cols))
    )
    half = given.dim // 2
    pairs = [(2 * i, 2 * i + 1) if form == "rope_interleaved" else (i, i + half) for i in range(half)]
    q, k = rotated(given.q, q_at, theta, pairs), rotated(given.k, k_at, theta, pairs)
    expected = softmax(given, scores(given, None, q, k), causal(given))
    call: dict[str, Any] = {"params": {"theta": theta, "offset": offset}}
    if form == "rope_table":
        angles = np.arange(given.cols)[:, None] * theta ** (-2 * (np.arange(given.dim) % half) / given.dim)
        call = {"tensors": {"c": np.cos(angles).astype(np.float32), "s": np.sin(angles).astype(np.float32)}}
    for got in results(given, "v40_rope", form, **call):
        np.testing.assert_allclose(got.out, expected.out, **CLOSE)
        np.testing.assert_allclose(got.lse, expected.lse, **CLOSE)


def test_qk_norm(rng: np.random.Generator) -> None:
    given, eps = problem(rng, ragged=True), 1e-3
    wq, wk = (np.round(rng.uniform(0.5, 2.0, given.dim) * 64) / 64 for _ in range(2))  # exact in bf16

    def normed(vectors: Array, weights: Array) -> Array:
        wide = vectors.astype(np.float64)
        return wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weights

    logits = scores(given, None, normed(given.q, wq), normed(given.k, wk))
    expected = softmax(given, logits, causal(given))
    for got in results(
        given, "v41_qk_norm", "qk_norm", params={"eps": eps}, tensors={"wq": wq.astype("f4"), "wk": wk.astype("f4")}
    ):
        np.testing.assert_allclose(got.out, expected.out, **CLOSE)


def test_stick_breaking(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    mask = given.over_pairs(lambda at: at.q > at.k, False)
    share = 1 / (1 + np.exp(-scores(given)))

    def weight(at: Any) -> float:
        between = [col for col in range(at.col + 1, given.kv_lens[at.b]) if mask[at.b, at.h, at.row, col]]
        return float(share[at.b, at.h, at.row, at.col] * np.prod(1 - share[at.b, at.h, at.row, between]))

    expected = weighted(given, given.over_pairs(weight), mask)
    for got in results(given, "v42_stick_breaking", "stick_breaking"):
        np.testing.assert_allclose(got.out, expected, **CLOSE)


def test_output_gate(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    gate = rng.normal(size=(given.batch, given.rows, given.heads)).astype(np.float32)
    expected = softmax(given, scores(given), causal(given))
    for got in results(given, "v43_output_gate", "output_gate", tensors={"gate": gate}):
        np.testing.assert_allclose(got.out, expected.out / (1 + np.exp(-gate.astype(np.float64)))[..., None], **CLOSE)
        np.testing.assert_allclose(got.lse, expected.lse, **CLOSE)


def test_column_sums(rng: np.random.Generator) -> None:
    given = problem(rng, ragged=True)
    expected = softmax(given, scores(given), causal(given))
    for got in results(given, "v44_column_sums", "column_sums"):
        np.testing.assert_allclose(got.emits["mass"], expected.prob.sum(2).transpose(0, 2, 1), **CLOSE)
        np.testing.assert_allclose(got.out, expected.out, **CLOSE)


def test_row_statistics(rng: np.random.Generator) -> None:
    given = problem(rng)
    expected = softmax(given, scores(given), causal(given))
    top = np.where(causal(given), scores(given), -np.inf).max(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(expected.prob * np.log(expected.prob), axis=-1)
    for got in results(given, "v45_row_statistics", "row_statistics"):
        np.testing.assert_allclose(got.emits["top"], top.transpose(0, 2, 1), **CLOSE)
        np.testing.assert_allclose(got.emits["entropy"], entropy.transpose(0, 2, 1), **CLOSE)
