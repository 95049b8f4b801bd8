"""The torch operators without a GPU: traced without a graph break, right fakes, values that change, merged states."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import attncc
from attncc.binding import VariantFactory

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BACKENDS = ("eager", "aot_eager")
INDPTR = torch.tensor([0, 3, 3, 8], dtype=torch.int32)
KV_INDPTR = torch.tensor([0, 7, 12, 20], dtype=torch.int32)


def example(name: str) -> VariantFactory[...]:
    module = attncc.load(EXAMPLES / f"{name}.attn")
    (only,) = module
    return module[only]


def padded(seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, n, heads, 16, generator=generator) for n, heads in ((5, 4), (9, 2), (9, 2))]


def ragged(seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, heads, 16, generator=generator) for n, heads in ((8, 4), (20, 2), (20, 2))]


CALLS: dict[str, Callable[..., Any]] = {
    "plain": lambda q, k, v, x: attncc.attention(q, k, v),
    "causal with lse": lambda q, k, v, x: attncc.attention(q, k, v, CAUSAL, return_lse=True),
    "per request": lambda q, k, v, x: attncc.attention(q, k, v, example_bound(x), sm_scale=x),
    "captured": lambda q, k, v, x: attncc.attention(q, k, v, ALIBI, q_start=3),
    "head first": lambda q, k, v, x: attncc.attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), CAUSAL, layout="hnd"
    ),
    "a state": lambda q, k, v, x: attncc.merge_states(
        [
            attncc.attention(q, k[:, :4], v[:, :4], CAUSAL, partial=True, q_start=4),
            attncc.attention(q, k[:, 4:], v[:, 4:], CAUSAL, partial=True, q_start=4, k_start=4),
        ],
        return_lse=True,
    ),
}
CAUSAL, GEMMA2 = example("causal")(), example("gemma2")
GEMMA2()  # built before it is traced: building one is no part of a program
ALIBI = example("alibi")(slopes=torch.tensor([0.5, 0.25, 0.125, 0.1]))


def example_bound(x: torch.Tensor) -> Any:
    return GEMMA2(softcap=x, w=4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_traced_without_a_break(name: str, backend: str) -> None:
    call = CALLS[name]
    compiled = torch.compile(call, backend=backend, fullgraph=True)
    scale = torch.tensor([0.7, 2.0])
    for seed in (0, 1):
        tensors = padded(seed)
        torch.testing.assert_close(compiled(*tensors, scale + seed), call(*tensors, scale + seed))


def test_a_module_with_a_bound_variant_is_traced() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = torch.nn.Linear(64, 128)
            self.slopes = torch.nn.Buffer(torch.tensor([0.5, 0.25, 0.1, 0.0]))
            self.alibi = example("alibi")(slopes=self.slopes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.project(x).unflatten(-1, (8, 16)).split([4, 2, 2], dim=2)
            out: torch.Tensor = attncc.attention(q, k, v, self.alibi).flatten(2)
            return out

    layer = Layer()
    x = torch.randn(2, 7, 64)
    with torch.no_grad():
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), layer(x))
        layer.slopes.add_(1.0)  # a value, not a recompile
        torch.testing.assert_close(compiled(x), layer(x))


def test_other_values_and_lengths_are_no_other_program() -> None:
    counter = torch._dynamo.testing.CompileCounter()

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cap: torch.Tensor) -> Any:
        return attncc.attention(q, k, v, GEMMA2(softcap=cap, w=4))

    compiled = torch.compile(call, backend=counter, fullgraph=True, dynamic=True)
    for cap, length in ((1.0, 9), (2.0, 12), (5.0, 31)):
        q, k, v = torch.randn(2, 5, 4, 16), torch.randn(2, length, 2, 16), torch.randn(2, length, 2, 16)
        caps = torch.full((2,), cap)
        torch.testing.assert_close(compiled(q, k, v, caps), call(q, k, v, caps))
    assert counter.frame_count == 1


def test_a_ragged_call_is_traced() -> None:
    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return attncc.attention(q, k, v, CAUSAL, qo_indptr=INDPTR, kv_indptr=KV_INDPTR, return_lse=True)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*ragged()), call(*ragged()))


def test_an_output_is_written_in_a_traced_call() -> None:
    q, k, v = padded()
    out = torch.zeros_like(q)
    compiled = torch.compile(lambda: attncc.attention(q, k, v, CAUSAL, out=out), backend="aot_eager", fullgraph=True)
    compiled()
    torch.testing.assert_close(out, attncc.attention(q, k, v, CAUSAL))


class Recorder(torch.fx.Interpreter):
    """Runs a traced program and keeps the calls of our operators."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module)
        self.found: list[tuple[Any, tuple[Any, ...]]] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if getattr(target, "__module__", "").startswith("torch.ops.attncc") or "attncc" in str(target):
            self.found.append((target, args))
        return super().call_function(target, args, kwargs)


def recorded(call: Callable[..., Any], *arguments: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The calls of our operators in the program traced from ``call``."""
    found: list[tuple[Any, tuple[Any, ...]]] = []

    def backend(module: torch.fx.GraphModule, inputs: Any) -> Any:
        def run(*values: Any) -> Any:
            recorder = Recorder(module)
            result = recorder.run(*values)
            found.extend(recorder.found)
            return result

        return run

    torch._dynamo.reset()
    torch.compile(call, backend=backend, fullgraph=True)(*arguments)
    return found


@pytest.mark.parametrize("name", ["per request", "captured", "head first", "a state"])
def test_the_operators_pass_torch_s_own_checks(name: str) -> None:
    q, k, v = padded()
    scale = torch.tensor([0.7, 2.0])
    found = recorded(CALLS[name], q, k, v, scale)
    assert found
    for operator, arguments in found:
        torch.library.opcheck(getattr(operator, "default", operator), arguments)


def test_fakes_have_the_shapes_of_results() -> None:
    from torch._subclasses import FakeTensorMode

    q, k, v = padded()
    real = attncc.attention(q, k, v, CAUSAL, return_lse=True)
    with FakeTensorMode() as mode:
        fake = attncc.attention(*(mode.from_tensor(tensor) for tensor in (q, k, v)), CAUSAL, return_lse=True)
    assert [(t.shape, t.dtype) for t in fake] == [(t.shape, t.dtype) for t in real]


def test_nothing_of_torch_is_loaded_before_it_is_used(repo_root: Path) -> None:
    code = "import sys, attncc, attncc.runtime.states, attncc.runtime.api; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
