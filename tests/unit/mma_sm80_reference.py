"""What the hand-written variants of mma_sm80 mean, over torch tensors on any device: float64, or eager in a dtype.

One request at a time. ``values`` holds the variant's parameters and tensors by their names in ``variants.FIELDS``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

WEIGHTED = frozenset({"sigmoid", "retention"})


def make_values(name: str, heads: int, batch: int, qo_len: int, kv_len: int, head_dim: int) -> dict[str, Any]:
    """Parameters and padded tensors for a launch of these sizes: numbers, and f32 and i32 tensors on the CPU."""
    generator = torch.Generator().manual_seed(3)
    positions = torch.arange(qo_len + kv_len + 512)[:, None]
    angle = positions * 10000.0 ** -(torch.arange(head_dim // 2) / (head_dim / 2)).repeat(2)
    made: dict[str, dict[str, Any]] = {
        "gemma2": {"softcap": 5.0, "window": 50},
        "alibi": {"slopes": 2.0 ** -torch.linspace(1, 8, heads)},
        "sink": {"sinks": torch.randn(heads, generator=generator), "window": 37},
        "documents": {"doc": (torch.arange(kv_len) // 29).int().repeat(batch, 1)},
        "rope": {"c": angle.cos(), "s": angle.sin()},
        "sigmoid": {"bias": -1.5},
        "retention": {"gamma": 1.0 - 2.0 ** -torch.linspace(3, 6, heads)},
        "normed": {
            "w": 1.0 + 0.3 * torch.randn(head_dim, generator=generator),
            "gain": 1.0 + 0.3 * torch.randn(batch, kv_len, generator=generator),
            "gate": torch.rand(batch, qo_len, heads, generator=generator),
        },
        "distance": {"table": torch.randn(qo_len + kv_len, generator=generator)},
    }
    return made.get(name, {})


def _rotated(x: Any, cos: Any, sin: Any) -> Any:
    half = x.shape[-1] // 2
    other = torch.cat([-x[..., half:], x[..., :half]], -1)
    return x * cos.to(x.dtype) + other * sin.to(x.dtype)


def _normed(x: Any, w: Any) -> Any:
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-5) * w).to(x.dtype)


def attention(
    name: str,
    values: Mapping[str, Any],
    b: int,
    inputs: tuple[Any, Any, Any],
    starts: tuple[int, int],
    sm_scale: float,
    compute: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """out [rows, heads, dim] and lse [rows, heads] (None with weights), both float64.

    ``inputs`` are q, k, v [tokens, heads, dim]; ``starts`` are q_start and k_start. Eager rounds where torch would in
    ``compute``; the reduction's internals are f32 there.
    """
    stored = inputs[0].dtype
    group = inputs[0].shape[1] // inputs[1].shape[1]
    q, k, v = (x.to(compute).transpose(0, 1) for x in inputs)
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    row = torch.arange(q.shape[1], device=q.device)[:, None]
    col = torch.arange(k.shape[1], device=q.device)[None, :]
    own = row + k.shape[1] - q.shape[1]
    at_q, at_k = starts[0] + row, starts[1] + col

    def as_stored(x: Any) -> Any:
        """A transformed vector is kept in the element type."""
        return x.to(stored).to(compute)

    if name == "rope":
        q = as_stored(_rotated(q, values["c"][at_q[:, 0]], values["s"][at_q[:, 0]]))
        k = as_stored(_rotated(k, values["c"][at_k[0]], values["s"][at_k[0]]))
    if name == "normed":
        q, k = as_stored(_normed(q, values["w"])), as_stored(_normed(k, values["w"]))
        v = as_stored(v * values["gain"][b, : k.shape[1], None].to(compute))

    score = (q @ k.transpose(1, 2)) * sm_scale
    mask = at_q >= at_k
    logits = score
    if name == "gemma2":
        logits = values["softcap"] * torch.tanh(score / values["softcap"])
    elif name == "alibi":
        logits = score + (values["slopes"][:, None, None] * (at_k - at_q).float()).to(compute)
    elif name == "distance":
        logits = score + values["table"][(row - col).abs()].to(compute)
        mask = (row == col) | ((row - col) % 2 == 1)
    if name in ("gemma2", "sink"):
        mask = mask & (at_q - at_k < values["window"])
    elif name == "dense":
        mask = torch.ones_like(mask)
    elif name == "documents" and k.shape[1]:
        doc = values["doc"][b].long()
        mask = mask & (doc[own.clamp(0, len(doc) - 1)] == doc[col])

    wide = torch.float64 if compute == torch.float64 else torch.float32
    if name in WEIGHTED:
        if name == "sigmoid":
            weights = torch.sigmoid(logits + values["bias"])
        else:
            weights = logits * (values["gamma"][:, None, None] ** (at_q - at_k).clamp(min=0).float()).to(compute)
        weights = torch.where(mask, weights, 0.0)
        out = weights @ v
        if name == "retention":
            total = weights.to(wide).sum(-1, keepdim=True)
            out = (out.to(wide) / total.abs().clamp(min=1.0)).to(compute)
        return out.transpose(0, 1).double(), None

    logits = logits.to(wide).masked_fill(~mask, -math.inf)
    if name == "sink":
        sink = values["sinks"].to(wide)[:, None, None].expand(-1, logits.shape[1], 1)
        denominator = torch.logsumexp(torch.cat([logits, sink], -1), -1)
    elif logits.shape[2]:
        denominator = torch.logsumexp(logits, -1)
    else:
        denominator = logits.new_full(logits.shape[:2], -math.inf)
    weights = torch.exp(logits - denominator[..., None].nan_to_num(neginf=0.0))
    out = weights.to(compute) @ v
    if name == "normed":
        out = out * values["gate"][b, : q.shape[1]].transpose(0, 1)[..., None].to(compute)
    return out.transpose(0, 1).double(), denominator.transpose(0, 1).double()
