"""The twin of v24_packed_bits.attn."""

from __future__ import annotations

from attncc.frontend import U32, At, Hooks, Tensor, hooks, variant


@variant
def packed_bits(at: At, *, bits: U32[Tensor, "batch, qo_len, words"]) -> Hooks:
    return hooks(mask=bits[at.b, at.row, at.col // 32] >> at.col % 32 & 1 != 0)
