"""The twin of v26_softcap.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, tanh, variant


@variant
def softcap(at: At, *, softcap: float = 50.0, w: int = 4096) -> Hooks:
    return hooks(logits=softcap * tanh(at.score / softcap), mask=(at.q >= at.k) & (at.q - at.k < w))
