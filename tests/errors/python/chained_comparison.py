import attncc
from attncc import At, hooks


@attncc.variant
def window(at: At, *, w: int = 128):
    return hooks(mask=0 <= at.q - at.k < w)


window()
