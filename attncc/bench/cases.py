"""What is measured: shapes, variants with random data, and the presets. Knows no clock and no peer.

Where a case says nothing else it has batch × length = 16384 tokens and heads × head_dim = 2048 channels, bf16, forward,
the sizes of the published tables of FlashAttention (arXiv 2407.08608, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal

import attncc.frontend as dsl
from attncc.frontend import F32, I32, At, Tensor, hooks, softmax, tanh, variant

if TYPE_CHECKING:
    from attncc.binding import BoundVariant
    from attncc.ir.nodes import Variant

TOKENS, WIDTH = 16384, 2048
WINDOW, CAP, DOCUMENTS, BUCKETS, FAR = 1024, 30.0, 8, 32, 128

Lengths = Literal["padded", "equal", "uniform", "zipf"]


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
def causal_key_bias(at: At, *, bias: F32[Tensor, "batch, kv_len"]) -> Any:
    return hooks(logits=at.score + bias[at.b, at.col], mask=at.q >= at.k)


@variant
def t5_bias(at: At, *, bias: F32[Tensor, "num_heads, buckets"]) -> Any:
    exact = BUCKETS // 2
    distance = dsl.max(at.q - at.k, 0)
    octaves = dsl.log(distance / exact) / dsl.log(FAR / exact)
    far = dsl.min(exact + dsl.i32(octaves * (BUCKETS - exact)), BUCKETS - 1)
    return hooks(logits=at.score + bias[at.h, dsl.where(distance < exact, distance, far)], mask=at.q >= at.k)


@variant
def relative(at: At, *, table: F32[Tensor, "num_heads, distances"]) -> Any:
    return hooks(logits=at.score + table[at.h, dsl.clamp(at.q - at.k, 0, table.shape[1] - 1)], mask=at.q >= at.k)


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
    """One line of a table. ``base`` is another case that ours is compared with, as a rule the same without its hook.

    ``bar`` is the least ratio that is asked for: of a peer's time to ours at ``against``, or of ours at ``base``
    ("base"), by exact operations. ``stand_in`` is what peers compute where they have no such variant. ``family`` forces
    a kernel family. ``length`` is that of every request, or their mean where ``lengths`` makes the batch ragged.
    ``head_dim_v`` and ``heads``, (of queries, of keys and values), differ from the usual where they are given.
    ``documents`` are a request's, where the variant packs some.
    """

    variant: str
    head_dim: int
    length: int
    base: Case | None = None
    against: str = "FLASH"
    bar: float | None = None
    family: str | None = None
    stand_in: str | None = None
    head_dim_v: int | None = None
    heads: tuple[int, int] | None = None
    lengths: Lengths = "padded"
    tokens: int = TOKENS
    documents: int = DOCUMENTS

    @property
    def batch(self) -> int:
        return self.tokens // self.length

    @property
    def num_heads(self) -> int:
        return self.heads[0] if self.heads else WIDTH // self.head_dim

    @property
    def num_kv_heads(self) -> int:
        return self.heads[1] if self.heads else self.num_heads

    @property
    def value_dim(self) -> int:
        return self.head_dim if self.head_dim_v is None else self.head_dim_v

    @property
    def request_lengths(self) -> tuple[int, ...]:
        """Tokens of every request; the same ones each time."""
        return _LENGTHS[self.lengths](self.batch, self.length)

    @property
    def label(self) -> str:
        dims = f"D{self.head_dim}" if self.head_dim_v is None else f"D{self.head_dim}/{self.head_dim_v}"
        heads = "" if self.heads is None else f" {self.heads[0]}/{self.heads[1]}"
        documents = "" if self.documents == DOCUMENTS else f" x{self.documents}"
        lengths = "" if self.lengths == "padded" else f" {self.lengths}"
        over = "" if self.base is None or self.base.length == self.length else f" over S{self.base.length}"
        return f"{self.variant}{documents} {dims} S{self.length}{heads}{lengths}{over}"


def _equal(batch: int, mean: int) -> tuple[int, ...]:
    return (mean,) * batch


def _uniform(batch: int, mean: int) -> tuple[int, ...]:
    """From 0 to twice the mean, evenly spread, in an order that is not sorted."""
    return _shuffled([(2 * i + 1) / batch for i in range(batch)], mean)


def _zipf(batch: int, mean: int) -> tuple[int, ...]:
    """The longest request, and a half, a third, ... of it."""
    whole = sum(1 / rank for rank in range(1, batch + 1))
    return _shuffled([batch / whole / rank for rank in range(1, batch + 1)], mean)


def _shuffled(shares: list[float], mean: int) -> tuple[int, ...]:
    """Lengths of ``shares`` of the mean, which they have exactly."""
    found = [round(mean * share) for share in shares]
    found[0] += mean * len(found) - sum(found)
    Random(0).shuffle(found)
    return tuple(found)


_LENGTHS: Final[Mapping[Lengths, Callable[[int, int], tuple[int, ...]]]] = {
    "padded": _equal,
    "equal": _equal,
    "uniform": _uniform,
    "zipf": _zipf,
}


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

    slopes = 2.0 ** -torch.linspace(1, 8, case.num_heads, device=device)
    return Made(alibi(slopes=slopes), lambda s, b, h, q, k: s + slopes[h] * (k - q), _causal_mod)


def _key_bias(case: Case, device: str) -> Made:
    import torch

    bias = torch.randn(case.batch, case.length, device=device)
    return Made(key_bias(bias=bias), lambda s, b, h, q, k: s + bias[b, k])


def _causal_key_bias(case: Case, device: str) -> Made:
    import torch

    bias = torch.randn(case.batch, case.length, device=device)
    return Made(causal_key_bias(bias=bias), lambda s, b, h, q, k: s + bias[b, k], _causal_mod)


def _t5_bias(case: Case, device: str) -> Made:
    import torch

    return Made(t5_bias(bias=torch.randn(case.num_heads, BUCKETS, device=device)))


def _relative(case: Case, device: str) -> Made:
    """A value for every distance there is."""
    import torch

    table = torch.randn(case.num_heads, case.length, device=device)
    return Made(relative(table=table), lambda s, b, h, q, k: s + table[h, (q - k).clamp(min=0)], _causal_mod)


def _prefix_lm(case: Case, device: str) -> Made:
    import torch

    prefix = torch.full((case.batch,), case.length // 4, device=device, dtype=torch.int32)
    return Made(prefix_lm(prefix=prefix), None, lambda b, h, q, k: (q >= k) | (k < prefix[b]))


def _sink(case: Case, device: str) -> Made:
    import torch

    return Made(sink(logit=torch.randn(case.num_heads, device=device)))  # FlexAttention has no sink


def _softcap(case: Case, device: str) -> Made:
    import torch

    return Made(softcap(cap=CAP), lambda s, b, h, q, k: CAP * torch.tanh(s / CAP), _causal_mod)


def _ids(case: Case, device: str) -> Any:
    """Documents of equal length, i32[batch, length]."""
    import torch

    ends = torch.arange(case.length, device=device) * case.documents // case.length
    return ends.int().expand(case.batch, -1).contiguous()


def _random_ids(case: Case, device: str) -> Any:
    """Twice as many documents of random lengths, other ones in every request, i32[batch, length]."""
    import torch

    generator = torch.Generator().manual_seed(0)
    cuts = torch.randint(case.length, (case.batch, 2 * case.documents - 1), generator=generator)
    begins = torch.zeros(case.batch, case.length, dtype=torch.int32).scatter_(1, cuts, 1)
    return begins.cumsum(1).int().to(device)


def _packed_causally(doc: Any) -> Made:
    return Made(documents(doc=doc), None, lambda b, h, q, k: (q >= k) & (doc[b, q] == doc[b, k]))


def _document_blocks(case: Case, device: str) -> Made:
    doc = _ids(case, device)
    return Made(document_blocks(doc=doc), None, lambda b, h, q, k: doc[b, q] == doc[b, k])


_MAKERS: Mapping[str, Callable[[Case, str], Made]] = {
    "dense": lambda case, device: Made(None),
    "causal": lambda case, device: Made(causal(), None, _causal_mod),
    "alibi": _alibi,
    "key_bias": _key_bias,
    "causal_key_bias": _causal_key_bias,
    "t5_bias": _t5_bias,
    "relative": _relative,
    "prefix_lm": _prefix_lm,
    "sink": _sink,
    "softcap": _softcap,
    "documents": lambda case, device: _packed_causally(_ids(case, device)),
    "random_documents": lambda case, device: _packed_causally(_random_ids(case, device)),
    "document_blocks": _document_blocks,
    "window": lambda case, device: Made(window(), None, lambda b, h, q, k: (q >= k) & (q - k < WINDOW)),
}


@dataclass(frozen=True)
class Mean:
    """The geometric mean of some cases' ratios, and the least that is asked for."""

    label: str
    cases: tuple[Case, ...]
    bar: float


