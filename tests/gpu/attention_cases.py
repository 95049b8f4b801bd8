"""Cases for `attncc.attention` on a GPU: examples with random captured tensors, and a call that poisons its borders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.binding import BoundVariant, VariantFactory
from attncc.codegen.select import targets_of
from attncc.codegen.targets import best
from attncc.reference import attention as reference
from attncc.reference.accuracy import Pool, lse_bound, row_bound
from attncc.reference.rounding import PRECISIONS
from attncc.runtime.driver import device

Array = Any
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TORCH = {"f16": torch.float16, "bf16": torch.bfloat16}
POISON = 1024.0  # exact in every dtype


def need(family: str) -> None:
    """Skips a test of a family that has no kernels for this GPU."""
    target = best(device(0).capability)
    if target not in targets_of(family):
        pytest.skip(f"{family} has no kernels for {target}")


def example(name: str) -> VariantFactory[...]:
    """The variant of an example's .attn file."""
    module = attncc.load(EXAMPLES / f"{name}.attn")
    (only,) = module
    return module[only]


@dataclass(frozen=True)
class Sizes:
    """``qo_lens`` and ``kv_lens`` None: every request fills its storage."""

    qo_len: int
    kv_len: int
    qo_lens: tuple[int, ...] | None = None
    kv_lens: tuple[int, ...] | None = None
    batch: int = 2
    kv_heads: int = 2

    def rows(self, b: int) -> int:
        return self.qo_len if self.qo_lens is None else self.qo_lens[b]

    def cols(self, b: int) -> int:
        return self.kv_len if self.kv_lens is None else self.kv_lens[b]


def documents(rng: np.random.Generator, sizes: Sizes) -> Array:
    """Document numbers over keys: runs of random lengths."""
    return np.cumsum(rng.random((sizes.batch, sizes.kv_len)) < 0.05, axis=1).astype(np.int32)


def images(rng: np.random.Generator, sizes: Sizes) -> Array:
    """Image numbers over keys: runs, every other of them text (−1)."""
    runs = documents(rng, sizes)
    return np.where(runs % 2 == 0, -1, runs).astype(np.int32)


# What the examples take, as numpy arrays of the declared dtype. Windows and caps are small enough to show.
ARGUMENTS: dict[str, Callable[[np.random.Generator, Sizes, int], dict[str, Any]]] = {
    "causal": lambda rng, sizes, heads: {},
    "window": lambda rng, sizes, heads: {"w": 37},
    "gemma2": lambda rng, sizes, heads: {"softcap": 3.0, "w": 50},
    "alibi": lambda rng, sizes, heads: {"slopes": (2.0 ** -np.arange(1, heads + 1)).astype(np.float32)},
    "prefix_lm": lambda rng, sizes, heads: {"prefix": rng.integers(0, 90, sizes.batch).astype(np.int32)},
    "documents": lambda rng, sizes, heads: {"doc": documents(rng, sizes)},
    "streaming_llm": lambda rng, sizes, heads: {"sinks": 3, "w": 41},
    "gpt_oss": lambda rng, sizes, heads: {"sink": rng.normal(0, 2, heads).astype(np.float32), "w": 45},
    "t5_bias": lambda rng, sizes, heads: {"bias": rng.normal(0, 1, (heads, 32)).astype(np.float32)},
    "longformer": lambda rng, sizes, heads: {"is_global": rng.random((sizes.batch, sizes.kv_len)) < 0.03, "w": 20},
    "transfusion": lambda rng, sizes, heads: {"image": images(rng, sizes)},
}


def on_device(value: Any) -> Any:
    """A numpy argument as a tensor on the device; scalars stay."""
    return torch.from_numpy(value).to(DEVICE) if isinstance(value, np.ndarray) else value


def bind(name: str, arguments: dict[str, Any]) -> BoundVariant:
    return example(name)(**{key: on_device(value) for key, value in arguments.items()})


