"""A kernel on a device and the words of its parameter block, filled from a checked call. Never knows the IR."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attncc.artifact import Artifact, LaunchRule, Role
from attncc.diagnostics import CallError
from attncc.runtime import tensors
from attncc.runtime.block import Packer
from attncc.runtime.driver import Device, Module, device
from attncc.runtime.lanes import Lanes, check_size
from attncc.runtime.layouts import MAX_GROUP, MAX_LEN, Layout, Shapes
from attncc.runtime.tensors import View

PerRequest = int | View | None  # an i32, or i32[batch] on the device, or not given
GRID_LIMIT = (2**31 - 1, 65535, 65535)  # Programming Guide 13.0, "Technical Specifications per Compute Capability"
_I32_MAX, _U32_MAX = 2**31 - 1, 2**32 - 1
_SIZE = {"ptr": 8, "i64": 8, "i32": 4, "u32": 4, "f32": 4}


@dataclass(frozen=True)
class Frame:
    """The rows of a call: all that a state keeps of it besides the caller's own arguments."""

    layout: Layout
    kv_layout: Layout
    shapes: Shapes
    library: str
    dtype: str
    device: str

    @property
    def index(self) -> int:
        """The CUDA device."""
        return int(self.device[5:])

    @property
    def tokens(self) -> int:
        """How many rows a state has: the ragged tokens, or every row of the padded batch."""
        return self.shapes.qo_tokens if self.layout.ragged else self.shapes.batch * self.shapes.qo_len


@dataclass(frozen=True)
class Inputs:
    """A checked call, as the kernel needs it. ``out`` and ``lse`` are None where the call makes none."""

    layout: Layout
    kv_layout: Layout
    shapes: Shapes
    q: View
    k: View
    v: View
    out: View | None
    lse: View | None
    sm_scale: float | View | None
    q_start: PerRequest
    k_start: PerRequest
    qo_lens: View | None
    kv_lens: View | None
    qo_indptr: View | None
    kv_indptr: View | None
    params: Mapping[str, Any]  # a Python scalar, or a View with one element per request
    captures: Mapping[str, View]

    @property
    def tokens(self) -> int:
        return self.frame().tokens

    def frame(self) -> Frame:
        return Frame(self.layout, self.kv_layout, self.shapes, self.q.library, self.q.dtype, self.q.device)

    def given(self) -> tuple[Any, ...]:
        """The values of plan.GIVEN as the caller's arrays and numbers."""
        values = (
            self.sm_scale,
            self.q_start,
            self.k_start,
            self.qo_lens,
            self.kv_lens,
            self.qo_indptr,
            self.kv_indptr,
        )
        return tuple(value.array if isinstance(value, View) else value for value in values)


