"""TMA descriptors without a GPU: what the copy engine reads by their arguments is what numpy's indexing reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from attncc.runtime.descriptors import STRIDE_LIMIT, Storage, arguments, layout_kind, storage
from attncc.runtime.layouts import LAYOUTS, RAGGED, Layout
from attncc.runtime.tensors import view

Array = np.ndarray[Any, Any]
DIM, BOX = 128, (64, 48)
RNG = np.random.default_rng(0)


def copied(memory: Array, start: int, of: Storage, box: tuple[int, ...], at: tuple[int, ...]) -> Array:
    """A box at coordinates, zeros outside of the tensor (CUDA driver API, cuTensorMapEncodeTiled; PTX ISA, tiled mode).

    ``memory`` are 16-bit elements, ``start`` the tensor's first; axes of the result from the contiguous one on.
    """
    sizes, strides, extent = arguments(of, box)
    assert all(stride % 16 == 0 for stride in strides)
    index = np.indices(extent) + np.reshape(at, (-1, 1, 1, 1, 1))
    inside = np.logical_and.reduce([(axis >= 0) & (axis < size) for axis, size in zip(index, sizes, strict=True)])
    offset = sum(axis * stride for axis, stride in zip(index, (2, *strides), strict=True)) // 2
    return np.where(inside, memory[np.where(inside, start + offset, 0)], 0)


def padded(order: tuple[int, ...], *, around: int = 1) -> tuple[Array, Array]:
    """A tensor amid a larger one on every axis, rows still 16-byte aligned, and the memory it lies in."""
    shape = (*(n + 2 * around for n in order[:-1]), order[-1] + 8 * around)
    memory = RNG.integers(1, 2**15, int(np.prod(shape))).astype(np.int16)
    inner = tuple(slice(around, n + around) for n in order[:-1])
    return memory, memory.reshape(shape)[(*inner, slice(0, order[-1]))]


def stored(name: str) -> tuple[Array, Array, Layout]:
    """Memory, a tensor in it, its layout: 3 requests of 77 tokens, 2 heads, 128 channels, or 150 tokens of all."""
    nhd, hnd = (3, 77, 2, DIM), (3, 2, 77, DIM)
    if name == "a packed projection":  # the values of [q, k, v] side by side
        memory, whole = padded((3, 77, 3, 2 * DIM), around=0)
        return memory, whole[:, :, 2].reshape(3, 77, 2, DIM), LAYOUTS["nhd"]
    if name in ("every request the same", "every head the same", "every token the same"):
        axis = {"request": 0, "token": 1, "head": 2}[name.split()[1]]
        memory, one = padded(tuple(1 if index == axis else n for index, n in enumerate(nhd)))
        return memory, np.broadcast_to(one, nhd), LAYOUTS["nhd"]
    if name == "overlapping windows":
        memory, _ = padded((4096, 16), around=0)
        return memory, as_strided(memory, (3, 77, 2, DIM), (1024, 16, 256, 2)), LAYOUTS["nhd"]
    if name == "axes of one element":  # whatever their strides say
        memory, one = padded((1, 1, 1, DIM))
        return memory, as_strided(one, (1, 1, 1, DIM), (6, STRIDE_LIMIT, -16, 2)), LAYOUTS["nhd"]
    kind, order = name.split()
    shape = {"padded nhd": nhd, "padded hnd": hnd, "ragged nhd": (150, 2, DIM), "ragged hnd": (2, 150, DIM)}[name]
    return *padded(shape), (RAGGED if kind == "ragged" else LAYOUTS)[order]


@pytest.mark.parametrize(
    "name",
    [
        *("padded nhd", "padded hnd", "ragged nhd", "ragged hnd", "a packed projection", "every request the same"),
        *("every head the same", "every token the same", "overlapping windows", "axes of one element"),
    ],
)
def test_a_copy_reads_what_indexing_reads(name: str) -> None:
    memory, tensor, layout = stored(name)
    of = storage(view(tensor.view(np.float16), "k"), layout)
    assert layout_kind((view(tensor.view(np.float16), "k"), layout)) == "contiguous"
    start = (tensor.ctypes.data - memory.ctypes.data) // 2
    ordered = tensor if layout.token < layout.head else np.swapaxes(tensor, layout.token, layout.head)
    whole = ordered if not layout.ragged else ordered[None]  # [batch, tokens, heads, channels]
    batch, tokens, heads, _ = whole.shape
    for _ in range(40):
        b, head = int(RNG.integers(batch)), int(RNG.integers(heads))
        token, panel = int(RNG.integers(-3, tokens + 3)), int(RNG.integers(2))
        got = copied(memory, start, of, BOX, (64 * panel, token, head, b))[:, :, 0, 0]
        expected = np.zeros((BOX[1], BOX[0]), np.int16)
        low, high = max(token, 0), min(token + BOX[1], tokens)
        if low < high:
            expected[low - token : high - token] = whole[b, low:high, head, 64 * panel : 64 * panel + 64]
        np.testing.assert_array_equal(got.T, expected)


def test_capacities_and_not_lengths_are_described() -> None:
    of = storage(view(np.zeros((3, 77, 2, DIM), np.float16), "k"), LAYOUTS["nhd"])
    assert of == Storage("f16", (DIM, 77, 2, 3), (2 * DIM * 2, DIM * 2, 77 * 2 * DIM * 2))
    assert arguments(of, BOX)[2] == [64, 48, 1, 1]


@pytest.mark.parametrize("shape", [(3, 0, 2, DIM), (0, 5, 2, DIM), (3, 5, 0, DIM)])
def test_what_has_no_element_is_of_the_common_kind(shape: tuple[int, ...]) -> None:
    empty = view(np.zeros(shape, np.float16), "k")
    assert storage(empty, LAYOUTS["nhd"]).empty
    assert layout_kind((empty, LAYOUTS["nhd"])) == "contiguous"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("stride", [-2 * DIM, STRIDE_LIMIT])
def test_what_no_descriptor_says_is_another_kind(axis: int, stride: int) -> None:
    tensor = np.zeros((4, 4, 4, DIM), np.float16)
    strides = list(tensor.strides)
    strides[axis] = stride
    odd = view(as_strided(tensor, tensor.shape, strides), "k")
    plain = view(tensor, "v")
    for layout in LAYOUTS.values():
        assert layout_kind((plain, layout), (odd, layout)) == layout_kind((odd, layout), (plain, layout)) == "strided"
        assert layout_kind((plain, layout), (plain, layout)) == "contiguous"
