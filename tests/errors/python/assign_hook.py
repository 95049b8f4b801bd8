import attncc
from attncc import At


@attncc.variant
def causal(at: At):
    at.mask = at.q >= at.k


causal()
