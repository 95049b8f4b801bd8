"""gpt-oss (arXiv 2508.10925): a learned logit per head joins the softmax's denominator, and a sliding window."""

from __future__ import annotations

import torch
from demonstrate import DEVICE, HEADS, demonstrate, positions

import attncc
from attncc import F32, At, Tensor, hooks, softmax


@attncc.variant
def gpt_oss(at: At, *, sink: F32[Tensor, "num_heads"], w: int = 128):
    return hooks(
        mask=(at.q >= at.k) & (at.q - at.k < w),
        normalize=softmax(sink=sink[at.h]),
    )


def formula(q, k, v, sink, w):
    i, j = positions()
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill((j > i) | (i - j >= w), -torch.inf)
    column = sink.double()[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1] @ v


if __name__ == "__main__":
    sink = torch.linspace(-1.0, 4.0, HEADS, device=DEVICE)
    demonstrate(gpt_oss(sink=sink, w=48), lambda q, k, v: formula(q, k, v, sink, w=48))
