"""Launching a kernel: an artifact on a device, its parameter block filled from a call. Never knows the IR."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attncc.artifact import Artifact
from attncc.diagnostics import CallError
from attncc.runtime import tensors
from attncc.runtime.block import Packer
from attncc.runtime.driver import Device, Function, device
from attncc.runtime.layouts import Padded, Shapes
from attncc.runtime.tensors import View

PerRequest = int | View | None  # an i32, or i32[batch] on the device, or not given
GRID_LIMIT = (2**31 - 1, 65535, 65535)  # Programming Guide 13.0, "Technical Specifications per Compute Capability"
_I32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Inputs:
    """A checked call, as the kernel needs it. ``lse`` is None where the caller does not want it."""

    layout: Padded
    shapes: Shapes
    q: View
    k: View
    v: View
    out: View
    lse: View | None
    sm_scale: float | View | None
    q_start: PerRequest
    k_start: PerRequest
    qo_lens: View | None
    kv_lens: View | None
    params: Mapping[str, Any]  # a Python scalar, or a View with one element per request
    captures: Mapping[str, View]


class Kernel:
    """An artifact loaded on a device: what a launch needs, made once."""

    def __init__(self, artifact: Artifact, on: Device) -> None:
        manifest = artifact.manifest
        self.artifact = artifact
        self.device = on
        self.packer = Packer(manifest.abi)
        self.rule = manifest.launch
        # What a grid expression may name: the integers of Launch, which are 0 where a call does not set them.
        self.sizes = {
            word.name.removeprefix("launch."): word.name
            for word in manifest.abi.words
            if word.ctype == "i32" and word.name.startswith("launch.")
        }
        self.function = Function(on, artifact.cubin, artifact.main.symbol, self.rule.smem)

    def launch(self, call: Inputs) -> None:
        """Launch on the caller's current stream. Raises CallError A0840 (alignment), A0844 (too large)."""
        manifest = self.artifact.manifest
        for name in ("q", "k", "v", "out"):
            check_alignment(name, getattr(call, name), call.layout, manifest.alignment)
        words = launch_words(call, own_scale=manifest.own_scale)
        grid = self.rule.grid_of({name: int(words.get(word, 0)) for name, word in self.sizes.items()})
        check_grid(call.shapes, grid)
        keep: list[Any] = []  # converted arrays: the allocator may reuse them once the launch is in the stream
        for parameter in manifest.abi.params:
            words.update(_scalar_words(parameter.word, parameter.type, call.params[parameter.name], keep))
        for capture in manifest.abi.tensors:
            words.update(_tensor_words(capture.word, call.captures[capture.name]))
        data = self.packer.pack(words)
        with self.device.current():
            stream = tensors.stream_of(call.q)
            block = tensors.view(tensors.empty(call.q, (len(data),), "u8"), "block")
            self.device.staging.upload(data, block.pointer, stream)
            self.function.launch(grid, self.rule.threads, stream, block.pointer)


_kernels: dict[tuple[int, str], Kernel] = {}
_lock = threading.Lock()


def kernel(artifact: Artifact, index: int) -> Kernel:
    """The artifact loaded on a device, once a process."""
    found = _kernels.get((index, artifact.key))
    if found is None:
        with _lock:
            found = _kernels.get((index, artifact.key))
            if found is None:
                found = _kernels[index, artifact.key] = Kernel(artifact, device(index))
    return found


