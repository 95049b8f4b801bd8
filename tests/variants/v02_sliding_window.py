"""The twin of v02_sliding_window.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, variant


@variant
def sliding_window(at: At, *, w: int) -> Hooks:
    return hooks(mask=(at.q - at.k >= 0) & (at.q - at.k < w))
