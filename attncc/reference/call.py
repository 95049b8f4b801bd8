"""One call of a variant: its arrays, its requests' geometry, and the scope of any block of it. Knows no hooks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attncc.ir.extents import evaluate as evaluate_extent
from attncc.ir.nodes import Expr, Extent, Variant
from attncc.ir.types import Type, round_f32
from attncc.reference.arithmetic import DTYPES
from attncc.reference.evaluate import Scope, scalar
from attncc.reference.rounding import EXACT, Array, Precision

PerRequest = int | Array | None


@dataclass(frozen=True)
class Sizes:
    """The extents a call has without its captured tensors; ``qo_len`` and ``kv_len`` are the storage's."""

    batch: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    qo_len: int
    kv_len: int

    def __post_init__(self) -> None:
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} query heads over {self.num_kv_heads} KV heads")

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads

    def extents(self) -> dict[str, int]:
        return dict(vars(self))


@dataclass(frozen=True)
class Block:
    """A piece of one request: query heads, rows and columns, each a half-open range of storage indices.

    An axis that is None is absent: values that vary with it have no meaning there.
    """

    b: int
    heads: range
    rows: range | None = None
    cols: range | None = None


@dataclass(frozen=True)
class Call:
    """Everything a variant reads in a call. Captured tensors are in their value types, extents bound."""

    variant: Variant
    sizes: Sizes
    extents: Mapping[str, int]
    params: Mapping[str, Any]
    tensors: Mapping[str, Array]
    operands: Mapping[str, Array]
    qo_lens: Array
    kv_lens: Array
    q_starts: Array
    k_starts: Array
    sm_scale: Array | None
    precision: Precision = EXACT
    channels: int = field(default=0)

    def scope(self, block: Block, **rest: Any) -> Scope:
        """The names of a block; ``rest`` are further fields of Scope."""
        b, kv_len, qo_len = block.b, int(self.kv_lens[block.b]), int(self.qo_lens[block.b])
        heads = np.arange(block.heads.start, block.heads.stop, dtype=np.int32).reshape(-1, 1, 1, 1)
        coords = {
            "b": scalar(b, Type.I32),
            "h": heads,
            "hk": heads // np.int32(self.sizes.group),
            "d": np.arange(self.channels, dtype=np.int32).reshape(1, 1, 1, -1),
        }
        if block.rows is not None:
            row = np.arange(block.rows.start, block.rows.stop, dtype=np.int32).reshape(1, -1, 1, 1)
            coords |= {"row": row, "q": row + self.q_starts[b], "own": row + np.int32(kv_len - qo_len)}
        if block.cols is not None:
            col = np.arange(block.cols.start, block.cols.stop, dtype=np.int32).reshape(1, 1, -1, 1)
            coords |= {"col": col, "k": col + self.k_starts[b]}
        extents = {**self.extents, "qo_len": qo_len, "kv_len": kv_len}
        params = {decl.name: _parameter(self.params[decl.name], decl.type, b) for decl in self.variant.params}
        return Scope(
            coords=coords,
            params=params,
            extents={name: scalar(value, Type.I32) for name, value in extents.items()},
            tensors=self.tensors,
            **{"precision": self.precision, **rest},
        )


def make_call(
    variant: Variant,
    sizes: Sizes,
    *,
    params: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    operands: Mapping[str, Any] | None = None,
    sm_scale: float | Array | None = None,
    q_start: PerRequest = None,
    k_start: PerRequest = None,
    qo_lens: PerRequest = None,
    kv_lens: PerRequest = None,
    precision: Precision = EXACT,
) -> Call:
    """A call with every default filled in (design, section 3): starts, lengths, parameters, extents bound by tensors.

    Raises ValueError where the arrays do not fit the variant; the runtime has told its user in better words before.
    """
    given = dict(tensors or {})
    arrays = {tensor.name: np.asarray(given[tensor.name]) for tensor in variant.tensors}
    extents = _bind(variant, arrays, sizes.extents())
    batch = sizes.batch
    rows = _per_request(qo_lens, sizes.qo_len, batch)
    cols = _per_request(kv_lens, sizes.kv_len, batch)
    k_starts = _per_request(k_start, 0, batch)
    q_starts = k_starts + cols - rows if q_start is None else _per_request(q_start, 0, batch)
    values = {decl.name: (params or {}).get(decl.name, decl.default) for decl in variant.params}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ValueError(f"parameters without a value: {', '.join(missing)}")
    lengths = [sizes.head_dim, sizes.head_dim_v, *(evaluate_extent(o.dim, extents) or 0 for o in variant.operands)]
    return Call(
        variant=variant,
        sizes=sizes,
        extents=extents,
        params=values,
        tensors={
            tensor.name: arrays[tensor.name].astype(DTYPES[tensor.storage.loaded], copy=False)
            for tensor in variant.tensors
        },
        operands={operand.name: np.asarray((operands or {})[operand.name]) for operand in variant.operands},
        qo_lens=rows,
        kv_lens=cols,
        q_starts=q_starts,
        k_starts=k_starts,
        sm_scale=None if sm_scale is None else np.broadcast_to(np.asarray(sm_scale, np.float32), (batch,)),
        precision=precision,
        channels=max(lengths),
    )


def default_sm_scale(head_dim: int) -> float:
    """1/√head_dim as a kernel receives it."""
    return round_f32(1.0 / math.sqrt(head_dim)) if head_dim else 1.0


def _per_request(value: PerRequest, default: int, batch: int) -> Array:
    return np.broadcast_to(np.asarray(default if value is None else value, np.int32), (batch,))


def _parameter(value: Any, type: Type, b: int) -> Array:
    whole = np.asarray(value)
    return scalar((whole if whole.ndim == 0 else whole[b]).item(), type)


def _bind(variant: Variant, arrays: Mapping[str, Array], extents: dict[str, int]) -> dict[str, int]:
    """``extents`` and the new names that tensor shapes bind."""
    for tensor in variant.tensors:
        shape = arrays[tensor.name].shape
        if len(shape) != len(tensor.dims):
            raise ValueError(f"`{tensor.name}` has {len(tensor.dims)} axes, not shape {shape}")
        for dim, size in zip(tensor.dims, shape, strict=True):
            if isinstance(dim, Extent):
                extents.setdefault(dim.name, size)
    for tensor in variant.tensors:
        for axis, (dim, size) in enumerate(zip(tensor.dims, arrays[tensor.name].shape, strict=True)):
            if _size(dim, extents) != size:
                raise ValueError(f"axis {axis} of `{tensor.name}` has {size} elements, not {_size(dim, extents)}")
    return extents


def _size(dim: Expr, extents: Mapping[str, int]) -> int | None:
    return evaluate_extent(dim, extents)