@dataclass(frozen=True)
class Preset:
    cases: tuple[Case, ...]
    means: tuple[Mean, ...] = ()


def _plain(
    head_dims: tuple[int, ...], lengths: tuple[int, ...], against: str, bar: Callable[[int, int], float]
) -> Cases:
    return tuple(
        Case(name, head_dim, length, against=against, bar=bar(head_dim, length))
        for head_dim in head_dims
        for length in lengths
        for name in ("dense", "causal")
    )


def _hooked(head_dim: int, length: int, bars: Mapping[str, float | None]) -> Cases:
    """Variants over the same without their hooks."""
    return tuple(
        Case(name, head_dim, length, Case("dense" if name == "key_bias" else "causal", head_dim, length), "base", bar)
        for name, bar in bars.items()
    )


def _packed(head_dim: int, length: int, bar: float) -> Cases:
    """Causal documents of 1k, 2k and 4k over causal, and over causal requests of their length."""
    cases = []
    for documents in (8, 4, 2):
        long, short = (Case("causal", head_dim, n) for n in (length, length // documents))
        packed = Case("documents", head_dim, length, long, "base", bar, documents=documents)
        cases += [packed, replace(packed, base=short, bar=None)]
    return tuple(cases)


def _mma_sm80() -> Preset:
    bars: dict[str, float | None] = {"alibi": 0.92, "key_bias": 0.92, "prefix_lm": 0.92, "sink": 0.92}
    bars |= {"document_blocks": 0.85, "window": 0.85}
    short = (Case("causal", head_dim, length) for head_dim in (64, 128) for length in (1024, 4096))
    return Preset(
        _in_family(
            "mma_sm80",
            *_plain((64, 128, 256), (2048, 8192), "FLASH", lambda head_dim, _: 0.85 if head_dim == 256 else 0.90),
            *_hooked(64, 8192, bars | {"softcap": 0.75}),
            *_hooked(128, 8192, bars | {"softcap": 0.85}),
            *short,
            *_packed(64, 8192, 0.85),
            *_packed(128, 8192, 0.85),
        )
    )


def _wgmma_sm90() -> Preset:
    def bar(head_dim: int, length: int) -> float:
        return 1.0 if length > 512 else 0.88 if head_dim == 64 else 0.95

    plain = _in_family("wgmma_sm90", *_plain((64, 128, 256), (512, 2048, 8192, 16384), "cuDNN", bar))
    bars: dict[str, float | None] = {"alibi": 0.95, "causal_key_bias": 0.95, "prefix_lm": 0.95, "sink": 0.95}
    bars |= {"t5_bias": 0.90, "relative": 0.80, "softcap": 0.80, "random_documents": None}
    ragged = [
        Case(
            "causal",
            128,
            mean,
            Case("causal", 128, mean, tokens=16 * mean),
            "base",
            bar,
            lengths=lengths,
            tokens=16 * mean,
        )
        for mean in (1024, 8192)
        for lengths, bar in _RAGGED.items()
    ]
    many = Case("causal", 128, 8192, heads=(32, 32))
    others = _in_family(
        "wgmma_sm90",
        *_hooked(128, 8192, bars),
        Case("softcap", 64, 8192, against="cuDNN", bar=0.77, stand_in="causal"),
        Case("window", 128, 8192, against="cuDNN", bar=0.90, stand_in="causal"),
        Case("document_blocks", 128, 8192, against="cuDNN", bar=0.80, stand_in="dense"),
        *ragged,
        *(replace(many, heads=(32, kv), base=many, against="base", bar=0.97) for kv in (8, 1)),
        Case("causal", 192, 8192, Case("causal", 128, 8192), "base", 0.94, head_dim_v=128),
    )
    means = (Mean("plain and causal, 2k and longer", tuple(case for case in plain if case.length > 512), 1.06),)
    return Preset(plain + others, means)


def _in_family(family: str, *cases: Case) -> Cases:
    return tuple(
        replace(case, family=family, base=None if case.base is None else replace(case.base, family=family))
        for case in cases
    )


Cases = tuple[Case, ...]
_RAGGED: Final[Mapping[Lengths, float]] = {"equal": 0.97, "uniform": 0.92, "zipf": 0.92}
_QUICK: Final = (
    Case("dense", 128, 2048),
    Case("causal", 128, 2048),
    Case("alibi", 128, 2048, Case("causal", 128, 2048), "base"),
)
PRESETS: Final[Mapping[str, Preset]] = {
    "mma_sm80": _mma_sm80(),
    "wgmma_sm90": _wgmma_sm90(),
    "quick": Preset(_QUICK),
}


def pairs(made: Made, case: Case, tile: int = 256) -> int:
    """How many (row, key) pairs of one head are attended, exactly: tiles by proof, the undecided ones pair by pair."""
    mask = None if made.bound is None else made.bound.variant.branches[0].mask
    if made.bound is None or mask is None:
        return sum(length * length for length in case.request_lengths)
    from attncc.ir.nodes import Branch, Coord, Load
    from attncc.ir.walk import walk

    nodes = list(walk(mask))
    assert not any(isinstance(node, Coord) and node.axis in ("h", "hk") for node in nodes)
    read = {node.tensor for node in nodes if isinstance(node, Load)}
    kept = tuple(tensor for tensor in made.bound.variant.tensors if tensor.name in read)
    variant = replace(made.bound.variant, branches=(Branch(mask=mask),), tensors=kept)
    tensors = {name: made.bound.tensors[name].cpu().numpy() for name in read}
    if read:
        return sum(_pairs(variant, made.bound.params, tensors, case, b, tile) for b in range(case.batch))
    first = {length: b for b, length in enumerate(case.request_lengths)}  # equal lengths have equal counts
    counts = {length: _pairs(variant, made.bound.params, tensors, case, b, tile) for length, b in first.items()}
    return sum(counts[length] for length in case.request_lengths)


def _pairs(
    variant: Variant, params: Mapping[str, Any], tensors: Mapping[str, Any], case: Case, b: int, tile: int
) -> int:
    """Of one request."""
    from attncc.passes.classify import Box, Tile, classify
    from attncc.passes.tile_program import Environment
    from attncc.reference import Sizes
    from attncc.reference.call import Block, make_call
    from attncc.reference.hooks import mask as attended

    mask, length = variant.branches[0].mask, case.request_lengths[b]
    assert mask is not None
    sizes = Sizes(case.batch, 1, 1, case.head_dim, case.value_dim, length, length)
    call = make_call(variant, sizes, params=params, tensors=tensors)
    env = Environment({"b": b, "hk": 0, "q_start": 0, "k_start": 0}, dict(params), sizes.extents(), tensors)
    total = 0
    for row in range(0, length, tile):
        rows = range(row, min(row + tile, length))
        for col in range(0, length, tile):
            cols = range(col, min(col + tile, length))
            found = classify(mask, env, Box(rows.start, rows.stop, cols.start, cols.stop, 0, 1))
            if found is Tile.FULL:
                total += len(rows) * len(cols)
            elif found is Tile.PARTIAL:
                total += int(attended(call, variant.branches[0], Block(b, range(1), rows, cols)).sum())
    return total


__all__ = ["PRESETS", "Case", "Made", "Mean", "Preset", "make", "pairs"]
