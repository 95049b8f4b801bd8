import attncc
from attncc import At, hooks


@attncc.variant
def causal(at: At):
    hooks(mask=at.q >= at.k)


causal()
