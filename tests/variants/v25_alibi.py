"""The twin of v25_alibi.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, hooks, variant


@variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"]) -> Hooks:
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q), mask=at.q >= at.k)
