"""The twin of v36_sigmoid.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, sigmoid, variant


@variant
def sigmoid_attention(at: At, *, bias: float) -> Hooks:
    return hooks(mask=at.q >= at.k, weight=sigmoid(at.logits + bias))
