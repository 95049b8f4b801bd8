"""Launching, with a driver that only writes down what it is asked: the words of the block, and that nothing waits."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import attncc
from attncc.artifact import MAP_BYTES, LaunchRule
from attncc.codegen.compile import KernelSpec, compile_variant
from attncc.codegen.emit import intervals
from attncc.codegen.select import MAX_HEAD_DIM
from attncc.diagnostics import CallError, UnsupportedError
from attncc.runtime import api, calls, checks, descriptors, driver, lanes, launch, plan, splits, tensors
from attncc.runtime.block import Packer
from attncc.runtime.layouts import LAYOUTS, MAX_LEN, MAX_START, RAGGED, Shapes
from attncc.runtime.splits import Splits
from attncc.runtime.tensors import View, view

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# What a call may ask of the driver. None of these waits for the caller's stream; loading happens before the first
# launch, and memory for counters is there for many streams and captured launches.
ONCE = {"cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuModuleLoadData", "cuModuleGetFunction"}
ONCE |= {
    "cuTensorMapEncodeTiled",
    "cuFuncSetAttribute",
    "cuMemAlloc",
    "cuMemsetD8Async",
    "cuStreamCreate",
    "cuStreamDestroy",
    "cuStreamSynchronize",
    "cuThreadExchangeStreamCaptureMode",
}
EVERY_CALL = {"cuCtxGetCurrent", "cuStreamGetId", "cuStreamIsCapturing", "cuLaunchKernelEx"}
ELSEWHERE = {"cuCtxPushCurrent", "cuCtxPopCurrent"}  # where the device's context is not current
CONTEXT = 1234


class FakeDriver:
    """Answers like the driver of one GPU. ``blocks``: what each launch had for an argument, as the driver copies it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.capturing = 0
        self.stream_id = 5
        self.blocks: list[bytes] = []
        self.allocated: list[Any] = []
        self.CUdevice_attribute = SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR="major",
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR="minor",
            CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT="sms",
        )
        self.CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="smem")
        self.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED="relaxed")
        self.CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
        self.CUlaunchAttribute = lambda: SimpleNamespace(value=SimpleNamespace())
        self.CUlaunchAttributeID = SimpleNamespace(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION="early")
        self.CUdeviceptr = self.CUstream = self.cuuint64_t = self.cuuint32_t = int
        self.CUtensorMapDataType = SimpleNamespace(
            CU_TENSOR_MAP_DATA_TYPE_BFLOAT16="bf16", CU_TENSOR_MAP_DATA_TYPE_FLOAT16="f16"
        )
        self.CUtensorMapSwizzle = SimpleNamespace(
            **{f"CU_TENSOR_MAP_SWIZZLE_{kind}": kind for kind in ("NONE", "32B", "64B", "128B")}
        )
        self.CUtensorMapInterleave = SimpleNamespace(CU_TENSOR_MAP_INTERLEAVE_NONE="no interleave")
        self.CUtensorMapL2promotion = SimpleNamespace(CU_TENSOR_MAP_L2_PROMOTION_L2_256B="256B")
        self.CUtensorMapFloatOOBfill = SimpleNamespace(CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE="zeros")
        self.CUresult = SimpleNamespace(CUDA_ERROR_INVALID_VALUE=1)
        self.refuses_maps = False
        self.CUlaunchConfig = SimpleNamespace
        self.current = CONTEXT

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            return (0, *self.answer(name, arguments))

        return call

    def answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if name == "cuDeviceGetAttribute":
            return ({"major": 9, "minor": 0, "sms": 132}[arguments[0]],)
        if name == "cuDevicePrimaryCtxRetain":
            return (CONTEXT,)
        if name == "cuCtxGetCurrent":
            return (self.current,)
        if name == "cuStreamIsCapturing":
            return (self.capturing,)
        if name == "cuStreamGetId":
            assert not self.capturing  # CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            return (self.stream_id,)
        if name == "cuMemAlloc":
            self.allocated.append(ctypes.create_string_buffer(b"\xff" * arguments[0]))
            return (ctypes.addressof(self.allocated[-1]),)
        if name == "cuMemsetD8Async":
            ctypes.memset(arguments[0], arguments[1], arguments[2])
        if name == "cuTensorMapEncodeTiled":  # a descriptor that says for which address it was made
            made = ctypes.create_string_buffer(struct.pack("<Q", arguments[2]) * 16, 128)
            return (SimpleNamespace(getPtr=lambda: ctypes.addressof(made), keep=made),)
        if name == "cuLaunchKernelEx":
            block = ctypes.c_void_p.from_address(arguments[2]).value or 0
            self.blocks.append(ctypes.string_at(block, lanes.BLOCK_BYTES))
        return (f"a {name}",)

    def cuTensorMapEncodeTiled(self, *arguments: Any) -> tuple[Any, ...]:
        self.calls.append(("cuTensorMapEncodeTiled", arguments))
        return (1, None) if self.refuses_maps else (0, *self.answer("cuTensorMapEncodeTiled", arguments))

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def times(self, name: str) -> int:
        return self.names().count(name)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    made = FakeDriver()
    for module in (driver, plan, lanes, descriptors):
        monkeypatch.setattr(module, "bindings", lambda: made)
    library = tensors.library_named("torch")
    on_host = replace(
        library,
        empty=lambda shape, dtype, device: torch.empty(shape, dtype=dtype),
        stream=lambda device: STREAM,
        signature=lambda array: (array.shape, array.stride(), array.dtype, array.get_device(), array.requires_grad),
    )
    monkeypatch.setattr(tensors, "_torch_library", lambda: on_host)
    monkeypatch.setattr(launch, "_lanes", {})
    monkeypatch.setattr(launch, "_kernels", {})
    monkeypatch.setattr(calls, "_plans", {})
    tensors.library.cache_clear()
    driver.device.cache_clear()
    yield made
    driver.device.cache_clear()
    tensors.library.cache_clear()


