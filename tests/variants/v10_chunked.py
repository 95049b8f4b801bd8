"""The twin of v10_chunked.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, hooks, variant


@variant
def chunked(at: At, *, chunk: int = 8192) -> Hooks:
    return hooks(mask=(at.q // chunk == at.k // chunk) & (at.q >= at.k))
