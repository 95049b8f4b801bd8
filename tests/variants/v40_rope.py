"""The twin of v40_rope.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, Value, cos, hooks, pow, rotate_half, rotate_pairs, sin, variant


def turned(x: Value, rotated: Value, angle: Value) -> Value:
    return x * cos(angle) + rotated * sin(angle)


@variant
def rope_half(at: At, *, theta: float = 10000.0, offset: int = 0) -> Hooks:
    frequency = pow(theta, -2 * (at.d % (at.head_dim // 2)) / at.head_dim)
    return hooks(
        query=turned(at.query, rotate_half(at.query), (at.q + offset) * frequency),
        key=turned(at.key, rotate_half(at.key), (at.k + offset) * frequency),
        mask=at.q >= at.k,
    )


@variant
def rope_interleaved(at: At, *, theta: float = 10000.0, offset: int = 0) -> Hooks:
    frequency = pow(theta, -2 * (at.d // 2) / at.head_dim)
    return hooks(
        query=turned(at.query, rotate_pairs(at.query), (at.q + offset) * frequency),
        key=turned(at.key, rotate_pairs(at.key), (at.k + offset) * frequency),
        mask=at.q >= at.k,
    )


@variant
def rope_table(at: At, *, c: F32[Tensor, "n, head_dim"], s: F32[Tensor, "n, head_dim"]) -> Hooks:
    return hooks(
        query=at.query * c[at.q, at.d] + rotate_half(at.query) * s[at.q, at.d],
        key=at.key * c[at.k, at.d] + rotate_half(at.key) * s[at.k, at.d],
        mask=at.q >= at.k,
    )
