"""The twin of v27_t5_bias.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, Value, hooks, i32, log, max, min, variant, where


def bucket(distance: Value, buckets: Value, far: int) -> Value:
    exact = buckets // 2
    large = exact + i32(log(distance / exact) / log(far / exact) * (buckets - exact))
    return where(distance < exact, distance, min(large, buckets - 1))


@variant
def t5_encoder(at: At, *, table: F32[Tensor, "num_heads, buckets"], far: int = 128) -> Hooks:
    half = at.extent("buckets") // 2
    later = where(at.k > at.q, half, 0)
    return hooks(sm_scale=1.0, logits=at.score + table[at.h, later + bucket(abs(at.k - at.q), half, far)])


@variant
def t5_decoder(at: At, *, table: F32[Tensor, "num_heads, buckets"], far: int = 128) -> Hooks:
    bias = table[at.h, bucket(max(at.q - at.k, 0), at.extent("buckets"), far)]
    return hooks(sm_scale=1.0, logits=at.score + bias, mask=at.q >= at.k)
