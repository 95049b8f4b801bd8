"""Random calls on a GPU against the reference: every example, dtype, head dim, group, layout and storage, by seed.

Each case is drawn from its number alone, so that a failure names the case. Sizes are small: what is searched for are
combinations. NaN lies around every operand and poison around the output.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.binding import BoundVariant
from attncc.ir.definition import Definition
from attncc.passes.canonicalize import canonicalize
from attncc.reference import attention as reference
from attncc.reference.accuracy import Pool, lse_bound, lse_reference, row_bound
from attncc.reference.rounding import PRECISIONS
from tests.gpu.attention_cases import ARGUMENTS, DEVICE, POISON, TORCH, Sizes, example, on_device
from tests.unit.random_variants import random_variant

pytestmark = pytest.mark.gpu

CASES, VARIANTS, REPEATS = 720, 50, 1000
HEAD_DIMS = ((32, 32), (64, 64), (80, 80), (96, 96), (128, 128), (192, 192), (256, 256), (192, 128))
GROUPS = (1, 4, 7, 8)
NAMES = (*ARGUMENTS, "rope", "sigmoid")
PER_REQUEST = {"window": "w", "gemma2": "softcap", "streaming_llm": "w", "gpt_oss": "w", "longformer": "w"}
LEAD = 3  # tokens before the first request of a ragged batch, and after the last


@dataclass(frozen=True)
class Case:
    """One random call. Lengths are of each request; storage is as long as the longest, or ragged."""

    number: int
    name: str
    dtype: str
    head_dim: int
    head_dim_v: int
    group: int
    kv_heads: int
    rows: tuple[int, ...]
    cols: tuple[int, ...]
    ragged: bool
    ragged_captures: bool
    bounded: bool
    layout: str
    num_splits: int | None
    per_request: bool
    starts: bool

    @property
    def sizes(self) -> Sizes:
        return Sizes(max(self.rows), max(self.cols), self.rows, self.cols, len(self.rows), self.kv_heads)


def drawn(number: int) -> Case:
    """The case of a number. Names, dims, dtypes and groups take turns, so that every pair of them is met."""
    rng = np.random.default_rng(number)
    head_dim, head_dim_v = HEAD_DIMS[number // len(NAMES) % len(HEAD_DIMS)]
    group = GROUPS[int(rng.integers(len(GROUPS)))]
    batch = int(rng.integers(1, 4))
    few = rng.random() < 0.2  # as in decoding
    rows = tuple(int(n) for n in rng.integers(0, 4 if few else 70, batch))
    cols = tuple(int(n) for n in rng.integers(0, 260 if rng.random() < 0.3 else 130, batch))
    if max(rows) == 0:
        rows = (1, *rows[1:])
    if max(cols) == 0:
        cols = (1, *cols[1:])
    ragged = bool(rng.random() < 0.5)
    return Case(
        number=number,
        name=NAMES[number % len(NAMES)],
        dtype=("bf16", "f16")[number // 3 % 2],
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        group=group,
        kv_heads=1 if group > 4 else int(rng.integers(1, 3)),
        rows=rows,
        cols=cols,
        ragged=ragged,
        ragged_captures=ragged and bool(rng.random() < 0.7),
        bounded=bool(rng.random() < 0.5),
        layout=("nhd", "hnd")[int(rng.integers(2))],
        num_splits=[None, None, 1, 2, 3][int(rng.integers(5))],
        per_request=bool(rng.random() < 0.3),
        starts=bool(rng.random() < 0.2),
    )


def arguments(case: Case, rng: np.random.Generator) -> dict[str, Any]:
    """The variant's parameters and tensors, as numpy arrays."""
    sizes, heads = case.sizes, case.kv_heads * case.group
    if case.name == "rope":
        turn = rng.uniform(0, 6.3, (400, case.head_dim))
        return {"c": np.cos(turn).astype(np.float32), "s": np.sin(turn).astype(np.float32)}
    if case.name == "sigmoid":
        return {"bias": -3.0}
    given = ARGUMENTS[case.name](rng, sizes, heads)
    name = PER_REQUEST.get(case.name)
    if case.per_request and name is not None:
        kind = np.float32 if isinstance(given[name], float) else np.int32
        given[name] = (given[name] * rng.uniform(0.5, 2.0, len(case.rows))).astype(kind)
    return given


