"""The twin of v37_relu.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, relu, variant


@variant
def relu_attention(at: At) -> Hooks:
    return hooks(weight=relu(at.logits) / at.kv_len)


@variant
def relu_squared(at: At) -> Hooks:
    return hooks(weight=relu(at.logits) ** 2 / at.kv_len)
