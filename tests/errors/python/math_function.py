import math

import attncc
from attncc import At, hooks


@attncc.variant
def softcap(at: At, *, cap: float = 50.0):
    return hooks(logits=cap * math.tanh(at.score / cap))


softcap()