def launch_words(call: Inputs, *, own_scale: bool) -> dict[str, int | float]:
    """The words of ``Launch``. ``own_scale``: the variant computes sm_scale unless the call gives one; NaN says not."""
    shapes, layout = call.shapes, call.layout
    words: dict[str, int | float] = {
        "launch.q": call.q.pointer,
        "launch.k": call.k.pointer,
        "launch.v": call.v.pointer,
        "launch.out": call.out.pointer,
        "launch.batch": shapes.batch,
        "launch.num_heads": shapes.num_heads,
        "launch.num_kv_heads": shapes.num_kv_heads,
        "launch.group": shapes.group,
        "launch.max_qo_len": shapes.qo_len,
        "launch.max_kv_len": shapes.kv_len,
    }
    strided = [("q", call.q), ("k", call.k), ("v", call.v), ("out", call.out)]
    if call.lse is not None:
        words["launch.lse"] = call.lse.pointer
        strided.append(("lse", call.lse))
    for name, tensor in strided:
        batch, head, token = layout.strides(tensor)
        words[f"launch.{name}_stride.batch"] = batch
        words[f"launch.{name}_stride.head"] = head
        words[f"launch.{name}_stride.token"] = token
    if isinstance(call.sm_scale, View):
        words["launch.sm_scale.data"] = call.sm_scale.pointer
    elif call.sm_scale is not None:
        words["launch.sm_scale.value"] = call.sm_scale
    else:
        words["launch.sm_scale.value"] = float("nan") if own_scale else shapes.head_dim**-0.5
    if isinstance(call.q_start, View):
        words["launch.q_starts"] = call.q_start.pointer
    elif call.q_start is not None:
        words["launch.q_start"] = call.q_start
        words["launch.explicit_q_start"] = 1
    if isinstance(call.k_start, View):
        words["launch.k_starts"] = call.k_start.pointer
    elif call.k_start is not None:
        words["launch.k_start"] = call.k_start
    for name, lens in (("qo_lens", call.qo_lens), ("kv_lens", call.kv_lens)):
        if lens is not None:
            words[f"launch.{name}"] = lens.pointer
    return words


def check_alignment(name: str, tensor: View, layout: Padded, alignment: int) -> None:
    """Raises CallError A0840 unless every row of the tensor starts at a multiple of ``alignment`` bytes."""
    if 0 in tensor.shape:
        return
    size = tensors.ITEMSIZE[tensor.dtype]
    wrong = [
        f"the {axis} stride is {stride * size} bytes"
        for axis, stride in zip(("batch", "head", "token"), layout.strides(tensor), strict=True)
        if stride * size % alignment
    ]
    if tensor.pointer % alignment:
        wrong.append(f"it starts {tensor.pointer % alignment} bytes past one")
    if wrong:
        raise CallError(
            "A0840",
            f"rows of `{name}` are not aligned",
            expected=f"a start and strides that are multiples of {alignment} bytes",
            got="; ".join(wrong),
            help=f"copy it first: `{name}.contiguous()` (torch), `cupy.ascontiguousarray({name})`",
        )


def check_grid(shapes: Shapes, grid: tuple[int, int, int]) -> None:
    """Raises CallError A0844 where a launch cannot have that many blocks or an index would not fit 32 bits."""
    if any(n > limit for n, limit in zip(grid, GRID_LIMIT, strict=True)):
        raise CallError(
            "A0844",
            "the call is too large for one launch",
            expected=f"at most {GRID_LIMIT[1]} KV heads and {GRID_LIMIT[2]} requests",
            got=f"{shapes.num_kv_heads} KV heads, {shapes.batch} requests",
            help="split the batch into several calls",
        )
    longest = max(shapes.qo_len * max(shapes.group, 1), shapes.kv_len)
    if longest > _I32_MAX - 4096:
        raise CallError(
            "A0844",
            "the call is too long for 32-bit indices",
            expected=f"fewer than {_I32_MAX - 4096} packed query rows and keys",
            got=str(longest),
            help="split the sequence into several calls",
        )


def _scalar_words(word: str, kind: str, value: Any, keep: list[Any]) -> dict[str, int | float]:
    if not isinstance(value, View):
        return {f"{word}.value": float(value) if kind == "f32" else int(value)}
    if kind == "bool":  # a kernel reads four bytes
        keep.append(tensors.as_i32(value))
        value = tensors.view(keep[-1], word)
    return {f"{word}.data": value.pointer}


def _tensor_words(word: str, tensor: View) -> dict[str, int | float]:
    words: dict[str, int | float] = {f"{word}.data": tensor.pointer}
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.strides, strict=True)):
        words[f"{word}.extent[{axis}]"] = size
        words[f"{word}.stride[{axis}]"] = stride
    return words
