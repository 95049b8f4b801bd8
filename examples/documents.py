"""Packed documents: several texts share one sequence and do not see each other."""

from __future__ import annotations

import torch
from demonstrate import BATCH, DEVICE, LENGTH, demonstrate, positions, softmax_attention

import attncc
from attncc import I32, At, Tensor, hooks


@attncc.variant
def documents(at: At, *, doc: I32[Tensor, "batch, kv_len"]):
    """doc[b, i] numbers the text of token i."""
    return hooks(mask=(doc[at.b, at.own] == doc[at.b, at.col]) & (at.q >= at.k))


def formula(q, k, v, doc):
    i, j = positions()
    same = doc[:, None, :, None] == doc[:, None, None, :]
    return softmax_attention(q, k, v, same & (j <= i))


if __name__ == "__main__":
    starts = torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(1)) < 4 / LENGTH
    doc = starts.cumsum(1).int().to(DEVICE)
    demonstrate(documents(doc=doc), lambda q, k, v: formula(q, k, v, doc))
