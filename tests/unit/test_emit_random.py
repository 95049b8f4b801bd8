"""Random variants through the emitter and a C++ compiler, against the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attncc.passes.canonicalize import canonicalize
from tests.unit import emit_cases, emitted
from tests.unit.random_variants import random_variant
from tests.unit.test_emit import check_ranges, scores_for

PER_LIBRARY = 30


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("canonical", [False, True], ids=["as written", "canonical"])
def test_random_variants(canonical: bool, tmp_path: Path, fuzz_full: bool) -> None:
    """Masks are equal in every pair, logits and sinks to rounding, and ranges are sound."""
    compared = sharp = 0
    for batch in range(20 if fuzz_full else 1):
        seeds = range(batch * PER_LIBRARY, (batch + 1) * PER_LIBRARY)
        variants = [random_variant(seed) for seed in seeds]
        folder = tmp_path / str(batch)
        folder.mkdir()
        chosen = [canonicalize(variant) for variant in variants] if canonical else variants
        for seed, original, made in zip(seeds, variants, emitted.compile_variants(chosen, folder), strict=True):
            for run in range(2):
                case = emit_cases.random_case(original, 1000 * seed + run)
                for b in range(case.call.sizes.batch):
                    done = check(made, case, b, f"seed {seed}, run {run}, request {b}")
                    compared, sharp = compared + done[0], sharp + done[1]
    assert sharp > 0.9 * compared, "most values must be well conditioned for the comparison to mean something"


def check(made: emitted.Emitted, case: emitted.Case, b: int, label: str) -> tuple[int, int]:
    scores = scores_for(case, b, b)
    logits, masks = made.pairs(case, b, scores)
    want = emit_cases.expected(case, b, scores)
    rounded = emit_cases.expected(case, b, scores, precision="f32")
    np.testing.assert_array_equal(masks, want["mask"], err_msg=label)
    sharp = 0
    for name, got in (("logits", logits), ("row", made.rows(case, b, emit_cases.totals_of(scores)))):
        exact, single = want[name], rounded[name]
        with np.errstate(all="ignore"):
            slack = 1e-4 * np.maximum(np.abs(exact), 1.0)
            stable = np.isfinite(exact) & (np.abs(single - exact) <= slack) & (np.abs(exact) < 1e6)
            close = np.abs(got - exact) <= 20 * slack
        assert close[stable].all(), f"{label}: {name} {got[stable & ~close][:3]}, not {exact[stable & ~close][:3]}"
        sharp += int(stable.sum())
    for hk in range(case.call.sizes.num_kv_heads):
        group = slice(hk * case.call.sizes.group, (hk + 1) * case.call.sizes.group)
        for lo in range(0, masks.shape[1], 4):
            hi = min(lo + 4, masks.shape[1])
            check_ranges(made.ranges(case, b, hk, lo, hi), masks[group, lo:hi])
    return logits.size + masks.shape[0] * masks.shape[1], sharp
