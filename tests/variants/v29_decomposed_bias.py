"""The twin of v29_decomposed_bias.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, hooks, variant


@variant
def decomposed_bias(
    at: At, *, rh: F32[Tensor, "batch, num_heads, qo_len, height"], rw: F32[Tensor, "batch, num_heads, qo_len, width"]
) -> Hooks:
    width = at.extent("width")
    y, x = rh[at.b, at.h, at.row, at.col // width], rw[at.b, at.h, at.row, at.col % width]
    return hooks(logits=at.score + y + x)
