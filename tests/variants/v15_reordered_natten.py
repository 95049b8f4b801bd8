"""The twin of v15_reordered_natten.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, Value, clamp, hooks, i32, variant


def near(a: Value, b: Value, size: int, r: int) -> Value:
    return abs(clamp(a, r, size - 1 - r) - b) <= r


def tiled(p: Value, tile: int, across: Value) -> tuple[Value, Value]:
    which, inside = p // (tile * tile), p % (tile * tile)
    return which % across * tile + inside % tile, which // across * tile + inside // tile


def even_bits(n: Value) -> Value:
    n = n & 0x55555555
    for shift, kept in ((1, 0x33333333), (2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0x0000FFFF)):
        n = (n | n >> shift) & kept
    return n


@variant
def tiled_natten(at: At, *, width: int, height: int, tile: int, r: int) -> Hooks:
    across = i32(width) // tile
    (qx, qy), (kx, ky) = tiled(at.q, tile, across), tiled(at.k, tile, across)
    return hooks(mask=near(qx, kx, width, r) & near(qy, ky, height, r))


@variant
def morton_natten(at: At, *, width: int, height: int, r: int) -> Hooks:
    x = near(even_bits(at.q), even_bits(at.k), width, r)
    y = near(even_bits(at.q >> 1), even_bits(at.k >> 1), height, r)
    return hooks(mask=x & y)
