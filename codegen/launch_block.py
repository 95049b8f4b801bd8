"""The memory layout of a kernel's parameter block, as the device headers declare it; knows no tensor and no variant.

``Launch``, ``Scalar``, ``TensorRef`` and ``TokenTensorRef`` of ``device/joint.cuh`` are mirrored here field by field;
a test compiles the header and compares every offset.
"""

from dataclasses import dataclass
from typing import Final

from attncc.artifact import MAP_ALIGNMENT, MAP_BYTES

_SIZES: Final = {"ptr": 8, "i64": 8, "i32": 4, "u32": 4, "f32": 4}
_NUMPY: Final = {"ptr": "<u8", "i64": "<i8", "i32": "<i4", "u32": "<u4", "f32": "<f4"}


@dataclass(frozen=True)
class Field:
    """One machine word of a block: its C++ path, its type (ptr, i64, i32, u32 or f32) and its byte offset."""

    name: str
    ctype: str
    offset: int

    @property
    def size(self) -> int:
        return _SIZES[self.ctype]

    @property
    def numpy(self) -> str:
        """The numpy format of the field; a pointer is an unsigned 64-bit integer."""
        return _NUMPY[self.ctype]


def scalar_fields(name: str, ctype: str) -> list[tuple[str, str]]:
    """The words of a ``Scalar<T>``: 16 bytes for every T (f32, i32, u32)."""
    return [(f"{name}.data", "ptr"), (f"{name}.value", ctype), (f"{name}.reserved", "u32")]


def tensor_fields(name: str, rank: int) -> list[tuple[str, str]]:
    """The words of a ``TensorRef<T, rank>``: the pointer, the extents, the strides, the last two in elements."""
    extents = [(f"{name}.extent[{axis}]", "i64") for axis in range(rank)]
    strides = [(f"{name}.stride[{axis}]", "i64") for axis in range(rank)]
    return [(f"{name}.data", "ptr"), *extents, *strides]


def token_tensor_fields(name: str, rank: int) -> list[tuple[str, str]]:
    """The words of a ``TokenTensorRef<T, rank>``: those of a TensorRef, then indptr (0: padded storage)."""
    return [*tensor_fields(name, rank), (f"{name}.indptr", "ptr")]


def place(words: list[tuple[str, str]], start: int = 0) -> list[Field]:
    """Lays words out one after another. Raises ValueError where C++ would insert padding."""
    fields = []
    offset = start
    for name, ctype in words:
        if offset % _SIZES[ctype]:
            raise ValueError(f"{name} at offset {offset} would be padded; order 8-byte words first")
        fields.append(Field(name, ctype, offset))
        offset += _SIZES[ctype]
    return fields


def place_maps(end: int, count: int) -> tuple[tuple[int, ...], int]:
    """Where ``count`` TMA descriptors lie behind parameters of ``end`` bytes, and the size of the whole: the layout of
    ``struct { Params params; TensorMap a, b, ...; }`` with ``TensorMap`` of ``device/tma.cuh``.
    """
    first = -(-end // MAP_ALIGNMENT) * MAP_ALIGNMENT
    offsets = tuple(first + index * MAP_BYTES for index in range(count))
    return offsets, offsets[-1] + MAP_BYTES if offsets else end


def _strides(name: str) -> list[tuple[str, str]]:
    return [(f"{name}.{axis}", "i64") for axis in ("batch", "head", "token")]


LAUNCH_FIELDS: Final = tuple(
    place(
        [
            *[(name, "ptr") for name in ("q", "k", "v", "out", "lse")],
            *_strides("q_stride"),
            *_strides("k_stride"),
            *_strides("v_stride"),
            *_strides("out_stride"),
            *_strides("lse_stride"),
            *[(name, "ptr") for name in ("qo_indptr", "kv_indptr", "qo_lens", "kv_lens", "q_starts", "k_starts")],
            *scalar_fields("sm_scale", "f32"),
            *[(name, "i32") for name in ("batch", "num_heads", "num_kv_heads", "group", "max_qo_len", "max_kv_len")],
            *[(name, "i32") for name in ("q_start", "k_start", "explicit_q_start", "reserved")],
            *[(name, "ptr") for name in ("split_out", "split_state", "merged_out", "merged_state")],
            *[(name, "ptr") for name in ("counters", "screens", "made_q", "made_k", "made_v", "biases")],
            *[(name, "i64") for name in ("split_tokens", "qo_tokens", "kv_tokens")],
            *[(name, "i32") for name in ("num_splits", "split_cols", "fills_unowned")],
        ]
    )
)
LAUNCH_BYTES: Final = -(-(LAUNCH_FIELDS[-1].offset + LAUNCH_FIELDS[-1].size) // 8) * 8  # as a struct with pointers