def flat(values: np.ndarray, lengths: tuple[int, ...], fill: float) -> np.ndarray:
    """[batch, len, ...] as ragged tokens, with LEAD tokens of ``fill`` before and after."""
    edge = np.full((LEAD, *values.shape[2:]), fill, values.dtype)
    return np.concatenate([edge, *(values[b, :n] for b, n in enumerate(lengths)), edge])


def surrounded(values: np.ndarray, dtype: torch.dtype, layout: str, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``values`` [..., len, heads, dim] on the device amid ``fill`` on every axis, in ``layout``; and all of it."""
    ordered = values if layout == "nhd" else np.swapaxes(values, -2, -3)
    shape = (*(n + 2 for n in ordered.shape[:-1]), ordered.shape[-1] + 8)
    buffer = torch.full(shape, fill, dtype=dtype)
    inner = (*(slice(1, -1) for _ in ordered.shape[:-1]), slice(0, ordered.shape[-1]))
    buffer[inner] = torch.from_numpy(np.ascontiguousarray(ordered)).to(dtype)
    buffer = buffer.to(DEVICE)
    return buffer[inner], buffer


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Cases too small to have a mean of their own; judged together at the end."""
    found = Pool()
    yield found
    assert found.ok or found.elements < 4096, f"mean over small cases {found.mean:.3f} of eager's"


@pytest.mark.parametrize("number", range(CASES))
def test_a_random_call_agrees_with_the_reference(number: int, pool: Pool) -> None:
    case = drawn(number)
    rng = np.random.default_rng(10_000 + number)
    factory, given = example(case.name), arguments(case, rng)
    check(case, factory(**given), lambda values: factory(**values), given, rng, pool)


def check(
    case: Case,
    bound: BoundVariant,
    bind: Any,
    given: dict[str, Any],
    rng: Any,
    pool: Pool,
    family: str | None = None,
) -> None:
    """Run a case and hold it to the accuracy bounds. ``bind`` makes the variant with values on the device; ``family``
    forces a kernel family.
    """
    sizes, heads = case.sizes, case.kv_heads * case.group
    batch = len(case.rows)
    rounded = PRECISIONS[case.dtype].round
    q = rounded(rng.normal(0, 1, (batch, sizes.qo_len, heads, case.head_dim)))
    k = rounded(rng.normal(0, 1, (batch, sizes.kv_len, case.kv_heads, case.head_dim)))
    v = rounded(rng.normal(0, 1, (batch, sizes.kv_len, case.kv_heads, case.head_dim_v)))
    call: dict[str, Any] = {}
    if case.starts and case.name != "rope":
        call["q_start"] = rng.integers(0, 200, batch).astype(np.int32)
    lens = {"qo_lens": np.asarray(case.rows, np.int32), "kv_lens": np.asarray(case.cols, np.int32)}
    context = {"params": bound.params, "tensors": bound.tensors, **lens, **call}
    ref = reference(bound.variant, q, k, v, **context)
    eager = reference(bound.variant, q, k, v, **context, dtype=case.dtype)

    kind, nan = TORCH[case.dtype], float("nan")
    for b in range(batch):
        q[b, case.rows[b] :], k[b, case.cols[b] :], v[b, case.cols[b] :] = nan, nan, nan
    options: dict[str, Any] = {name: on_device(value) for name, value in call.items()}
    values = {name: on_device(value) for name, value in given.items()}
    if case.ragged:
        q, k, v = flat(q, case.rows, nan), flat(k, case.cols, nan), flat(v, case.cols, nan)
        options["qo_indptr"] = on_device((LEAD + np.cumsum([0, *case.rows])).astype(np.int32))
        options["kv_indptr"] = on_device((LEAD + np.cumsum([0, *case.cols])).astype(np.int32))
        over_keys = [name for name, value in given.items() if np.shape(value)[:2] == k_shape(case)]
        if over_keys and not case.ragged_captures:
            options["max_kv_len"] = sizes.kv_len
        elif case.bounded:
            options |= {"max_qo_len": sizes.qo_len, "max_kv_len": sizes.kv_len}
        if case.ragged_captures:
            for name in over_keys:
                values[name] = on_device(flat(given[name], case.cols, 0))
    else:
        options |= {name: on_device(value) for name, value in lens.items()}
    tensors = [surrounded(array, kind, case.layout, nan)[0] for array in (q, k, v)]
    out, buffer = surrounded(np.full((*q.shape[:-1], case.head_dim_v), POISON), kind, case.layout, POISON)
    softmax = ref.lse is not None
    options |= {"out": out, "return_lse": softmax, "layout": case.layout, "num_splits": case.num_splits}
    if family is None:
        result = attncc.attention(*tensors, bind(values), **options)
    else:
        dims = {"head_dim": case.head_dim, "head_dim_v": case.head_dim_v}
        result = attncc.compile(bind(values), dtype=case.dtype, **dims, family=family)(*tensors, **options)
    got = requests(out, case)
    report = row_bound(np.concatenate(got), picked(ref.out, case), picked(eager.out, case), case.dtype, pool)
    assert report.ok, f"{case}: {report}"
    if softmax:
        rounded_lse = lse_reference(bound.variant, picked(eager.lse, case))
        found = lse_bound(np.concatenate(requests(result[1], case)), picked(ref.lse, case), rounded_lse)
        assert found.ok, f"{case}: {found}"
    for part, rows in zip(written(out, case), case.rows, strict=True):
        part[..., :rows, :, :] = POISON
    assert bool((buffer == POISON).all()), f"{case}: written beyond a request's rows"


def k_shape(case: Case) -> tuple[int, int]:
    return len(case.rows), case.sizes.kv_len


def written(out: torch.Tensor, case: Case) -> list[torch.Tensor]:
    """Each request's part of the output, [len, heads, dim], as views."""
    ordered = out if case.layout == "nhd" else out.transpose(-2, -3)
    if not case.ragged:
        return list(ordered)
    ends = LEAD + np.cumsum([0, *case.rows])
    return [ordered[a:b] for a, b in itertools.pairwise(ends)]


def requests(tensor: torch.Tensor, case: Case) -> list[np.ndarray]:
    """Each request's rows of a result or an LSE, as float64, heads after rows."""
    array = tensor.double().cpu().numpy()
    trailing = array.ndim - (2 if case.ragged else 3)
    array = array if case.layout == "nhd" else np.swapaxes(array, -1 - trailing, -2 - trailing)
    if not case.ragged:
        return [array[b, :n] for b, n in enumerate(case.rows)]
    ends = LEAD + np.cumsum([0, *case.rows])
    return [array[a:b] for a, b in itertools.pairwise(ends)]


def picked(values: Any, case: Case) -> np.ndarray:
    return np.concatenate([values[b, :n] for b, n in enumerate(case.rows)])


# Formulas nobody wrote ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(VARIANTS))
def test_a_random_variant_agrees_with_the_reference(seed: int) -> None:
    """The rows whose reference is finite: what a formula does to infinities belongs to the emulated tests."""
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
    for splits in (1, 2):
        out, lse = attncc.attention(*arrays, bound, return_lse=True, num_splits=splits)
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


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", ["gemma2", "alibi", "rope"])
def test_a_thousand_jittered_repeats_are_bit_equal(name: str, splits: int) -> None:
    """Beside another stream's kernels of random length, so that blocks start and end in another order every time."""
    case = drawn(NAMES.index(name))
    rng = np.random.default_rng(5)
    q = torch.randn(2, 190, 8, 64, device=DEVICE).bfloat16()
    k, v = (torch.randn(2, 700, 2, 64, device=DEVICE).bfloat16() for _ in range(2))
    given: dict[str, Any]
    if name == "rope":
        turn = rng.uniform(0, 6.3, (800, 64))
        given = {"c": np.cos(turn).astype(np.float32), "s": np.sin(turn).astype(np.float32)}
    else:
        given = ARGUMENTS[name](rng, case.sizes, 8)
    bound = example(name)(**{key: on_device(value) for key, value in given.items()})
    first = attncc.attention(q, k, v, bound, num_splits=splits)
    noise, side = torch.randn(1024, 1024, device=DEVICE), torch.cuda.Stream()
    different = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for repeat in range(REPEATS):
        if repeat % 3 == 0:
            with torch.cuda.stream(side):
                size = int(rng.integers(64, 1024))
                noise[:size, :size] @ noise[:size, :size]
        different += (attncc.attention(q, k, v, bound, num_splits=splits) != first).sum()
    assert int(different) == 0
