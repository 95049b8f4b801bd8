"""ALiBi (arXiv 2108.12409): a penalty linear in the distance, one slope per head."""

from __future__ import annotations

import torch
from demonstrate import DEVICE, HEADS, demonstrate, positions

import attncc
from attncc import F32, At, Tensor, hooks


@attncc.variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"]):
    return hooks(
        logits=at.score + slopes[at.h] * (at.k - at.q),
        mask=at.q >= at.k,
    )


def formula(q, k, v, slopes):
    i, j = positions()
    scores = q @ k.mT / q.shape[-1] ** 0.5 - slopes.double()[:, None, None] * (i - j)
    return scores.masked_fill(j > i, -torch.inf).softmax(-1) @ v


if __name__ == "__main__":
    slopes = 2.0 ** (-8 / HEADS * torch.arange(1, HEADS + 1, device=DEVICE))  # 1/2, 1/4, … for eight heads
    demonstrate(alibi(slopes=slopes), lambda q, k, v: formula(q, k, v, slopes))
