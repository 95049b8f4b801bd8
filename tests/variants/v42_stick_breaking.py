"""The twin of v42_stick_breaking.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, after, exp, hooks, sigmoid, softplus, variant


@variant
def stick_breaking(at: At) -> Hooks:
    return hooks(mask=at.q > at.k, weight=sigmoid(at.logits) * exp(after(-softplus(at.logits))))
