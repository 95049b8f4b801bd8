"""Which family a call runs on: by default, forced by name, by storage; and that families give the same answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.codegen.families import wgmma_sm90
from attncc.reference.accuracy import Pool
from attncc.runtime import calls, descriptors, plan
from tests.gpu.attention_cases import DEVICE, TORCH, Sizes, check, example, need

pytestmark = pytest.mark.gpu

FAMILIES = ("wgmma_sm90", "mma_sm80")
LENGTHS = (
    Sizes(129, 201),
    Sizes(300, 131),  # more rows than keys
    Sizes(63, 700, qo_lens=(63, 17, 0), kv_lens=(700, 129, 64), batch=3),
    Sizes(257, 513, qo_lens=(257, 33), kv_lens=(0, 513)),
    Sizes(1, 1000, batch=1, kv_heads=1),
)


@pytest.fixture
def hopper() -> None:
    need("wgmma_sm90")


_ran: list[str] = []


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family of every launch, in order."""
    original = plan.Plan.run
    _ran.clear()

    def run(self: plan.Plan, *arguments: Any) -> Any:
        _ran.append(self.kernel.artifact.manifest.family)
        return original(self, *arguments)

    monkeypatch.setattr(plan.Plan, "run", run)


def last_family() -> str:
    """Of the last call."""
    return _ran[-1]


# By name -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [dims for dims in wgmma_sm90.SHAPES if dims not in ((64, 64), (128, 128))])
@pytest.mark.parametrize("name", ["causal", "gemma2", "alibi", "gpt_oss", "documents", "t5_bias", "streaming_llm"])
def test_every_head_dim_of_the_hopper_family(hopper: None, pool: Pool, name: str, dims: tuple[int, int]) -> None:
    """Panels of 64 channels that the last of does not fill, values that are narrower than keys."""
    for index, length in enumerate(LENGTHS):
        dtype, group = ("bf16", "f16")[index % 2], (1, 4, 3)[index % 3]
        more: dict[str, Any] = {"pool": pool, "family": "wgmma_sm90", "head_dim_v": dims[1]}
        check(name, dtype, dims[0], group, length, layout=("nhd", "hnd")[index % 2], seed=index, **more)


def test_the_hopper_family_is_taken_where_it_serves(hopper: None) -> None:
    for head_dim, family in ((64, "wgmma_sm90"), (128, "wgmma_sm90"), (256, "wgmma_sm90"), (48, "mma_sm80")):
        assert attncc.compile(example("causal"), head_dim=head_dim).artifact.manifest.family == family
    rope = attncc.compile(example("rope")(c=torch.ones(8, 64), s=torch.ones(8, 64)), head_dim=64)
    assert rope.artifact.manifest.family == "wgmma_sm90"
    assert rope.artifact.manifest.transformed == ("q", "k")


def test_states_of_two_families_merge(hopper: None) -> None:
    q, k, v = operands()
    causal = example("causal")()
    whole, whole_lse = attncc.attention(q, k, v, causal, return_lse=True)
    parts = []
    for family, (a, b) in zip(FAMILIES, ((0, 100), (100, 300)), strict=True):
        compiled = attncc.compile(causal, head_dim=128, family=family)
        parts.append(compiled(q, k[:, a:b], v[:, a:b], partial=True, q_start=100, k_start=a, num_splits=2))
    out, lse = attncc.merge_states(parts, return_lse=True)
    torch.testing.assert_close(out.float(), whole.float(), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(lse, whole_lse, atol=2e-3, rtol=0)


# By storage ----------------------------------------------------------------------------------------------------------


def operands(dtype: str = "bf16", *, batch: int = 3, rows: int = 200, keys: int = 300, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, rows, 4, 128), (batch, keys, 2, 128), (batch, keys, 2, 128))
    return [torch.randn(shape, generator=generator).to(DEVICE, TORCH[dtype]) for shape in shapes]


def stored(name: str) -> tuple[Any, Any, Any]:
    """q, k and v whose keys or values lie unusually."""
    q, k, v = operands()
    if name == "every request the same":
        return q, k[:1].expand_as(k), v[:1].expand_as(v)
    if name == "every head the same":
        return q, k[:, :, :1].expand_as(k), v
    if name == "every token the same":
        return q, k, v[:, :1].expand_as(v)
    if name == "heads before tokens":
        return q, k.transpose(1, 2).contiguous().transpose(1, 2), v
    if name == "requests innermost":
        return q, k.movedim(0, 2).contiguous().movedim(2, 0), v.movedim(0, 1).contiguous().movedim(1, 0)
    if name == "overlapping windows":
        memory = torch.randn(8192, device=DEVICE).to(q.dtype)
        return q, memory.as_strided(k.shape, (1024, 8, 2400, 1)), v
    if name == "one slice of many":
        return q, torch.stack([v, k, v], 3)[:, :, :, 1], torch.stack([k, v], 1)[:, 1]
    if name == "axes of one element":
        k, v = k[:1, :, :1], v[:1, :, :1]
        return q[:1, :, :1], k.as_strided(k.shape, (3, k.stride(1), 5, 1)), v
    assert name == "one token"
    k, v = k[:, :1], v[:, :1]
    return q, k.as_strided(k.shape, (k.stride(0), 11, k.stride(2), 1)), v


