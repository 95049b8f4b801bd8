"""The twin of v38_retention.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, abs, hooks, max, pow, variant


@variant
def retention(at: At, *, gamma: F32[Tensor, "num_heads"]) -> Hooks:
    return hooks(
        mask=at.q >= at.k,
        weight=at.logits * pow(gamma[at.h], at.q - at.k),
        normalize=max(abs(at.total), 1.0),
    )
