"""The twin of v08_longformer.attn."""

from __future__ import annotations

from attncc.frontend import At, Bool, Hooks, Tensor, hooks, variant


@variant
def longformer(at: At, *, marked: Bool[Tensor, "batch, kv_len"], w: int) -> Hooks:
    return hooks(mask=(abs(at.q - at.k) <= w) | marked[at.b, at.own] | marked[at.b, at.col])
