"""Sliding window (Mistral, arXiv 2310.06825): the last w tokens."""

from __future__ import annotations

from demonstrate import demonstrate, positions, softmax_attention

import attncc
from attncc import At, hooks


@attncc.variant
def window(at: At, *, w: int = 4096):
    return hooks(mask=(at.q >= at.k) & (at.q - at.k < w))


def formula(q, k, v, w):
    i, j = positions()
    return softmax_attention(q, k, v, (j <= i) & (j > i - w))


if __name__ == "__main__":
    demonstrate(window(w=48), lambda q, k, v: formula(q, k, v, w=48))
