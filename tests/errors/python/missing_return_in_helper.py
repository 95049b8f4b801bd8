import attncc
from attncc import At, hooks, tanh


def cap(x):
    tanh(x / 30.0) * 30.0


@attncc.variant
def softcap(at: At):
    return hooks(logits=at.score - cap(at.score))


softcap()
