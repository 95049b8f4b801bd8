"""The twin of v43_output_gate.attn."""

from __future__ import annotations

from attncc.frontend import F32, At, Hooks, Tensor, hooks, sigmoid, variant


@variant
def output_gate(at: At, *, gate: F32[Tensor, "batch, qo_len, num_heads"]) -> Hooks:
    return hooks(mask=at.q >= at.k, output=at.out * sigmoid(gate[at.b, at.row, at.h]))
