import attncc
from attncc import I32, At, Tensor, hooks


@attncc.variant
def selected(at: At, *, blocks: I32[Tensor, "num_heads, n"]):
    mask = False
    for i in range(blocks.shape[1]):
        mask = mask | (at.k // 64 == blocks[at.h, i])
    return hooks(mask=mask)


import numpy as np  # noqa: E402

selected(blocks=np.zeros((4, 8), np.int32))
