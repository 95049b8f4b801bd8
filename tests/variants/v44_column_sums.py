"""The twin of v44_column_sums.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, colsum, hooks, variant


@variant
def column_sums(at: At) -> Hooks:
    return hooks(mask=at.q >= at.k, emit={"mass": colsum(at.prob)})
