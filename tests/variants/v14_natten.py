"""The twin of v14_natten.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, Value, clamp, hooks, variant


def near(a: Value, b: Value, size: int, r: int) -> Value:
    return abs(clamp(a, r, size - 1 - r) - b) <= r


@variant
def natten(at: At, *, width: int, height: int, r: int) -> Hooks:
    x, y = near(at.q % width, at.k % width, width, r), near(at.q // width, at.k // width, height, r)
    return hooks(mask=x & y)
