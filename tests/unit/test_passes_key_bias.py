"""Which logits are a scaled score and a bias by key."""

from __future__ import annotations

import pytest

from attncc import grammar
from attncc.diagnostics import Source
from attncc.ir.nodes import Variant
from attncc.passes.canonicalize import canonicalize
from attncc.passes.key_bias import has_key_bias

DECLARED = "x: f32[batch, kv_len], y: f32[num_kv_heads, kv_len], t: f32[num_heads], c: f32, w: f32"


def variant(hooks: str) -> Variant:
    text = f"variant v({DECLARED}) {{ {hooks} }}"
    return canonicalize(grammar.read(Source("v.attn", text)).definitions["v"].instantiate({}))


@pytest.mark.parametrize(
    "hooks",
    [
        "logits = score + x[b, col]",
        "logits = x[b, col] + score; mask = q >= k",
        "logits = c * (score - x[b, col]) + w",
        "logits = score + c * (x[b, col] + y[hk, col]) - w * k",
        "logits = score + (0.0 if x[b, col] > c else -1e30)",
        "score = dot(query, key) * 0.1; logits = score + exp(y[hk, col])",
        "sm_scale = c; logits = score + x[b, col]",
    ],
)
def test_a_sum_of_a_score_and_what_is_known_by_key(hooks: str) -> None:
    assert has_key_bias(variant(hooks))


@pytest.mark.parametrize(
    "hooks",
    [
        "mask = x[b, col] > 0.0",
        "logits = score + 0.5 * k",  # costs nothing as it stands
        "logits = score + t[h]",
        "logits = score + t[h] * x[b, col]",
        "logits = t[h] * score + x[b, col]",
        "logits = x[b, col] * score + x[b, col]",
        "logits = tanh(score) + x[b, col]",
        "logits = score + tanh(score) + x[b, col]",
        "logits = max(score, x[b, col])",
        "logits = score + x[b, col] * (q - k)",
        "weight = sigmoid(score + x[b, col])",
    ],
)
def test_what_is_another_sum(hooks: str) -> None:
    assert not has_key_bias(variant(hooks))
