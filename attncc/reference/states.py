"""Partial states and their merge: the oracle for keys that are looked at in parts, and the CPU's way to do it.

A state excludes the sink, the denominator and the output, so that states of different calls over the same rows combine.
As a kernel leaves it: ``acc`` [batch, qo_len, num_heads, head_dim_v] and ``state`` [batch, qo_len, num_heads, 2], which
is (m, l) with m in the log2 domain for a softmax, (total, 0) for weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from attncc.ir.nodes import SOFTMAX, Input, Variant
from attncc.reference.attention import attention
from attncc.reference.call import Block, Sizes, make_call
from attncc.reference.evaluate import evaluate
from attncc.reference.hooks import Hooks, Rows, internal, without_columns
from attncc.reference.reductions import Finished, State, combine, finish
from attncc.reference.rounding import Array

_LN2 = math.log(2.0)


def partial(variant: Variant, q: Array, k: Array, v: Array, **call: Any) -> tuple[Array, Array]:
    """``acc`` and ``state`` of a variant with one branch and no emits; arguments as for ``attention``."""
    (branch,) = variant.branches
    core = replace(variant, branches=(replace(branch, sink=None, normalize=None),), output=None)
    found = attention(core, q, k, v, **call)
    if found.lse is not None:
        top = np.where(np.isneginf(found.lse), -np.inf, found.lse / _LN2)
        return found.out, np.stack([top, np.where(np.isneginf(found.lse), 0.0, 1.0)], axis=-1)
    (branch,) = core.branches
    ones = replace(core, branches=(replace(branch, value=None),))
    total = attention(ones, q, k, np.ones_like(v), **call).out[..., 0] if v.shape[-1] else np.zeros(q.shape[:3])
    return found.out, np.stack([total, np.zeros_like(total)], axis=-1)


def merge(
    variant: Variant, parts: Sequence[tuple[Array, Array]], sizes: Sizes, **given: Any
) -> tuple[Array, Array | None]:
    """The finished ``out`` and, for a softmax, ``lse`` of several parts; ``given`` as for ``attention``."""
    call = make_call(variant, sizes, sm_scale=None, **given)
    (branch,) = variant.branches
    reduction = variant.reduction(branch)
    nothing = np.zeros((sizes.batch, 0, 1, 1))
    hooks = Hooks(call, nothing, nothing, nothing)
    out = np.zeros((sizes.batch, sizes.qo_len, sizes.num_heads, hooks.out_length))
    lse = np.full((sizes.batch, sizes.qo_len, sizes.num_heads), -np.inf) if reduction is SOFTMAX else None
    with np.errstate(all="ignore"):
        for b in range(sizes.batch):
            rows = int(call.qo_lens[b])
            block = without_columns(Block(b, range(sizes.num_heads), range(rows)))
            states = []
            for at, (acc, numbers) in enumerate(parts):
                first, second = (np.moveaxis(numbers[b, :rows, :, i], 0, 1).astype(np.float64) for i in (0, 1))
                if reduction is SOFTMAX:
                    values: tuple[Array, ...] = (np.where(second == 0, -np.inf, first * _LN2), second)
                else:
                    values = (first,)
                states.append(State(reduction, values, np.moveaxis(acc[b, :rows], 0, 1).astype(np.float64), at, at + 1))
            merged = states[0]
            for state in states[1:]:
                merged, _, _ = combine(merged, state)
            shape = (sizes.num_heads, rows)
            sink = denominator = None
            if branch.sink is not None:
                sink = np.broadcast_to(evaluate(branch.sink, call.scope(block, inputs={}))[..., 0, 0], shape)
            if branch.normalize is not None:
                inputs = {Input("total", name): merged.values[0][..., None, None] for name in ("", branch.name)}
                denominator = np.broadcast_to(
                    internal(call.scope(block, inputs=inputs), branch.normalize)[..., 0, 0], shape
                )
            done: Finished = finish(merged, sink=sink, denominator=denominator)
            none = np.zeros((*shape, 0), np.bool_)
            finished = Rows(range(0), none, none, None, done.out, done.total, done.lse)
            out[b, :rows] = hooks.output(block, {branch.name: finished})
            if lse is not None:
                assert done.lse is not None
                lse[b, :rows] = done.lse.T
    return out, lse
