"""Launching, with a driver that only writes down what it is asked: the words of the block, and that nothing waits."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import attncc
from attncc.codegen.compile import KernelSpec, compile_variant
from attncc.diagnostics import CallError
from attncc.runtime import driver, launch, tensors
from attncc.runtime.block import Packer
from attncc.runtime.layouts import LAYOUTS, Shapes
from attncc.runtime.tensors import View, view

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# What a call may ask of the driver. None of these waits for the device; loading and pinning happen before the first
# launch or once in a few hundred.
ONCE = {"cuMemHostAlloc", "cuEventCreate", "cuModuleLoadData", "cuModuleGetFunction", "cuFuncSetAttribute"}
ONCE |= {"cuThreadExchangeStreamCaptureMode"}
EVERY_CALL = {"cuCtxPushCurrent", "cuCtxPopCurrent", "cuStreamIsCapturing", "cuMemcpyHtoDAsync", "cuEventRecord"}
EVERY_CALL |= {"cuEventQuery", "cuLaunchKernel"}


class FakeDriver:
    """Answers like the driver of one GPU. Device memory is host memory, so uploads can be read back."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.capturing = 0
        self.event_done = True
        self.pinned: list[Any] = []
        self.CUdevice_attribute = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major", CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor"
        )
        self.CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="smem")
        self.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED="relaxed")
        self.CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            return (0, *self.answer(name, arguments))

        return call

    def answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if name == "cuDeviceGetAttribute":
            return (9 if arguments[0] == "major" else 0,)
        if name == "cuStreamIsCapturing":
            return (self.capturing,)
        if name == "cuMemHostAlloc":
            self.pinned.append(ctypes.create_string_buffer(arguments[0]))
            return (ctypes.addressof(self.pinned[-1]),)
        if name == "cuMemcpyHtoDAsync":
            ctypes.memmove(*arguments[:3])
        return (f"a {name}",)

    def cuEventQuery(self, event: Any) -> tuple[int]:
        self.calls.append(("cuEventQuery", (event,)))
        return (0 if self.event_done else 600,)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def times(self, name: str) -> int:
        return self.names().count(name)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    made = FakeDriver()
    monkeypatch.setattr(driver, "bindings", lambda: made)
    monkeypatch.setattr(tensors, "stream_of", lambda tensor: 77)
    driver.device.cache_clear()
    yield made
    driver.device.cache_clear()


def on_gpu(tensor: torch.Tensor) -> View:
    """A CPU tensor that says it is on a GPU."""
    return replace(view(tensor, "t"), device="cuda:0")


def inputs(layout: str = "nhd", **changes: Any) -> launch.Inputs:
    """Two requests of 5 rows and 9 keys, 4 heads over 2, head_dim 64."""
    place = LAYOUTS[layout]
    shapes = Shapes(2, 4, 2, 64, 64, 5, 9)
    q, k, v, out = (
        on_gpu(torch.zeros(place.shape(2, length, heads, 64), dtype=torch.bfloat16))
        for length, heads in ((5, 4), (9, 2), (9, 2), (5, 4))
    )
    base = launch.Inputs(place, shapes, q, k, v, out, None, None, None, None, None, None, {}, {})
    return replace(base, **changes)


def kernel(name: str) -> launch.Kernel:
    (only,) = module = attncc.load(EXAMPLES / f"{name}.attn")
    variant = module[only].definition.instantiate({})
    return launch.Kernel(compile_variant(variant, KernelSpec("sm_90a", "bf16", 64)), driver.device(0))


def sent(made: launch.Kernel, fake: FakeDriver) -> dict[str, int | float]:
    """The words of the block that the last launch pointed at."""
    upload = next(arguments for name, arguments in reversed(fake.calls) if name == "cuMemcpyHtoDAsync")
    packer = made.packer
    values = packer.struct.unpack(ctypes.string_at(upload[1], packer.size))
    return {name: values[position] for name, position in packer.index.items()}


