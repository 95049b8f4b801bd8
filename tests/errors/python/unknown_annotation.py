import attncc
from attncc import At, hooks, tanh


@attncc.variant
def softcap(at: At, *, cap: "flaot" = 50.0):
    return hooks(logits=cap * tanh(at.score / cap))
