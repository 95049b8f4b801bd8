"""Public calls without a GPU: the reference behind CPU tensors, each mistake in a call, which kernel a call uses."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.binding import VariantFactory
from attncc.reference import attention as reference

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
HEAVY = ("torch", "cupy", "cuda", "lark")


def example(name: str) -> VariantFactory[...]:
    module = attncc.load(EXAMPLES / f"{name}.attn")
    (only,) = module
    return module[only]


def random_qkv(
    *, batch: int = 2, qo_len: int = 5, kv_len: int = 9, heads: int = 4, kv_heads: int = 2, dim: int = 16
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, qo_len, heads, dim), (batch, kv_len, kv_heads, dim), (batch, kv_len, kv_heads, dim))
    return [torch.randn(shape, generator=generator) for shape in shapes]


# What comes back ---------------------------------------------------------------------------------------------------


def test_plain_attention_is_pytorch_s() -> None:
    q, k, v = random_qkv()
    hnd = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*hnd, enable_gqa=True)
    torch.testing.assert_close(attncc.attention(*hnd, layout="hnd"), expected)
    torch.testing.assert_close(attncc.attention(q, k, v), expected.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_results_have_the_dtype_of_the_query(dtype: torch.dtype) -> None:
    q, k, v = (tensor.to(dtype) for tensor in random_qkv())
    out, lse = attncc.attention(q, k, v, example("causal"), return_lse=True)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    exact = attncc.attention(q.double(), k.double(), v.double(), example("causal"))
    torch.testing.assert_close(out, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_numpy_in_numpy_out(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    q, k, v = (tensor.numpy().astype(kind) for tensor in random_qkv())
    out, lse = attncc.attention(q, k, v, example("causal"), return_lse=True)
    assert isinstance(out, np.ndarray)
    assert (out.dtype, lse.dtype) == (np.dtype(kind), np.float32)
    wide = [array.astype(np.float64) for array in (q, k, v)]
    expected = reference(example("causal")().variant, *wide)
    np.testing.assert_allclose(out.astype(np.float64), expected.out, atol=1e-2)
    np.testing.assert_allclose(lse, expected.lse, atol=1e-5)


def test_numpy_calls_import_no_other_library(repo_root: Path) -> None:
    code = """
import sys
import numpy as np
import attncc
x = np.ones((1, 3, 2, 8), np.float32)
attncc.attention(x, x, x)
print(*sorted({m.partition(".")[0] for m in sys.modules}))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(run.stdout.split())


def test_both_layouts_give_the_same() -> None:
    q, k, v = random_qkv()
    nhd, lse = attncc.attention(q, k, v, example("causal"), return_lse=True)
    hnd, hnd_lse = attncc.attention(
        *(tensor.transpose(1, 2) for tensor in (q, k, v)), example("causal"), layout="hnd", return_lse=True
    )
    assert torch.equal(nhd, hnd.transpose(1, 2))
    assert lse.shape == (2, 5, 4)
    assert torch.equal(lse, hnd_lse.transpose(1, 2))


def test_out_is_written_and_returned() -> None:
    q, k, v = random_qkv()
    buffer = torch.full((2, 7, 4, 20), 7.0)
    out = buffer[:, 1:6, :, :16]
    assert attncc.attention(q, k, v, out=out) is out
    assert torch.equal(out, attncc.attention(q, k, v))
    out.fill_(7.0)
    assert bool((buffer == 7.0).all())


def test_rows_are_the_newest_tokens_by_default() -> None:
    """Bottom-right alignment: row 0 of 5 stands at position 4 of 9."""
    q, k, v = random_qkv()
    causal = example("causal")
    assert torch.equal(attncc.attention(q, k, v, causal), attncc.attention(q, k, v, causal, q_start=4))
    first = attncc.attention(q, k, v, causal, q_start=0)
    torch.testing.assert_close(first[:, 0], v[:, 0].repeat_interleave(2, dim=1))


def test_starts_and_scale_per_request() -> None:
    q, k, v = random_qkv()
    starts, scales = torch.tensor([0, 6], dtype=torch.int32), torch.tensor([0.1, 2.0])
    out = attncc.attention(q, k, v, example("causal"), q_start=starts, sm_scale=scales, k_start=starts)
    for b in range(2):
        alone = [tensor[b : b + 1] for tensor in (q, k, v)]
        start = int(starts[b])
        one = attncc.attention(*alone, example("causal"), q_start=start, k_start=start, sm_scale=scales[b].item())
        torch.testing.assert_close(out[b : b + 1], one)


