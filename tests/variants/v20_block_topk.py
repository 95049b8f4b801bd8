"""The twin of v20_block_topk.attn."""

from __future__ import annotations

from attncc.frontend import I32, At, Hooks, Tensor, any_over, hooks, variant


@variant
def block_topk(at: At, *, selected: I32[Tensor, "batch, num_heads, tiles, topk"], tile: int, block: int) -> Hooks:
    chosen = any_over(at.extent("topk"), lambda t: selected[at.b, at.h, at.row // tile, t] == at.col // block)
    return hooks(mask=(at.q >= at.k) & chosen)