STREAM = 77


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
    given = dict.fromkeys(("lse", "sm_scale", "q_start", "k_start", "qo_lens", "kv_lens", "qo_indptr", "kv_indptr"))
    base = launch.Inputs(place, place, shapes, q, k, v, out, **given, params={}, captures={})
    return replace(base, **changes)


def kernel(name: str) -> launch.Kernel:
    (only,) = module = attncc.load(EXAMPLES / f"{name}.attn")
    variant = module[only].definition.instantiate({})
    return launch.Kernel(compile_variant(variant, KernelSpec("sm_90a", "bf16", 64)), driver.device(0))


def run(made: launch.Kernel, call: launch.Inputs, *, splits: Splits | None = None, partial: bool = False) -> Any:
    """Plan a checked call and launch it."""
    return again(prepare(made, call, splits=splits, partial=partial), call)


def prepare(
    made: launch.Kernel, call: launch.Inputs, *, splits: Splits | None = None, partial: bool = False
) -> plan.Plan:
    return plan.Plan(None, made, tensors.library_named("torch"), call, splits or Splits(1, 9), partial=partial)


def again(prepared: plan.Plan, call: launch.Inputs) -> Any:
    """A launch of a plan."""
    arrays = {name: value.array if isinstance(value, View) else value for name, value in call.params.items()}
    captures = {name: value.array for name, value in call.captures.items()}
    out = None if call.out is None or prepared.partial else call.out.array
    return prepared.run(call.q.array, call.k.array, call.v.array, out, call.given(), arrays, captures)


def sent(made: launch.Kernel, fake: FakeDriver) -> dict[str, int | float]:
    """The words of the block that the last launch had."""
    packer = made.packer
    values = packer.struct.unpack(fake.blocks[-1][: packer.size])
    return {name: values[position] for name, position in packer.index.items()}


def started(fake: FakeDriver) -> list[Any]:
    """The configurations of the launches, in order."""
    return [arguments[0] for name, arguments in fake.calls if name == "cuLaunchKernelEx"]


def items(rule: LaunchRule, **words: int) -> tuple[int, int, int]:
    """The grid that a rule gives for fewer items than a GPU runs blocks at once."""
    x, y, z = rule.grid_of(words)
    return (x * y * z, 1, 1) if rule.persistent else (x, y, z)


