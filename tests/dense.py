"""Attention over whole S×S matrices in float64, written from its definition: the second opinion on the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = Any


class Pair(NamedTuple):
    """One (row, column) of one head of one request, as plain integers."""

    b: int
    h: int
    hk: int
    row: int
    col: int
    q: int
    k: int
    own: int


@dataclass(frozen=True)
class Problem:
    """Random inputs. ``q_start`` and ``k_start`` are None or one per request, lengths one per request."""

    q: Array
    k: Array
    v: Array
    qo_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    q_start: tuple[int, ...] | None
    k_start: tuple[int, ...] | None

    @property
    def batch(self) -> int:
        return int(self.q.shape[0])

    @property
    def rows(self) -> int:
        return int(self.q.shape[1])

    @property
    def cols(self) -> int:
        return int(self.k.shape[1])

    @property
    def heads(self) -> int:
        return int(self.q.shape[2])

    @property
    def kv_heads(self) -> int:
        return int(self.k.shape[2])

    @property
    def dim(self) -> int:
        return int(self.q.shape[3])

    def first_k(self, b: int) -> int:
        return self.k_start[b] if self.k_start else 0

    def first_q(self, b: int) -> int:
        return self.q_start[b] if self.q_start else self.first_k(b) + self.kv_lens[b] - self.qo_lens[b]

    def pairs(self) -> Iterator[Pair]:
        """Every pair inside its request."""
        group = self.heads // self.kv_heads
        for b in range(self.batch):
            shift, q0, k0 = self.kv_lens[b] - self.qo_lens[b], self.first_q(b), self.first_k(b)
            for h in range(self.heads):
                for row in range(self.qo_lens[b]):
                    for col in range(self.kv_lens[b]):
                        yield Pair(b, h, h // group, row, col, q0 + row, k0 + col, row + shift)

    def over_pairs(self, rule: Callable[[Pair], Any], empty: Any = 0.0) -> Array:
        """``rule`` of every pair, [batch, heads, rows, cols]; ``empty`` outside the requests."""
        found = np.full((self.batch, self.heads, self.rows, self.cols), empty)
        for at in self.pairs():
            found[at.b, at.h, at.row, at.col] = rule(at)
        return found

    def inside(self) -> Array:
        return self.over_pairs(lambda at: True, False)

    def call(self) -> dict[str, Any]:
        """The keyword arguments of the oracle."""
        return {
            "q_start": None if self.q_start is None else np.array(self.q_start),
            "k_start": None if self.k_start is None else np.array(self.k_start),
            "qo_lens": np.array(self.qo_lens),
            "kv_lens": np.array(self.kv_lens),
        }


def problem(
    rng: np.random.Generator,
    *,
    rows: int | None = None,
    cols: int | None = None,
    batch: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    dim: int = 8,
    dim_v: int = 6,
    ragged: bool = False,
    starts: bool = False,
) -> Problem:
    """Random inputs; what lies outside a ragged request's range is NaN, so that whoever reads it is caught."""
    rows = int(rng.integers(3, 11)) if rows is None else rows
    cols = int(rng.integers(rows, rows + 9)) if cols is None else cols
    qo_lens = tuple(int(n) for n in rng.integers(1, rows + 1, batch)) if ragged else (rows,) * batch
    kv_lens = tuple(int(rng.integers(min(n, cols), cols + 1)) for n in qo_lens) if ragged else (cols,) * batch
    shapes = ((batch, rows, heads, dim), (batch, cols, kv_heads, dim), (batch, cols, kv_heads, dim_v))
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    for b in range(batch):
        q[b, qo_lens[b] :] = k[b, kv_lens[b] :] = v[b, kv_lens[b] :] = np.nan
    return Problem(
        q,
        k,
        v,
        qo_lens,
        kv_lens,
        tuple(int(n) for n in rng.integers(0, 20, batch)) if starts else None,
        tuple(int(n) for n in rng.integers(0, 12, batch)) if starts else None,
    )


def by_query_head(given: Problem, vectors: Array) -> Array:
    """[batch, tokens, kv_heads, n] as float64 [batch, heads, tokens, n], NaN outside replaced by 0."""
    repeated = np.repeat(np.nan_to_num(vectors.astype(np.float64)), given.heads // vectors.shape[2], axis=2)
    return repeated.transpose(0, 2, 1, 3)


def scores(given: Problem, scale: float | None = None, q: Array = None, k: Array = None) -> Array:
    """scale · q·k, [batch, heads, rows, cols]; 1/√dim by default."""
    left = by_query_head(given, given.q if q is None else q)
    right = by_query_head(given, given.k if k is None else k)
    return np.einsum("bhid,bhjd->bhij", left, right) * (given.dim**-0.5 if scale is None else scale)


class Dense(NamedTuple):
    """out [batch, rows, heads, n], lse [batch, rows, heads], prob [batch, heads, rows, cols]."""

    out: Array
    lse: Array
    prob: Array


def softmax(given: Problem, logits: Array, mask: Array, sink: Array = None) -> Dense:
    """Softmax attention; ``sink`` is one logit per head. A row without a pair gives 0 and −inf, or its sink."""
    with np.errstate(divide="ignore", over="ignore"):
        shares = np.where(mask & given.inside(), np.exp(np.where(mask, logits, 0.0)), 0.0)
        denominator = shares.sum(-1)
        if sink is not None:
            held = (np.arange(given.rows)[None, :] < np.array(given.qo_lens)[:, None])[:, None, :]
            denominator = denominator + np.where(held, np.exp(np.asarray(sink, np.float64))[None, :, None], 0.0)
        lse = np.log(denominator)
    prob = np.divide(shares, denominator[..., None], out=np.zeros_like(shares), where=denominator[..., None] > 0)
    return Dense(weighted(given, prob, mask), lse.transpose(0, 2, 1), prob)


def weighted(given: Problem, weights: Array, mask: Array) -> Array:
    """Σ weight·v over the attended keys, [batch, rows, heads, n]."""
    kept = np.where(mask & given.inside(), weights, 0.0)
    return np.einsum("bhij,bhjd->bihd", kept, by_query_head(given, given.v))
