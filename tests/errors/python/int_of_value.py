import attncc
from attncc import At, hooks


@attncc.variant
def blocks(at: At, *, size: int = 64):
    return hooks(mask=int(at.q / size) == at.k // size)


blocks()