def test_a_launch_is_of_the_grid_and_stream_and_may_begin_early(fake: FakeDriver) -> None:
    made = kernel("causal")
    run(made, inputs())
    config, _, _, extra = next(arguments for name, arguments in fake.calls if name == "cuLaunchKernelEx")
    rule = made.artifact.manifest.launch
    assert extra == 0
    grid = items(rule, max_qo_len=5, group=2, num_kv_heads=2, batch=2)
    assert (config.gridDimX, config.gridDimY, config.gridDimZ) == grid
    assert (config.blockDimX, config.sharedMemBytes, config.hStream) == (rule.threads, rule.smem, STREAM)
    assert (config.numAttrs, config.attrs[0].id) == (1, "early")
    assert config.attrs[0].value.programmaticStreamSerializationAllowed == 1


def test_nothing_a_call_asks_of_the_driver_waits(fake: FakeDriver) -> None:
    made = kernel("gemma2")
    call = inputs(params={"softcap": on_gpu(torch.ones(2)), "w": 4}, kv_lens=on_gpu(torch.ones(2, dtype=torch.int32)))
    prepared = prepare(made, call)
    again(prepared, call)
    assert set(fake.names()) <= ONCE | EVERY_CALL | ELSEWHERE
    fake.calls.clear()
    again(prepared, call)
    assert set(fake.names()) == EVERY_CALL


def test_a_thread_without_the_context_gets_it_for_the_launch(fake: FakeDriver) -> None:
    call = inputs()
    prepared = prepare(kernel("causal"), call)
    again(prepared, call)
    fake.calls.clear()
    fake.current = 0
    again(prepared, call)
    assert fake.names()[1] == "cuCtxPushCurrent"
    assert fake.names()[-1] == "cuCtxPopCurrent"


@pytest.mark.parametrize("layout", ["nhd", "hnd"])
def test_strides_follow_the_layout(fake: FakeDriver, layout: str) -> None:
    made = kernel("causal")
    run(made, inputs(layout))
    words = sent(made, fake)
    token, head = (4 * 64, 64) if layout == "nhd" else (64, 5 * 64)
    assert [words[f"launch.q_stride.{axis}"] for axis in ("batch", "head", "token")] == [5 * 4 * 64, head, token]
    assert (words["launch.group"], words["launch.max_qo_len"], words["launch.max_kv_len"]) == (2, 5, 9)
    assert words["launch.lse"] == 0


def test_defaults_of_scale_and_starts(fake: FakeDriver) -> None:
    made = kernel("causal")
    run(made, inputs())
    words = sent(made, fake)
    assert words["launch.sm_scale.value"] == pytest.approx(0.125)
    assert (words["launch.explicit_q_start"], words["launch.q_starts"], words["launch.k_starts"]) == (0, 0, 0)


def test_given_starts_and_scales(fake: FakeDriver) -> None:
    made = kernel("causal")
    starts, scales = on_gpu(torch.tensor([3, 4], dtype=torch.int32)), on_gpu(torch.tensor([0.5, 2.0]))
    run(made, inputs(q_start=0, k_start=7, sm_scale=2.0))
    words = sent(made, fake)
    assert (words["launch.explicit_q_start"], words["launch.q_start"], words["launch.k_start"]) == (1, 0, 7)
    assert words["launch.sm_scale.value"] == 2.0
    run(made, inputs(q_start=starts, k_start=starts, sm_scale=scales))
    words = sent(made, fake)
    assert (words["launch.q_starts"], words["launch.k_starts"]) == (starts.pointer, starts.pointer)
    assert words["launch.sm_scale.data"] == scales.pointer


def test_a_variant_with_a_scale_of_its_own_is_told_that_none_was_given(fake: FakeDriver, tmp_path: Path) -> None:
    path = tmp_path / "scaled.attn"
    path.write_text("variant scaled(s: f32[num_heads]) { sm_scale = s[h] }")
    variant = attncc.load(path).scaled.definition.instantiate({})
    made = launch.Kernel(compile_variant(variant, KernelSpec("sm_90a", "bf16", 64)), driver.device(0))
    scales = on_gpu(torch.ones(4))
    run(made, inputs(captures={"s": scales}))
    assert math.isnan(sent(made, fake)["launch.sm_scale.value"])
    run(made, inputs(captures={"s": scales}, sm_scale=0.5))
    assert sent(made, fake)["launch.sm_scale.value"] == 0.5


