"""Calls on a GPU: examples against the reference, exact masks, streams, graphs; with each family asked first."""

from __future__ import annotations

import itertools
import threading
import zlib
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.codegen import select
from attncc.reference import Sizes as Extents
from attncc.reference import attended, attention
from attncc.reference.accuracy import Pool
from attncc.reference.structure import keys_seen
from attncc.runtime import calls
from tests.gpu.attention_cases import ARGUMENTS, DEVICE, TORCH, Sizes, bind, check, example, host, need, on_device

pytestmark = pytest.mark.gpu

LENGTHS = (
    Sizes(129, 201),
    Sizes(77, 77, batch=3, kv_heads=1),
    Sizes(64, 128),
    Sizes(200, 131),  # more rows than keys: the first rows see none
    Sizes(63, 300, qo_lens=(63, 17, 0), kv_lens=(300, 129, 64), batch=3),
    Sizes(97, 190, qo_lens=(97, 33), kv_lens=(0, 190)),
)
DECODE = (Sizes(1, 333, batch=3), Sizes(3, 130, kv_lens=(130, 1, 65), batch=3), Sizes(1, 1, batch=1))
GRID = [
    (name, dtype, head_dim, group, offset)
    for index, (name, dtype, head_dim, group) in enumerate(
        itertools.product(ARGUMENTS, ("bf16", "f16"), (64, 128), (1, 4))
    )
    # Two of the six lengths each, so that every example meets all of them in some configuration.
    for offset in (index % 6, (index * 5 + 3) % 6)
]


