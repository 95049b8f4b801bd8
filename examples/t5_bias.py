"""T5's relative bias (arXiv 1910.10683), as its decoder has it: short distances have a bucket each, longer ones share
buckets that widen logarithmically up to max_distance."""

from __future__ import annotations

import torch
from demonstrate import DEVICE, HEADS, demonstrate, positions

import attncc
from attncc import F32, At, Tensor, hooks, i32, log, max, min, where


@attncc.variant
def t5_bias(at: At, *, bias: F32[Tensor, "num_heads, buckets"], max_distance: int = 128):
    exact = bias.shape[1] // 2
    distance = max(at.q - at.k, 0)
    octaves = log(distance / exact) / log(max_distance / exact)
    far = min(exact + i32(octaves * (bias.shape[1] - exact)), bias.shape[1] - 1)
    return hooks(
        logits=at.score + bias[at.h, where(distance < exact, distance, far)],
        mask=at.q >= at.k,
    )


def formula(q, k, v, bias, max_distance):
    i, j = positions()
    buckets, exact = bias.shape[1], bias.shape[1] // 2
    distance = (i - j).clamp(min=0)
    octaves = (distance.clamp(min=exact) / exact).log() / torch.tensor(max_distance / exact).log()
    far = (exact + octaves * (buckets - exact)).long().clamp(max=buckets - 1)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias.double()[:, torch.where(distance < exact, distance, far)]
    return scores.masked_fill(j > i, -torch.inf).softmax(-1) @ v


if __name__ == "__main__":
    bias = torch.randn(HEADS, 32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    demonstrate(t5_bias(bias=bias), lambda q, k, v: formula(q, k, v, bias, max_distance=128))
