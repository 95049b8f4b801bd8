"""The twin of v07_prefix_documents.attn."""

from __future__ import annotations

from attncc.frontend import I32, At, Hooks, Tensor, Value, hooks, variant


def prefix(length: Value, q: Value, k: Value) -> Value:
    return (k < length) | (q >= k)


@variant
def prefix_documents(
    at: At,
    *,
    doc: I32[Tensor, "batch, kv_len"],
    start: I32[Tensor, "batch, documents"],
    length: I32[Tensor, "batch, documents"],
) -> Hooks:
    mine = doc[at.b, at.own]
    first = start[at.b, mine]
    return hooks(mask=(mine == doc[at.b, at.col]) & prefix(length[at.b, mine], at.own - first, at.col - first))