def test_parameters_and_captured_tensors(fake: FakeDriver) -> None:
    made = kernel("longformer")
    flags = on_gpu(torch.zeros(9, 4, dtype=torch.bool)[:, ::2].T)
    run(made, inputs(params={"w": 11}, captures={"is_global": flags}))
    words = sent(made, fake)
    assert (words["w.value"], words["w.data"]) == (11, 0)
    assert words["is_global.data"] == flags.pointer
    assert [words[f"is_global.extent[{axis}]"] for axis in (0, 1)] == [2, 9]
    assert [words[f"is_global.stride[{axis}]"] for axis in (0, 1)] == [2, 4]
    per_request = on_gpu(torch.tensor([1, 2], dtype=torch.int32))
    run(made, inputs(params={"w": per_request}, captures={"is_global": flags}))
    assert sent(made, fake)["w.data"] == per_request.pointer


def test_launches_of_a_stream_share_counters_and_captured_ones_share_none(fake: FakeDriver) -> None:
    made, call = kernel("causal"), inputs()

    def counters() -> int:
        run(made, call)
        return int(sent(made, fake)["launch.counters"])

    own = counters()
    assert counters() == own
    fake.stream_id = 6  # the same handle, another stream
    assert counters() != own
    fake.capturing = 1
    captured = [counters() for _ in range(lanes.COUNTERS_A_CHUNK + 2)]
    assert len({own, *captured}) == len(captured) + 1
    assert fake.times("cuMemAlloc") == 2
    chunks = [ctypes.addressof(memory) for memory in fake.allocated]
    size = lanes.COUNTERS_BYTES * lanes.COUNTERS_A_CHUNK
    assert all(any(chunk <= place <= chunk + size - 8 for chunk in chunks) for place in (own, *captured))
    assert ctypes.string_at(own, 8) == bytes(8)


def test_calls_do_not_disturb_what_earlier_launches_had(fake: FakeDriver) -> None:
    made = kernel("causal")
    run(made, inputs(q_start=5))
    before = fake.blocks[-1]
    run(made, inputs(q_start=6))
    assert fake.blocks[0] == before != fake.blocks[1]


