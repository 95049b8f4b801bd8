"""The twin of v01_causal.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, variant


@variant
def causal(at: At) -> Hooks:
    return hooks(mask=at.q >= at.k)


@variant
def causal_top_left(at: At) -> Hooks:
    return hooks(mask=at.row >= at.col)
