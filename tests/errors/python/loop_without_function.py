import attncc
from attncc import At, any_over, hooks


@attncc.variant
def strided(at: At):
    return hooks(mask=any_over(4, at.q == at.k))


strided()