def test_a_failed_driver_call_is_named(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    made = kernel("causal")

    class Status(int):
        name = "CUDA_ERROR_ILLEGAL_ADDRESS"

    fake.current = 0
    monkeypatch.setattr(fake, "cuLaunchKernelEx", lambda *arguments: (Status(700),), raising=False)
    with pytest.raises(attncc.AttnccError, match="CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
        run(made, inputs())
    assert caught.value.code == "A1013"
    assert fake.times("cuCtxPushCurrent") == fake.times("cuCtxPopCurrent")


def test_splits_are_launched_then_merged(fake: FakeDriver) -> None:
    made = kernel("causal")
    run(made, inputs(), splits=Splits(3, 64))
    words, (main, merge) = sent(made, fake), started(fake)
    manifest = made.artifact.manifest
    assert manifest.merge is not None
    assert (words["launch.num_splits"], words["launch.split_cols"], words["launch.split_tokens"]) == (3, 64, 10)
    assert words["launch.split_out"] != 0
    assert words["launch.merged_out"] == 0
    assert main.gridDimX == 3 * items(manifest.launch, max_qo_len=5, group=2, num_kv_heads=2, batch=2)[0]
    assert merge.gridDimX == manifest.merge.grid_of({"max_qo_len": 5, "num_heads": 4, "batch": 2})[0]


@pytest.mark.parametrize("count", [1, 3])
def test_a_partial_call_leaves_a_state(fake: FakeDriver, count: int) -> None:
    made = kernel("causal")
    result = run(made, inputs(out=None), splits=Splits(count, 64), partial=True)
    words = sent(made, fake)
    places = result.acc.data_ptr(), result.state.data_ptr()
    written = "split_out", "split_state"
    assert len(started(fake)) == (1 if count == 1 else 2)
    if count > 1:
        written = "merged_out", "merged_state"
        assert words["launch.split_out"] not in (0, places[0])
    assert tuple(words[f"launch.{name}"] for name in written) == places
    assert result.acc.shape == (10, 4, 64)
    assert result.state.shape == (10, 4, 2)


# Descriptors -------------------------------------------------------------------------------------------------------


def sent_maps(made: launch.Kernel, fake: FakeDriver) -> list[bytes]:
    """The descriptors in the block that the last launch had."""
    return [fake.blocks[-1][item.offset : item.offset + MAP_BYTES] for item in made.artifact.manifest.abi.maps]


def of_address(address: int) -> bytes:
    return struct.pack("<Q", address) * 16


def encoded(fake: FakeDriver) -> list[tuple[Any, ...]]:
    return [arguments for name, arguments in fake.calls if name == "cuTensorMapEncodeTiled"]


@pytest.mark.parametrize("layout", ["nhd", "hnd"])
def test_descriptors_of_keys_and_values_travel_in_the_block(fake: FakeDriver, layout: str) -> None:
    made, call = kernel("causal"), inputs(layout)
    run(made, call)
    assert sent_maps(made, fake) == [of_address(call.k.pointer), of_address(call.v.pointer)]
    assert sent(made, fake)["launch.max_kv_len"] == 9  # the words are where they were
    token, head = (2 * 64 * 2, 64 * 2) if layout == "nhd" else (64 * 2, 9 * 64 * 2)
    width = made.artifact.manifest.tile["block_n"]
    for arguments, operand in zip(encoded(fake), (call.k, call.v), strict=True):
        assert arguments[:3] == ("bf16", 4, operand.pointer)
        sizes, strides, box, steps = ([int(number) for number in part] for part in arguments[3:7])
        assert (sizes, strides) == ([64, 9, 2, 2], [token, head, 9 * 2 * 64 * 2])
        assert (box, steps) == ([64, width, 1, 1], [1, 1, 1, 1])
        assert arguments[7:] == ("no interleave", "128B", "256B", "zeros")


def test_descriptors_are_made_once_an_address(fake: FakeDriver) -> None:
    made, call = kernel("causal"), inputs()
    prepared = prepare(made, call)
    for _ in range(3):
        again(prepared, call)
    assert len(encoded(fake)) == 2
    others = [replace(call, k=on_gpu(torch.zeros_like(call.k.array))) for _ in range(3)]
    for other in (*others, *others, call):
        again(prepared, other)
        assert sent_maps(made, fake) == [of_address(other.k.pointer), of_address(call.v.pointer)]
    assert len(encoded(fake)) == 2 + 2 * len(others)
    again(prepared, replace(call, q=on_gpu(torch.zeros_like(call.q.array))))  # nobody copies through a descriptor of it
    assert len(encoded(fake)) == 2 + 2 * len(others)


def test_more_addresses_than_are_kept_are_made_again(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "KEPT", 2)
    made, call = kernel("causal"), inputs()
    prepared = prepare(made, call)
    others = [replace(call, v=on_gpu(torch.zeros_like(call.v.array))) for _ in range(5)]
    for other in (*others, *others):
        again(prepared, other)
        assert sent_maps(made, fake) == [of_address(call.k.pointer), of_address(other.v.pointer)]


def test_keys_of_no_element_are_described_by_16_bytes_of_the_query(fake: FakeDriver) -> None:
    """An item without tiles asks for one all the same, and the copy engine stops at a descriptor that is none."""
    none = on_gpu(torch.zeros(2, 0, 2, 64, dtype=torch.bfloat16))
    made = kernel("causal")
    call = inputs(k=none, v=none, shapes=Shapes(2, 4, 2, 64, 64, 5, 0))
    run(made, call)
    assert sent_maps(made, fake) == [of_address(call.q.pointer)] * 2
    for arguments in encoded(fake):
        assert [[int(number) for number in part] for part in arguments[3:5]] == [[8, 1, 1, 1], [16, 16, 16]]


def family_of(call: launch.Inputs, options: calls.Options = calls.Options()) -> str:  # noqa: B008
    made = calls.prepared(calls.plain(), options, call, calls.Wanted(), None)
    return made.kernel.artifact.manifest.family


def test_storage_that_no_descriptor_says_goes_to_the_portable_family(fake: FakeDriver) -> None:
    call = inputs()
    assert family_of(call) == "wgmma_sm90"
    backwards = replace(call.k, strides=(*(-stride for stride in call.k.strides[:3]), 1))
    assert family_of(replace(call, k=backwards)) == "mma_sm80"
    assert family_of(call, calls.Options(family="mma_sm80")) == "mma_sm80"
    with pytest.raises(UnsupportedError, match="strides that no TMA descriptor has") as caught:
        family_of(replace(call, k=backwards), calls.Options(family="wgmma_sm90"))
    assert caught.value.code == "A0704"


def test_the_driver_has_the_last_word_on_what_it_describes(fake: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
    fake.refuses_maps = True
    assert family_of(inputs()) == "mma_sm80"
    assert "no TMA descriptor of" in caplog.text


def test_a_persistent_kernel_gets_as_many_blocks_as_run_at_once(fake: FakeDriver) -> None:
    artifact = kernel("causal").artifact
    rule = replace(artifact.manifest.launch, persistent=True)
    made = launch.Kernel(replace(artifact, manifest=replace(artifact.manifest, launch=rule)), driver.device(0))
    run(made, inputs())
    run(made, inputs(), splits=Splits(100, 64))
    grids = [(c.gridDimX, c.gridDimY, c.gridDimZ) for c in started(fake)]
    assert grids[:2] == [(4, 1, 1), (132, 1, 1)]  # a tile for 2 KV heads of 2 requests; SMs


def test_one_value_for_all_requests_is_repeated_on_the_device(fake: FakeDriver) -> None:
    made = kernel("gemma2")
    run(made, inputs(params={"softcap": on_gpu(torch.tensor(3.0)), "w": 4}, sm_scale=on_gpu(torch.tensor(0.5))))
    words = sent(made, fake)
    for name in ("softcap.data", "launch.sm_scale.data"):
        assert words[name] != 0


def test_ragged_batches(fake: FakeDriver) -> None:
    made = kernel("documents")
    shapes = Shapes(3, 4, 2, 64, 64, 5, 9, 12, 20)
    place = RAGGED["nhd"]
    q, k, v, out = (
        on_gpu(torch.zeros(tokens, heads, 64, dtype=torch.bfloat16))
        for tokens, heads in ((12, 4), (20, 2), (20, 2), (12, 4))
    )
    qo, kv, doc = (on_gpu(torch.zeros(n, dtype=torch.int32)) for n in (4, 4, 20))
    ragged: dict[str, Any] = {"layout": place, "kv_layout": place, "shapes": shapes, "q": q, "k": k, "v": v, "out": out}
    run(made, replace(inputs(), **ragged, qo_indptr=qo, kv_indptr=kv, captures={"doc": doc}))
    words = sent(made, fake)
    assert (words["launch.qo_indptr"], words["launch.kv_indptr"]) == (qo.pointer, kv.pointer)
    assert [words[f"launch.q_stride.{axis}"] for axis in ("batch", "head", "token")] == [0, 64, 256]
    assert (words["launch.batch"], words["launch.max_qo_len"], words["launch.split_tokens"]) == (3, 5, 12)
    assert (words["doc.indptr"], words["doc.extent[0]"], words["doc.stride[1]"]) == (kv.pointer, 3, 1)


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
        run(kernel("causal"), inputs(q=q))
    assert caught.value.code == "A0840"


def test_a_batch_past_the_grid_is_refused() -> None:
    with pytest.raises(CallError, match="A0844"):
        launch.check_grid(Shapes(70_000, 4, 4, 64, 64, 1, 1), (1, 4, 70_000))
    with pytest.raises(CallError, match="A0844"):
        launch.check_grid(Shapes(1, 8, 1, 64, 64, 2**28 - 1, 1), (2**25, 1, 1))


def test_more_tiles_than_a_kernel_counts_are_refused() -> None:
    shapes = Shapes(2**15, 8, 8, 64, 64, 2**24, 9, 2**24, 2**24)
    launch.check_grid(shapes, (2**13, 8, 2**15))
    with pytest.raises(CallError, match="give `max_qo_len`") as caught:
        launch.check_grid(shapes, (2**17, 8, 2**15))
    assert caught.value.code == "A0844"


@pytest.mark.parametrize("shapes", [Shapes(1, 1, 1, 64, 64, 1, 2**28), Shapes(1, 2**15, 1, 64, 64, 1, 1)], ids=str)
def test_what_kernels_take_for_granted_is_checked(shapes: Shapes) -> None:
    """The emitter leaves out wrap-around where these limits exclude it."""
    with pytest.raises(CallError, match="too large for a kernel") as caught:
        launch.check_grid(shapes, (1, 1, 1))
    assert caught.value.code == "A0844"
    launch.check_grid(Shapes(1, 2**14, 1, 64, 64, 1, MAX_LEN), (1, 1, 1))
    assert (MAX_LEN, MAX_START) == (intervals.LENGTH - 1, intervals.START)
    assert MAX_HEAD_DIM <= intervals.CHANNELS


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


# Whole calls ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def everywhere_gpu(fake: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """Every tensor says it is on a GPU, so that public calls reach the fake driver."""

    def seen(value: object, name: str) -> View:
        return replace(view(value, name), device="cuda:0")

    for module in (tensors, checks):
        monkeypatch.setattr(module, "view", seen)
    return fake


def count_checks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    found: list[None] = []
    original = calls.checked

    def counted(*arguments: Any) -> launch.Inputs:
        found.append(None)
        return original(*arguments)

    monkeypatch.setattr(api, "checked", counted)
    return found


def qkv(length: int = 9, dim: int = 64) -> Any:
    return [torch.zeros(2, n, heads, dim, dtype=torch.bfloat16) for n, heads in ((5, 4), (length, 2), (length, 2))]


def test_a_call_like_an_earlier_one_is_not_checked_again(
    everywhere_gpu: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = count_checks(monkeypatch)
    gemma2 = attncc.load(EXAMPLES / "gemma2.attn").gemma2
    arrays = qkv()
    for cap in (1.0, 2.0, 3.0):
        attncc.attention(*arrays, gemma2(softcap=cap, w=int(cap)), sm_scale=cap, return_lse=True)
    assert len(found) == 1
    assert everywhere_gpu.times("cuLaunchKernelEx") == 3
    (made,) = launch._kernels.values()
    words = sent(made, everywhere_gpu)
    assert (words["softcap.value"], words["w.value"], words["launch.sm_scale.value"]) == (3.0, 3, 3.0)
    attncc.attention(*qkv(), gemma2(softcap=1.0, w=1), sm_scale=1.0, return_lse=True)  # other addresses
    assert len(found) == 1
    attncc.attention(*qkv(10), gemma2(softcap=1.0, w=1), sm_scale=1.0, return_lse=True)
    assert len(found) == 2
    assert len(launch._kernels) == 1


def test_an_empty_call_launches_nothing_however_often(everywhere_gpu: FakeDriver) -> None:
    q, k, v = qkv()
    for _ in range(3):
        out, lse = attncc.attention(q[:, :0], k, v, return_lse=True)
        assert (out.shape, lse.shape) == ((2, 0, 4, 64), (2, 0, 4))
    assert everywhere_gpu.times("cuLaunchKernelEx") == 0


def test_a_repeated_call_returns_what_the_first_one_did(everywhere_gpu: FakeDriver) -> None:
    for wanted in ({"return_emits": True}, {"return_emits": True, "return_lse": True}, {"return_lse": True}):
        first, second = (attncc.attention(*qkv(), **wanted) for _ in range(2))
        assert [type(part) for part in first] == [type(part) for part in second]
    first, second = (attncc.attention(*qkv(), partial=True) for _ in range(2))
    assert first.acc.shape == second.acc.shape


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("A0843", {"sm_scale": float("nan")}),
        ("A0842", {"q_start": -1}),
        ("A0842", {"k_start": 2**31}),
        ("A0854", {"num_splits": 0}),
    ],
)
def test_a_bad_value_is_told_from_a_good_one_of_its_type(
    everywhere_gpu: FakeDriver, code: str, change: dict[str, Any]
) -> None:
    good: dict[str, Any] = {"sm_scale": 1.0, "q_start": 3, "k_start": 3, "num_splits": 2}
    passing: dict[str, Any] = {name: good[name] for name in change}
    attncc.attention(*qkv(), **passing)
    before = everywhere_gpu.times("cuLaunchKernelEx")
    with pytest.raises(CallError) as caught:
        attncc.attention(*qkv(), **change)
    assert caught.value.code == code
    assert everywhere_gpu.times("cuLaunchKernelEx") == before


def test_an_output_that_overlaps_is_told_from_one_that_does_not(everywhere_gpu: FakeDriver) -> None:
    q, k, v = qkv()
    out = torch.empty_like(q)
    attncc.attention(q, k, v, out=out)
    with pytest.raises(CallError, match="A0841"):
        attncc.attention(q, k, v, out=q)


def test_rows_off_alignment_are_told_from_aligned_ones(everywhere_gpu: FakeDriver) -> None:
    q, k, v = qkv()
    buffer = torch.zeros(q.numel() + 64, dtype=torch.bfloat16)
    skip = -buffer.data_ptr() // 2 % 8
    attncc.attention(buffer[skip : skip + q.numel()].view(q.shape), k, v)
    with pytest.raises(CallError, match="A0840"):
        attncc.attention(buffer[skip + 1 : skip + 1 + q.numel()].view(q.shape), k, v)


def test_a_gradient_is_seen_in_a_call_like_an_earlier_one(everywhere_gpu: FakeDriver) -> None:
    q, k, v = qkv()
    attncc.attention(q, k, v)
    with pytest.raises(CallError, match="A0838"):
        attncc.attention(q.requires_grad_(), k, v)


def test_a_requirement_is_checked_for_every_value(everywhere_gpu: FakeDriver, tmp_path: Path) -> None:
    path = tmp_path / "capped.attn"
    path.write_text('variant capped(c: f32) {\n require c > 0.0, "a positive cap"\n logits = c * tanh(score / c)\n}')
    capped = attncc.load(path).capped
    attncc.attention(*qkv(), capped(c=2.0))
    with pytest.raises(CallError, match="A0812"):
        attncc.attention(*qkv(), capped(c=-2.0))


# How keys are split --------------------------------------------------------------------------------------------------

H200 = {"block_m": 128, "block_n": 64, "blocks": 132}


@pytest.mark.parametrize(
    ("shapes", "count"),
    [
        (Shapes(64, 32, 8, 128, 128, 1, 4096), 1),  # 512 blocks fill the GPU
        (Shapes(1, 32, 8, 128, 128, 1, 131072), 16),  # 8 blocks: 16 parts
        (Shapes(1, 8, 8, 128, 128, 1, 512), 2),  # two parts of four tiles
        (Shapes(1, 8, 8, 128, 128, 1, 256), 1),
        (Shapes(4, 32, 8, 128, 128, 2048, 2048), 1),
        (Shapes(16, 32, 8, 128, 128, 16, 32768, 16, 200_000), 1),  # ragged decode of 16 requests: 128 blocks
        (Shapes(2, 32, 8, 128, 128, 2, 32768, 2, 60_000), 8),  # of two: 16 blocks
    ],
)
def test_keys_are_split_where_the_batch_does_not_fill_the_gpu(shapes: Shapes, count: int) -> None:
    found = splits.choose(shapes, **H200)
    assert found.count == count
    assert found.cols % 64 == 0
    assert (found.count - 1) * found.cols < shapes.kv_len <= found.count * found.cols


def test_the_number_of_parts_can_be_given() -> None:
    shapes = Shapes(64, 32, 8, 128, 128, 1, 1000)
    assert splits.choose(shapes, **H200, wanted=3) == Splits(3, 384)
    assert splits.choose(shapes, **H200, wanted=1000) == Splits(16, 64)
    assert splits.choose(Shapes(2, 4, 4, 64, 64, 3, 0), **H200, wanted=2) == Splits(1, 64)
