"""The twin of v17_spatial_temporal.attn."""

from __future__ import annotations

from attncc.frontend import At, Bool, Hooks, Tensor, hooks, variant, where


@variant
def spatial_temporal(
    at: At, *, spatial: Bool[Tensor, "num_heads"], frame: int, frames: int = 1, places: int = 0
) -> Hooks:
    near_in_time = abs(at.q // frame - at.k // frame) <= frames
    near_in_space = abs(at.q % frame - at.k % frame) <= places
    return hooks(mask=where(spatial[at.h], near_in_time, near_in_space) | (at.k < frame))
