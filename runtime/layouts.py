"""How query, key, value and output lie in memory: one front door so far, the padded batch. Knows no kernel."""

from __future__ import annotations

from dataclasses import dataclass

from attncc.diagnostics import CallError
from attncc.runtime.tensors import View


@dataclass(frozen=True)
class Padded:
    """A padded batch: ``nhd`` is [batch, len, heads, dim], ``hnd`` is [batch, heads, len, dim].

    Requests shorter than the storage say so with ``qo_lens`` and ``kv_lens``.
    """

    order: str
    token: int
    head: int

    def shape(self, batch: int, length: int, heads: int, *dims: int) -> tuple[int, ...]:
        """The shape of a tensor over tokens and heads; without ``dims`` that of an LSE."""
        middle = (length, heads) if self.token == 1 else (heads, length)
        return (batch, *middle, *dims)

    @property
    def axes(self) -> str:
        return "[batch, len, heads, dim]" if self.token == 1 else "[batch, heads, len, dim]"

    def strides(self, tensor: View) -> tuple[int, int, int]:
        """Element strides over batch, head and token; 0 on an axis that has no second element."""
        batch, head, token = (
            tensor.strides[axis] if tensor.shape[axis] > 1 else 0 for axis in (0, self.head, self.token)
        )
        return batch, head, token


LAYOUTS = {"nhd": Padded("nhd", token=1, head=2), "hnd": Padded("hnd", token=2, head=1)}


def padded(name: object) -> Padded:
    """The layout called ``name``. Raises CallError A0830."""
    found = LAYOUTS.get(name) if isinstance(name, str) else None
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
    """The sizes of one call. ``qo_len`` and ``kv_len`` count storage: the longest request."""

    batch: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    qo_len: int
    kv_len: int

    @property
    def group(self) -> int:
        return self.num_heads // self.num_kv_heads if self.num_kv_heads else 0

    def extents(self) -> dict[str, int]:
        """What captured tensors' dims are expressed in."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def read_shapes(layout: Padded, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> Shapes:
    """The sizes of a call from its tensors' shapes. Raises CallError A0834 (rank), A0835 (sizes), A0836 (heads)."""
    for name, shape in (("q", q), ("k", k), ("v", v)):
        if len(shape) != 4:
            raise CallError(
                "A0834",
                f"`{name}` has {len(shape)} dimensions",
                expected=f"4: {layout.axes}",
                got=f"shape {list(shape)}",
                help="add a batch axis of 1 for a single request",
            )
    token, head = layout.token, layout.head
    _same("k", "q", "batch", k[0], q[0], layout)
    _same("v", "k", "batch", v[0], k[0], layout)
    _same("k", "q", "head_dim", k[3], q[3], layout)
    _same("v", "k", "len", v[token], k[token], layout)
    _same("v", "k", "heads", v[head], k[head], layout)
    heads, kv_heads = q[head], k[head]
    if heads % kv_heads if kv_heads else heads:
        raise CallError(
            "A0836",
            f"{heads} query heads cannot share {kv_heads} KV heads",
            expected="a number of query heads that is a multiple of the KV heads",
            got=f"q {list(q)}, k {list(k)} in layout {layout.order}",
            help=f"the head axis of layout '{layout.order}' is axis {head}; is the other layout meant?",
        )
    return Shapes(q[0], heads, kv_heads, q[3], v[3], q[token], k[token])


def _same(one: str, other: str, axis: str, got: int, expected: int, layout: Padded) -> None:
    if got != expected:
        raise CallError(
            "A0835",
            f"`{one}` and `{other}` differ in {axis}",
            expected=f"{axis} {expected}, as in `{other}`",
            got=f"{axis} {got}",
            help=f"layout '{layout.order}' is {layout.axes}; is the other one meant, or another tensor?",
        )
