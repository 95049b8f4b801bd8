"""Row reductions as mergeable states, in float64: how a row's keys may be split and the parts put together.

Section 3.1 of the design: ``lift`` turns one range of keys into a state, ``combine`` two states into one together
with a factor for each part's accumulator, ``finish`` a state into the row's result. identity ⊕ identity = identity,
never NaN. May not know expressions; it sees logits, weights and values.

Shapes: logits, weights, carries and ``attend`` are [..., rows, keys], values [..., keys, head_dim_v], states
[..., rows].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from attncc.ir.nodes import SOFTMAX, STICK_BREAKING, WEIGHTED, RowReduction
from attncc.reference.rounding import Array

_NEGATIVE_INFINITY = float("-inf")


@dataclass(frozen=True)
class State:
    """What is known of a row after the keys [lo, hi): the reduction's own numbers and the accumulator Σ weight·value.

    ``values`` are in the order of ``reduction.state``, each [...]; ``acc`` is [..., head_dim_v]. lo == hi is an empty
    range.
    """

    reduction: RowReduction
    values: tuple[Array, ...]
    acc: Array
    lo: int
    hi: int


class Finished(NamedTuple):
    """``out`` [..., head_dim_v]; ``total`` [...] is Σ weight, for a softmax e^lse; ``lse`` is for softmax only."""

    out: Array
    total: Array
    lse: Array | None


def identity(reduction: RowReduction, shape: tuple[int, ...], head_dim_v: int, at: int = 0) -> State:
    """The state of no key at all, of rows ``shape``."""
    values = tuple(np.full(shape, value, np.float64) for value in reduction.identity)
    return State(reduction, values, np.zeros((*shape, head_dim_v)), at, at)


def lift_softmax(logits: Array, attend: Array, values: Array, lo: int = 0) -> State:
    """(max, sum) of the attended logits."""
    hidden = np.where(attend, logits, _NEGATIVE_INFINITY)
    top = hidden.max(axis=-1, initial=_NEGATIVE_INFINITY)
    shares = np.exp(hidden - _anchor(top)[..., None])
    return State(SOFTMAX, (top, shares.sum(axis=-1)), np.matmul(shares, values), lo, lo + logits.shape[-1])


def lift_weighted(weights: Array, attend: Array, values: Array, lo: int = 0) -> State:
    """(total) of the attended weights."""
    kept = np.where(attend, weights, 0.0)
    return State(WEIGHTED, (kept.sum(axis=-1),), np.matmul(kept, values), lo, lo + weights.shape[-1])


def lift_stick_breaking(weights: Array, carries: Array, attend: Array, values: Array, lo: int = 0) -> State:
    """(total, carry) for weights of the form ``weights[k] · exp(Σ carries[j] over attended j > k)``.

    With weights σ(s) and carries −softplus(s) this is stick-breaking attention (Tan et al., arXiv 2410.17980, eq. 2).
    """
    kept = np.where(attend, carries, 0.0)
    after = np.zeros_like(kept)
    after[..., :-1] = kept[..., :0:-1].cumsum(axis=-1)[..., ::-1]
    state = lift_weighted(np.where(attend, weights, 0.0) * np.exp(after), attend, values, lo)
    return replace(state, reduction=STICK_BREAKING, values=(*state.values, kept.sum(axis=-1)))


def combine(first: State, second: State) -> tuple[State, Array, Array]:
    """The state of both parts' keys, and the factors by which the two accumulators were scaled.

    Softmax and weighted parts merge in any order. Stick-breaking is ordered: the parts must be adjacent ranges of keys;
    an empty part is adjacent to everything. Raises ValueError for parts that cannot be merged.
    """
    if first.reduction is not second.reduction:
        raise ValueError(f"cannot merge a {first.reduction.name} state with a {second.reduction.name} state")
    ones = np.ones_like(first.values[0])
    if first.reduction is SOFTMAX:
        (top1, sum1), (top2, sum2) = first.values, second.values
        top = np.maximum(top1, top2)
        factor1, factor2 = np.exp(top1 - _anchor(top)), np.exp(top2 - _anchor(top))
        values: tuple[Array, ...] = (top, sum1 * factor1 + sum2 * factor2)
    elif first.reduction is WEIGHTED:
        factor1, factor2 = ones, ones
        values = (first.values[0] + second.values[0],)
    else:
        earlier, later = _in_order(first, second)
        shrink = np.exp(later.values[1])  # what the later keys leave of the stick
        factor1, factor2 = (shrink, ones) if earlier is first else (ones, shrink)
        values = (earlier.values[0] * shrink + later.values[0], earlier.values[1] + later.values[1])
    acc = first.acc * factor1[..., None] + second.acc * factor2[..., None]
    parts = [part for part in (first, second) if part.lo < part.hi] or [first]
    merged = State(first.reduction, values, acc, min(part.lo for part in parts), max(part.hi for part in parts))
    return merged, factor1, factor2


def finish(state: State, *, sink: Array | None = None, denominator: Array | None = None) -> Finished:
    """The row's result. ``sink`` [...] is a softmax's extra logit, ``denominator`` [...] is for the others.

    A row without a pair gives out = 0 and lse = −inf, or its sink.
    """
    if state.reduction is not SOFTMAX:
        total = state.values[0]
        return Finished(state.acc if denominator is None else _over(state.acc, denominator), total, None)
    anchor, total, scale = _denominator(state, sink)
    with np.errstate(divide="ignore", over="ignore"):
        lse = np.where(total == 0, _NEGATIVE_INFINITY, anchor + np.log(total))
        return Finished(_over(state.acc * scale[..., None], total), np.exp(lse), lse)


def probabilities(state: State, logits: Array, attend: Array, *, sink: Array | None = None) -> Array:
    """The share of each pair in a finished softmax, [..., rows, keys]; 0 where the pair is masked.

    Not exp(logit − lse): where logits are huge, an LSE cannot hold the logarithm of the sum.
    """
    anchor, total, _ = _denominator(state, sink)
    with np.errstate(all="ignore"):
        shares = np.exp(logits - anchor[..., None]) / total[..., None]
        found: Array = np.where(attend, shares, 0).astype(logits.dtype)
    return found


def _denominator(state: State, sink: Array | None) -> tuple[Array, Array, Array]:
    """What is subtracted from a softmax's logits, the denominator then, and the factor of the accumulator."""
    top, total = state.values
    if sink is None:
        return _anchor(top), total, np.ones_like(top)
    anchor = _anchor(np.maximum(top, sink))
    scale = np.exp(top - anchor)
    return anchor, total * scale + np.exp(sink - anchor), scale


def _anchor(top: Array) -> Array:
    """What to subtract before exp: the maximum, or 0 where there is none, so that −inf − −inf never happens."""
    found: Array = np.where(top == _NEGATIVE_INFINITY, 0.0, top).astype(top.dtype)
    return found


def _over(acc: Array, denominator: Array) -> Array:
    zero = (denominator == 0)[..., None]
    found: Array = np.where(zero, 0.0, acc / np.where(zero, 1.0, denominator[..., None]))
    return found.astype(acc.dtype)


def _in_order(first: State, second: State) -> tuple[State, State]:
    if first.lo == first.hi or second.lo == second.hi or first.hi == second.lo:
        return first, second
    if second.hi == first.lo:
        return second, first
    raise ValueError(
        f"{first.reduction.name} merges adjacent key ranges only, "
        f"not [{first.lo}, {first.hi}) and [{second.lo}, {second.hi})"
    )
