"""The twin of v19_transfusion.attn."""

from __future__ import annotations

from attncc.frontend import I8, At, Hooks, Tensor, hooks, variant


@variant
def transfusion(at: At, *, img: I8[Tensor, "batch, kv_len"]) -> Hooks:
    mine, other = img[at.b, at.own], img[at.b, at.col]
    return hooks(mask=(at.q >= at.k) | ((mine == other) & (other >= 0)))
