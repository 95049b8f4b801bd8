import attncc
from attncc import At, hooks


@attncc.variant
def first(at: At):
    return hooks(score=at.query[0] * at.key[0])


first()
