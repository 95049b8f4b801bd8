import attncc
from attncc import F32, At, Tensor, hooks


@attncc.variant
def relative(at: At, *, table: F32[Tensor, "2 * n"]):
    n = at.extent("n")
    return hooks(logits=at.score + table[at.q - at.k + n])


relative.definition.instantiate({})
