"""How close a kernel must come to the oracle: the bounds of section 8 of the design. Knows results, not how they came.

For every row ‖err‖₂ ≤ 1.5·(‖eager err‖₂ + u·‖ref‖₂) + 2⁻¹²⁰; the mean over a case of ‖err‖₂ ≤ eager's;
|lse − ref| ≤ 2e-3.
A row is one query row of one head; u is 2⁻⁹ for bf16 and 2⁻¹² for f16. The mean of a case under 4,096 elements is a
matter of luck, so such cases go into a ``Pool`` and the pool's mean is judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attncc.ir.nodes import Variant
from attncc.reference.rounding import PRECISIONS, Array

ROW_FACTOR = 1.5
MEAN_FACTOR = 1.0
LSE_BOUND = 2e-3
POOLED_BELOW = 4096
FLUSHED = 2.0**-120  # of a row: fast arithmetic in f32 takes weights below 2⁻¹²⁶ for 0


@dataclass(frozen=True)
class Report:
    """A comparison.

    ``row`` is the worst ‖err‖₂ over its bound and ``worst`` that row's index (without the channel axis); ``mean`` the
    mean ‖err‖₂ over eager's, None where the case is too small to be judged alone. Both are at most 1 if ``ok``. A NaN
    counts as infinitely wrong, unless the reference has one too.
    """

    row: float
    worst: tuple[int, ...]
    mean: float | None
    elements: int

    @property
    def ok(self) -> bool:
        return self.row <= 1.0 and (self.mean is None or self.mean <= MEAN_FACTOR)

    def __str__(self) -> str:
        mean = "pooled" if self.mean is None else f"{self.mean:.3f}"
        return f"worst row {self.row:.3f} at {self.worst}, mean {mean} of the bound, {self.elements} elements"


@dataclass(frozen=True)
class LseReport:
    """``error`` is the worst |lse − ref|, ``worst`` where, ``bound`` what is allowed; equal infinities agree."""

    error: float
    worst: tuple[int, ...]
    bound: float = LSE_BOUND

    @property
    def ok(self) -> bool:
        return self.error <= self.bound

    def __str__(self) -> str:
        return f"lse off by {self.error:.2e} at {self.worst} (bound {self.bound:.1e})"


@dataclass
class Pool:
    """Small cases, judged together: sums of ‖err‖₂ of the kernel and of eager over all their rows."""

    ours: float = 0.0
    eager: float = 0.0
    elements: int = 0

    def add(self, out: Array, ref: Array, eager: Array) -> None:
        """Take in a case; arrays [..., head_dim_v] of one shape."""
        self.ours += float(_norms(_error(out, ref)).sum())
        self.eager += float(_norms(_error(eager, ref)).sum())
        self.elements += ref.size

    @property
    def mean(self) -> float:
        """The mean ‖err‖₂ over eager's; at most 1 is required."""
        return float(_ratio(np.asarray(self.ours), np.asarray(self.eager)))

    @property
    def ok(self) -> bool:
        return self.mean <= MEAN_FACTOR


def row_bound(out: Array, ref: Array, eager: Array, dtype: str, pool: Pool | None = None) -> Report:
    """Compare ``out`` with the oracle's ``ref``, given the ``eager`` evaluation in ``dtype`` ("bf16", "f16", "f32").

    All are [..., head_dim_v] of one shape. A case under 4,096 elements has no mean of its own: it goes into ``pool``,
    which the caller judges after its last case.
    """
    out, ref, eager = (np.asarray(values, np.float64) for values in (out, ref, eager))
    if not out.shape == ref.shape == eager.shape:
        raise ValueError(f"shapes differ: {out.shape}, reference {ref.shape}, eager {eager.shape}")
    ours, theirs = _norms(_error(out, ref)), _norms(_error(eager, ref))
    ratios = _ratio(ours, ROW_FACTOR * (theirs + PRECISIONS[dtype].unit * _norms(ref)) + FLUSHED)
    small = ref.size < POOLED_BELOW
    if small and pool is not None:
        pool.add(out, ref, eager)
    mean = None if small else float(_ratio(np.asarray(ours.mean()), np.asarray(theirs.mean())))
    row, worst = _worst(ratios)
    return Report(row, worst, mean, ref.size)


def lse_bound(lse: Array, ref: Array, eager: Array | None = None) -> LseReport:
    """Compare two LSEs of one shape (natural log). −inf agrees with −inf only.

    ``eager`` is for a variant that transforms its query or key vectors: the tensor cores take them rounded to the input
    dtype once more, which is an error of the format. Eager has it too, and 1.5 times its worst one is allowed then.
    """
    lse, ref = np.asarray(lse, np.float64), np.asarray(ref, np.float64)
    if lse.shape != ref.shape:
        raise ValueError(f"shapes differ: {lse.shape}, reference {ref.shape}")
    bound = LSE_BOUND
    if eager is not None and ref.size:
        bound = max(bound, ROW_FACTOR * _worst(np.abs(_error(eager, ref)))[0])
    return LseReport(*_worst(np.abs(_error(lse, ref))), bound)


def lse_reference(variant: Variant, eager: Array | None) -> Array | None:
    """What ``lse_bound`` takes as ``eager`` for a variant: its LSE where vectors are transformed, else None."""
    transforms = any(branch.query is not None or branch.key is not None for branch in variant.branches)
    return eager if transforms else None


def _error(values: Array, ref: Array) -> Array:
    """The difference; 0 where both are the same infinity or both NaN, infinite where one alone is not a number."""
    with np.errstate(invalid="ignore"):
        difference = np.asarray(values, np.float64) - ref
    same = np.equal(values, ref) | (np.isnan(values) & np.isnan(ref))
    found: Array = np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))
    return found


def _norms(rows: Array) -> Array:
    found: Array = np.sqrt(np.square(np.where(np.isnan(rows), 0.0, rows)).sum(axis=-1))
    return found


def _ratio(value: Array, bound: Array) -> Array:
    """value / bound where 0 / 0 is 0: a result without error meets any bound. Infinity over infinity fails."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = np.where(value == 0, 0.0, value / bound)
    return np.where(np.isnan(found), np.inf, found)


def _worst(ratios: Array) -> tuple[float, tuple[int, ...]]:
    if ratios.size == 0:
        return 0.0, ()
    place = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    return float(ratios[place]), tuple(int(index) for index in place)
