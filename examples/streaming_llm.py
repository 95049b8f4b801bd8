"""StreamingLLM (arXiv 2309.17453): the first tokens are attention sinks that stay, beside a sliding window."""

from __future__ import annotations

from demonstrate import demonstrate, positions, softmax_attention

import attncc
from attncc import At, hooks


@attncc.variant
def streaming_llm(at: At, *, sinks: int = 4, w: int = 1020):
    return hooks(mask=(at.q >= at.k) & ((at.k < sinks) | (at.q - at.k < w)))


def formula(q, k, v, sinks, w):
    i, j = positions()
    return softmax_attention(q, k, v, (j <= i) & ((j < sinks) | (i - j < w)))


if __name__ == "__main__":
    demonstrate(streaming_llm(w=40), lambda q, k, v: formula(q, k, v, sinks=4, w=40))