def test_the_kernel_gets_the_block_it_was_sent(fake: FakeDriver) -> None:
    made = kernel("causal")
    made.launch(inputs())
    upload = next(arguments for name, arguments in fake.calls if name == "cuMemcpyHtoDAsync")
    started = next(arguments for name, arguments in fake.calls if name == "cuLaunchKernel")
    rule = made.rule
    assert upload[2] == made.packer.size
    assert started[1:7] == (
        *rule.grid_of({"max_qo_len": 5, "group": 2, "num_kv_heads": 2, "batch": 2}),
        rule.threads,
        1,
        1,
    )
    assert started[7:9] == (rule.smem, 77)
    assert started[9] == ((upload[0],), (ctypes.c_void_p,))


def test_nothing_a_call_asks_of_the_driver_waits(fake: FakeDriver) -> None:
    made = kernel("gemma2")
    call = inputs(params={"softcap": on_gpu(torch.ones(2)), "w": 4}, kv_lens=on_gpu(torch.ones(2, dtype=torch.int32)))
    made.launch(call)
    assert set(fake.names()) <= ONCE | EVERY_CALL | {"cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"}
    fake.calls.clear()
    made.launch(call)
    assert set(fake.names()) == EVERY_CALL


@pytest.mark.parametrize("layout", ["nhd", "hnd"])
def test_strides_follow_the_layout(fake: FakeDriver, layout: str) -> None:
    made = kernel("causal")
    made.launch(inputs(layout))
    words = sent(made, fake)
    token, head = (4 * 64, 64) if layout == "nhd" else (64, 5 * 64)
    assert [words[f"launch.q_stride.{axis}"] for axis in ("batch", "head", "token")] == [5 * 4 * 64, head, token]
    assert (words["launch.group"], words["launch.max_qo_len"], words["launch.max_kv_len"]) == (2, 5, 9)
    assert words["launch.lse"] == 0


def test_defaults_of_scale_and_starts(fake: FakeDriver) -> None:
    made = kernel("causal")
    made.launch(inputs())
    words = sent(made, fake)
    assert words["launch.sm_scale.value"] == pytest.approx(0.125)
    assert (words["launch.explicit_q_start"], words["launch.q_starts"], words["launch.k_starts"]) == (0, 0, 0)


def test_given_starts_and_scales(fake: FakeDriver) -> None:
    made = kernel("causal")
    starts, scales = on_gpu(torch.tensor([3, 4], dtype=torch.int32)), on_gpu(torch.tensor([0.5, 2.0]))
    made.launch(inputs(q_start=0, k_start=7, sm_scale=2.0))
    words = sent(made, fake)
    assert (words["launch.explicit_q_start"], words["launch.q_start"], words["launch.k_start"]) == (1, 0, 7)
    assert words["launch.sm_scale.value"] == 2.0
    made.launch(inputs(q_start=starts, k_start=starts, sm_scale=scales))
    words = sent(made, fake)
    assert (words["launch.q_starts"], words["launch.k_starts"]) == (starts.pointer, starts.pointer)
    assert words["launch.sm_scale.data"] == scales.pointer


def test_a_variant_with_a_scale_of_its_own_is_told_that_none_was_given(fake: FakeDriver, tmp_path: Path) -> None:
    path = tmp_path / "scaled.attn"
    path.write_text("variant scaled(s: f32[num_heads]) { sm_scale = s[h] }")
    variant = attncc.load(path).scaled.definition.instantiate({})
    made = launch.Kernel(compile_variant(variant, KernelSpec("sm_90a", "bf16", 64)), driver.device(0))
    scales = on_gpu(torch.ones(4))
    made.launch(inputs(captures={"s": scales}))
    assert math.isnan(sent(made, fake)["launch.sm_scale.value"])
    made.launch(inputs(captures={"s": scales}, sm_scale=0.5))
    assert sent(made, fake)["launch.sm_scale.value"] == 0.5


def test_parameters_and_captured_tensors(fake: FakeDriver) -> None:
    made = kernel("longformer")
    flags = on_gpu(torch.zeros(9, 4, dtype=torch.bool)[:, ::2].T)
    made.launch(inputs(params={"w": 11}, captures={"is_global": flags}))
    words = sent(made, fake)
    assert (words["w.value"], words["w.data"]) == (11, 0)
    assert words["is_global.data"] == flags.pointer
    assert [words[f"is_global.extent[{axis}]"] for axis in (0, 1)] == [2, 9]
    assert [words[f"is_global.stride[{axis}]"] for axis in (0, 1)] == [2, 4]
    per_request = on_gpu(torch.tensor([1, 2], dtype=torch.int32))
    made.launch(inputs(params={"w": per_request}, captures={"is_global": flags}))
    assert sent(made, fake)["w.data"] == per_request.pointer


