"""The twin of v03_symmetric_local.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, variant


@variant
def symmetric_local(at: At, *, w: int) -> Hooks:
    return hooks(mask=abs(at.q - at.k) <= w)
