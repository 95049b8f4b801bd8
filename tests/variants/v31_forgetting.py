"""The twin of v31_forgetting.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, hooks, variant


@variant
def forgetting(at: At, *, f: F32[Tensor, "batch, num_heads, kv_len"]) -> Hooks:
    return hooks(logits=at.score + f[at.b, at.h, at.own] - f[at.b, at.h, at.col], mask=at.q >= at.k)
