"""TMA descriptors: what a tensor's storage is to the copy engine, and their bytes for the addresses of a call.

A descriptor is of storage, not of lengths: capacities are its sizes, so that a captured graph may replay with other
lengths. Everything but the last step, ``cuTensorMapEncodeTiled``, is integers. Knows no kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from attncc.artifact import MAP_BYTES, LayoutKind, TensorMap
from attncc.runtime.driver import bindings, call
from attncc.runtime.layouts import Layout
from attncc.runtime.tensors import ITEMSIZE, View

# CUDA driver API, cuTensorMapEncodeTiled: what sizes, in elements, and strides, in bytes, may be.
STRIDE_UNIT, STRIDE_LIMIT, SIZE_LIMIT = 16, 2**40, 2**32
# Encoded descriptors that a plan keeps, by addresses: a serving loop's buffers come round.
KEPT = 256
OPERANDS = ("q", "k", "v")


class Refused(Exception):
    """The driver makes no descriptor of a storage that follows its documented rules."""


@dataclass(frozen=True)
class Storage:
    """A tensor as the copy engine sees it: ``sizes`` in elements of channels, tokens, heads and batch; ``strides`` in
    bytes of the last three. Ragged storage is a batch of 1.
    """

    dtype: str
    sizes: tuple[int, int, int, int]
    strides: tuple[int, int, int]

    @property
    def empty(self) -> bool:
        """No element at all, so that it has no descriptor of its own."""
        return 0 in self.sizes

    @property
    def describable(self) -> bool:
        """Whether a descriptor can say it, given rows at multiples of 16 bytes, which every kernel wants. A stride of 0
        is one: every token, head or request reads the same."""
        strides = all(0 <= stride < STRIDE_LIMIT for stride in self.strides)
        return self.empty or (strides and all(size <= SIZE_LIMIT for size in self.sizes))


def storage(tensor: View, layout: Layout) -> Storage:
    """The storage of a checked operand, [.., dim] with a contiguous last axis."""
    shape, unit = tensor.shape, ITEMSIZE[tensor.dtype]
    batch, head, token = layout.strides(tensor)
    sizes = (shape[-1], shape[layout.token], shape[layout.head], 1 if layout.batch_axis is None else shape[0])
    # What an axis without a second element has for a stride is never used, and must be one.
    strides = [
        stride * unit if size > 1 else STRIDE_UNIT for stride, size in zip((token, head, batch), sizes[1:], strict=True)
    ]
    return Storage(tensor.dtype, sizes, (strides[0], strides[1], strides[2]))


def stand_in(of: Storage) -> Storage:
    """What is described, at the address of q, where an operand has no element: 16 bytes of a row.

    The driver knows no size of 0, and a kernel still asks for the tile that every item has, none of which counts.
    """
    return Storage(of.dtype, (8, 1, 1, 1), (STRIDE_UNIT, STRIDE_UNIT, STRIDE_UNIT))


def layout_kind(*operands: tuple[View, Layout]) -> LayoutKind:
    """The kind of storage that a kernel is chosen for, as ``KernelSpec.layout``; the operands are keys and values."""
    return "contiguous" if all(storage(*operand).describable for operand in operands) else "strided"


def arguments(of: Storage, box: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Sizes, strides and box for the driver, from the contiguous axis on; a box has 1 of an axis that it leaves out."""
    return list(of.sizes), list(of.strides), [*box, *[1] * (len(of.sizes) - len(box))]


def encoder(of: Storage, wanted: TensorMap) -> Callable[[int], bytes]:
    """A descriptor's 128 bytes as a function of the address.

    What is called raises Refused where the driver does not take the storage.
    """
    driver = bindings()
    kinds, swizzles = driver.CUtensorMapDataType, driver.CUtensorMapSwizzle
    kind = {"bf16": kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, "f16": kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16}[of.dtype]
    pattern = {
        0: swizzles.CU_TENSOR_MAP_SWIZZLE_NONE,
        32: swizzles.CU_TENSOR_MAP_SWIZZLE_32B,
        64: swizzles.CU_TENSOR_MAP_SWIZZLE_64B,
        128: swizzles.CU_TENSOR_MAP_SWIZZLE_128B,
    }[wanted.swizzle]
    sizes, strides, box = arguments(of, wanted.box)
    wide, narrow = driver.cuuint64_t, driver.cuuint32_t
    before = kind, len(sizes)
    after = (
        [wide(size) for size in sizes],
        [wide(stride) for stride in strides],
        [narrow(size) for size in box],
        [narrow(1) for _ in box],
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        pattern,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    encode, invalid = driver.cuTensorMapEncodeTiled, int(driver.CUresult.CUDA_ERROR_INVALID_VALUE)

    def at(address: int) -> bytes:
        result = encode(*before, address, *after)
        if int(result[0]) == invalid:
            raise Refused(f"{of} at {address:#x}, box {box}")
        return ctypes.string_at(call(result).getPtr(), MAP_BYTES)

    return at


class Maps:
    """The descriptors of a plan: the bytes of its block from ``start`` to ``end``, for the addresses of a call.

    Calls on several threads may share one: what is kept are bytes that nobody changes.
    """

    def __init__(self, wanted: Sequence[TensorMap], operands: Mapping[str, tuple[View, Layout]]) -> None:
        self.start, self.end = wanted[0].offset, wanted[-1].offset + MAP_BYTES
        self._parts: list[tuple[int, int, Callable[[int], bytes]]] = []
        for item in wanted:
            of, operand = storage(*operands[item.operand]), item.operand
            if of.empty:
                of, operand = stand_in(of), "q"
            self._parts.append((OPERANDS.index(operand), item.offset - self.start, encoder(of, item)))
        used = {index for index, _, _ in self._parts}
        # An operand that has no descriptor may lie anywhere else in every call.
        self._masks = tuple(int(index in used) for index in range(len(OPERANDS)))
        self._known: dict[tuple[int, int, int], bytes] = {}

    def bytes_at(self, q: int, k: int, v: int) -> bytes:
        """Those bytes. Raises Refused, ToolchainError A1013."""
        use_q, use_k, use_v = self._masks
        key = (q * use_q, k * use_k, v * use_v)
        found = self._known.get(key)
        if found is None:
            made = bytearray(self.end - self.start)
            for operand, offset, encode in self._parts:
                made[offset : offset + MAP_BYTES] = encode(key[operand])
            if len(self._known) >= KEPT:
                self._known.clear()
            found = self._known[key] = bytes(made)
        return found
