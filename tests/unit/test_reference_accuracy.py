"""The accuracy bounds: they pass what kernels do, and catch what kernels get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attncc.ir.build import call
from attncc.ir.nodes import Branch, Input, Variant
from attncc.reference import attention
from attncc.reference.accuracy import Pool, lse_bound, lse_reference, row_bound
from attncc.reference.rounding import PRECISIONS
from tests.variant_files import variant

Array = Any


def case(dtype: str, rows: int = 64, cols: int = 96, dim: int = 32) -> tuple[Array, Array, Array]:
    """q, k, v as a tensor of ``dtype`` holds them."""
    rng = np.random.default_rng(7)
    shapes = ((2, rows, 4, dim), (2, cols, 2, dim), (2, cols, 2, dim))
    q, k, v = (PRECISIONS[dtype].round(rng.normal(size=shape).astype(np.float32)) for shape in shapes)
    return q, k, v


def kernel(name: str, dtype: str, params: dict[str, Any], q: Array, k: Array, v: Array) -> Array:
    """What a good kernel does: f32 inside, P and the result rounded."""
    exact = attention(variant(*name.split("/")), q, k, v, params=params, dtype="f32").out
    noise = np.random.default_rng(0).normal(size=exact.shape) * np.abs(exact) * PRECISIONS[dtype].unit / 4
    return PRECISIONS[dtype].round((exact + noise).astype(np.float32))


VARIANTS = [
    ("v01_causal/causal", {}),
    ("v26_softcap/softcap", {"w": 20}),
    ("v36_sigmoid/sigmoid_attention", {"bias": -4.0}),
    ("v42_stick_breaking/stick_breaking", {}),
    ("v40_rope/rope_half", {}),
]


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize(("name", "params"), VARIANTS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_good_kernel_passes_and_eager_is_no_worse_than_its_dtype(name: str, params: Any, dtype: str) -> None:
    q, k, v = case(dtype)
    made = variant(*name.split("/"))
    ref, eager = (attention(made, q, k, v, params=params, dtype=how).out for how in (None, dtype))
    report = row_bound(kernel(name, dtype, params, q, k, v), ref, eager, dtype)
    assert report.ok, str(report)
    assert report.mean is not None
    assert np.abs(eager - ref).max() < 40 * PRECISIONS[dtype].unit * np.abs(ref).max()
    assert np.abs(eager - ref).max() > PRECISIONS[dtype].unit * np.abs(ref).max() / 40
    assert row_bound(eager, ref, eager, dtype).ok


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_mask_off_by_one_in_some_rows_is_seen(dtype: str) -> None:
    q, k, v = case(dtype)
    made = variant("v02_sliding_window", "sliding_window")
    ref, eager, wrong = (
        attention(made, q, k, v, params={"w": w}, dtype=how).out for w, how in ((32, None), (32, dtype), (33, None))
    )
    out = ref.copy()
    out[:, 40] = wrong[:, 40]  # one row in 64
    report = row_bound(out, ref, eager, dtype)
    assert not report.ok
    assert report.worst[1] == 40


def test_the_mean_is_judged_too() -> None:
    q, k, v = case("bf16")
    made = variant("v01_causal", "causal")
    ref, eager = (attention(made, q, k, v, dtype=how).out for how in (None, "bf16"))
    report = row_bound(ref + 1.2 * (eager - ref), ref, eager, "bf16")
    assert report.row <= 1
    assert report.mean is not None
    np.testing.assert_allclose(report.mean, 1.2)
    assert not report.ok


def test_small_cases_are_pooled() -> None:
    pool = Pool()
    rng = np.random.default_rng(0)
    ref = rng.normal(size=(4, 8))
    eager = ref + 0.01 * rng.normal(size=ref.shape)
    for scale in (1.4, 0.4):
        report = row_bound(ref + scale * (eager - ref), ref, eager, "bf16", pool)
        assert report.mean is None
        assert report.ok
    assert pool.elements == 64
    np.testing.assert_allclose(pool.mean, 0.9)
    assert pool.ok


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_never_passes(bad: float) -> None:
    ref = np.ones((3, 4))
    out = ref.copy()
    out[1, 2] = bad
    report = row_bound(out, ref, ref, "bf16")
    assert not report.ok
    assert report.worst == (1,)
    assert not lse_bound(out, ref).ok
    assert lse_bound(np.full(3, -np.inf), np.full(3, -np.inf)).ok
    assert not lse_bound(np.full(3, -np.inf), np.zeros(3)).ok


def test_exact_results_pass_where_eager_is_exact_too() -> None:
    zero = np.zeros((5, 4))
    assert row_bound(zero, zero, zero, "f16").ok
    assert not row_bound(zero + 1e-9, zero, zero, "f16").ok


def test_the_lse_bound() -> None:
    ref = np.linspace(-3, 3, 10)
    assert lse_bound(ref + 1.9e-3, ref).ok
    report = lse_bound(ref + 2.1e-3 * (np.arange(10) == 4), ref)
    assert not report.ok
    assert report.worst == (4,)
    transformed = lse_bound(ref + 2.1e-3 * (np.arange(10) == 4), ref, ref + 1.5e-3 * (np.arange(10) == 7))
    assert transformed.ok
    assert not lse_bound(ref + 2.3e-3, ref, ref + 1.5e-3).ok


def test_only_transformed_vectors_loosen_the_lse_bound() -> None:
    lse = np.zeros(3)
    turned = Branch(key=call("rotate_half", (Input("key"),)))
    assert lse_reference(Variant("x", branches=(turned,)), lse) is lse
    assert lse_reference(Variant("x"), lse) is None


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        row_bound(np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((2, 3)), "bf16")
    with pytest.raises(ValueError, match="shapes differ"):
        lse_bound(np.zeros(2), np.zeros(3))
