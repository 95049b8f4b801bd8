"""The twin of v04_dilated.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, variant


@variant
def dilated(at: At, *, w: int, dilation: int = 2) -> Hooks:
    distance = at.q - at.k
    return hooks(mask=(abs(distance) <= w) & (distance % dilation == 0))
