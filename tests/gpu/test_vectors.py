"""Hooks on whole vectors, by both families: rotations, norms over channels, gates; random calls against the reference.

Where a family applies them before its kernel, what it allocates for them begins as NaN here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.reference.accuracy import Pool
from tests.gpu.attention_cases import DEVICE, example, need
from tests.gpu.random_cases import HEAD_DIMS, Case, drawn
from tests.gpu.random_cases import check as check_case

pytestmark = pytest.mark.gpu

TEXT = """
def rms_norm(x, n) = x * rsqrt(dot(x, x) / n + 0.00001)

variant tables(c: f32[n, head_dim], s: f32[n, head_dim]) {
    query = query * c[q, d] + rotate_half(query) * s[q, d]
    key   = key * c[k, d] + rotate_half(key) * s[k, d]
    mask  = q >= k
}
variant computed(theta: f32 = 10000.0) {
    let frequency = pow(theta, -2 * (d // 2) / head_dim)
    query = query * cos(q * frequency) + rotate_pairs(query) * sin(q * frequency)
    key   = key * cos(k * frequency) + rotate_pairs(key) * sin(k * frequency)
    mask  = q >= k
}
variant keys_of_heads(w: f32[num_kv_heads, head_dim]) {
    key  = key * w[hk, d]
    mask = q >= k and q - k < 90
}
variant normed(wq: f32[num_heads, head_dim], wk: f16[head_dim]) {
    query  = rms_norm(query, head_dim) * wq[h, d]
    key    = rms_norm(key, head_dim) * wk[d]
    logits = 3.0 * tanh(score / 3.0)
}
variant gained(gain: f32[batch, kv_len]) {
    value = value * gain[b, col]
    mask  = q >= k
}
variant gated(gate: f32[num_heads, head_dim_v]) {
    output = out * sigmoid(gate[h, d])
}
variant out_normed(w: f32[head_dim_v], g: f32[num_heads]) {
    mask   = q >= k
    output = rms_norm(out, head_dim_v) * w[d] * g[h]
}
variant out_rotated(c: f32[head_dim_v]) {
    mask   = q >= k
    output = out + rotate_half(out) * c[d]
}
variant everything(w: f32[head_dim], gain: f32[batch, kv_len]) {
    query  = rms_norm(query, head_dim)
    key    = rms_norm(rotate_half(key), head_dim) * w[d]
    value  = value * gain[b, col] + rotate_pairs(value)
    mask   = q >= k and q - k < 120
    output = out * (1.0 + rsqrt(dot(out, out) + 1.0))
}
"""


def near_one(rng: np.random.Generator, *shape: int) -> Any:
    return (1.0 + 0.3 * rng.normal(size=shape)).astype(np.float32)


def arguments(case: Case, rng: np.random.Generator) -> dict[str, Any]:
    """The variant's parameters and tensors, as numpy arrays."""
    heads, dim, dim_v = case.kv_heads * case.group, case.head_dim, case.head_dim_v
    over_keys = (len(case.cols), max(case.cols))
    turn = rng.uniform(0, 6.3, (1100, dim))
    return {
        "tables": {"c": np.cos(turn).astype(np.float32), "s": np.sin(turn).astype(np.float32)},
        "computed": {"theta": 500.0},
        "keys_of_heads": {"w": near_one(rng, case.kv_heads, dim)},
        "normed": {"wq": near_one(rng, heads, dim), "wk": near_one(rng, dim).astype(np.float16)},
        "gained": {"gain": near_one(rng, *over_keys)},
        "gated": {"gate": near_one(rng, heads, dim_v)},
        "out_normed": {"w": near_one(rng, dim_v), "g": near_one(rng, heads)},
        "out_rotated": {"c": near_one(rng, dim_v)},
        "everything": {"w": near_one(rng, dim), "gain": near_one(rng, *over_keys)},
    }[case.name]


NAMES = ("tables", "computed", "keys_of_heads", "normed", "gained", "gated", "out_normed", "out_rotated", "everything")
# An output of which channels need others is staged beside tiles that leave no room for it.
NARROW = {("out_rotated", (192, 192))}


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path: Path = tmp_path_factory.mktemp("vectors") / "vectors.attn"
    path.write_text(TEXT)
    return attncc.load(path)


@pytest.fixture(autouse=True)
def memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.empty gives."""
    empty = torch.empty

    def filled(*given: Any, **options: Any) -> torch.Tensor:
        made = empty(*given, **options)
        return made.fill_(float("nan")) if made.is_cuda and made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", filled)


def check(family: str, number: int, variants: Any, pool: Pool) -> None:
    turn, name = divmod(number, len(NAMES))
    dims = HEAD_DIMS[family][turn % len(HEAD_DIMS[family])]
    if (NAMES[name], dims) in NARROW:
        dims = (96, 96)
    case = replace(drawn(family, number), name=NAMES[name], head_dim=dims[0], head_dim_v=dims[1])
    # What a hook made is rounded once more, as in eager: where one key decides, either may be the unlucky one.
    case = replace(case, starts=False, scales=False, growth=1.0)
    check_case(case, pool, lambda case, rng: (variants[case.name], arguments(case, rng)))


@pytest.mark.parametrize("number", range(2 * len(NAMES) * len(HEAD_DIMS["wgmma_sm90"])))
def test_random_calls_of_the_hopper_family(number: int, variants: Any, pool: Pool) -> None:
    need("wgmma_sm90")
    check("wgmma_sm90", number, variants, pool)


@pytest.mark.parametrize("number", range(2 * len(NAMES)))
def test_random_calls_of_the_portable_family(number: int, variants: Any, pool: Pool) -> None:
    check("mma_sm80", number, variants, pool)


def test_a_graph_transforms_again() -> None:
    """Captured on one content, replayed on others, amid calls that use memory."""
    need("wgmma_sm90")
    rng = np.random.default_rng(1)
    c, s = (torch.from_numpy(rng.uniform(-1, 1, (600, 128)).astype(np.float32)).to(DEVICE) for _ in range(2))
    rope = attncc.compile(example("rope")(c=c, s=s), dtype="bf16", head_dim=128, family="wgmma_sm90")
    q = torch.randn(2, 200, 4, 128, device=DEVICE).bfloat16()
    k, v = (torch.randn(2, 300, 2, 128, device=DEVICE).bfloat16() for _ in range(2))
    rope(q, k, v)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = rope(q, k, v)
    for _ in range(3):
        for tensor in (q, k, v):
            tensor.copy_(torch.randn_like(tensor))
        for _ in range(40):
            rope(k, k, v)
        graph.replay()
        assert torch.equal(out, rope(q, k, v))


def test_an_indptr_past_the_storage_makes_nothing_foreign() -> None:
    need("wgmma_sm90")
    ones = torch.ones(600, 128, device=DEVICE)
    rope = attncc.compile(example("rope")(c=ones, s=ones), dtype="bf16", head_dim=128, family="wgmma_sm90")
    q = torch.randn(2, 200, 4, 128, device=DEVICE).bfloat16()
    k, v = (torch.randn(300, 2, 128, device=DEVICE).bfloat16() for _ in range(2))
    rope(q, k, v, kv_indptr=torch.tensor([0, 200, 10**6], dtype=torch.int32, device=DEVICE))
    torch.cuda.synchronize()
