"""The twin of v28_relative_table.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, clamp, hooks, variant


@variant
def relative_table(at: At, *, table: F32[Tensor, "num_heads, n"]) -> Hooks:
    r = table.shape[1] // 2
    return hooks(logits=at.score + table[at.h, clamp(at.q - at.k, -r, r) + r])
