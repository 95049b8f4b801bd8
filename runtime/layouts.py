"""How query, key, value and output lie in memory: padded and ragged batches, heads before or after tokens. Knows no
kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from attncc.diagnostics import CallError
from attncc.runtime.tensors import View


@dataclass(frozen=True)
class Layout:
    """How the tokens and heads of one operand lie.

    ``nhd`` is [batch, len, heads, dim], ``hnd`` [batch, heads, len, dim]; requests shorter than the storage say so with
    ``qo_lens`` and ``kv_lens``. Ragged, all requests' tokens lie one after another: [tokens, heads, dim] or
    [heads, tokens, dim], with an indptr i32[batch + 1] of where each request begins.
    """

    order: str
    ragged: bool
    batch_axis: int | None
    token: int
    head: int

    @property
    def rank(self) -> int:
        return 3 if self.ragged else 4

    def shape(self, batch: int, length: int, heads: int, *dims: int) -> tuple[int, ...]:
        """The shape of a tensor over tokens and heads; without ``dims`` that of an LSE. Ragged: ``length`` tokens."""
        middle = (length, heads) if self.token < self.head else (heads, length)
        return (*middle, *dims) if self.ragged else (batch, *middle, *dims)

    @property
    def axes(self) -> str:
        length = "tokens" if self.ragged else "len"
        middle = f"{length}, heads" if self.token < self.head else f"heads, {length}"
        return f"[{middle}, dim]" if self.ragged else f"[batch, {middle}, dim]"

    def strides(self, tensor: View) -> tuple[int, int, int]:
        """Element strides over batch, head and token; 0 on an axis that has no second element."""

        def along(axis: int | None) -> int:
            return 0 if axis is None or tensor.shape[axis] <= 1 else tensor.strides[axis]

        return along(self.batch_axis), along(self.head), along(self.token)


# What kernels are compiled for: tokens of a request, its starts, query heads of a KV head. Within these no position and
# no packed row leaves 32 bits.
MAX_LEN, MAX_START, MAX_GROUP = 2**28 - 1, 2**29, 2**14

LAYOUTS = {"nhd": Layout("nhd", False, 0, token=1, head=2), "hnd": Layout("hnd", False, 0, token=2, head=1)}
RAGGED = {"nhd": Layout("nhd", True, None, token=0, head=1), "hnd": Layout("hnd", True, None, token=1, head=0)}


def layout_of(name: object, *, ragged: bool = False) -> Layout:
    """The layout called ``name``. Raises CallError A0830."""
    found = (RAGGED if ragged else LAYOUTS).get(name) if isinstance(name, str) else None
    if found is None:
        raise CallError(
            "A0830",
            f"unknown layout {name!r}",
            expected="'nhd' ([batch, len, heads, dim]) or 'hnd' ([batch, heads, len, dim])",
            got=repr(name),
            help="PyTorch's scaled_dot_product_attention takes what is 'hnd' here",
        )
    return found


@dataclass(frozen=True)
class Shapes:
    """The sizes of one call. ``qo_len`` and ``kv_len`` are the longest request, or a bound of it; ``qo_tokens`` and
    ``kv_tokens`` count the tokens of ragged storage, and are 0 in a padded batch.
    """

    batch: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    qo_len: int
    kv_len: int
    qo_tokens: int = 0
    kv_tokens: int = 0

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads if self.num_kv_heads else 0

    def extents(self) -> dict[str, int]:
        """What captured tensors' dims are expressed in."""
        return {name: getattr(self, name) for name in EXTENTS}


EXTENTS = ("batch", "num_heads", "num_kv_heads", "head_dim", "head_dim_v", "qo_len", "kv_len")


@dataclass(frozen=True)
class Ragged:
    """What a call says of one ragged operand: how many requests its indptr has, and the longest, if that is known."""

    batch: int
    max_len: int | None


def read_shapes(
    layout: Layout,
    q: tuple[int, ...],
    k: tuple[int, ...],
    v: tuple[int, ...],
    *,
    kv_layout: Layout | None = None,
    qo: Ragged | None = None,
    kv: Ragged | None = None,
) -> Shapes:
    """The sizes of a call from its tensors' shapes; ``kv_layout`` None: as ``layout``.

    ``qo`` and ``kv`` go with ragged layouts; without a longest length, all tokens bound it. Raises CallError A0834
    (rank), A0835 (sizes), A0836 (heads).
    """
    places = (layout, kv_layout or layout, kv_layout or layout)
    for name, shape, place in zip("qkv", (q, k, v), places, strict=True):
        if len(shape) != place.rank:
            raise CallError(
                "A0834",
                f"`{name}` has {len(shape)} dimensions",
                expected=f"{place.rank}: {place.axes}",
                got=f"shape {list(shape)}",
                help="ragged tensors, those with an indptr, have no batch axis"
                if place.ragged
                else "add a batch axis of 1 for a single request",
            )
    own, other = places[0], places[1]
    q_batch = qo.batch if qo is not None else q[0]
    kv_batch = kv.batch if kv is not None else k[0]
    _same("k", "q", "batch", kv_batch, q_batch, other)
    if not other.ragged:
        _same("v", "k", "batch", v[0], k[0], other)
    _same("k", "q", "head_dim", k[-1], q[-1], other)
    _same("v", "k", "len", v[other.token], k[other.token], other)
    _same("v", "k", "heads", v[other.head], k[other.head], other)
    heads, kv_heads = q[own.head], k[other.head]
    if heads % kv_heads if kv_heads else heads:
        raise CallError(
            "A0836",
            f"{heads} query heads cannot share {kv_heads} KV heads",
            expected="a number of query heads that is a multiple of the KV heads",
            got=f"q {list(q)}, k {list(k)} in layout {layout.order}",
            help=f"the head axis of layout '{layout.order}' is axis {own.head}; is the other layout meant?",
        )
    return Shapes(
        q_batch,
        heads,
        kv_heads,
        q[-1],
        v[-1],
        _longest(q[own.token], qo),
        _longest(k[other.token], kv),
        q[own.token] if qo is not None else 0,
        k[other.token] if kv is not None else 0,
    )


def _longest(length: int, ragged: Ragged | None) -> int:
    return length if ragged is None or ragged.max_len is None else min(length, ragged.max_len)


def _same(one: str, other: str, axis: str, got: int, expected: int, layout: Layout) -> None:
    if got != expected:
        raise CallError(
            "A0835",
            f"`{one}` and `{other}` differ in {axis}",
            expected=f"{axis} {expected}, as in `{other}`",
            got=f"{axis} {got}",
            help=f"layout '{layout.order}' is {layout.axes}; is the other one meant, or another tensor?",
        )
