import attncc
from attncc import At, hooks


@attncc.variant
def causal(at: At):
    return hooks(maks=at.q >= at.k)


causal()
