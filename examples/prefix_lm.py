"""Prefix-LM (T5, arXiv 1910.10683): everyone sees the request's prefix, the rest is causal."""

from __future__ import annotations

import torch
from demonstrate import DEVICE, demonstrate, positions, softmax_attention

import attncc
from attncc import At, Tensor, hooks


@attncc.variant
def prefix_lm(at: At, *, prefix: int | Tensor):
    return hooks(mask=(at.k < prefix) | (at.q >= at.k))


def formula(q, k, v, prefix):
    i, j = positions()
    return softmax_attention(q, k, v, (j < prefix[:, None, None, None]) | (j <= i))


if __name__ == "__main__":
    prefix = torch.tensor([70, 25], dtype=torch.int32, device=DEVICE)  # one value per request
    demonstrate(prefix_lm(prefix=prefix), lambda q, k, v: formula(q, k, v, prefix))
