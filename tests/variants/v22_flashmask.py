"""The twin of v22_flashmask.attn."""

from __future__ import annotations

from attncc.frontend import I32, At, Hooks, Tensor, hooks, variant


@variant
def flashmask(
    at: At,
    *,
    lower_start: I32[Tensor, "batch, num_kv_heads, kv_len"],
    lower_end: I32[Tensor, "batch, num_kv_heads, kv_len"],
    upper_start: I32[Tensor, "batch, num_kv_heads, kv_len"],
    upper_end: I32[Tensor, "batch, num_kv_heads, kv_len"],
) -> Hooks:
    key = at.b, at.hk, at.col
    lower = (lower_start[key] <= at.row) & (at.row < lower_end[key])
    upper = (upper_start[key] <= at.row) & (at.row < upper_end[key])
    return hooks(mask=~(lower | upper))
