"""The twin of v30_graph_bias.attn."""

from __future__ import annotations

from attncc.frontend import F16, U8, At, Hooks, Tensor, hooks, variant


@variant
def graph_bias(
    at: At, *, table: F16[Tensor, "num_heads, distances"], dist: U8[Tensor, "batch, qo_len, kv_len"]
) -> Hooks:
    return hooks(logits=at.score + table[at.h, dist[at.b, at.row, at.col]])