def surrounded(values: Array, dtype: torch.dtype, layout: str, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``values`` [batch, len, heads, dim] on the device inside a larger buffer of ``fill``, and that buffer.

    Every axis has neighbours, and rows keep 16-byte alignment.
    """
    batch, length, heads, dim = values.shape
    order = (batch + 2, length + 2, heads + 2, dim + 8)
    buffer = torch.full(order if layout == "nhd" else (order[0], order[2], order[1], order[3]), fill, dtype=dtype)
    source = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
    if layout == "nhd":
        buffer[1:-1, 1:-1, 1:-1, :dim] = source
        buffer = buffer.to(DEVICE)
        return buffer[1:-1, 1:-1, 1:-1, :dim], buffer
    buffer[1:-1, 1:-1, 1:-1, :dim] = source.transpose(1, 2)
    buffer = buffer.to(DEVICE)
    return buffer[1:-1, 1:-1, 1:-1, :dim], buffer


def host(tensor: torch.Tensor, layout: str) -> Array:
    """A result as float64 in nhd order."""
    array = tensor.double().cpu().numpy()
    return array if layout == "nhd" else np.moveaxis(array, 1, 2)


def check(
    name: str,
    dtype: str,
    head_dim: int,
    group: int,
    sizes: Sizes,
    *,
    layout: str = "nhd",
    seed: int = 0,
    pool: Pool | None = None,
    arguments: dict[str, Any] | None = None,
    family: str | None = None,
    head_dim_v: int | None = None,
    variant: VariantFactory[...] | None = None,
    **call: Any,
) -> None:
    """Run an example and hold it to the accuracy bounds, with NaN around every request and poison around the output.

    ``variant`` with its ``arguments`` may take the example's place. ``call`` are further arguments of the call, as
    numpy arrays or scalars; ``family`` forces a kernel family, which ``head_dim_v`` needs. An LSE of magnitude
    x above 1000 may be off by 2⁻²² (x − 1000) more.
    """
    rng = np.random.default_rng(seed)
    heads = sizes.kv_heads * group
    rounded = PRECISIONS[dtype].round
    q, k, v = (
        rounded(rng.normal(0, 1, (sizes.batch, length, count, dim)))
        for length, count, dim in (
            (sizes.qo_len, heads, head_dim),
            (sizes.kv_len, sizes.kv_heads, head_dim),
            (sizes.kv_len, sizes.kv_heads, head_dim_v or head_dim),
        )
    )
    given = ARGUMENTS[name](rng, sizes, heads) if arguments is None else arguments
    lens = {
        key: np.asarray(value, np.int32)
        for key, value in (("qo_lens", sizes.qo_lens), ("kv_lens", sizes.kv_lens))
        if value is not None
    }
    factory = example(name) if variant is None else variant
    bound = factory(**given)
    context = {"params": bound.params, "tensors": bound.tensors, **lens, **call}
    ref = reference(bound.variant, q, k, v, **context)
    eager = reference(bound.variant, q, k, v, **context, dtype=dtype)

    for b in range(sizes.batch):  # what lies beyond a request must not matter
        q[b, sizes.rows(b) :], k[b, sizes.cols(b) :], v[b, sizes.cols(b) :] = np.nan, np.nan, np.nan
    tensors = [surrounded(array, TORCH[dtype], layout, float("nan"))[0] for array in (q, k, v)]
    out, buffer = surrounded(np.full(ref.out.shape, POISON), TORCH[dtype], layout, POISON)
    moved = {key: on_device(value) for key, value in {**lens, **call}.items()}
    moved |= {"out": out, "return_lse": True, "layout": layout}
    on_gpu = factory(**{key: on_device(value) for key, value in given.items()})
    if family is None:
        result, lse = attncc.attention(*tensors, on_gpu, **moved)
    else:
        dims = {"head_dim": head_dim, "head_dim_v": head_dim_v or head_dim}
        compiled = attncc.compile(on_gpu, dtype=dtype, family=family, **dims)
        assert compiled.artifact.manifest.family == family
        result, lse = compiled(*tensors, **moved)
    assert result is out

    got, got_lse = host(out, layout), host(lse, layout)
    rows = [(b, slice(0, sizes.rows(b))) for b in range(sizes.batch)]

    def valid(array: Array) -> Array:
        return np.concatenate([array[at].reshape(-1, *array.shape[3:]) for at in rows])

    report = row_bound(valid(got), valid(ref.out), valid(eager.out), dtype, pool)
    assert report.ok, str(report)
    lse_found, lse_wanted = valid(got_lse), valid(ref.lse)
    large = np.isfinite(lse_wanted) & (np.abs(lse_wanted) > 1000.0)
    found = lse_bound(np.where(large, lse_wanted, lse_found), lse_wanted)
    assert found.ok, str(found)
    rounding = 2**-22 * (np.abs(lse_wanted[large]) - 1000.0)
    assert bool((np.abs(lse_found[large] - lse_wanted[large]) <= found.bound + rounding).all())
    # Nothing but the rows of each request was written.
    beyond = [got[b, sizes.rows(b) :] for b in range(sizes.batch)]
    assert all(bool((rest == POISON).all()) for rest in beyond), "written past a request's rows"
    out.fill_(POISON)
    assert bool((buffer == POISON).all()), "written beyond the output"
