"""Random calls of either family, drawn from a number each, and what holds one to the reference.

A failure names its case. Sizes are small: what is searched for are combinations. NaN lies around every operand and
poison around the output.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

import attncc
from attncc.binding import VariantFactory
from attncc.codegen.families import wgmma_sm90
from attncc.reference import attention as reference
from attncc.reference.accuracy import Pool, lse_bound, lse_reference, row_bound
from attncc.reference.rounding import PRECISIONS
from tests.gpu.attention_cases import ARGUMENTS, DEVICE, POISON, TORCH, Sizes, example, on_device

GROUPS = (1, 4, 7, 8)
NAMES = (*ARGUMENTS, "rope", "sigmoid")  # examples, which take turns
# Head dims of queries and keys and of values, which take turns with every family.
HEAD_DIMS = {
    "mma_sm80": ((32, 32), (64, 64), (80, 80), (96, 96), (128, 128), (192, 192), (256, 256), (192, 128)),
    "wgmma_sm90": wgmma_sm90.SHAPES,
}
PER_REQUEST = {"window": "w", "gemma2": "softcap", "streaming_llm": "w", "gpt_oss": "w", "longformer": "w"}
LEAD = 3  # tokens before the first request of a ragged batch, and after the last


@dataclass(frozen=True)
class Case:
    """One random call of a family. Lengths are of each request; storage is as long as the longest, or ragged.

    ``growth`` multiplies the later half of all keys, so that rows outgrow what their first tile had; with ``scales``
    each request has its own, which may be 0 or negative.
    """

    family: str
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
    k_starts: bool
    scales: bool
    growth: float

    @property
    def sizes(self) -> Sizes:
        return Sizes(max(self.rows), max(self.cols), self.rows, self.cols, len(self.rows), self.kv_heads)


def drawn(family: str, number: int) -> Case:
    """The case of a number. Names, then head dims, then dtypes take turns, so that all of them meet."""
    rng = np.random.default_rng(number if family == "mma_sm80" else 50_000 + number)
    dims = HEAD_DIMS[family]
    turn, name = divmod(number, len(NAMES))
    head_dim, head_dim_v = dims[turn % len(dims)]
    group = GROUPS[int(rng.integers(len(GROUPS)))]
    batch = int(rng.integers(1, 4))
    few = rng.random() < 0.2  # as in decoding
    # The Hopper family's rings turn only where there are several tiles of rows and of keys.
    long = family == "wgmma_sm90" and number % 3 == 0
    most_rows, most_cols = (280, 700) if long else (70, 260 if rng.random() < 0.3 else 130)
    rows, cols = rng.integers(0, 4 if few else most_rows, batch), rng.integers(0, most_cols, batch)
    empty = np.random.default_rng([number, 1]).random((2, batch)) < 0.06
    rows, cols = (tuple(int(n) for n in part) for part in np.where(empty, 0, (rows, cols)))
    if max(rows) == 0:
        rows = (1, *rows[1:])
    if max(cols) == 0:
        cols = (1, *cols[1:])
    ragged = bool(rng.random() < 0.5)
    return Case(
        family=family,
        number=number,
        name=NAMES[name],
        dtype=("bf16", "f16")[(number // 3 if len(NAMES) % 2 else turn // len(dims)) % 2],
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
        k_starts=bool(rng.random() < 0.5),
        scales=bool(rng.random() < 0.15),
        growth=float(rng.choice([1.0, 1.0, 1.0, 4.0, 16.0])),
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


# A variant, and its parameters and tensors as numpy arrays.
Formula = tuple[VariantFactory[...], dict[str, Any]]


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


def check(case: Case, pool: Pool, of: Callable[[Case, np.random.Generator], Formula] | None = None) -> None:
    """Run a case on its family and hold it to the accuracy bounds; ``of`` gives another formula than the example."""
    rng = np.random.default_rng(10_000 + case.number)
    factory, given = (example(case.name), arguments(case, rng)) if of is None else of(case, rng)
    bound = factory(**given)
    sizes, heads = case.sizes, case.kv_heads * case.group
    batch = len(case.rows)
    rounded = PRECISIONS[case.dtype].round
    q = rounded(rng.normal(0, 1, (batch, sizes.qo_len, heads, case.head_dim)))
    k = rounded(rng.normal(0, 1, (batch, sizes.kv_len, case.kv_heads, case.head_dim)))
    v = rounded(rng.normal(0, 1, (batch, sizes.kv_len, case.kv_heads, case.head_dim_v)))
    call: dict[str, Any] = {}
    if case.starts and case.name != "rope":
        call["q_start"] = rng.integers(0, 200, batch).astype(np.int32)
        if case.k_starts:
            call["k_start"] = rng.integers(0, 50, batch).astype(np.int32)
    # A vector that a hook made is rounded once more, as in eager: where one key decides, either may be the unlucky one,
    # and a row may leave its bound by so much.
    (branch,) = bound.variant.branches
    sharp = branch.query is None and branch.key is None and branch.value is None
    allowed = 1.0 if sharp else 1.5
    if case.scales and sharp:
        call["sm_scale"] = rng.choice([-0.3, 0.0, 0.02, 0.5], batch).astype(np.float32)
    for b, length in enumerate(case.cols):
        k[b, length // 2 :] *= case.growth if sharp else 1.0
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
    dims = {"head_dim": case.head_dim, "head_dim_v": case.head_dim_v}
    compiled = attncc.compile(factory(**values), dtype=case.dtype, **dims, family=case.family)
    assert compiled.artifact.manifest.family == case.family
    result = compiled(*tensors, **options)
    got = requests(out, case)
    report = row_bound(np.concatenate(got), picked(ref.out, case), picked(eager.out, case), case.dtype, pool)
    assert replace(report, row=report.row / allowed).ok, f"{case}: {report}"
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