@pytest.fixture(autouse=True, params=["wgmma_sm90", "mma_sm80"])
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family that is asked first; the portable one follows."""
    need(request.param)
    monkeypatch.setattr(select, "FAMILIES", tuple(dict.fromkeys((request.param, "mma_sm80"))))
    for kept in ("_plans", "_artifacts"):
        monkeypatch.setattr(calls, kept, {})


@pytest.mark.parametrize(("name", "dtype", "head_dim", "group", "length"), GRID)
def test_an_example_agrees_with_the_reference(
    pool: Pool, name: str, dtype: str, head_dim: int, group: int, length: int
) -> None:
    layout = "nhd" if (length + group) % 2 else "hnd"
    seed = zlib.crc32(f"{name} {dtype} {head_dim} {group} {length}".encode())
    check(name, dtype, head_dim, group, LENGTHS[length], layout=layout, seed=seed, pool=pool)


@pytest.mark.parametrize("sizes", DECODE, ids=str)
@pytest.mark.parametrize("name", ["causal", "gemma2", "gpt_oss", "alibi"])
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_few_rows_agree_with_the_reference(pool: Pool, name: str, dtype: str, sizes: Sizes) -> None:
    check(name, dtype, 128, 4, sizes, seed=7, pool=pool)


@pytest.mark.parametrize("name", ["causal", "gemma2"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_long_sequences_agree_with_the_reference(name: str, head_dim: int) -> None:
    given = {"softcap": 20.0, "w": 700} if name == "gemma2" else {}
    check(name, "bf16", head_dim, 2, Sizes(1111, 2050, batch=1, kv_heads=1), arguments=given, seed=1)


@pytest.mark.parametrize("group", [2, 7, 8])
def test_other_group_sizes(group: int, pool: Pool) -> None:
    check("alibi", "bf16", 64, group, Sizes(61, 93, kv_heads=2), seed=group, pool=pool)


# Masks, exactly ----------------------------------------------------------------------------------------------------

EXTENTS = Extents(batch=2, num_heads=4, num_kv_heads=2, head_dim=64, head_dim_v=64, qo_len=100, kv_len=150)


@pytest.mark.parametrize("name", [name for name in ARGUMENTS if name not in ("alibi", "t5_bias")])
def test_each_row_sees_exactly_its_keys(name: str) -> None:
    sizes = Sizes(EXTENTS.qo_len, EXTENTS.kv_len)
    given = ARGUMENTS[name](np.random.default_rng(3), sizes, EXTENTS.num_heads)
    bound = bind(name, given)

    def attend(q: Any, k: Any, v: Any) -> Any:
        return host(attncc.attention(*(on_device(x).bfloat16() for x in (q, k, v)), bound), "nhd")

    seen = keys_seen(attend, EXTENTS)
    plain = example(name)(**given)
    expected = attended(plain.variant, sizes=EXTENTS, params=plain.params, tensors=plain.tensors)
    np.testing.assert_array_equal(seen, expected)


# What may change from call to call ---------------------------------------------------------------------------------


def test_parameters_per_request(pool: Pool) -> None:
    given = {"softcap": np.array([1.5, 30.0, 4.0], np.float32), "w": np.array([10, 200, 1], np.int32)}
    check("gemma2", "bf16", 64, 2, Sizes(99, 140, batch=3), arguments=given, pool=pool)


@pytest.mark.parametrize(
    "call",
    [
        {"q_start": 70},
        {"k_start": 11},
        {"q_start": 5, "k_start": 30},
        {"q_start": np.array([0, 120], np.int32)},
        {"q_start": np.array([40, 3], np.int32), "k_start": np.array([7, 0], np.int32)},
        {"sm_scale": 0.3},
        {"sm_scale": np.array([0.02, 0.5], np.float32)},
    ],
    ids=str,
)
def test_starts_and_scale(call: dict[str, Any], pool: Pool) -> None:
    check("window", "bf16", 64, 2, Sizes(90, 140), pool=pool, **call)


def random_qkv(dtype: str = "bf16", *, length: int = 200, batch: int = 2, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, length, heads, 64) for heads in (4, 2, 2)]
    return [torch.randn(shape, generator=generator).to(DEVICE, TORCH[dtype]) for shape in shapes]


def test_the_same_input_gives_the_same_bits() -> None:
    tensors = random_qkv()
    first = attncc.attention(*tensors, example("causal"))
    for _ in range(20):
        assert torch.equal(attncc.attention(*tensors, example("causal")), first)


def test_no_keys_at_all() -> None:
    q = torch.randn(2, 5, 4, 64, device=DEVICE, dtype=torch.bfloat16)
    none = torch.empty(2, 0, 2, 64, device=DEVICE, dtype=torch.bfloat16)
    out, lse = attncc.attention(q, none, none, return_lse=True)
    assert bool((out == 0).all())
    assert bool((lse == -torch.inf).all())
    sink = torch.arange(4.0, device=DEVICE)
    out, lse = attncc.attention(q, none, none, example("gpt_oss")(sink=sink), return_lse=True)
    assert bool((out == 0).all())
    torch.testing.assert_close(lse, sink.expand(2, 5, 4))


@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("ragged", [False, True])
def test_rows_of_no_request_are_zeros(ragged: bool, num_splits: int) -> None:
    """In memory that held something else: of padded requests behind their rows, of ragged ones around them."""
    q, k, v = random_qkv(length=300, batch=3)
    given: dict[str, Any] = {}
    if ragged:
        q, k, v = (tensor.flatten(0, 1) for tensor in (q, k, v))
        indptr = torch.tensor([50, 150, 150, 450], dtype=torch.int32, device=DEVICE)
        given = {"qo_indptr": indptr, "kv_indptr": indptr, "max_qo_len": 300, "max_kv_len": 300}
        unowned = torch.ones(900, dtype=torch.bool)
        unowned[50:450] = False
    else:
        lens = torch.tensor([100, 0, 300], dtype=torch.int32, device=DEVICE)
        given = {"qo_lens": lens, "kv_lens": lens}
        unowned = torch.arange(300) >= lens.cpu()[:, None]
    unowned = unowned.to(DEVICE)
    for _ in range(3):
        before = [torch.full_like(q, torch.nan) for _ in range(4)]
        before += [torch.full(q.shape[:-1], torch.nan, device=DEVICE) for _ in range(4)]
        del before
        out, lse = attncc.attention(q, k, v, example("causal"), return_lse=True, num_splits=num_splits, **given)
        assert bool((out[unowned] == 0).all())
        assert bool((lse[unowned] == -torch.inf).all())
        assert bool(out[~unowned].isfinite().all() & lse[~unowned].isfinite().all())


@pytest.mark.parametrize("shape", [(0, 5, 4, 64), (2, 0, 4, 64)])
def test_nothing_to_compute(shape: tuple[int, ...]) -> None:
    q = torch.empty(shape, device=DEVICE, dtype=torch.bfloat16)
    k = torch.empty(shape[0], 7, 2, 64, device=DEVICE, dtype=torch.bfloat16)
    out, lse = attncc.attention(q, k, k, example("causal"), return_lse=True)
    assert out.shape == shape
    assert lse.shape == shape[:3]


def test_strides_of_a_packed_projection() -> None:
    """q, k and v as slices of one projection, the way models make them."""
    packed = torch.randn(2, 75, 8 * 64, device=DEVICE, dtype=torch.bfloat16)
    q, k, v = (part.unflatten(-1, (-1, 64)) for part in packed.split([4 * 64, 2 * 64, 2 * 64], dim=-1))
    out = attncc.attention(q, k, v, example("causal"))
    expected = attncc.attention(q.contiguous(), k.contiguous(), v.contiguous(), example("causal"))
    assert torch.equal(out, expected)


def test_both_layouts_agree() -> None:
    q, k, v = random_qkv()
    nhd = attncc.attention(q, k, v, example("causal"))
    hnd = attncc.attention(*(t.transpose(1, 2).contiguous() for t in (q, k, v)), example("causal"), layout="hnd")
    assert torch.equal(nhd, hnd.transpose(1, 2))


@pytest.mark.parametrize("dtype", ["bool", "u8", "i8", "i16", "i64", "f16", "bf16"])
def test_captured_storage_types(dtype: str, tmp_path: Any) -> None:
    """A bias read from a tensor of every storage type, strided and transposed."""
    path = tmp_path / "biased.attn"
    element = "f32(1 if bias[h, col] else 0)" if dtype == "bool" else "f32(bias[h, col])"
    path.write_text(f"variant biased(bias: {dtype}[num_heads, kv_len]) {{\n    logits = score + {element}\n}}\n")
    torch_dtype = {"bool": torch.bool, "u8": torch.uint8, "i8": torch.int8, "i16": torch.int16, "i64": torch.int64}
    kind = torch_dtype.get(dtype) or TORCH[dtype]
    values = torch.randint(0, 3, (2 * 200, 4)).to(kind).to(DEVICE)[::2].T
    q, k, v = random_qkv()
    biased = attncc.load(path).biased(bias=values)
    host_values = values.float().cpu().numpy().astype({"bool": bool}.get(dtype, np.float32))
    out = host(attncc.attention(q, k, v, biased), "nhd")
    expected = attention(biased.variant, *(host(t, "nhd") for t in (q, k, v)), tensors={"bias": host_values}).out
    np.testing.assert_allclose(out, expected, atol=0.03)


def test_indices_outside_a_captured_tensor_are_clamped(tmp_path: Any) -> None:
    path = tmp_path / "far.attn"
    path.write_text("variant far(bias: f32[n]) {\n    logits = score + bias[(k - q) * 1000000]\n}\n")
    q, k, v = random_qkv()
    bias = torch.tensor([5.0, 1.0, -5.0], device=DEVICE)
    bound = attncc.load(path).far(bias=bias)
    out = host(attncc.attention(q, k, v, bound), "nhd")
    expected = attention(bound.variant, *(host(t, "nhd") for t in (q, k, v)), tensors={"bias": bias.cpu().numpy()}).out
    np.testing.assert_allclose(out, expected, atol=0.03)


# Streams, threads, graphs ------------------------------------------------------------------------------------------


def test_a_call_does_not_wait_for_the_device() -> None:
    q, k, v = random_qkv()
    lens = torch.tensor([100, 200], dtype=torch.int32, device=DEVICE)
    softcap = torch.tensor([1.0, 2.0], device=DEVICE)
    bound = example("gemma2")(softcap=softcap, w=20)
    attncc.attention(q, k, v, bound, kv_lens=lens)  # compiles and loads
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # about a second
    busy = torch.cuda.Event()
    busy.record()
    for _ in range(270):  # fewer than a stream may have pending
        attncc.attention(q, k, v, bound, kv_lens=lens, q_start=lens, return_lse=True)
    assert not busy.query(), "a call waited for the device"
    torch.cuda.synchronize()


def test_a_call_runs_on_the_current_stream() -> None:
    q, k, v = random_qkv()
    expected = attncc.attention(q * 2, k, v, example("causal"))
    late = torch.empty_like(q)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.copy_(q * 2)  # a call on any other stream would read it too early
        out = attncc.attention(late, k, v, example("causal"))
    stream.synchronize()
    assert torch.equal(out, expected)


def test_threads_on_streams_of_their_own() -> None:
    inputs = [random_qkv(seed=seed) for seed in range(4)]
    expected = [attncc.attention(*tensors, example("causal")) for tensors in inputs]
    torch.cuda.synchronize()
    wrong: list[int] = []

    def work(index: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(50):
                out = attncc.attention(*inputs[index], example("causal"))
                torch.cuda.current_stream().synchronize()
                if not torch.equal(out, expected[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_captured_graph_replays_on_new_values() -> None:
    q, k, v = random_qkv()
    bound = example("gemma2")(softcap=torch.tensor([2.0, 5.0], device=DEVICE), w=30)
    attncc.attention(q, k, v, bound)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attncc.attention(q, k, v, bound)
    for _ in range(600):  # other calls must not disturb what the graph reads
        attncc.attention(k, k, v, bound)
    for seed in (1, 2):
        for tensor, fresh in zip((q, k, v), random_qkv(seed=seed), strict=True):
            tensor.copy_(fresh)
        graph.replay()
        assert torch.equal(out, attncc.attention(q, k, v, bound))


def test_cupy_arrays() -> None:
    cupy = pytest.importorskip("cupy")
    q, k, v = random_qkv("f16")
    expected, expected_lse = attncc.attention(q, k, v, example("gemma2")(softcap=3.0, w=20), return_lse=True)
    torch.cuda.synchronize()
    arrays = [cupy.from_dlpack(tensor) for tensor in (q, k, v)]
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        out, lse = attncc.attention(*arrays, example("gemma2")(softcap=3.0, w=20), return_lse=True)
    stream.synchronize()
    assert isinstance(out, cupy.ndarray)
    np.testing.assert_array_equal(cupy.asnumpy(out), expected.cpu().numpy())
    np.testing.assert_array_equal(cupy.asnumpy(lse), expected_lse.cpu().numpy())


# Refusals ----------------------------------------------------------------------------------------------------------


def test_rows_that_are_not_aligned_are_refused() -> None:
    q, k, v = random_qkv()
    odd = torch.empty(q.numel() + 1, device=DEVICE, dtype=q.dtype)[1:].view(q.shape)
    with pytest.raises(attncc.AttnccError) as caught:
        attncc.attention(odd, k, v)
    assert caught.value.code == "A0840"


def test_a_captured_tensor_on_the_cpu_is_refused() -> None:
    with pytest.raises(attncc.AttnccError) as caught:
        attncc.attention(*random_qkv(), example("alibi")(slopes=torch.ones(4)))
    assert caught.value.code == "A0833"


def test_f32_is_refused_on_the_gpu() -> None:
    with pytest.raises(attncc.AttnccError) as caught:
        attncc.attention(*(tensor.float() for tensor in random_qkv()))
    assert caught.value.code == "A0702"


def test_a_hook_that_no_family_serves_is_refused_by_name(tmp_path: Any) -> None:
    path = tmp_path / "top.attn"
    path.write_text("variant top { emit best = rowmax(logits) }")
    with pytest.raises(attncc.AttnccError, match="emit") as caught:
        attncc.attention(*random_qkv(), attncc.load(path).top())
    assert caught.value.code == "A0703"


def test_a_call_resolves_to_the_kernel_of_this_gpu() -> None:
    q, k, v = random_qkv()
    compiled = attncc.compile(example("causal"), head_dim=64)
    assert compiled.resolve({"q": q.shape, "k": k.shape, "v": v.shape}).key == compiled.key
    assert torch.equal(compiled(q, k, v), attncc.attention(q, k, v, example("causal")))
