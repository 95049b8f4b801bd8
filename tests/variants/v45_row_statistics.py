"""The twin of v45_row_statistics.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, expect, hooks, rowmax, variant


@variant
def row_statistics(at: At) -> Hooks:
    return hooks(mask=at.q >= at.k, emit={"top": rowmax(at.logits), "entropy": at.lse - expect(at.logits)})
