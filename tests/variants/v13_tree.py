"""The twin of v13_tree.attn."""

from __future__ import annotations

from attncc.frontend import At, Bool, Hooks, Tensor, hooks, variant


@variant
def tree(at: At, *, ancestor: Bool[Tensor, "batch, qo_len, qo_len"], context: int) -> Hooks:
    return hooks(mask=(at.k < context) | ancestor[at.b, at.row, at.k - context])
