"""Public calls on a GPU beyond one launch: compiled programs, graphs with changed values, threads, states, ragged."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from tests.gpu.attention_cases import DEVICE, TORCH, example, host

pytestmark = pytest.mark.gpu

LENGTHS = ((37, 120), (0, 65), (64, 64), (1, 300), (5, 0))  # rows and keys of the requests of a ragged batch


def random(*shape: int, dtype: str = "bf16", seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, TORCH[dtype])


def padded(
    *, batch: int = 2, qo_len: int = 77, kv_len: int = 190, heads: int = 4, kv_heads: int = 2, seed: int = 0
) -> Any:
    return (
        random(2, qo_len, 4, 64, seed=seed),
        random(2, kv_len, 2, 64, seed=seed + 1),
        random(2, kv_len, 2, 64, seed=seed + 2),
    )


def indptr(lengths: Any) -> torch.Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=DEVICE)


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one.float(), other.float(), atol=2e-2, rtol=2e-2)


# Compiled programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_a_compiled_module_has_no_graph_break(mode: str) -> None:
    alibi = example("alibi")(slopes=torch.tensor([0.5, 0.25, 0.1, 0.0], device=DEVICE))

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = attncc.attention(q * 2, k, v, alibi) + 1
        return out

    compiled = torch.compile(call, mode=mode, fullgraph=True)
    for seed in (0, 5, 9):
        tensors = padded(seed=seed)
        close(compiled(*tensors), call(*tensors))


def test_the_operator_passes_torch_s_own_checks_on_the_device() -> None:
    from torch._subclasses import FakeTensorMode

    tensors = padded()
    with FakeTensorMode() as mode:
        fake = attncc.attention(*map(mode.from_tensor, tensors), example("causal"), return_lse=True)
    real = attncc.attention(*tensors, example("causal"), return_lse=True)
    assert [(t.shape, t.dtype, t.device) for t in fake] == [(t.shape, t.dtype, t.device) for t in real]


# Graphs --------------------------------------------------------------------------------------------------------------


def test_a_graph_replays_with_changed_values() -> None:
    """Everything that is a tensor is read at the replay: parameters with and without axes, scale, starts, lengths."""
    q, k, v = padded()
    cap, scale = torch.tensor(2.0, device=DEVICE), torch.tensor(0.2, device=DEVICE)
    window = torch.tensor([30, 60], dtype=torch.int32, device=DEVICE)
    start, lens = (torch.tensor(values, dtype=torch.int32, device=DEVICE) for values in ([113, 113], [190, 150]))
    gemma2 = example("gemma2")

    def call() -> torch.Tensor:
        out: torch.Tensor = attncc.attention(
            q, k, v, gemma2(softcap=cap, w=window), sm_scale=scale, q_start=start, kv_lens=lens
        )
        return out

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    for step in range(3):
        cap.fill_(1.0 + step)
        scale.fill_(0.1 + 0.1 * step)
        window.copy_(torch.tensor([20 + step, 50 - step]))
        start.copy_(torch.tensor([100 + step, 5]))
        lens.copy_(torch.tensor([100, 190 - step]))
        graph.replay()
        assert torch.equal(out, call())


def test_a_graph_of_a_ragged_split_batch_replays_with_other_lengths() -> None:
    rows, keys = zip(*LENGTHS, strict=True)
    q, k, v = random(sum(rows), 4, 64), random(700, 2, 64, seed=1), random(700, 2, 64, seed=2)
    qo, kv = indptr(rows), indptr(keys)
    causal = example("causal")()

    def call() -> torch.Tensor:
        out: torch.Tensor = attncc.attention(q, k, v, causal, qo_indptr=qo, kv_indptr=kv, num_splits=3)
        return out

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    for lengths in ((300, 20, 64, 30, 100), (0, 0, 500, 1, 7)):
        kv.copy_(indptr(lengths))
        graph.replay()
        assert torch.equal(out, call())


def test_threads_and_streams_at_once() -> None:
    """Calls of one plan from several threads, some of them on one stream."""
    gemma2 = example("gemma2")
    inputs = [padded(seed=seed) for seed in range(6)]
    expected = [attncc.attention(*t, gemma2(softcap=1.0 + i, w=40)) for i, t in enumerate(inputs)]
    torch.cuda.synchronize()
    shared = [torch.cuda.Stream() for _ in range(3)]
    wrong: list[int] = []

    def work(index: int) -> None:
        with torch.cuda.stream(shared[index % 3]):
            for _ in range(100):
                out = attncc.attention(*inputs[index], gemma2(softcap=1.0 + index, w=40))
                torch.cuda.current_stream().synchronize()
                if not torch.equal(out, expected[index]):
                    wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Splits and states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["causal", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("count", [2, 3, 100])
def test_splits_agree_with_one_part(name: str, count: int) -> None:
    tensors = padded(qo_len=3, kv_len=700)
    given: dict[str, Any] = {
        "gemma2": {"softcap": 4.0, "w": 400},
        "gpt_oss": {"sink": torch.tensor([0.0, 1.0, 2.0, -1.0], device=DEVICE), "w": 300},
    }.get(name, {})
    bound = example(name)(**given)
    one, one_lse = attncc.attention(*tensors, bound, num_splits=1, return_lse=True)
    out, lse = attncc.attention(*tensors, bound, num_splits=count, return_lse=True)
    close(out, one)
    torch.testing.assert_close(lse, one_lse, atol=2e-3, rtol=0)
    for _ in range(10):
        assert torch.equal(attncc.attention(*tensors, bound, num_splits=count), out)


@pytest.mark.parametrize("count", [1, 2])
def test_states_of_parts_of_the_keys_merge(count: int) -> None:
    q, k, v = padded(qo_len=50, kv_len=400)
    sink = torch.tensor([0.0, 1.0, 2.0, -1.0], device=DEVICE)
    bound = example("gpt_oss")(sink=sink, w=200)
    whole, whole_lse = attncc.attention(q, k, v, bound, return_lse=True)
    parts = [
        attncc.attention(q, k[:, a:b], v[:, a:b], bound, partial=True, q_start=350, k_start=a, num_splits=count)
        for a, b in ((0, 130), (130, 131), (131, 400))
    ]
    out, lse = attncc.merge_states(parts, return_lse=True)
    close(out, whole)
    torch.testing.assert_close(lse, whole_lse, atol=2e-3, rtol=0)
    on_host = attncc.attention(*(t.float().cpu() for t in (q, k, v)), example("gpt_oss")(sink=sink.cpu(), w=200))
    close(out.cpu(), on_host)


def test_states_of_two_variants_merge() -> None:
    """A shared prefix that every row sees, and a causal suffix."""
    q, k, v = padded(qo_len=40, kv_len=300)
    causal = example("causal")()
    whole = attncc.attention(q, k, v, causal)
    prefix = attncc.attention(q, k[:, :260], v[:, :260], partial=True, q_start=260)
    suffix = attncc.attention(q, k[:, 260:], v[:, 260:], causal, partial=True, q_start=260, k_start=260)
    close(attncc.merge_states([prefix, suffix], variant=causal), whole)


# Ragged batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("layout", ["nhd", "hnd"])
@pytest.mark.parametrize("bounded", [True, False])
def test_a_ragged_batch_is_its_requests(layout: str, bounded: bool, splits: int) -> None:
    rows, keys = zip(*LENGTHS, strict=True)
    q, k, v = random(sum(rows), 4, 64), random(sum(keys), 2, 64, seed=1), random(sum(keys), 2, 64, seed=2)
    ordered: Any = [t if layout == "nhd" else t.transpose(0, 1).contiguous() for t in (q, k, v)]
    doc = (torch.arange(sum(keys), device=DEVICE) // 40).int()
    documents = example("documents")
    bounds: dict[str, Any] = {"max_qo_len": max(rows), "max_kv_len": max(keys)} if bounded else {}
    out, lse = attncc.attention(
        *ordered,
        documents(doc=doc),
        qo_indptr=indptr(rows),
        kv_indptr=indptr(keys),
        layout=layout,
        return_lse=True,
        num_splits=splits,
        **bounds,
    )
    out = out if layout == "nhd" else out.transpose(0, 1)
    lse = lse if layout == "nhd" else lse.transpose(0, 1)
    assert lse.shape == (sum(rows), 4)
    first_row, first_key = 0, 0
    for n, m in LENGTHS:
        row, key = slice(first_row, first_row + n), slice(first_key, first_key + m)
        alone, alone_lse = attncc.attention(
            q[None, row], k[None, key], v[None, key], documents(doc=doc[None, key].contiguous()), return_lse=True
        )
        close(out[row], alone[0])
        torch.testing.assert_close(lse[row], alone_lse[0], atol=2e-3, rtol=0)
        first_row, first_key = first_row + n, first_key + m


def test_rows_of_no_request_stay_as_they_are() -> None:
    q, k = random(50, 4, 64), random(90, 2, 64, seed=1)
    out = torch.full_like(q, 7.0)
    qo, kv = indptr((10, 20)), indptr((30, 40))
    attncc.attention(q, k, k, example("causal"), qo_indptr=qo, kv_indptr=kv, out=out)
    assert bool((out[30:] == 7.0).all())
    fresh, lse = attncc.attention(q, k, k, example("causal"), qo_indptr=qo, kv_indptr=kv, return_lse=True)
    assert torch.equal(fresh[:30], out[:30])
    assert bool((fresh[30:] == 0).all())
    assert bool((lse[30:] == -torch.inf).all())


def test_cupy_arrays_ragged_split_and_merged() -> None:
    cupy = pytest.importorskip("cupy")
    q, k, v = random(60, 4, 64, dtype="f16"), *(random(200, 2, 64, dtype="f16", seed=seed) for seed in (1, 2))
    qo, kv = indptr((20, 40)), indptr((80, 120))
    expected = attncc.attention(q, k, v, example("causal"), qo_indptr=qo, kv_indptr=kv, num_splits=2)
    torch.cuda.synchronize()
    arrays: Any = [cupy.from_dlpack(tensor) for tensor in (q, k, v, qo, kv)]
    with cupy.cuda.Stream(non_blocking=True) as stream:
        call: dict[str, Any] = {"qo_indptr": arrays[3], "kv_indptr": arrays[4]}
        out = attncc.attention(*arrays[:3], example("causal"), **call, num_splits=2)
        state = attncc.attention(*arrays[:3], example("causal"), **call, num_splits=2, partial=True)
        merged = attncc.merge_states([state])
    stream.synchronize()
    np.testing.assert_array_equal(cupy.asnumpy(out), expected.cpu().numpy())
    np.testing.assert_allclose(cupy.asnumpy(merged), host(expected[None], "nhd")[0], atol=2e-3)
