import attncc
from attncc import At, hooks


@attncc.variant
def relative(at: At, *, far: int = 16):
    return hooks(logits=at.score - min(at.q - at.k, far))


relative()
