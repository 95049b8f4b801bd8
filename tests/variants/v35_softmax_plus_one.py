"""The twin of v35_softmax_plus_one.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, softmax, variant


@variant
def softmax_plus_one(at: At) -> Hooks:
    return hooks(mask=at.q >= at.k, normalize=softmax(sink=0.0))
