"""The twin of v12_shared_prefix.attn."""

from __future__ import annotations

from attncc.frontend import I32, At, Hooks, Tensor, hooks, variant


@variant
def shared_prefix(at: At, *, doc: I32[Tensor, "batch, kv_len"], low: int = 0, high: int) -> Hooks:
    own = (doc[at.b, at.own] == doc[at.b, at.col]) & (at.q >= at.k)
    return hooks(mask=own | ((low <= at.k) & (at.k < high)))