def test_short_requests_ignore_their_padding() -> None:
    q, k, v = random_qkv(kv_len=9)
    qo_lens, kv_lens = torch.tensor([5, 2], dtype=torch.int32), torch.tensor([3, 9], dtype=torch.int32)
    k[0, 3:], v[0, 3:], q[1, 2:] = torch.nan, torch.inf, torch.nan
    out, lse = attncc.attention(q, k, v, example("causal"), qo_lens=qo_lens, kv_lens=kv_lens, return_lse=True)
    for b, (rows, cols) in enumerate([(5, 3), (2, 9)]):
        alone = attncc.attention(q[b : b + 1, :rows], k[b : b + 1, :cols], v[b : b + 1, :cols], example("causal"))
        torch.testing.assert_close(out[b : b + 1, :rows], alone)
    assert bool((out[1, 2:] == 0).all())
    assert bool((lse[1, 2:] == -torch.inf).all())


def test_rows_past_a_request_stay_as_they_are_in_out() -> None:
    q, k, v = random_qkv()
    out = torch.full_like(q, 7.0)
    attncc.attention(q, k, v, out=out, qo_lens=torch.tensor([5, 2], dtype=torch.int32))
    assert bool((out[1, 2:] == 7.0).all())
    assert not bool((out[1, :2] == 7.0).any())


def test_parameters_per_request() -> None:
    q, k, v = random_qkv()
    softcap = torch.tensor([0.5, 20.0])
    out = attncc.attention(q, k, v, example("gemma2")(softcap=softcap, w=torch.tensor([2, 9], dtype=torch.int32)))
    for b, (cap, w) in enumerate([(0.5, 2), (20.0, 9)]):
        alone = attncc.attention(*(tensor[b : b + 1] for tensor in (q, k, v)), example("gemma2")(softcap=cap, w=w))
        torch.testing.assert_close(out[b : b + 1], alone)


def test_variants_that_no_kernel_serves_run_here() -> None:
    q, k, v = random_qkv()
    out = attncc.attention(q, k, v, example("sigmoid")(bias=-1.0))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k.repeat_interleave(2, dim=2)) / 4.0
    expected = torch.einsum("bhqk,bkhd->bqhd", torch.sigmoid(scores - 1.0), v.repeat_interleave(2, dim=2))
    torch.testing.assert_close(out, expected)


def test_extra_outputs(tmp_path: Path) -> None:
    path = tmp_path / "top.attn"
    path.write_text("variant top { emit best = rowmax(logits) \n emit mass = colsum(prob) }")
    q, k, v = random_qkv()
    out, emits = attncc.attention(q, k, v, attncc.load(path).top(), return_emits=True)
    scores = torch.einsum("bqhd,bkhd->bqhk", q, k.repeat_interleave(2, dim=2)) / 4.0
    torch.testing.assert_close(emits["best"], scores.amax(-1))
    torch.testing.assert_close(emits["mass"], scores.softmax(-1).sum(1).transpose(1, 2))
    assert out.shape == q.shape


@pytest.mark.parametrize("shape", [{"batch": 0}, {"qo_len": 0}, {"heads": 0, "kv_heads": 0}, {"heads": 0}])
def test_nothing_to_compute(shape: dict[str, int]) -> None:
    q, k, v = random_qkv(**shape)
    out, lse = attncc.attention(q, k, v, example("causal"), return_lse=True)
    assert out.shape == q.shape
    assert lse.shape == q.shape[:3]


def test_no_keys_at_all() -> None:
    q, k, v = random_qkv(kv_len=0)
    out, lse = attncc.attention(q, k, v, return_lse=True)
    assert bool((out == 0).all())
    assert bool((lse == -torch.inf).all())


