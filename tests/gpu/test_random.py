"""Random calls and formulas on a GPU against the reference, by seed and on every family; the same bits always."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.binding import BoundVariant
from attncc.codegen.families import wgmma_sm90
from attncc.ir.definition import Definition
from attncc.passes.canonicalize import canonicalize
from attncc.reference import attention as reference
from attncc.reference.accuracy import Pool, row_bound
from attncc.reference.rounding import PRECISIONS
from attncc.runtime import calls
from tests.gpu.attention_cases import ARGUMENTS, DEVICE, Sizes, example, need, on_device
from tests.gpu.random_cases import check, drawn
from tests.unit.random_variants import random_variant

pytestmark = pytest.mark.gpu

CASES = {"mma_sm80": 720, "wgmma_sm90": 624}
VARIANTS, REPEATS = 50, 1000


@pytest.mark.parametrize(
    ("family", "number"), [(family, number) for family, count in CASES.items() for number in range(count)]
)
def test_a_random_call_agrees_with_the_reference(family: str, number: int, pool: Pool) -> None:
    need(family)
    check(drawn(family, number), pool)


# Formulas nobody wrote ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("seed", range(VARIANTS))
def test_a_random_variant_agrees_with_the_reference(seed: int, family: str) -> None:
    """The rows whose reference is finite: what a formula does to infinities belongs to the emulated tests."""
    need(family)
    variant = canonicalize(random_variant(seed))
    rng = np.random.default_rng(seed)
    batch, rows, cols, heads, kv_heads, n, m = 2, 45, 70, 4, 2, 6, 3
    sizes = {"batch": batch, "num_heads": heads, "kv_len": cols, "qo_len": rows, "n": n, "m": m}
    given: dict[str, Any] = {}
    for tensor in variant.tensors:
        shape = tuple(sizes[dim.name] for dim in tensor.dims)
        drawn_values: Any = {
            "f32": lambda shape=shape: rng.normal(0, 1, shape).astype(np.float32),
            "bf16": lambda shape=shape: PRECISIONS["bf16"].round(rng.normal(0, 1, shape)).astype(np.float32),
            "bool": lambda shape=shape: rng.random(shape) < 0.5,
            "u32": lambda shape=shape: rng.integers(0, 2**32, shape, np.uint32),
        }.get(tensor.storage.value, lambda shape=shape: rng.integers(-3, 12, shape))()
        given[tensor.name] = drawn_values
    params = {"alpha": 1.25, "width": 5, "bits": 9, "flag": True}
    params = {decl.name: params[decl.name] for decl in variant.params}
    q, k, v = (
        PRECISIONS["bf16"].round(rng.normal(0, 1, (batch, length, count, 64)))
        for length, count in ((rows, heads), (cols, kv_heads), (cols, kv_heads))
    )
    ref = reference(variant, q, k, v, params=params, tensors=given)
    eager = reference(variant, q, k, v, params=params, tensors=given, dtype="bf16")
    kinds = {
        "f32": torch.float32,
        "bf16": torch.bfloat16,
        "bool": torch.bool,
        "u32": torch.uint32,
        "i8": torch.int8,
        "i32": torch.int32,
        "i64": torch.int64,
    }
    moved = {
        tensor.name: torch.from_numpy(np.asarray(given[tensor.name])).to(kinds[tensor.storage.value]).to(DEVICE)
        for tensor in variant.tensors
    }
    bound = BoundVariant(Definition(variant.name, (), lambda constants: variant), {}, variant, params, moved)
    arrays = [on_device(array).to(torch.bfloat16) for array in (q, k, v)]
    compiled = attncc.compile(bound, head_dim=64, family=family)
    for splits in (1, 2):
        out, lse = compiled(*arrays, return_lse=True, num_splits=splits)
        got, got_lse = out.double().cpu().numpy(), lse.double().cpu().numpy()
        finite = np.isfinite(ref.out).all(-1) & np.isfinite(eager.out).all(-1) & ~np.isposinf(ref.lse)
        finite &= ~np.isnan(ref.lse) & (np.abs(np.where(np.isneginf(ref.lse), 0, ref.lse)) < 200)
        # Beside a huge sink every probability is below the smallest normal f32, and so is the row.
        norms = np.linalg.norm(ref.out, axis=-1)
        finite &= (norms == 0) | (norms > 1e-30)
        report = row_bound(got[finite], ref.out[finite], eager.out[finite], "bf16")
        assert report.row <= 1.0, f"seed {seed}, {splits} splits: {report}"
        np.testing.assert_allclose(got_lse[finite], ref.lse[finite], atol=2e-3, rtol=1e-5)


# The same bits, always ----------------------------------------------------------------------------------------------


def repeated(name: str) -> tuple[list[torch.Tensor], BoundVariant]:
    """q, k and v of several tiles of rows and of keys, and a variant with its arguments."""
    rng, head_dim = np.random.default_rng(5), 64 if name == "rope" else 128
    shapes = ((2, 333, 8, head_dim), (2, 700, 2, head_dim), (2, 700, 2, head_dim))
    tensors = [torch.randn(shape, device=DEVICE).bfloat16() for shape in shapes]
    given: dict[str, Any]
    if name == "rope":
        turn = rng.uniform(0, 6.3, (800, head_dim))
        given = {"c": np.cos(turn).astype(np.float32), "s": np.sin(turn).astype(np.float32)}
    else:
        given = ARGUMENTS[name](rng, Sizes(333, 700), 8)
    return tensors, example(name)(**{key: on_device(value) for key, value in given.items()})


def differing(compiled: attncc.Compiled, tensors: list[torch.Tensor], splits: int, first: torch.Tensor) -> int:
    """How many elements of a thousand results differ from the first.

    Beside another stream's kernels of random length, so that blocks start and end in another order every time.
    """
    rng = np.random.default_rng(6)
    noise, side = torch.randn(1024, 1024, device=DEVICE), torch.cuda.Stream()
    different = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for repeat in range(REPEATS):
        if repeat % 3 == 0:
            with torch.cuda.stream(side):
                size = int(rng.integers(64, 1024))
                noise[:size, :size] @ noise[:size, :size]
        different += (compiled(*tensors, num_splits=splits) != first).sum()
    return int(different)


REPEATED = [("mma_sm80", name) for name in ("gemma2", "alibi", "rope")]
REPEATED += [("wgmma_sm90", name) for name in ("causal", "gemma2", "alibi", "documents", "rope")]


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("family", "name"), REPEATED)
def test_a_thousand_repeats_are_bit_equal(family: str, name: str, splits: int) -> None:
    need(family)
    tensors, bound = repeated(name)
    compiled = attncc.compile(bound, head_dim=tensors[0].shape[-1], family=family)
    assert differing(compiled, tensors, splits, compiled(*tensors, num_splits=splits)) == 0


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", ["causal", "gemma2", "alibi", "documents", "t5_bias"])
def test_a_kernel_whose_warps_dawdle_gives_the_same_bits(
    name: str, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaders and consumers of one that sleep by chance wherever they meet, against the kernel that does not."""
    need("wgmma_sm90")
    tensors, bound = repeated(name)
    plain = attncc.compile(bound, family="wgmma_sm90")
    expected, choose = plain(*tensors, num_splits=splits), wgmma_sm90.choose

    def jittered(*shape: Any, **how: Any) -> wgmma_sm90.Config:
        return dataclasses.replace(choose(*shape, **how), jittered=True)

    monkeypatch.setattr(wgmma_sm90, "choose", jittered)
    for kept in ("_plans", "_artifacts"):
        monkeypatch.setattr(calls, kept, {})
    compiled = attncc.compile(bound, family="wgmma_sm90")
    assert compiled.key != plain.key
    assert differing(compiled, tensors, splits, expected) == 0
