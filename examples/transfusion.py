"""Transfusion (arXiv 2408.11039): text is causal, the patches of one image see each other."""

from __future__ import annotations

import torch
from demonstrate import BATCH, DEVICE, LENGTH, demonstrate, positions, softmax_attention

import attncc
from attncc import I32, At, Tensor, hooks


@attncc.variant
def transfusion(at: At, *, image: I32[Tensor, "batch, kv_len"]):
    """image[b, i] is the image of token i, -1 for text."""
    row, col = image[at.b, at.own], image[at.b, at.col]
    return hooks(mask=(at.q >= at.k) | (row == col) & (col >= 0))


def formula(q, k, v, image):
    i, j = positions()
    row, col = image[:, None, :, None], image[:, None, None, :]
    return softmax_attention(q, k, v, (j <= i) | ((row == col) & (row != -1)))


if __name__ == "__main__":
    image = torch.full((BATCH, LENGTH), -1, dtype=torch.int32, device=DEVICE)
    image[:, 20:60], image[:, 100:150] = 0, 1
    demonstrate(transfusion(image=image), lambda q, k, v: formula(q, k, v, image))
