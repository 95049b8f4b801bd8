import attncc
from attncc import At, hooks, tanh


@attncc.variant
def softcap(at: At):
    return hooks(logits=30.0 * tanh(at.scores / 30.0))


softcap()
