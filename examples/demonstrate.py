"""What an example's main does: draw the mask, compute random tensors, compare with the formula. Not an example."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import attncc
from attncc.diagnostics import UnsupportedError
from attncc.viz import show

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH, HEADS, KV_HEADS, LENGTH, HEAD_DIM = 2, 8, 2, 160, 64
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def demonstrate(variant: Any, formula: Callable[..., torch.Tensor]) -> None:
    """Draw ``variant`` and compare ``attncc.attention`` with ``formula``; exit with status 1 where they disagree.

    ``formula(q, k, v)`` is the specification: its arguments and result are f64 [batch, heads, len, head_dim], the KV
    heads already repeated. On a GPU the compiled kernel is what is checked, elsewhere the reference.
    """
    q, k, v = tensors()
    show(variant, batch=BATCH, num_heads=HEADS, num_kv_heads=KV_HEADS, qo_len=LENGTH, head_dim=HEAD_DIM)
    out, engine = compute(q, k, v, variant)
    group = HEADS // KV_HEADS
    expected = formula(q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1))

    error = ((out.double() - expected).norm(dim=-1) / expected.norm(dim=-1)).max().item()
    limit = TOLERANCE[q.dtype]
    print(f"{engine}, {q.dtype}: the worst row is {error:.1e} from the formula")
    sys.exit(None if error <= limit else f"they disagree: at most {limit:.0e} was expected")


def compute(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, variant: Any) -> tuple[torch.Tensor, str]:
    """The attention, and what computed it: the kernel, or the reference where no kernel serves the variant yet."""
    try:
        return attncc.attention(q, k, v, variant, layout="hnd"), "kernel" if q.is_cuda else "reference"
    except UnsupportedError as error:
        print(error)
    host = replace(variant, tensors={name: tensor.cpu() for name, tensor in variant.tensors.items()})
    return attncc.attention(q.cpu(), k.cpu(), v.cpu(), host, layout="hnd").to(q.device), "reference"


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random q, k, v [batch, heads, len, head_dim]: bf16 on a GPU, f32 elsewhere."""
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    shapes = [(BATCH, heads, LENGTH, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    q, k, v = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    return q, k, v


def softmax_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Plain masked attention: what the examples that only change the mask compare with."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def positions() -> tuple[torch.Tensor, torch.Tensor]:
    """Query positions as a column and key positions as a row, to write masks as the papers do."""
    i = torch.arange(LENGTH, device=DEVICE)
    return i[:, None], i[None, :]
