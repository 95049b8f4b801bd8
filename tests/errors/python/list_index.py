import attncc
from attncc import At, hooks

SLOPES = [0.5, 0.25, 0.125, 0.0625]


@attncc.variant
def alibi(at: At):
    return hooks(logits=at.score + SLOPES[at.h] * (at.k - at.q))


alibi()
