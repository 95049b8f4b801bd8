import attncc
from attncc import At, hooks


def strong(at):
    return at.score > 0.0


@attncc.variant
def top(at: At):
    return hooks(mask=(at.q >= at.k) & strong(at))


top()
