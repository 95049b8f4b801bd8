"""The twin of v32_mla.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, Key, Query, Tensor, dot, hooks, rsqrt, variant


@variant
def mla(at: At, *, q_pe: Query[Tensor, "num_heads, 64"], k_pe: Key[Tensor, "1, 64"]) -> Hooks:
    return hooks(
        sm_scale=rsqrt(at.head_dim + 64),
        score=at.sm_scale * (dot(at.query, at.key) + dot(q_pe, k_pe)),
        mask=at.q >= at.k,
    )
