"""The twin of v05_prefix_lm.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, variant


@variant
def prefix_lm(at: At, *, prefix: int) -> Hooks:
    return hooks(mask=(at.k < prefix) | (at.q >= at.k))
