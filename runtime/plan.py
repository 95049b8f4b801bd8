"""A checked call, prepared to be repeated: everything but pointers and values is decided, so that a call costs little.

A plan belongs to a key: the variant, the options, and of every tensor all that the checks look at except its address.
Calls of equal keys differ in addresses and values alone, which go into a copy of the plan's parameter block. Never
knows the IR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from attncc.artifact import LaunchRule
from attncc.runtime import tensors
from attncc.runtime.descriptors import OPERANDS, Maps
from attncc.runtime.driver import bindings, call, launch_config
from attncc.runtime.launch import (
    Inputs,
    Kernel,
    check_alignment,
    check_grid,
    launch_words,
    scalar_words,
    tensor_words,
    token_indptr,
)
from attncc.runtime.layouts import LAYOUTS, MAX_START, RAGGED, Layout
from attncc.runtime.splits import Splits
from attncc.runtime.tensors import Library, View

# The arguments of a call that are a number or a tensor, in the order in which they travel: the word of a tensor's
# address, the word of a number.
GIVEN = {
    "sm_scale": ("launch.sm_scale.data", "launch.sm_scale.value"),
    "q_start": ("launch.q_starts", "launch.q_start"),
    "k_start": ("launch.k_starts", "launch.k_start"),
    "qo_lens": ("launch.qo_lens", None),
    "kv_lens": ("launch.kv_lens", None),
    "qo_indptr": ("launch.qo_indptr", None),
    "kv_indptr": ("launch.kv_indptr", None),
}
F32_MAX = 3.4028234663852886e38


class Results(NamedTuple):
    """What a call gives: arrays of the caller's library. A partial call has ``acc`` and ``state``, and no ``out``."""

    out: Any
    lse: Any = None
    acc: Any = None
    state: Any = None


@dataclass(frozen=True)
class _Array:
    """An output to allocate; ``fill`` where rows may stay unwritten."""

    shape: tuple[int, ...]
    dtype: Any
    fill: float | None