def test_a_slot_is_reused_once_its_copy_is_done_and_never_waited_for(fake: FakeDriver) -> None:
    made = kernel("causal")
    for _ in range(3 * driver.SLOTS_A_CHUNK):
        made.launch(inputs())
    assert fake.times("cuMemHostAlloc") == 1
    fake.event_done = False  # the device is far behind
    for _ in range(2 * driver.SLOTS_A_CHUNK):
        made.launch(inputs())
    assert fake.times("cuMemHostAlloc") == 3
    slots = {arguments[1] for name, arguments in fake.calls if name == "cuMemcpyHtoDAsync"}
    assert len(slots) == 2 * driver.SLOTS_A_CHUNK + 1


def test_what_a_graph_captured_is_never_overwritten(fake: FakeDriver) -> None:
    made = kernel("causal")
    fake.capturing = 1
    made.launch(inputs(q_start=5))
    assert "cuEventRecord" not in fake.names()
    captured = next(arguments[1] for name, arguments in fake.calls if name == "cuMemcpyHtoDAsync")
    before = ctypes.string_at(captured, made.packer.size)
    fake.capturing = 0
    for _ in range(3 * driver.SLOTS_A_CHUNK):
        made.launch(inputs(q_start=6))
    assert ctypes.string_at(captured, made.packer.size) == before


def test_a_failed_driver_call_is_named(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    made = kernel("causal")

    class Status(int):
        name = "CUDA_ERROR_ILLEGAL_ADDRESS"

    monkeypatch.setattr(fake, "cuLaunchKernel", lambda *arguments: (Status(700),), raising=False)
    with pytest.raises(attncc.AttnccError, match="CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
        made.launch(inputs())
    assert caught.value.code == "A1013"
    assert fake.times("cuCtxPushCurrent") == fake.times("cuCtxPopCurrent")


@pytest.mark.parametrize(
    ("shape", "offset", "what"),
    [((2, 5, 4, 65), 0, "stride is 130 bytes"), ((2, 5, 4, 64), 1, "starts 2 bytes past")],
)
def test_rows_that_are_not_aligned_are_refused(
    fake: FakeDriver, shape: tuple[int, ...], offset: int, what: str
) -> None:
    buffer = torch.empty(math.prod(shape) + offset, dtype=torch.bfloat16)
    while buffer.data_ptr() % 16:
        buffer = torch.empty(math.prod(shape) + offset, dtype=torch.bfloat16)
    q = on_gpu(buffer[offset:].view(shape)[..., :64])
    with pytest.raises(CallError, match=what) as caught:
        kernel("causal").launch(inputs(q=q))
    assert caught.value.code == "A0840"


def test_a_batch_past_the_grid_is_refused() -> None:
    with pytest.raises(CallError, match="A0844"):
        launch.check_grid(Shapes(70_000, 4, 4, 64, 64, 1, 1), (1, 4, 70_000))
    with pytest.raises(CallError, match="A0844"):
        launch.check_grid(Shapes(1, 8, 1, 64, 64, 2**29, 1), (2**25, 1, 1))


def test_the_block_packs_every_word_at_its_offset() -> None:
    abi = compile_variant(
        attncc.load(EXAMPLES / "t5_bias.attn").t5_bias.definition.instantiate({}), KernelSpec("sm_90a", "bf16", 64)
    ).manifest.abi
    values = {word.name: position + 1 for position, word in enumerate(abi.words)}
    data = Packer(abi).pack(values)
    assert len(data) == abi.size
    kinds = {"ptr": ctypes.c_uint64, "i64": ctypes.c_int64, "i32": ctypes.c_int32, "u32": ctypes.c_uint32}
    for word in abi.words:
        kind = kinds.get(word.ctype, ctypes.c_float)
        assert kind.from_buffer_copy(data, word.offset).value == values[word.name]
    with pytest.raises(KeyError):
        Packer(abi).pack({"launch.unknown": 1})
