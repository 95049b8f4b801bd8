"""The twin of v41_qk_norm.attn."""

from __future__ import annotations

from attncc.frontend import BF16, At, Hooks, Tensor, Value, dot, hooks, rsqrt, variant


@variant
def qk_norm(at: At, *, wq: BF16[Tensor, "head_dim"], wk: BF16[Tensor, "head_dim"], eps: float = 0.000001) -> Hooks:
    def rms_norm(x: Value) -> Value:
        return x * rsqrt(dot(x, x) / at.head_dim + eps)

    return hooks(
        query=rms_norm(at.query) * wq[at.d],
        key=rms_norm(at.key) * wk[at.d],
        mask=at.q >= at.k,
    )
