import attncc
from attncc import At, hooks


def causal(at):
    at.q >= at.k  # noqa: B015 - the mistake


@attncc.variant
def decoder(at: At):
    return hooks(logits=at.score, mask=causal(at))


decoder()
