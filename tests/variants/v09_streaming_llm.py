"""The twin of v09_streaming_llm.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, variant


@variant
def streaming_llm(at: At, *, sinks: int = 4, w: int = 1024) -> Hooks:
    return hooks(mask=(at.q >= at.k) & ((at.k < sinks) | (at.q - at.k < w)))
