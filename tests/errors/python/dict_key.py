import attncc
from attncc import At, hooks

SLOPES = {0: 0.5, 1: 0.25}


@attncc.variant
def alibi(at: At):
    return hooks(logits=at.score + SLOPES[at.h] * (at.k - at.q))


alibi()
