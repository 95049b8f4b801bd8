import attncc
from attncc import At, hooks


@attncc.variant
def clipped(at: At):
    logits = at.score
    if at.score > 30.0:
        logits = 30.0
    return hooks(logits=logits)


clipped()
