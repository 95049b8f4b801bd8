"""The twin of v18_interleaved.attn."""

from __future__ import annotations

from attncc.frontend import I32, At, Hooks, Tensor, hooks, variant


@variant
def interleaved(
    at: At,
    *,
    img: I32[Tensor, "batch, kv_len"],
    low: I32[Tensor, "batch, images"],
    high: I32[Tensor, "batch, images"],
) -> Hooks:
    image = img[at.b, at.col]
    return hooks(mask=(low[at.b, image] <= at.row) & (at.row < high[at.b, image]))