class Plan:
    """See the module. ``variant`` is kept so that its identity, a part of the key, is not given to another.

    Raises CallError A0840 (alignment), A0844 (too large), descriptors.Refused (the driver describes no such storage).
    """

    def __init__(
        self, variant: object, kernel: Kernel, library: Library, inputs: Inputs, splits: Splits, *, partial: bool
    ) -> None:
        manifest = kernel.artifact.manifest
        shapes, layout = inputs.shapes, inputs.layout
        self.variant = variant
        self.kernel = kernel
        self.library = library
        self.device = inputs.q.index
        self.partial = partial
        self.splits = splits.count
        self.frame = inputs.frame()
        self.unaligned = manifest.alignment - 1
        places = (("q", inputs.q, layout), ("k", inputs.k, inputs.kv_layout), ("v", inputs.v, inputs.kv_layout))
        for name, tensor, place in places:
            check_alignment(name, tensor, place, manifest.alignment)
        self.spans = [_reach(tensor) for _, tensor, _ in places]
        self.out_span = (0, 0)
        if inputs.out is not None:
            check_alignment("out", inputs.out, layout, manifest.alignment)
            self.out_span = _reach(inputs.out)
        self._arrays(inputs, splits)
        # What the kernel reads of q, k and v: as given, or as the entry `transform` makes it.
        read = {
            name: _contiguous(tensor, place) if name in manifest.transformed else (tensor, place)
            for name, tensor, place in places
        }
        made = [(OPERANDS.index(name), read[name][0]) for name in manifest.transformed]
        self.made = tuple((index, _Array(tensor.shape, tensor.array.dtype, None)) for index, tensor in made)
        self.maps: Maps | None = None
        if manifest.abi.maps:
            self.maps = Maps(manifest.abi.maps, read)
            with kernel.device.current():
                self.maps.bytes_at(inputs.q.pointer, inputs.k.pointer, inputs.v.pointer)

        words = launch_words(inputs, own_scale=manifest.own_scale)
        if splits.count > 1 or partial:
            words["launch.num_splits"], words["launch.split_cols"] = splits.count, splits.cols
        x, y, z = kernel.grid(manifest.launch, words)
        self.grid = (x * splits.count, y, z)
        check_grid(shapes, self.grid)
        if manifest.launch.persistent:
            self.grid = (min(math.prod(self.grid), kernel.resident), 1, 1)
        self.launches = [(kernel.main, self.grid, manifest.launch)]

        def checked(rule: LaunchRule) -> tuple[int, int, int]:
            grid = kernel.grid(rule, words)
            check_grid(shapes, grid)
            return grid

        def begin_with(function: Any, rule: LaunchRule, grid: tuple[int, int, int]) -> None:
            if math.prod(grid):  # of no key there is nothing to be made
                self.launches.insert(0, (function, grid, rule))

        self.screens: _Array | None = None
        if manifest.screen is not None:
            grid = checked(manifest.screen)
            self.screens = _Array((math.prod(grid) * manifest.screen_bytes // 4,), library.dtypes["f32"], None)
            begin_with(kernel.screen, manifest.screen, grid)
        self.biases: _Array | None = None
        if manifest.biases is not None:
            heads = shapes.num_kv_heads if manifest.biases_per_head else 1
            keys = int(words["launch.kv_tokens"]) * heads + manifest.tile["block_n"]  # a tile may begin at the last one
            self.biases = _Array((keys, 4), library.dtypes["f32"], None)
            begin_with(kernel.biases, manifest.biases, checked(manifest.biases))
        if manifest.transform is not None:
            begin_with(kernel.transform, manifest.transform, checked(manifest.transform))
        if splits.count > 1:
            assert manifest.merge is not None
            self.launches.append((kernel.merge, checked(manifest.merge), manifest.merge))
        for parameter in manifest.abi.params:
            value = inputs.params[parameter.name]
            if not isinstance(value, View) or (value.shape and parameter.type != "bool"):
                words.update(scalar_words(parameter.word, parameter.type, value))
        for capture in manifest.abi.tensors:
            indptr = token_indptr(inputs, capture.dims)
            words.update(tensor_words(capture.word, inputs.captures[capture.name], capture.dims, indptr))
        self.template = kernel.packer.pack(words)
        self.size = len(self.template)
        self._writes(inputs)
        # By a stream's handle, the configurations of the launches on it.
        self._configs: dict[int, tuple[tuple[Any, Any], ...]] = {}
        driver = bindings()
        self._context = int(kernel.device.context)
        self._current, self._launch = driver.cuCtxGetCurrent, driver.cuLaunchKernelEx

    def nothing(self, out: Any) -> Results:
        """The results of a call that has no row to compute."""
        if self.partial:
            return Results(None, None, self._make(self.acc), self._make(self.state))
        made = self._make(self.out) if out is None else out
        return Results(made, None if self.lse is None else self._make(self.lse))

    def _arrays(self, inputs: Inputs, splits: Splits) -> None:
        """What a call allocates."""
        shapes, layout, f32 = inputs.shapes, inputs.layout, self.library.dtypes["f32"]
        length = shapes.qo_tokens if layout.ragged else shapes.qo_len
        # Rows that belong to no request may be there. Kernels fill them, but for states and the caller's `out`.
        self.loose = loose = layout.ragged or inputs.qo_lens is not None
        out_shape = layout.shape(shapes.batch, length, shapes.num_heads, shapes.head_dim_v)
        self.out = _Array(out_shape, inputs.q.array.dtype, 0.0 if loose else None)
        self.lse: _Array | None = None
        if inputs.lse is not None:
            lse_shape = layout.shape(shapes.batch, length, shapes.num_heads)
            self.lse = _Array(lse_shape, f32, float("-inf") if loose else None)
        rows = (inputs.tokens, shapes.num_heads)
        self.acc = _Array((*rows, shapes.head_dim_v), f32, 0.0 if loose else None)
        self.state = _Array((*rows, 2), f32, 0.0 if loose else None)
        self.split_acc = _Array((splits.count, *rows, shapes.head_dim_v), f32, None)
        self.split_state = _Array((splits.count, *rows, 2), f32, None)

    def _writes(self, inputs: Inputs) -> None:
        """Which words each call writes, and from what."""
        manifest, place = self.kernel.artifact.manifest, self.kernel.places

        def at(name: str) -> int:
            return place[f"launch.{name}"][0]

        self.at_inputs = at("q"), at("k"), at("v")
        self.at_out, self.at_lse = at("out"), at("lse")
        self.at_split = at("split_out"), at("split_state")
        self.at_merged = at("merged_out"), at("merged_state")
        self.at_counters, self.at_screens, self.at_fills = at("counters"), at("screens"), at("fills_unowned")
        self.at_made, self.at_biases = (at("made_q"), at("made_k"), at("made_v")), at("biases")
        pointers: list[tuple[int, int]] = []
        repeated: list[tuple[int, int]] = []
        numbers: list[tuple[int, int, bool]] = []
        for index, (name, (data, value)) in enumerate(GIVEN.items()):
            given = getattr(inputs, name)
            if isinstance(given, View):
                (pointers if given.shape else repeated).append((index, place[data][0]))
            elif given is not None:
                assert value is not None
                numbers.append((index, place[value][0], name == "sm_scale"))
        self.given_pointers, self.given_numbers, self.given_repeated = tuple(pointers), tuple(numbers), tuple(repeated)
        params: dict[str, list[tuple[str, int]]] = {kind: [] for kind in ("data", "f32", "i32", "u32", "convert")}
        for parameter in manifest.abi.params:
            found = inputs.params[parameter.name]
            if isinstance(found, View):
                kind = "data" if found.shape and parameter.type != "bool" else "convert"
                params[kind].append((parameter.name, place[f"{parameter.word}.data"][0]))
            else:
                index, ctype = place[f"{parameter.word}.value"]
                params[ctype].append((parameter.name, index))
        self.param_pointers, self.param_converted = tuple(params["data"]), tuple(params["convert"])
        self.converts = bool(self.given_repeated or self.param_converted)
        self.param_floats, self.param_ints, self.param_uints = (tuple(params[kind]) for kind in ("f32", "i32", "u32"))
        self.bools = {parameter.name for parameter in manifest.abi.params if parameter.type == "bool"}
        self.captures = tuple((capture.name, place[f"{capture.word}.data"][0]) for capture in manifest.abi.tensors)
        self.batch = inputs.shapes.batch

    def run(
        self,
        q: Any,
        k: Any,
        v: Any,
        out: Any,
        given: tuple[Any, ...],
        params: Mapping[str, Any],
        captures: Mapping[str, Any],
    ) -> Results | None:
        """Launch on the caller's current stream; ``given`` as in GIVEN.

        None, and nothing launched, where an address or a value does not pass: the checks have the words for it.
        """
        pointer = self.library.pointer
        at_q, at_k, at_v = pointer(q), pointer(k), pointer(v)
        for index, _, is_float in self.given_numbers:
            value = given[index]
            if not (abs(value) <= F32_MAX if is_float else 0 <= value <= MAX_START):
                return None
        keep: Any = None
        converted: list[tuple[int, int]] = []
        if self.converts:
            keep, converted = self._convert(given, params)
        acc = state = lse = None
        at_out, fills = 0, False
        if self.partial:
            acc, state = self._make(self.acc), self._make(self.state)
        else:
            if out is None:
                out = self._make(self.out, filled=False)
                at_out = pointer(out)
                fills = self.loose
            else:
                at_out = pointer(out)
                low, high = at_out + self.out_span[0], at_out + self.out_span[1]
                for address, (first, last) in zip((at_q, at_k, at_v), self.spans, strict=True):
                    if low < address + last and address + first < high:
                        return None
            if self.lse is not None:
                lse = self._make(self.lse, filled=not fills)
        if (at_q | at_k | at_v | at_out) & self.unaligned:
            return None
        if self.splits > 1:
            keep = (keep, self._make(self.split_acc), self._make(self.split_state))
            split = pointer(keep[1]), pointer(keep[2])
        elif self.partial:
            split = pointer(acc), pointer(state)
        else:
            split = None
        screens = None if self.screens is None else self._make(self.screens)
        biases = None if self.biases is None else self._make(self.biases)
        made = [(index, self._make(array)) for index, array in self.made] if self.made else ()
        read = [at_q, at_k, at_v]
        for index, array in made:
            read[index] = pointer(array)

        stream = self.library.stream(self.device)
        launches = self._configs.get(stream)
        if launches is None:
            launches = self._configured(stream)
        # torch and cupy keep the primary context current; a thread that has used neither yet has none.
        status, context = self._current()
        pushed = bool(status) or int(context) != self._context
        if pushed:
            call(bindings().cuCtxPushCurrent(self.kernel.device.context))
        try:
            lane = self.kernel.lanes.of(stream)
            maps = self.maps
            described = b"" if maps is None else maps.bytes_at(*read)
            with lane.lock:
                block = lane.block
                block.bytes[: self.size] = self.template
                if maps is not None:
                    block.bytes[maps.start : maps.end] = described
                words = block.words
                words[self.at_counters] = lane.counters()
                place_q, place_k, place_v = self.at_inputs
                words[place_q], words[place_k], words[place_v] = at_q, at_k, at_v
                words[self.at_out] = at_out
                block.ints[self.at_fills] = fills
                if lse is not None:
                    words[self.at_lse] = pointer(lse)
                if split is not None:
                    words[self.at_split[0]], words[self.at_split[1]] = split
                    if self.partial and self.splits > 1:
                        words[self.at_merged[0]], words[self.at_merged[1]] = pointer(acc), pointer(state)
                if screens is not None:
                    words[self.at_screens] = pointer(screens)
                if biases is not None:
                    words[self.at_biases] = pointer(biases)
                for index, _ in made:
                    words[self.at_made[index]] = read[index]
                for index, place in self.given_pointers:
                    words[place] = pointer(given[index])
                for index, place, is_float in self.given_numbers:
                    (block.floats if is_float else block.ints)[place] = given[index]
                for name, place in self.param_pointers:
                    words[place] = pointer(params[name])
                for name, place in self.param_floats:
                    block.floats[place] = params[name]
                for name, place in self.param_ints:
                    block.ints[place] = params[name]
                for name, place in self.param_uints:
                    block.uints[place] = params[name]
                for name, place in self.captures:
                    words[place] = pointer(captures[name])
                for place, address in converted:
                    words[place] = address
                for function, config in launches:
                    status = self._launch(config, function, block.argument, 0)[0]
                    if status:
                        call((status,))
        finally:
            if pushed:
                call(bindings().cuCtxPopCurrent())
        del keep, screens, biases, made  # the allocator may reuse it from here on, in the order of the stream
        return Results(out, lse, acc, state)

    def _make(self, wanted: _Array, *, filled: bool = True) -> Any:
        made = self.library.empty(wanted.shape, wanted.dtype, self.device)
        if filled and wanted.fill is not None:
            tensors.fill(made, wanted.fill)
        return made

    def _convert(self, given: tuple[Any, ...], params: Mapping[str, Any]) -> tuple[Any, list[tuple[int, int]]]:
        """Arrays that a kernel cannot read as they are, converted on the stream: 0-d ones, and bools."""
        made = []
        for index, place in self.given_repeated:
            view = tensors.view(given[index], "value")
            made.append((place, tensors.repeated(view, self.batch)))
        for name, place in self.param_converted:
            view = tensors.view(params[name], name)
            if name in self.bools:
                view = tensors.view(tensors.as_i32(view), name)
            made.append((place, view.array if view.shape else tensors.repeated(view, self.batch)))
        return made, [(place, self.library.pointer(array)) for place, array in made]

    def _configured(self, stream: int) -> tuple[tuple[Any, Any], ...]:
        on = self.kernel.device
        found = self._configs[stream] = tuple(
            (function, launch_config(on, grid, rule.threads, rule.smem, stream))
            for function, grid, rule in self.launches
        )
        return found


def _contiguous(tensor: View, layout: Layout) -> tuple[View, Layout]:
    """What ``transform`` makes of a tensor of that layout, at another address: tokens, then heads, then channels."""
    tokens, heads, dim = tensor.shape[layout.token], tensor.shape[layout.head], tensor.shape[-1]
    if layout.ragged:
        return replace(tensor, shape=(tokens, heads, dim), strides=(heads * dim, dim, 1)), RAGGED["nhd"]
    shape = (tensor.shape[0], tokens, heads, dim)
    return replace(tensor, shape=shape, strides=(tokens * heads * dim, heads * dim, dim, 1)), LAYOUTS["nhd"]


def _reach(tensor: View) -> tuple[int, int]:
    """The bytes that any element touches, from the first element's address."""
    low, high = tensor.span
    return low - tensor.pointer, high - tensor.pointer


def launch_merge(kernel: Kernel, inputs: Inputs, accs: Any, numbers: Any) -> None:
    """Combine stacked states, f32 [states, tokens, heads, ...], into ``inputs.out`` and ``inputs.lse`` on the stream.

    ``inputs`` is a call over the states' rows; its q, k and v are not read.
    """
    manifest = kernel.artifact.manifest
    assert manifest.merge is not None
    of = tensors.library_named(inputs.q.library)
    words = launch_words(replace(inputs, q=_NOWHERE, k=_NOWHERE, v=_NOWHERE), own_scale=manifest.own_scale)
    words["launch.split_out"], words["launch.split_state"] = of.pointer(accs), of.pointer(numbers)
    words["launch.num_splits"] = accs.shape[0]
    keep = []
    for parameter in manifest.abi.params:
        value = inputs.params[parameter.name]
        if isinstance(value, View):
            array = tensors.as_i32(value) if parameter.type == "bool" else value.array
            array = array if value.shape else tensors.repeated(tensors.view(array, "value"), inputs.shapes.batch)
            keep.append(array)
            value = tensors.view(array, parameter.name)
        words.update(scalar_words(parameter.word, parameter.type, value))
    for capture in manifest.abi.tensors:
        indptr = token_indptr(inputs, capture.dims)
        words.update(tensor_words(capture.word, inputs.captures[capture.name], capture.dims, indptr))
    grid = kernel.grid(manifest.merge, words)
    check_grid(inputs.shapes, grid)
    data = kernel.packer.pack(words)
    driver, stream = bindings(), of.stream(inputs.q.index)
    config = launch_config(kernel.device, grid, manifest.merge.threads, manifest.merge.smem, stream)
    with kernel.device.current():
        lane = kernel.lanes.of(stream)
        with lane.lock:
            lane.block.bytes[: len(data)] = data
            lane.block.words[kernel.places["launch.counters"][0]] = lane.counters()
            call(driver.cuLaunchKernelEx(config, kernel.merge, lane.block.argument, 0))


_NOWHERE = View(None, "", 0, (0, 0, 0, 0), (0, 0, 0, 0), "bf16", "")
