"""The twin of v34_gpt_oss.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, hooks, softmax, variant


@variant
def gpt_oss(at: At, *, sink: F32[Tensor, "num_heads"], w: int = 128) -> Hooks:
    return hooks(mask=(at.q - at.k >= 0) & (at.q - at.k < w), normalize=softmax(sink=sink[at.h]))