class Kernel:
    """An artifact loaded on a device: what a launch needs, made once."""

    def __init__(self, artifact: Artifact, on: Device) -> None:
        manifest = artifact.manifest
        self.artifact = artifact
        self.device = on
        self.packer = Packer(manifest.abi)
        check_size(self.packer.size)
        # What a grid expression may name: the integers of Launch, which are 0 where a call does not set them.
        self.sizes = {
            word.name.removeprefix("launch."): word.name
            for word in manifest.abi.words
            if word.ctype == "i32" and word.name.startswith("launch.")
        }
        # Where a slot's views have a word: its index, counted in words of its own size.
        self.places = {word.name: (word.offset // _SIZE[word.ctype], word.ctype) for word in manifest.abi.words}

        def entry(role: Role, rule: LaunchRule | None) -> Any:
            if rule is None:
                return None
            return Module(on, artifact.cubins[role]).function(manifest.entries[role].symbol, rule.smem)

        self.main = entry("main", manifest.launch)
        self.merge, self.screen = entry("merge", manifest.merge), entry("screen", manifest.screen)
        self.transform, self.biases = entry("transform", manifest.transform), entry("biases", manifest.biases)
        self.lanes = lanes(on.index)
        # Blocks that run at once, as the tile table means them to.
        self.resident = on.sms * max(manifest.tile.get("min_blocks", 1), 1)

    def grid(self, rule: LaunchRule, words: Mapping[str, int | float]) -> tuple[int, int, int]:
        return rule.grid_of({name: int(words.get(word, 0)) for name, word in self.sizes.items()})


_kernels: dict[tuple[int, str], Kernel] = {}
_lanes: dict[int, Lanes] = {}
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


def lanes(index: int) -> Lanes:
    """The lanes of a device, shared by all its kernels."""
    found = _lanes.get(index)
    return found if found is not None else _lanes.setdefault(index, Lanes(device(index)))


def launch_words(call: Inputs, *, own_scale: bool) -> dict[str, int | float]:
    """The words of ``Launch``. ``own_scale``: the variant computes sm_scale unless the call gives one; NaN says not."""
    shapes = call.shapes
    words: dict[str, int | float] = {
        "launch.q": call.q.pointer,
        "launch.k": call.k.pointer,
        "launch.v": call.v.pointer,
        "launch.batch": shapes.batch,
        "launch.num_heads": shapes.num_heads,
        "launch.num_kv_heads": shapes.num_kv_heads,
        "launch.group": shapes.group,
        "launch.max_qo_len": shapes.qo_len,
        "launch.max_kv_len": shapes.kv_len,
        "launch.split_tokens": call.tokens,
        "launch.qo_tokens": call.tokens,
        "launch.kv_tokens": shapes.kv_tokens if call.kv_layout.ragged else shapes.batch * shapes.kv_len,
    }
    strided = [("q", call.q, call.layout), ("k", call.k, call.kv_layout), ("v", call.v, call.kv_layout)]
    strided += [(name, made, call.layout) for name, made in (("out", call.out), ("lse", call.lse)) if made is not None]
    for name, tensor, layout in strided:
        words[f"launch.{name}"] = tensor.pointer
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
    for name in ("qo_lens", "kv_lens", "qo_indptr", "kv_indptr"):
        values: View | None = getattr(call, name)
        if values is not None:
            words[f"launch.{name}"] = values.pointer
    return words


def scalar_words(word: str, kind: str, value: Any) -> dict[str, int | float]:
    """The words of one parameter: a number, or one per request on the device."""
    if not isinstance(value, View):
        return {f"{word}.value": float(value) if kind == "f32" else int(value)}
    return {f"{word}.data": value.pointer}


def tensor_words(word: str, tensor: View, dims: tuple[str, ...], indptr: View | None) -> dict[str, int | float]:
    """The words of a captured tensor. ``indptr``: of the ragged operand whose tokens it is over, if it lies like that.

    Ragged, [tokens, ...] stands for [batch, len, ...]: the batch axis is the indptr's.
    """
    sizes, strides = tensor.shape, tensor.strides
    words: dict[str, int | float] = {f"{word}.data": tensor.pointer}
    if indptr is not None and len(sizes) == len(dims) - 1:
        sizes, strides = (indptr.shape[0] - 1, *sizes), (0, *strides)
        words[f"{word}.indptr"] = indptr.pointer
    for axis, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        words[f"{word}.extent[{axis}]"] = size
        words[f"{word}.stride[{axis}]"] = stride
    return words


def token_indptr(inputs: Inputs, dims: tuple[str, ...]) -> View | None:
    """The indptr of the tokens a captured tensor over [batch, qo_len or kv_len, ...] runs over, if those are ragged."""
    if dims[:1] != ("batch",) or len(dims) < 2:
        return None
    return {"qo_len": inputs.qo_indptr, "kv_len": inputs.kv_indptr}.get(dims[1])


def check_alignment(name: str, tensor: View, layout: Layout, alignment: int) -> None:
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
    """Raises CallError A0844 where a launch cannot have that many blocks, an index would not fit 32 bits, or a size is
    past what kernels are compiled for."""
    if math.prod(grid) > _U32_MAX:  # a persistent kernel counts them
        raise CallError(
            "A0844",
            "the call is too large for one launch",
            expected=f"at most {_U32_MAX} tiles of rows over all requests and KV heads",
            got=str(math.prod(grid)),
            help="give `max_qo_len` for a ragged batch: without it each request may be as long as all of them",
        )
    if any(n > limit for n, limit in zip(grid, GRID_LIMIT, strict=True)):
        raise CallError(
            "A0844",
            "the call is too large for one launch",
            expected=f"at most {GRID_LIMIT[1]} KV heads and {GRID_LIMIT[2]} requests",
            got=f"{shapes.num_kv_heads} KV heads, {shapes.batch} requests",
            help="split the batch into several calls",
        )
    if max(shapes.qo_len, shapes.kv_len) > MAX_LEN or shapes.group > MAX_GROUP:
        raise CallError(
            "A0844",
            "the call is too large for a kernel",
            expected=f"requests of at most {MAX_LEN} tokens, at most {MAX_GROUP} query heads a KV head",
            got=f"{max(shapes.qo_len, shapes.kv_len)} tokens, {shapes.group} query heads a KV head",
            help="split the sequence into several calls",
        )
    longest = max(shapes.qo_len * max(shapes.group, 1), shapes.kv_len, shapes.qo_tokens, shapes.kv_tokens)
    if longest > _I32_MAX - 4096:
        raise CallError(
            "A0844",
            "the call is too long for 32-bit indices",
            expected=f"fewer than {_I32_MAX - 4096} packed query rows and keys",
            got=str(longest),
            help="split the sequence into several calls",
        )
