"""Rotary embedding (arXiv 2104.09864) inside the kernel, half-split: tables of cosines and sines by position."""

from __future__ import annotations

import torch
from demonstrate import DEVICE, HEAD_DIM, LENGTH, demonstrate, positions, softmax_attention

import attncc
from attncc import F32, At, Tensor, hooks, rotate_half


@attncc.variant
def rope(at: At, *, c: F32[Tensor, "positions, head_dim"], s: F32[Tensor, "positions, head_dim"]):
    return hooks(
        query=at.query * c[at.q, at.d] + rotate_half(at.query) * s[at.q, at.d],
        key=at.key * c[at.k, at.d] + rotate_half(at.key) * s[at.k, at.d],
        mask=at.q >= at.k,
    )


def formula(q, k, v, angles):
    """Each pair of channels (i, i + head_dim/2) is a complex number, turned by its position."""
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotate(x):
        z = torch.complex(*x.chunk(2, dim=-1)) * turn
        return torch.cat([z.real, z.imag], dim=-1)

    i, j = positions()
    return softmax_attention(rotate(q), rotate(k), v, j <= i)


if __name__ == "__main__":
    frequencies = 10_000.0 ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float64, device=DEVICE) / HEAD_DIM)
    angles = torch.arange(LENGTH, device=DEVICE)[:, None] * frequencies
    both = torch.cat([angles, angles], dim=-1).float()
    demonstrate(rope(c=both.cos(), s=both.sin()), lambda q, k, v: formula(q, k, v, angles))