def golden(name: str, text: str) -> None:
    """Hold an error's text against tests/golden/calls; ATTNCC_UPDATE_GOLDEN=1 rewrites it."""
    path = Path(__file__).resolve().parents[1] / "golden" / "calls" / f"{name}.txt"
    if os.environ.get("ATTNCC_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text + "\n"


# Mistakes ----------------------------------------------------------------------------------------------------------

Q, K, V = random_qkv()
SAME = random_qkv(kv_heads=4)
I32 = torch.int32
MISTAKES: dict[str, tuple[str, Any]] = {
    "a layout that is none": ("A0830", lambda: attncc.attention(Q, K, V, layout="bshd")),
    "a list": ("A0832", lambda: attncc.attention(Q.tolist(), K, V)),
    "no tensor": ("A0832", lambda: attncc.attention(None, K, V)),
    "two libraries": ("A0833", lambda: attncc.attention(Q, K.numpy(), V)),
    "a meta tensor": ("A0833", lambda: attncc.attention(Q.to("meta"), K, V)),
    "three axes": ("A0834", lambda: attncc.attention(Q[0], K, V)),
    "two batches": ("A0835", lambda: attncc.attention(Q[:1], K, V)),
    "two head dims": ("A0835", lambda: attncc.attention(Q[..., :8], K, V)),
    "two lengths": ("A0835", lambda: attncc.attention(Q, K, V[:, :3])),
    "two numbers of KV heads": ("A0835", lambda: attncc.attention(Q, K, V[:, :, :1])),
    "heads that do not divide": ("A0836", lambda: attncc.attention(Q[:, :, :3], K, V)),
    "the other layout": ("A0836", lambda: attncc.attention(Q, K, V, layout="hnd")),
    "no KV heads": ("A0836", lambda: attncc.attention(Q, K[:, :, :0], V[:, :, :0])),
    "integers": ("A0837", lambda: attncc.attention(Q.int(), K.int(), V.int())),
    "complex numbers": ("A0837", lambda: attncc.attention(Q.to(torch.complex64), K, V)),
    "a sparse tensor": ("A0837", lambda: attncc.attention(Q.to_sparse(), K, V)),
    "two dtypes": ("A0837", lambda: attncc.attention(Q.half(), K, V)),
    "a gradient": ("A0838", lambda: attncc.attention(Q.clone().requires_grad_(), K, V)),
    "a gradient of a captured tensor": (
        "A0838",
        lambda: attncc.attention(Q, K, V, example("alibi")(slopes=torch.ones(4, requires_grad=True))),
    ),
    "channels apart": ("A0839", lambda: attncc.attention(torch.empty(2, 16, 4, 5).transpose(1, 3), K, V)),
    "out of another shape": ("A0841", lambda: attncc.attention(Q, K, V, out=torch.empty(2, 5, 4, 8))),
    "out of another dtype": ("A0841", lambda: attncc.attention(Q, K, V, out=torch.empty_like(Q).half())),
    "out that is the query": ("A0841", lambda: attncc.attention(Q, K, V, out=Q)),
    "out inside the value": ("A0841", lambda: attncc.attention(*SAME, out=SAME[2][:, :5])),
    "out that overlaps itself": (
        "A0841",
        lambda: attncc.attention(Q, K, V, out=torch.empty(1, 5, 4, 16).expand(Q.shape)),
    ),
    "out of another library": ("A0841", lambda: attncc.attention(Q, K, V, out=np.empty(Q.shape, np.float32))),
    "out that requires a gradient": (
        "A0838",
        lambda: attncc.attention(Q, K, V, out=torch.empty_like(Q, requires_grad=True)),
    ),
    "a start that is a float": ("A0842", lambda: attncc.attention(Q, K, V, q_start=1.0)),
    "a start that is a bool": ("A0842", lambda: attncc.attention(Q, K, V, q_start=True)),
    "a negative start": ("A0842", lambda: attncc.attention(Q, K, V, k_start=-1)),
    "a start past 32 bits": ("A0842", lambda: attncc.attention(Q, K, V, q_start=2**31)),
    "starts past the limit": (
        "A0842",
        lambda: attncc.attention(Q, K, V, k_start=torch.tensor([0, 2**29 + 1], dtype=I32)),
    ),
    "negative starts": ("A0842", lambda: attncc.attention(Q, K, V, q_start=torch.tensor([0, -1], dtype=I32))),
    "64-bit starts": ("A0842", lambda: attncc.attention(Q, K, V, q_start=torch.tensor([0, 1]))),
    "a list of starts": ("A0842", lambda: attncc.attention(Q, K, V, q_start=[0, 1])),
    "starts of another batch": ("A0842", lambda: attncc.attention(Q, K, V, q_start=torch.zeros(3, dtype=I32))),
    "strided lengths": ("A0842", lambda: attncc.attention(Q, K, V, kv_lens=torch.zeros(4, dtype=I32)[::2])),
    "a length past its storage": ("A0842", lambda: attncc.attention(Q, K, V, kv_lens=torch.tensor([9, 10], dtype=I32))),
    "a length below 0": ("A0842", lambda: attncc.attention(Q, K, V, qo_lens=torch.tensor([-1, 5], dtype=I32))),
    "a length for all": ("A0842", lambda: attncc.attention(Q, K, V, qo_lens=3)),
    "a scale that is text": ("A0843", lambda: attncc.attention(Q, K, V, sm_scale="auto")),
    "a scale that is NaN": ("A0843", lambda: attncc.attention(Q, K, V, sm_scale=float("nan"))),
    "a scale per head": ("A0843", lambda: attncc.attention(Q, K, V, sm_scale=torch.ones(4))),
    "an LSE of no softmax": ("A0846", lambda: attncc.attention(Q, K, V, example("sigmoid")(bias=0.0), return_lse=True)),
    "parameters of another batch": (
        "A0847",
        lambda: attncc.attention(Q, K, V, example("gemma2")(softcap=torch.ones(3))),
    ),
    "no variant": ("A0808", lambda: attncc.attention(Q, K, V, "causal")),
    "a captured tensor of another size": (
        "A0810",
        lambda: attncc.attention(Q, K, V, example("alibi")(slopes=torch.ones(3))),
    ),
    "a variant without its tensor": ("A0803", lambda: attncc.attention(Q, K, V, example("alibi"))),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_has_a_code_and_a_way_out(what: str) -> None:
    code, call = MISTAKES[what]
    with pytest.raises(attncc.AttnccError) as caught:
        call()
    assert caught.value.code == code
    assert None not in (caught.value.expected, caught.value.got, caught.value.help)
    golden(f"{code} {what}".replace(" ", "_"), str(caught.value).replace(f"{EXAMPLES}/", ""))


def test_a_gradient_is_no_mistake_outside_grad_mode() -> None:
    q = Q.clone().requires_grad_()
    with torch.no_grad():
        out = attncc.attention(q, K, V)
    assert not out.requires_grad


def test_a_variant_over_positions_takes_no_starts(tmp_path: Path) -> None:
    path = tmp_path / "bias.attn"
    path.write_text("variant bias(t: f32[kv_len]) { logits = score + t[k] }")
    bound = attncc.load(path).bias(t=torch.zeros(9))
    attncc.attention(Q, K, V, bound)
    with pytest.raises(attncc.AttnccError, match="A0831"):
        attncc.attention(Q, K, V, bound, q_start=0)


# Which kernel a call uses ------------------------------------------------------------------------------------------


def test_a_thousand_random_shapes_resolve_to_one_kernel() -> None:
    compiled = attncc.compile(example("gemma2"), target="sm_90a", head_dim=64)
    rng = random.Random(0)
    found = set()
    for _ in range(1000):
        batch, group, kv_heads = rng.randint(1, 300), rng.randint(1, 16), rng.randint(1, 32)
        qo_len, kv_len = rng.randint(1, 100_000), rng.randint(1, 100_000)
        layout = rng.choice(["nhd", "hnd"])

        def shape(length: int, heads: int, batch: int = batch, layout: str = layout) -> tuple[int, ...]:
            return (batch, length, heads, 64) if layout == "nhd" else (batch, heads, length, 64)

        shapes = {"q": shape(qo_len, kv_heads * group), "k": shape(kv_len, kv_heads), "v": shape(kv_len, kv_heads)}
        resolution = compiled.resolve(shapes, layout=layout)
        assert resolution.launches
        found.add(resolution.key)
    assert found == {compiled.key}


def test_another_head_dim_is_another_kernel() -> None:
    compiled = attncc.compile(example("causal"), target="sm_90a", head_dim=64)
    shapes = dict.fromkeys("qkv", (1, 7, 2, 128))
    resolution = compiled.resolve(shapes)
    assert resolution.key != compiled.key
    assert ".d128." in resolution.name


def test_a_call_without_rows_launches_nothing() -> None:
    compiled = attncc.compile(target="sm_90a", head_dim=64)
    assert not compiled.resolve({"q": (2, 0, 4, 64), "k": (2, 9, 4, 64), "v": (2, 9, 4, 64)}).launches


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ({"q": (1, 2, 4, 64)}, "A0849"),
        ({"q": (1, 2, 3, 64), "k": (1, 2, 2, 64), "v": (1, 2, 2, 64)}, "A0836"),
        ({"q": (1, 2, 4, 72), "k": (1, 2, 2, 72), "v": (1, 2, 2, 72)}, "A0703"),
        ({"q": (1, 2, 4, 64), "k": (1, 2, 2, 64), "v": (1, 2, 2, 64), "slopes": (5,)}, "A0810"),
    ],
)
def test_shapes_that_no_call_could_have_do_not_resolve(shapes: dict[str, tuple[int, ...]], code: str) -> None:
    compiled = attncc.compile(example("alibi")(slopes=torch.ones(4)), target="sm_90a", head_dim=64)
    with pytest.raises(attncc.AttnccError) as caught:
        compiled.resolve(shapes)
    assert caught.value.code == code


def test_a_compiled_variant_is_called_like_attention() -> None:
    compiled = attncc.compile(example("causal"), target="sm_90a", head_dim=64)
    assert torch.equal(compiled(Q, K, V), attncc.attention(Q, K, V, example("causal")))
