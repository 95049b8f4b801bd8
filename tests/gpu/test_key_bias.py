"""Biases by key on a GPU, which products add where they can: of all sizes, beside masks, in every layout of calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.binding import VariantFactory
from attncc.codegen.families import wgmma_sm90
from attncc.reference.accuracy import Pool
from tests.gpu.attention_cases import DEVICE, Sizes, check, need

pytestmark = pytest.mark.gpu

TEXT = """
variant dense(bias: f32[batch, kv_len]) { logits = score + bias[b, col] }
variant causal(bias: f32[batch, kv_len]) { logits = score + bias[b, col]; mask = q >= k }
variant masked(bias: f32[batch, kv_len]) {
    logits = 0.5 * score + bias[b, col]
    mask   = q >= k and bias[b, col] < 1.0
}
variant by_head(bias: f32[batch, num_kv_heads, kv_len], sink: f32[num_heads]) {
    logits    = score - bias[b, hk, col] + 0.01 * k
    mask      = q >= k and q - k < 150
    normalize = softmax(sink = sink[h])
}
variant factors(bias: f32[kv_len], s: f32[num_kv_heads]) { logits = s[hk] * score + bias[col]; mask = q >= k }
variant normed(bias: f32[batch, kv_len]) {
    key    = key * rsqrt(dot(key, key) / head_dim + 0.1)
    logits = score + bias[b, col]
    mask   = q >= k
}
variant own_scale(bias: f32[batch, kv_len], s: f32 = 0.1) { sm_scale = s; logits = score + bias[b, col]; mask = q >= k }
"""


def _some(often: float, value: float) -> Callable[[np.random.Generator, tuple[int, ...]], Any]:
    """That value here and there, but for the first key, which every row sees; elsewhere what is near 0."""

    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        bias = np.where(rng.random(shape) < often, value, rng.normal(0, 1, shape))
        bias[..., 0] = 0.5
        return bias.astype(np.float32)

    return make


BIASES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "near 0": lambda rng, shape: rng.normal(0, 1, shape).astype(np.float32),
    "wide": lambda rng, shape: rng.normal(0, 60, shape).astype(np.float32),
    "-1e9": _some(0.4, -1e9),
    "-1e30": _some(0.4, -1e30),
    "the least": _some(0.4, float(np.finfo(np.float32).min)),
    "none": _some(0.4, -np.inf),
    "1e4": _some(0.1, 1e4),
    "falling": lambda rng, shape: np.broadcast_to(-0.4 * np.arange(shape[-1]), shape).astype(np.float32),
    "growing": lambda rng, shape: np.broadcast_to(0.4 * np.arange(shape[-1]), shape).astype(np.float32),
    "strided": lambda rng, shape: np.asfortranarray(rng.normal(0, 1, shape).astype(np.float32)),
}
LENGTHS = (
    Sizes(129, 201),
    Sizes(300, 700, batch=1, kv_heads=1),
    Sizes(63, 500, qo_lens=(63, 17, 0), kv_lens=(500, 129, 64), batch=3),
    Sizes(257, 513, qo_lens=(257, 33), kv_lens=(300, 513)),
)


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path: Path = tmp_path_factory.mktemp("variants") / "biased.attn"
    path.write_text(TEXT)
    return attncc.load(path)


def run(
    variants: Any, pool: Pool, name: str, bias: str, dims: tuple[int, int], group: int, sizes: Sizes, **more: Any
) -> None:
    rng = np.random.default_rng(len(bias))
    shape = (sizes.batch, *((sizes.kv_heads,) if name == "by_head" else ()), sizes.kv_len)
    shape = shape[1:] if name == "factors" else shape
    given: dict[str, Any] = {"bias": BIASES[bias](rng, shape)}
    if name == "by_head":
        given["sink"] = rng.normal(0, 1, sizes.kv_heads * group).astype(np.float32)
    if name == "factors":
        given["s"] = rng.normal(0, 0.1, sizes.kv_heads).astype(np.float32)
    factory: VariantFactory[...] = variants[name]
    how = {"pool": pool, "arguments": given, "variant": factory, "family": "wgmma_sm90", "head_dim_v": dims[1], **more}
    check(name, how.pop("dtype", "bf16"), dims[0], group, sizes, **how)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("name", ["dense", "causal", "masked"])
def test_biases_of_every_size(variants: Any, pool: Pool, name: str, bias: str) -> None:
    need("wgmma_sm90")
    for number, sizes in enumerate(LENGTHS):
        head_dim = (128, 64)[number % 2]
        run(variants, pool, name, bias, (head_dim, head_dim), (1, 4, 3)[number % 3], sizes)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("dims", wgmma_sm90.SHAPES, ids=str)
def test_every_head_dim(variants: Any, pool: Pool, dims: tuple[int, int], dtype: str) -> None:
    need("wgmma_sm90")
    for name, sizes in zip(("causal", "dense"), LENGTHS[1:3], strict=True):
        run(variants, pool, name, "near 0", dims, 2, sizes, dtype=dtype)


@pytest.mark.parametrize(
    "call",
    [
        {"sm_scale": 0.3},
        {"sm_scale": -0.1},
        {"sm_scale": 0.0},
        {"sm_scale": 1e-30},
        {"sm_scale": np.array([0.02, -0.5], np.float32)},
        {"q_start": 5, "k_start": 30},
        {"q_start": np.array([150, 400], np.int32)},
    ],
    ids=str,
)
def test_scales_and_starts(variants: Any, pool: Pool, call: dict[str, Any]) -> None:
    need("wgmma_sm90")
    for bias in ("near 0", "-1e9", "1e4"):
        run(variants, pool, "causal", bias, (128, 128), 4, Sizes(140, 400), layout="hnd", **call)


@pytest.mark.parametrize("group", [1, 4])
def test_by_kv_head_beside_a_sink_and_a_window(variants: Any, pool: Pool, group: int) -> None:
    need("wgmma_sm90")
    for sizes in LENGTHS:
        run(variants, pool, "by_head", "near 0", (128, 128), group, sizes)


@pytest.mark.parametrize("name", ["factors", "normed"])
def test_by_a_factor_of_the_head_and_beside_keys_that_are_transformed(variants: Any, pool: Pool, name: str) -> None:
    need("wgmma_sm90")
    for sizes in LENGTHS:
        run(variants, pool, name, "near 0", (128, 128), 2, sizes)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("name", ["causal", "masked"])
def test_ragged(variants: Any, name: str, splits: int) -> None:
    """Requests one behind another, with tokens of none before and after them, as each of them alone."""
    need("wgmma_sm90")
    rows, cols = (70, 0, 33, 128), (129, 64, 700, 130)
    qo, kv = (np.cumsum([5, *lens]).astype(np.int32) for lens in (rows, cols))
    q, k, v = (
        torch.randn(tokens, heads, 128, device=DEVICE, dtype=torch.bfloat16)
        for tokens, heads in ((int(qo[-1]) + 7, 4), (int(kv[-1]) + 9, 2), (int(kv[-1]) + 9, 2))
    )
    bias = torch.randn(len(k), device=DEVICE)
    for tensor in (k, v, bias):  # of no request
        tensor[: kv[0]] = tensor[kv[-1] :] = float("nan")
    indptrs = {"qo_indptr": torch.from_numpy(qo).to(DEVICE), "kv_indptr": torch.from_numpy(kv).to(DEVICE)}
    out, lse = attncc.attention(
        q, k, v, variants[name](bias=bias), **indptrs, max_qo_len=128, num_splits=splits, return_lse=True
    )
    for b, (n, m) in enumerate(zip(rows, cols, strict=True)):
        if n:
            of_q, of_k = slice(qo[b], qo[b] + n), slice(kv[b], kv[b] + m)
            alone = (tensor[None, part] for tensor, part in ((q, of_q), (k, of_k), (v, of_k)))
            one = attncc.attention(*alone, variants[name](bias=bias[None, of_k].contiguous()), return_lse=True)
            torch.testing.assert_close(out[of_q].float(), one[0][0].float(), atol=2e-2, rtol=2e-2)
            torch.testing.assert_close(lse[of_q], one[1][0], atol=2e-3, rtol=1e-6)
    assert not bool(out[: qo[0]].any() | out[qo[-1] :].any())


def test_a_graph_replays_with_another_bias(variants: Any) -> None:
    """What is made of it before the kernel is made anew."""
    need("wgmma_sm90")
    q, k, v = (torch.randn(2, 300, heads, 128, device=DEVICE, dtype=torch.bfloat16) for heads in (4, 2, 2))
    bias, lens = torch.randn(2, 300, device=DEVICE), torch.tensor([300, 129], dtype=torch.int32, device=DEVICE)
    bound = variants["causal"](bias=bias)
    attncc.attention(q, k, v, bound, kv_lens=lens)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attncc.attention(q, k, v, bound, kv_lens=lens)
    for scale in (1.0, -3.0):
        bias.copy_(scale * torch.randn(2, 300, device=DEVICE))
        lens.copy_(lens.flip(0))
        graph.replay()
        assert torch.equal(captured, attncc.attention(q, k, v, bound, kv_lens=lens))


def test_no_keys_at_all(variants: Any) -> None:
    need("wgmma_sm90")
    q, k = (torch.randn(2, length, 2, 128, device=DEVICE, dtype=torch.bfloat16) for length in (70, 0))
    for name in ("dense", "normed"):
        bias = torch.zeros(2, 0, device=DEVICE)
        out, lse = attncc.attention(q, k, k, variants[name](bias=bias), return_lse=True)
        assert not bool(out.any())
        assert bool(lse.isneginf().all())


@pytest.mark.parametrize("bias", ["near 0", "-1e9"])
def test_in_splits(variants: Any, bias: str) -> None:
    need("wgmma_sm90")
    q, k, v = (torch.randn(2, 400, heads, 128, device=DEVICE, dtype=torch.bfloat16) for heads in (4, 2, 2))
    values = torch.from_numpy(BIASES[bias](np.random.default_rng(2), (2, 400))).to(DEVICE)
    whole, parts = (
        attncc.attention(q, k, v, variants["causal"](bias=values), return_lse=True, num_splits=splits)
        for splits in (1, 3)
    )
    torch.testing.assert_close(whole[0].float(), parts[0].float(), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(whole[1], parts[1], atol=2e-3, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.1, 0.0, -2.0])
def test_a_scale_of_the_variant(variants: Any, pool: Pool, scale: float) -> None:
    need("wgmma_sm90")
    bound = {"bias": BIASES["near 0"](np.random.default_rng(1), (2, 300)), "s": scale}
    more: dict[str, Any] = {"variant": variants["own_scale"], "arguments": bound, "family": "wgmma_sm90"}
    check("own_scale", "bf16", 128, 2, Sizes(200, 300), pool=pool, **more)


@pytest.mark.parametrize("value", [-1e9, -1e30])
def test_rows_that_see_nothing_else(variants: Any, value: float) -> None:
    """Every key as far away: an average of the values all the same."""
    need("wgmma_sm90")
    q, k, v = (torch.randn(2, 300, heads, 128, device=DEVICE, dtype=torch.bfloat16) for heads in (4, 2, 2))
    bias = torch.full((2, 300), value, device=DEVICE)
    out, lse = attncc.attention(q, k, v, variants["causal"](bias=bias), return_lse=True)
    assert bool(out.isfinite().all() & (lse < -1e8).all())
    assert bool((out.float().abs().amax((1, 3)) <= v.float().abs().amax((1, 3)).repeat_interleave(2, 1) * 1.01).all())
    bias[:, 0] = 0.0
    only = attncc.attention(q, k, v, variants["causal"](bias=bias))
    torch.testing.assert_close(only, v[:, :1].repeat_interleave(2, 2).expand_as(only))
