import attncc
from attncc import At, any_over, hooks


@attncc.variant
def strided(at: At, *, n: int = 4):
    return hooks(mask=any_over(n, lambda i: at.q - at.k == 64 * i))


strided()
