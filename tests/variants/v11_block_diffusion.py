"""The twin of v11_block_diffusion.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, variant, where


@variant
def block_diffusion(at: At, *, n: int, block: int) -> Hooks:
    clean_q, clean_k = at.q >= n, at.k >= n
    block_q = where(clean_q, at.q - n, at.q) // block
    block_k = where(clean_k, at.k - n, at.k) // block
    itself = (clean_q == clean_k) & (block_q == block_k)
    before = ~clean_q & clean_k & (block_q > block_k)
    clean = clean_q & clean_k & (block_q >= block_k)
    return hooks(mask=itself | before | clean)
