"""Longformer (arXiv 2004.05150): a symmetric window, and a few tokens that see and are seen by all."""

from __future__ import annotations

import torch
from demonstrate import BATCH, DEVICE, LENGTH, demonstrate, positions, softmax_attention

import attncc
from attncc import At, Bool, Tensor, abs, hooks


@attncc.variant
def longformer(at: At, *, is_global: Bool[Tensor, "batch, kv_len"], w: int = 256):
    return hooks(mask=(abs(at.q - at.k) <= w) | is_global[at.b, at.own] | is_global[at.b, at.col])


def formula(q, k, v, is_global, w):
    i, j = positions()
    seen = is_global[:, None, :, None] | is_global[:, None, None, :]
    return softmax_attention(q, k, v, ((i - j).abs() <= w) | seen)


if __name__ == "__main__":
    is_global = torch.zeros(BATCH, LENGTH, dtype=torch.bool, device=DEVICE)
    is_global[:, [0, 1, 90]] = True
    demonstrate(longformer(is_global=is_global, w=20), lambda q, k, v: formula(q, k, v, is_global, w=20))