STORED = ("every request the same", "every head the same", "every token the same", "heads before tokens")
STORED += ("requests innermost", "overlapping windows", "one slice of many", "axes of one element", "one token")


@pytest.mark.parametrize("name", STORED)
def test_storage_that_a_descriptor_says(hopper: None, name: str) -> None:
    """The same bits as from contiguous copies, on the same family."""
    q, k, v = stored(name)
    out = attncc.attention(q, k, v, example("causal"))
    assert last_family() == "wgmma_sm90", "the driver makes no descriptor of it"
    assert torch.equal(out, attncc.attention(q, k.contiguous(), v.clone().contiguous(), example("causal")))


@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_storage_that_no_descriptor_says_runs_on_the_portable_family(hopper: None, which: str, axis: int) -> None:
    """Backwards along an axis, which only cupy has."""
    cupy = pytest.importorskip("cupy")
    q, k, v = (cupy.from_dlpack(tensor) for tensor in operands("f16"))
    flipped = {"k": k, "v": v}
    backwards = cupy.flip(cupy.ascontiguousarray(cupy.flip(flipped[which], axis)), axis)
    assert backwards.strides[axis] < 0
    expected = attncc.attention(q, k, v, example("causal"))
    assert last_family() == "wgmma_sm90"
    out = attncc.attention(q, *({**flipped, which: backwards}[name] for name in "kv"), example("causal"))
    assert last_family() == "mma_sm80"
    np.testing.assert_allclose(cupy.asnumpy(out), cupy.asnumpy(expected), atol=2e-3)


def test_addresses_change_from_call_to_call(hopper: None) -> None:
    """One plan, more buffers than descriptors are kept; the first ones again."""
    causal = example("causal")
    q, k, v = operands(batch=1, rows=64, keys=64)
    buffers = [(torch.randn_like(k), torch.randn_like(v)) for _ in range(descriptors.KEPT + 20)]
    expected = [attncc.compile(causal, head_dim=128, family="mma_sm80")(q, *pair) for pair in buffers]
    attncc.attention(q, k, v, causal)
    plans = len(calls._plans)
    for _ in range(2):
        for pair, wanted in zip(buffers, expected, strict=True):
            out = attncc.attention(q, *pair, causal)
            torch.testing.assert_close(out.float(), wanted.float(), atol=2e-2, rtol=2e-2)
    assert len(calls._plans) == plans
    assert last_family() == "wgmma_sm90"


def test_a_graph_keeps_its_descriptors(hopper: None) -> None:
    """Captured on buffers of a capacity, replayed with other contents and lengths, amid calls on other addresses."""
    q, k, v = operands()
    lens = torch.tensor([300, 200, 100], dtype=torch.int32, device=DEVICE)
    causal = example("causal")
    attncc.attention(q, k, v, causal, kv_lens=lens)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attncc.attention(q, k, v, causal, kv_lens=lens)
    for seed in range(1, 4):
        for tensor, fresh in zip((q, k, v), operands(seed=seed), strict=True):
            tensor.copy_(fresh)
        lens.copy_(torch.tensor([seed, 300 - seed, 0]))
        others = operands(seed=9)
        for _ in range(40):
            attncc.attention(*others, causal, kv_lens=lens)
        graph.replay()
        assert torch.equal(out, attncc.attention(q, k, v, causal, kv_lens=lens))


def test_a_graph_captures_addresses_never_seen_before(hopper: None) -> None:
    """Descriptors are encoded on the host, which a capture allows."""
    causal = example("causal")
    attncc.attention(*operands(), causal)
    q, k, v = operands(seed=1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attncc.attention(q, k, v, causal)
    graph.replay()
    assert torch.equal(out, attncc.attention(q, k, v, causal))


def test_lengths_that_are_wrong_read_nothing_foreign(hopper: None) -> None:
    """Past the capacities the call is cut to: an indptr and lengths that point outside give a result and no error."""
    q, k, v = operands()
    lens = torch.tensor([10**6, -5, 2**31 - 1], dtype=torch.int32, device=DEVICE)
    cut = torch.tensor([300, 0, 300], dtype=torch.int32, device=DEVICE)
    out, expected = (attncc.attention(q, k, v, kv_lens=length) for length in (lens, cut))
    assert torch.equal(out, expected)
    indptr = torch.tensor([0, 200, 10**6], dtype=torch.int32, device=DEVICE)
    attncc.attention(q[:2], k[0], v[0], kv_indptr=indptr)
    torch.cuda.synchronize()
