"""Causal attention: a token sees itself and what came before it."""

from __future__ import annotations

import torch
from demonstrate import demonstrate

import attncc
from attncc import At, hooks


@attncc.variant
def causal(at: At):
    return hooks(mask=at.q >= at.k)


def formula(q, k, v):
    n = q.shape[-2]
    mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


if __name__ == "__main__":
    demonstrate(causal(), formula)
