"""The twin of v23_permuted.attn."""

from __future__ import annotations

from attncc.frontend import I32, At, Hooks, Tensor, hooks, variant


@variant
def permuted(at: At, *, pos_q: I32[Tensor, "batch, qo_len"], pos_k: I32[Tensor, "batch, kv_len"]) -> Hooks:
    return hooks(mask=pos_q[at.b, at.row] >= pos_k[at.b, at.col])
