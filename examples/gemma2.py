"""Gemma-2 (arXiv 2408.00118): softcapped logits and a sliding window."""

from __future__ import annotations

import torch
from demonstrate import demonstrate, positions

import attncc
from attncc import At, hooks, tanh


@attncc.variant
def gemma2(at: At, *, softcap: float = 50.0, w: int = 4096):
    return hooks(
        logits=softcap * tanh(at.score / softcap),
        mask=(at.q >= at.k) & (at.q - at.k < w),
    )


def formula(q, k, v, softcap, w):
    i, j = positions()
    scores = softcap * torch.tanh(q @ k.mT / q.shape[-1] ** 0.5 / softcap)
    return scores.masked_fill((j > i) | (i - j >= w), -torch.inf).softmax(-1) @ v


if __name__ == "__main__":
    demonstrate(gemma2(softcap=2.0, w=64), lambda q, k, v: formula(q, k, v, softcap=2.0, w=64))
