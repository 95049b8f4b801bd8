"""The twin of v39_differential.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, branch, hooks, rsqrt, variant


@variant
def differential(at: At, *, lam: F32[Tensor, "num_heads"]) -> Hooks:
    half = at.head_dim // 2
    return hooks(
        sm_scale=rsqrt(half),
        mask=at.q >= at.k,
        branches={
            "x": branch(query=at.query[0:half], key=at.key[0:half]),
            "y": branch(query=at.query[half : at.head_dim], key=at.key[half : at.head_dim]),
        },
        output=at.branch("x").out - lam[at.h] * at.branch("y").out,
    )
