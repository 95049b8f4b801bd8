"""The twin of v06_documents.attn."""

from __future__ import annotations

from attncc.frontend import I32, At, Hooks, Tensor, hooks, variant


@variant
def documents(at: At, *, doc: I32[Tensor, "batch, kv_len"]) -> Hooks:
    return hooks(mask=(doc[at.b, at.own] == doc[at.b, at.col]) & (at.q >= at.k))
