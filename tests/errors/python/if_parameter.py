import attncc
from attncc import At, hooks


@attncc.variant
def maybe_causal(at: At, *, causal: bool = True):
    return hooks(mask=at.q >= at.k if causal else True)


maybe_causal()
