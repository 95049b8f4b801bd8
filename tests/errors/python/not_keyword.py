import attncc
from attncc import At, hooks


def causal(at):
    return at.q >= at.k


@attncc.variant
def future(at: At):
    return hooks(mask=not causal(at))


future()
