"""The twin of v33_temperature.attn."""

from __future__ import annotations

from attncc.frontend import At, Hooks, floor, hooks, log, variant


@variant
def by_position(at: At) -> Hooks:
    return hooks(logits=at.score * log(at.q + 1), mask=at.q >= at.k)


@variant
def by_length(at: At, *, trained: float = 512.0) -> Hooks:
    return hooks(logits=at.score * log(at.kv_len) / log(trained))


@variant
def by_steps(at: At, *, floor_scale: float = 8192.0, scale: float = 0.1) -> Hooks:
    temperature = 1 + scale * log(1 + floor((at.q + 1) / floor_scale))
    return hooks(logits=at.score * temperature, mask=at.q >= at.k)
