"""What is measured: shapes, variants with random data, and the presets. Knows no clock and no peer.

Every case has batch × length = 16384 tokens and heads × head_dim = 2048 channels, bf16, forward, the sizes of the
published tables of FlashAttention (arXiv 2407.08608, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attncc.frontend import F32, I32, At, Tensor, hooks, softmax, tanh, variant

if TYPE_CHECKING:
    from attncc.binding import BoundVariant

TOKENS, WIDTH = 16384, 2048
WINDOW, CAP, DOCUMENTS = 1024, 30.0, 8


@variant
def causal(at: At) -> Any:
    return hooks(mask=at.q >= at.k)


@variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"]) -> Any:
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q), mask=at.q >= at.k)


@variant
def key_bias(at: At, *, bias: F32[Tensor, "batch, kv_len"]) -> Any:
    return hooks(logits=at.score + bias[at.b, at.col])


@variant
def prefix_lm(at: At, *, prefix: I32[Tensor, "batch"]) -> Any:
    return hooks(mask=(at.q >= at.k) | (at.k < prefix[at.b]))


@variant
def sink(at: At, *, logit: F32[Tensor, "num_heads"]) -> Any:
    return hooks(mask=at.q >= at.k, normalize=softmax(sink=logit[at.h]))


@variant
def softcap(at: At, *, cap: float = CAP) -> Any:
    return hooks(logits=cap * tanh(at.score / cap), mask=at.q >= at.k)


@variant
def documents(at: At, *, doc: I32[Tensor, "batch, kv_len"]) -> Any:
    return hooks(mask=(at.q >= at.k) & (doc[at.b, at.own] == doc[at.b, at.col]))


@variant
def document_blocks(at: At, *, doc: I32[Tensor, "batch, kv_len"]) -> Any:
    return hooks(mask=doc[at.b, at.own] == doc[at.b, at.col])


@variant
def window(at: At, *, w: int = WINDOW) -> Any:
    return hooks(mask=(at.q >= at.k) & (at.q - at.k < w))


@dataclass(frozen=True)
class Case:
    """One line of a table. ``base`` is what it is compared with besides peers: the same without its hook.

    ``bar`` is the least ratio that is asked for: of a peer's time to ours at ``against``, or of ours without the hook
    ("base"), by exact operations. ``family`` forces a kernel family.
    """

    variant: str
    head_dim: int
    length: int
    base: str | None = None
    against: str = "FLASH"
    bar: float | None = None
    family: str | None = None

    @property
    def batch(self) -> int:
        return TOKENS // self.length

    @property
    def heads(self) -> int:
        return WIDTH // self.head_dim

    @property
    def label(self) -> str:
        return f"{self.variant} D{self.head_dim} S{self.length}"


@dataclass(frozen=True)
class Made:
    """A variant with its data. ``score_mod`` and ``mask_mod`` say the same to FlexAttention; None is nothing."""

    bound: BoundVariant | None
    score_mod: Callable[..., Any] | None = None
    mask_mod: Callable[..., Any] | None = None


def make(name: str, case: Case, device: str) -> Made:
    """The variant ``name`` with random data for the sizes of ``case``."""
    return _MAKERS[name](case, device)


def _causal_mod(b: Any, h: Any, q: Any, k: Any) -> Any:
    return q >= k


def _alibi(case: Case, device: str) -> Made:
    import torch

    slopes = 2.0 ** -torch.linspace(1, 8, case.heads, device=device)
    return Made(alibi(slopes=slopes), lambda s, b, h, q, k: s + slopes[h] * (k - q), _causal_mod)


def _key_bias(case: Case, device: str) -> Made:
    import torch

    bias = torch.randn(case.batch, case.length, device=device)
    return Made(key_bias(bias=bias), lambda s, b, h, q, k: s + bias[b, k])


def _prefix_lm(case: Case, device: str) -> Made:
    import torch

    prefix = torch.full((case.batch,), case.length // 4, device=device, dtype=torch.int32)
    return Made(prefix_lm(prefix=prefix), None, lambda b, h, q, k: (q >= k) | (k < prefix[b]))


def _sink(case: Case, device: str) -> Made:
    import torch

    return Made(sink(logit=torch.randn(case.heads, device=device)))  # FlexAttention has no sink


def _softcap(case: Case, device: str) -> Made:
    import torch

    return Made(softcap(cap=CAP), lambda s, b, h, q, k: CAP * torch.tanh(s / CAP), _causal_mod)


def _ids(case: Case, device: str) -> Any:
    """Documents of equal length, i32[batch, length]."""
    import torch

    ends = torch.arange(case.length, device=device) * DOCUMENTS // case.length
    return ends.int().expand(case.batch, -1).contiguous()


def _documents(case: Case, device: str) -> Made:
    doc = _ids(case, device)
    return Made(documents(doc=doc), None, lambda b, h, q, k: (q >= k) & (doc[b, q] == doc[b, k]))


def _document_blocks(case: Case, device: str) -> Made:
    doc = _ids(case, device)
    return Made(document_blocks(doc=doc), None, lambda b, h, q, k: doc[b, q] == doc[b, k])


_MAKERS: Mapping[str, Callable[[Case, str], Made]] = {
    "dense": lambda case, device: Made(None),
    "causal": lambda case, device: Made(causal(), None, _causal_mod),
    "alibi": _alibi,
    "key_bias": _key_bias,
    "prefix_lm": _prefix_lm,
    "sink": _sink,
    "softcap": _softcap,
    "documents": _documents,
    "document_blocks": _document_blocks,
    "window": lambda case, device: Made(window(), None, lambda b, h, q, k: (q >= k) & (q - k < WINDOW)),
}


def _plain(head_dims: tuple[int, ...], lengths: tuple[int, ...], bars: Mapping[int, float]) -> list[Case]:
    return [
        Case(name, head_dim, length, bar=bars.get(head_dim))
        for head_dim in head_dims
        for length in lengths
        for name in ("dense", "causal")
    ]


def _hooked(head_dim: int, length: int) -> list[Case]:
    bars = {"alibi": 0.92, "key_bias": 0.92, "prefix_lm": 0.92, "sink": 0.92}
    bars |= {"documents": 0.85, "document_blocks": 0.85, "window": 0.85}
    bars["softcap"] = 0.85 if head_dim == 128 else 0.75
    base = {"key_bias": "dense"}
    return [Case(name, head_dim, length, base.get(name, "causal"), "base", bar) for name, bar in bars.items()]


PRESETS: Mapping[str, tuple[Case, ...]] = {
    "mma_sm80": tuple(
        replace(case, family="mma_sm80")
        for case in (
            *_plain((64, 128, 256), (2048, 8192), {64: 0.90, 128: 0.90, 256: 0.85}),
            *_hooked(64, 8192),
            *_hooked(128, 8192),
        )
    ),
    "quick": (Case("dense", 128, 2048), Case("causal", 128, 2048), Case("alibi", 128, 2048, "causal", "base")),
}


def pairs(made: Made, case: Case, tile: int = 256) -> int:
    """How many (row, key) pairs of one head are attended, exactly: tiles by proof, the undecided ones pair by pair."""
    whole = case.batch * case.length * case.length
    mask = None if made.bound is None else made.bound.variant.branches[0].mask
    if made.bound is None or mask is None:
        return whole
    from attncc.ir.nodes import Branch, Coord, Load
    from attncc.ir.walk import walk
    from attncc.passes.classify import Box, Tile, classify
    from attncc.passes.tile_program import Environment
    from attncc.reference import Sizes
    from attncc.reference.call import Block, make_call
    from attncc.reference.hooks import mask as attended

    nodes = list(walk(mask))
    assert not any(isinstance(node, Coord) and node.axis in ("h", "hk") for node in nodes)
    read = {node.tensor for node in nodes if isinstance(node, Load)}
    kept = tuple(tensor for tensor in made.bound.variant.tensors if tensor.name in read)
    variant = replace(made.bound.variant, branches=(Branch(mask=mask),), tensors=kept)
    tensors = {name: made.bound.tensors[name].cpu().numpy() for name in read}
    sizes = Sizes(case.batch, 1, 1, case.head_dim, case.head_dim, case.length, case.length)
    call = make_call(variant, sizes, params=made.bound.params, tensors=tensors)
    total = 0
    for b in range(case.batch):
        inputs = {"b": b, "hk": 0, "q_start": 0, "k_start": 0}
        env = Environment(inputs, dict(made.bound.params), sizes.extents(), tensors)
        for row in range(0, case.length, tile):
            rows = range(row, min(row + tile, case.length))
            for col in range(0, case.length, tile):
                cols = range(col, min(col + tile, case.length))
                found = classify(mask, env, Box(rows.start, rows.stop, cols.start, cols.stop, 0, 1))
                if found is Tile.FULL:
                    total += len(rows) * len(cols)
                elif found is Tile.PARTIAL:
                    total += int(attended(call, variant.branches[0], Block(b, range(1), rows, cols)).sum())
    return total


__all__ = ["PRESETS", "Case", "Made", "make", "pairs"]
