"""The oracle: what a variant computes, with numpy, hook by hook in the order of section 3 of the design.

Positions, indices and score-free float expressions are evaluated in f32, as a kernel computes them; dot products, what
follows from the score, the reduction and P·V in float64. With ``dtype`` the same formula is *eager*: every operation on
data rounded to that dtype, the reduction's internals in f32, which is what the accuracy bounds compare kernels with.

Work goes block by block over heads and rows, so memory does not grow with the square of the length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attncc.ir.nodes import SOFTMAX, Variant
from attncc.reference.blocks import pair_bytes, split
from attncc.reference.call import Block, Call, PerRequest, Sizes, make_call
from attncc.reference.emits import Emits
from attncc.reference.hooks import Hooks, Rows, mask
from attncc.reference.rounding import EXACT, PRECISIONS, Array

BLOCK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Result:
    """``out`` [batch, qo_len, num_heads, head_dim_v], ``lse`` [batch, qo_len, num_heads], both float64; each emit is
    [batch, qo_len, num_heads], or [batch, kv_len, num_heads] for one value per column.

    ``lse`` is None unless the variant is one softmax. Rows past a request's ``qo_lens`` hold out = 0, lse = −inf and
    emits of 0, columns past its ``kv_lens`` emits of 0.
    """

    out: Array
    lse: Array | None
    emits: dict[str, Array]


def attention(
    variant: Variant,
    q: Array,
    k: Array,
    v: Array,
    *,
    params: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    operands: Mapping[str, Any] | None = None,
    sm_scale: float | Array | None = None,
    q_start: PerRequest = None,
    k_start: PerRequest = None,
    qo_lens: PerRequest = None,
    kv_lens: PerRequest = None,
    dtype: str | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Result:
    """Evaluate ``variant`` on q [batch, qo_len, num_heads, head_dim], k [batch, kv_len, num_kv_heads, head_dim] and
    v [batch, kv_len, num_kv_heads, head_dim_v].

    ``params`` are scalars or [batch]; ``tensors`` the captured tensors; ``operands`` extra score operands, as q or k.
    Starts and lengths are an int or [batch]. ``dtype`` ("bf16", "f16", "f32") asks for the eager evaluation.
    ``require`` is the caller's to check. Raises ValueError where arrays do not fit.
    """
    sizes = _sizes(q, k, v)
    call = make_call(
        variant,
        sizes,
        params=params,
        tensors=tensors,
        operands=operands,
        sm_scale=sm_scale,
        q_start=q_start,
        k_start=k_start,
        qo_lens=qo_lens,
        kv_lens=kv_lens,
        precision=EXACT if dtype is None else PRECISIONS[dtype],
    )
    with np.errstate(all="ignore"):  # every expression has a value everywhere; NaN and Inf are among them
        return _run(call, q, k, v, block_bytes)


def attended(
    variant: Variant,
    *,
    sizes: Sizes,
    params: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    q_start: PerRequest = None,
    k_start: PerRequest = None,
    qo_lens: PerRequest = None,
    kv_lens: PerRequest = None,
    branch: str | None = None,
) -> Array:
    """The mask alone, bool [batch, num_heads, qo_len, kv_len]; False outside a request's rows and columns.

    ``branch`` names the branch of a variant that has several. What a ``logits`` of −inf hides is not looked at.
    """
    call = make_call(
        variant,
        sizes,
        params=params,
        tensors=tensors,
        operands={operand.name: np.zeros(0) for operand in variant.operands},
        q_start=q_start,
        k_start=k_start,
        qo_lens=qo_lens,
        kv_lens=kv_lens,
    )
    hooks = variant.branches[0] if branch is None else variant.branch(branch)
    found = np.zeros((sizes.batch, sizes.num_heads, sizes.qo_len, sizes.kv_len), np.bool_)
    for b in range(sizes.batch):
        block = Block(b, range(sizes.num_heads), range(int(call.qo_lens[b])), range(int(call.kv_lens[b])))
        found[b, :, : len(block.rows or ()), : len(block.cols or ())] = mask(call, hooks, block)
    return found


def _run(call: Call, q: Array, k: Array, v: Array, block_bytes: int) -> Result:
    variant, sizes = call.variant, call.sizes
    hooks, emits = Hooks(call, q, k, v), Emits.of(call)
    out = np.zeros((sizes.batch, sizes.qo_len, sizes.num_heads, hooks.out_length))
    softmax = len(variant.branches) == 1 and variant.reduction(variant.branches[0]) is SOFTMAX
    lse = np.full((sizes.batch, sizes.qo_len, sizes.num_heads), -np.inf) if softmax else None
    pair = pair_bytes(variant, max(call.channels, 1))
    for b in range(sizes.batch):
        rows, cols = int(call.qo_lens[b]), int(call.kv_lens[b])
        for heads, parts in split(sizes.num_heads, rows, cols, pair, block_bytes):
            hooks.next_heads()
            for part in parts:
                block = Block(b, heads, part, range(cols))
                done = {branch.name: hooks.branch(branch, block) for branch in variant.branches}
                here = (b, slice(part.start, part.stop), slice(heads.start, heads.stop))
                out[here] = hooks.output(block, done)
                if lse is not None:
                    lse[here] = _only_lse(done)
                emits.rows(block, done)
            emits.columns(Block(b, heads, None, range(cols)))
    return Result(out, lse, emits.values)


def _only_lse(done: Mapping[str, Rows]) -> Array:
    (only,) = done.values()
    assert only.lse is not None
    return only.lse.T


def _sizes(q: Array, k: Array, v: Array) -> Sizes:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4 or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} are not one attention")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"{q.shape[0]} requests in q, {k.shape[0]} in k")
    return Sizes(q.shape[0], q.shape[2], k.shape[2], q.shape[3], v.shape[3], q.shape[1], k.shape[1])
