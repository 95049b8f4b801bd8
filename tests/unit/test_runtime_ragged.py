"""Ragged batches, partial states and splits through the public calls, on the CPU: the reference behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attncc
from attncc.binding import VariantFactory

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LENGTHS = ((3, 7), (0, 5), (4, 4), (1, 0))
I32 = torch.int32


def example(name: str) -> VariantFactory[...]:
    module = attncc.load(EXAMPLES / f"{name}.attn")
    (only,) = module
    return module[only]


def indptr(lengths: Any, first: int = 0) -> torch.Tensor:
    return torch.tensor([first, *(first + np.cumsum(lengths))], dtype=I32)


def qkv(rows: int, cols: int, *, batch: int | None = None) -> Any:
    generator = torch.Generator().manual_seed(rows + cols)
    lead = () if batch is None else (batch,)
    return [torch.randn(*lead, n, heads, 16, generator=generator) for n, heads in ((rows, 4), (cols, 2), (cols, 2))]


ROWS, COLS = zip(*LENGTHS, strict=True)
QO, KV = indptr(ROWS), indptr(COLS)
DOC = torch.arange(16, dtype=I32) // 3


@pytest.mark.parametrize("layout", ["nhd", "hnd"])
@pytest.mark.parametrize("name", ["causal", "documents", "gpt_oss", "sigmoid"])
def test_a_ragged_batch_is_its_requests(name: str, layout: str) -> None:
    q, k, v = qkv(sum(ROWS), sum(COLS))
    given: Any = {"gpt_oss": {"sink": torch.randn(4)}, "sigmoid": {"bias": -1.0}}.get(name, {})
    softmax = name != "sigmoid"
    whole = example(name)(doc=DOC) if name == "documents" else example(name)(**given)
    ordered: Any = [x if layout == "nhd" else x.transpose(0, 1) for x in (q, k, v)]
    found = attncc.attention(*ordered, whole, qo_indptr=QO, kv_indptr=KV, layout=layout, return_lse=softmax)
    out, lse = found if softmax else (found, None)
    out = out if layout == "nhd" else out.transpose(0, 1)
    assert out.shape == q.shape
    for b, (n, m) in enumerate(LENGTHS):
        row, key = slice(int(QO[b]), int(QO[b]) + n), slice(int(KV[b]), int(KV[b]) + m)
        alone = example(name)(doc=DOC[None, key]) if name == "documents" else whole
        expected = attncc.attention(q[None, row], k[None, key], v[None, key], alone, return_lse=softmax)
        if softmax:
            assert lse is not None
            torch.testing.assert_close((lse if layout == "nhd" else lse.T)[row], expected[1][0])
            expected = expected[0]
        torch.testing.assert_close(out[row], expected[0])


def test_tokens_of_no_request_are_left_alone() -> None:
    q, k, v = qkv(9, 12)
    k[:2], v[10:], q[:1] = torch.nan, torch.nan, torch.nan
    out = torch.full_like(q, 7.0)
    attncc.attention(q, k, v, out=out, qo_indptr=indptr((2, 3), 1), kv_indptr=indptr((4, 4), 2))
    assert bool((out[0] == 7.0).all())
    assert bool((out[6:] == 7.0).all())
    assert bool(out[1:6].isfinite().all())
    fresh, lse = attncc.attention(q, k, v, qo_indptr=indptr((2, 3), 1), kv_indptr=indptr((4, 4), 2), return_lse=True)
    assert bool((fresh[6:] == 0).all())
    assert bool((lse[6:] == -torch.inf).all())


def test_ragged_keys_under_padded_rows() -> None:
    """A batch in which every request has one new token."""
    q, _, _ = qkv(1, 1, batch=4)
    _, k, v = qkv(1, sum(COLS))
    out = attncc.attention(q, k, v, example("causal"), kv_indptr=KV)
    for b in range(4):
        key = slice(int(KV[b]), int(KV[b + 1]))
        torch.testing.assert_close(out[b : b + 1], attncc.attention(q[b : b + 1], k[None, key], v[None, key]))


def test_parameters_and_starts_per_ragged_request() -> None:
    q, k, v = qkv(sum(ROWS), sum(COLS))
    starts, w = torch.tensor([9, 0, 2, 3], dtype=I32), torch.tensor([4, 1, 9, 2], dtype=I32)
    call: dict[str, Any] = {"qo_indptr": QO, "kv_indptr": KV, "q_start": starts}
    out = attncc.attention(q, k, v, example("window")(w=w), **call)
    for b, (n, m) in enumerate(LENGTHS):
        row, key = slice(int(QO[b]), int(QO[b]) + n), slice(int(KV[b]), int(KV[b]) + m)
        bound, start = example("window")(w=int(w[b])), int(starts[b])
        expected = attncc.attention(q[None, row], k[None, key], v[None, key], bound, q_start=start)
        torch.testing.assert_close(out[row], expected[0])


# States --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["causal", "gpt_oss", "sigmoid", "gemma2"])
def test_states_over_parts_of_the_keys_are_the_whole(name: str) -> None:
    q, k, v = qkv(5, 12, batch=2)
    given: Any = {"gpt_oss": {"sink": torch.randn(4), "w": 6}, "sigmoid": {"bias": -1.0}, "gemma2": {"w": 5}}.get(
        name, {}
    )
    bound = example(name)(**given)
    parts = [
        attncc.attention(q, k[:, a:b], v[:, a:b], bound, partial=True, q_start=7, k_start=a)
        for a, b in ((0, 4), (4, 4), (4, 5), (5, 12))
    ]
    softmax = name != "sigmoid"
    whole = attncc.attention(q, k, v, bound, return_lse=softmax)
    merged = attncc.merge_states(parts, return_lse=softmax)
    torch.testing.assert_close(merged, whole)
    torch.testing.assert_close(attncc.merge_states(parts[::-1], return_lse=softmax), whole)


def test_the_output_hook_is_applied_once(tmp_path: Path) -> None:
    path = tmp_path / "gated.attn"
    path.write_text(
        "variant gated(g: f32[num_heads]) {\n normalize = softmax(sink = g[h])\n output = out * g[h] + q\n}"
    )
    bound = attncc.load(path).gated(g=torch.tensor([0.5, 1.0, 2.0, 3.0]))
    q, k, v = qkv(5, 12, batch=2)
    parts = [
        attncc.attention(q, k[:, a:b], v[:, a:b], bound, partial=True, q_start=7, k_start=a)
        for a, b in ((0, 6), (6, 12))
    ]
    torch.testing.assert_close(attncc.merge_states(parts), attncc.attention(q, k, v, bound))


def test_a_ragged_state() -> None:
    q, k, v = qkv(sum(ROWS), sum(COLS))
    call: dict[str, Any] = {"qo_indptr": QO, "kv_indptr": KV}
    state = attncc.attention(q, k, v, example("causal"), **call, partial=True)
    assert state.acc.shape == (sum(ROWS), 4, 16)
    assert state.state.shape == (sum(ROWS), 4, 2)
    torch.testing.assert_close(attncc.merge_states([state]), attncc.attention(q, k, v, example("causal"), **call))


def test_numpy_states_merge() -> None:
    q, k, v = (x.numpy() for x in qkv(5, 12, batch=2))
    state = attncc.attention(q, k, v, partial=True)
    out = attncc.merge_states([state])
    assert isinstance(out, np.ndarray)
    np.testing.assert_allclose(out, attncc.attention(q, k, v), atol=1e-6)


# Mistakes ------------------------------------------------------------------------------------------------------------

PADDED, TOKENS = qkv(5, 12, batch=2), qkv(8, 16)


def state(*, rows: int = 5, name: str = "causal", dtype: Any = torch.float32, **given: Any) -> Any:
    q, k, v = (x.to(dtype) for x in qkv(rows, 12, batch=2))
    return attncc.attention(q, k, v, example(name)(**given), partial=True)


MISTAKES: dict[str, tuple[str, Any]] = {
    "an indptr that is a list": ("A0851", lambda: attncc.attention(*TOKENS, qo_indptr=[0, 8], kv_indptr=KV)),
    "an indptr of 64 bits": ("A0851", lambda: attncc.attention(*TOKENS, qo_indptr=QO.long(), kv_indptr=KV)),
    "an indptr that falls": (
        "A0851",
        lambda: attncc.attention(*TOKENS, qo_indptr=torch.tensor([0, 5, 3, 8, 8], dtype=I32), kv_indptr=KV),
    ),
    "an indptr past the tokens": (
        "A0851",
        lambda: attncc.attention(*TOKENS, qo_indptr=torch.tensor([0, 3, 3, 7, 9], dtype=I32), kv_indptr=KV),
    ),
    "an empty indptr": ("A0851", lambda: attncc.attention(*TOKENS, qo_indptr=QO[:0], kv_indptr=KV)),
    "a request past the longest": (
        "A0851",
        lambda: attncc.attention(*TOKENS, qo_indptr=QO, kv_indptr=KV, max_qo_len=2),
    ),
    "a longest that is a tensor": (
        "A0851",
        lambda: attncc.attention(*TOKENS, qo_indptr=QO, kv_indptr=KV, max_qo_len=torch.tensor(4)),
    ),
    "a longest without an indptr": ("A0851", lambda: attncc.attention(*PADDED, max_kv_len=12)),
    "lengths and an indptr": ("A0851", lambda: attncc.attention(*TOKENS, qo_indptr=QO, kv_indptr=KV, qo_lens=QO)),
    "two batches": ("A0835", lambda: attncc.attention(*TOKENS, qo_indptr=QO[:3], kv_indptr=KV)),
    "padded tensors": ("A0834", lambda: attncc.attention(*PADDED, qo_indptr=QO, kv_indptr=KV)),
    "a ragged tensor of another length": (
        "A0810",
        lambda: attncc.attention(*TOKENS, example("documents")(doc=DOC[:9]), qo_indptr=QO, kv_indptr=KV),
    ),
    "a ragged tensor in a padded call": (
        "A0810",
        lambda: attncc.attention(*PADDED, example("documents")(doc=DOC)),
    ),
    "no number of splits": ("A0854", lambda: attncc.attention(*PADDED, num_splits=0)),
    "a state with an LSE": ("A0852", lambda: attncc.attention(*PADDED, partial=True, return_lse=True)),
    "a state into an output": ("A0852", lambda: attncc.attention(*PADDED, partial=True, out=torch.empty(2, 5, 4, 16))),
    "no states": ("A0853", lambda: attncc.merge_states([])),
    "a result for a state": ("A0853", lambda: attncc.merge_states([attncc.attention(*PADDED)])),
    "states of other rows": ("A0853", lambda: attncc.merge_states([state(), state(rows=4)])),
    "states of two dtypes": ("A0853", lambda: attncc.merge_states([state(), state(dtype=torch.float16)])),
    "states of two reductions": ("A0853", lambda: attncc.merge_states([state(), state(name="sigmoid", bias=0.0)])),
    "states of two variants": ("A0853", lambda: attncc.merge_states([state(), state(name="gemma2")])),
    "an LSE of weights": (
        "A0846",
        lambda: attncc.merge_states([state(name="sigmoid", bias=0.0)], return_lse=True),
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_has_a_code_and_a_way_out(what: str) -> None:
    code, call = MISTAKES[what]
    with pytest.raises(attncc.AttnccError) as caught:
        call()
    assert caught.value.code == code, str(caught.value)
    assert None not in (caught.value.expected, caught.value.got, caught.value.help)
