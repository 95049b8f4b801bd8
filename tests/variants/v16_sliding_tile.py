"""The twin of v16_sliding_tile.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, Value, clamp, hooks, i32, variant


def near(a: Value, b: Value, size: int, window: int) -> Value:
    half = i32(window) // 2
    return abs(clamp(a, half, size - 1 - half) - b) <= half


@variant
def sliding_tile(at: At, *, tile: int, nt: int, ny: int, nx: int, wt: int = 3, wy: int = 3, wx: int = 3) -> Hooks:
    a, c = at.q // tile, at.k // tile
    t = near(a // (ny * nx), c // (ny * nx), nt, wt)
    return hooks(mask=t & near(a // nx % ny, c // nx % ny, ny, wy) & near(a % nx, c % nx, nx, wx))
