import attncc
from attncc import F32, At, Tensor, hooks


@attncc.variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"] = None):
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q))
