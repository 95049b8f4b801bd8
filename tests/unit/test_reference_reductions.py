"""Row reductions: however the keys are split, merging the parts gives what one pass gives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncc.ir.nodes import SOFTMAX, STICK_BREAKING, WEIGHTED, RowReduction
from attncc.reference.reductions import (
    State,
    combine,
    finish,
    identity,
    lift_softmax,
    lift_stick_breaking,
    lift_weighted,
)

ROWS, KEYS, DIM = 3, 12, 4
REDUCTIONS = [SOFTMAX, WEIGHTED, STICK_BREAKING]
Array = Any


class Row:
    """Random logits with masked keys, whole masked rows and logits of −inf; any range of keys can be lifted."""

    def __init__(self, reduction: RowReduction, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.reduction = reduction
        self.logits = rng.normal(size=(ROWS, KEYS)) * rng.choice([1.0, 30.0, 1000.0])
        self.attend = rng.random((ROWS, KEYS)) < rng.choice([0.0, 0.3, 1.0], (ROWS, 1))
        if reduction is SOFTMAX:
            self.logits[rng.random((ROWS, KEYS)) < 0.2] = -np.inf
        self.values = rng.normal(size=(KEYS, DIM))

    def lift(self, lo: int, hi: int) -> State:
        logits, attend, values = self.logits[:, lo:hi], self.attend[:, lo:hi], self.values[lo:hi]
        if self.reduction is SOFTMAX:
            return lift_softmax(logits, attend, values, lo)
        if self.reduction is WEIGHTED:
            return lift_weighted(np.tanh(logits), attend, values, lo)
        weights = np.exp(-np.logaddexp(0.0, -logits))
        return lift_stick_breaking(weights, -np.logaddexp(0.0, logits), attend, values, lo)


def same(left: State, right: State) -> None:
    for ours, theirs in zip((*left.values, left.acc), (*right.values, right.acc), strict=True):
        assert not np.isnan(ours).any()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(finish(left), finish(right), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


cuts = st.lists(st.integers(0, KEYS), max_size=4).map(lambda found: [0, *sorted(found), KEYS])


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: r.name)
@given(seed=st.integers(0, 10_000), cuts=cuts, order=st.randoms(use_true_random=False))
def test_any_split_merges_to_one_pass(reduction: RowReduction, seed: int, cuts: list[int], order: Any) -> None:
    row = Row(reduction, seed)
    parts = [row.lift(lo, hi) for lo, hi in itertools.pairwise(cuts)]
    while len(parts) > 1:  # neighbours in any order, either way round: what every reduction allows
        place = order.randrange(len(parts) - 1)
        pair = parts[place : place + 2]
        order.shuffle(pair)
        parts[place : place + 2] = [combine(*pair)[0]]
    same(parts[0], row.lift(0, KEYS))


@pytest.mark.parametrize("reduction", [SOFTMAX, WEIGHTED], ids=lambda r: r.name)
@given(seed=st.integers(0, 10_000), cuts=cuts, order=st.randoms(use_true_random=False))
def test_unordered_reductions_merge_in_any_order(
    reduction: RowReduction, seed: int, cuts: list[int], order: Any
) -> None:
    row = Row(reduction, seed)
    parts = [row.lift(lo, hi) for lo, hi in itertools.pairwise(cuts)]
    order.shuffle(parts)
    merged = parts[0]
    for part in parts[1:]:
        merged, _, _ = combine(merged, part)
    same(merged, row.lift(0, KEYS))


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda r: r.name)
def test_identity_is_neutral_and_never_nan(reduction: RowReduction) -> None:
    nothing = identity(reduction, (ROWS,), DIM)
    twice, *factors = combine(nothing, nothing)
    same(twice, nothing)
    assert not np.isnan(factors).any()
    assert np.all(finish(twice).out == 0)
    part = Row(reduction, 3).lift(0, KEYS)
    for merged in (combine(nothing, part)[0], combine(part, nothing)[0]):
        same(merged, part)
        assert (merged.lo, merged.hi) == (0, KEYS)


@given(seed=st.integers(0, 10_000), cut=st.integers(0, KEYS))
def test_factors_scale_the_accumulators(seed: int, cut: int) -> None:
    for reduction in REDUCTIONS:
        row = Row(reduction, seed)
        first, second = row.lift(0, cut), row.lift(cut, KEYS)
        merged, left, right = combine(first, second)
        np.testing.assert_allclose(
            first.acc * left[:, None] + second.acc * right[:, None], merged.acc, rtol=1e-12, atol=1e-300
        )


def test_ordered_reductions_merge_neighbours_only() -> None:
    row = Row(STICK_BREAKING, 1)
    with pytest.raises(ValueError, match=r"adjacent key ranges only, not \[0, 4\) and \[5, 12\)"):
        combine(row.lift(0, 4), row.lift(5, KEYS))
    softmax = Row(SOFTMAX, 1)
    combine(softmax.lift(0, 4), softmax.lift(5, KEYS))


def test_states_of_different_reductions_do_not_merge() -> None:
    with pytest.raises(ValueError, match="cannot merge a softmax state with a weighted state"):
        combine(Row(SOFTMAX, 1).lift(0, 4), Row(WEIGHTED, 1).lift(4, KEYS))


@given(seed=st.integers(0, 10_000))
def test_a_sink_is_one_more_key_of_value_zero(seed: int) -> None:
    row = Row(SOFTMAX, seed)
    sink = np.random.default_rng(seed).normal(size=ROWS)
    extra = lift_softmax(sink[:, None], np.ones((ROWS, 1), bool), np.zeros((1, DIM)), KEYS)
    with_key, with_sink = finish(combine(row.lift(0, KEYS), extra)[0]), finish(row.lift(0, KEYS), sink=sink)
    np.testing.assert_allclose(with_sink.out, with_key.out, rtol=1e-9, atol=1e-12)
    assert with_sink.lse is not None
    assert with_key.lse is not None
    np.testing.assert_allclose(with_sink.lse, with_key.lse, rtol=1e-12)


def test_a_denominator_of_zero_gives_zero() -> None:
    row = Row(WEIGHTED, 2)
    done = finish(row.lift(0, KEYS), denominator=np.array([2.0, 0.0, 1.0]))
    np.testing.assert_allclose(done.out[0], row.lift(0, KEYS).acc[0] / 2)
    assert np.all(done.out[1] == 0)
