"""The twin of v21_vertical_slash.attn."""

from __future__ import annotations

from attncc.frontend import I32, At, Hooks, Tensor, any_over, hooks, variant


@variant
def vertical_slash(
    at: At, *, vertical: I32[Tensor, "num_heads, columns"], slash: I32[Tensor, "num_heads, diagonals"]
) -> Hooks:
    on_column = any_over(at.extent("columns"), lambda t: vertical[at.h, t] == at.k)
    on_diagonal = any_over(slash.shape[1], lambda t: slash[at.h, t] == at.q - at.k)
    return hooks(mask=(at.q >= at.k) & (on_column | on_diagonal))
