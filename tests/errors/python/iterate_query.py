import attncc
from attncc import At, hooks


@attncc.variant
def norm(at: At):
    total = 0.0
    for x in at.query:
        total = total + x * x
    return hooks(query=at.query / total)


norm()
