"""One variant computed and timed on the GPU, for ``attncc run``. Tensors are torch's, or cupy's where torch is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attncc.cli.inputs import Tensors
from attncc.diagnostics import ToolchainError
from attncc.ir.nodes import SOFTMAX

if TYPE_CHECKING:
    from attncc.binding import BoundVariant

# Launches between two events: one alone would be timed with the host's work around it.
_BATCH = 10


@dataclass(frozen=True)
class Computed:
    """What a kernel gave, and its median time: ``out`` [batch, qo_len, num_heads, head_dim_v] as float32, and ``lse``
    [batch, qo_len, num_heads] if the variant has one."""

    kernel: str
    out: npt.NDArray[Any]
    lse: npt.NDArray[Any] | None
    milliseconds: float


def compute(bound: BoundVariant, tensors: Tensors, dtype: str, starts: Mapping[str, int], repeat: int) -> Computed:
    """Run ``bound`` on the GPU. Raises ToolchainError A1011 without one, and whatever the call raises."""
    from attncc.runtime.api import attention
    from attncc.runtime.api import compile as compile_variant

    device = _torch(dtype) or _cupy(dtype)
    storages = {tensor.name: tensor.storage.value for tensor in bound.variant.tensors}
    q, k, v = (device.tensor(tensors.vectors[name], dtype) for name in ("q", "k", "v"))
    moved = replace(
        bound,
        params={name: device.param(value) for name, value in bound.params.items()},
        tensors={name: device.tensor(array, storages[name]) for name, array in bound.tensors.items()},
        operands={name: device.tensor(array, dtype) for name, array in bound.operands.items()},
    )

    def call(return_lse: bool = False) -> Any:
        start, first = starts.get("q_start"), starts.get("k_start")
        return attention(q, k, v, moved, q_start=start, k_start=first, return_lse=return_lse)

    branches = bound.variant.branches
    out, lse = call(), None
    if len(branches) == 1 and bound.variant.reduction(branches[0]) is SOFTMAX:
        out, lse = call(return_lse=True)
    times = device.time(call, repeat)
    shape = tensors.shape
    name = compile_variant(moved, dtype=dtype, head_dim=shape.head_dim, head_dim_v=shape.head_dim_v).name
    return Computed(name, device.numpy(out), None if lse is None else device.numpy(lse), float(np.median(times)))


class _Torch:
    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.types = {
            "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "bool": torch.bool, "u8": torch.uint8,
            "i8": torch.int8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64, "u32": torch.uint32,
        }  # fmt: skip

    def tensor(self, array: npt.NDArray[Any], storage: str) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array)).to(device="cuda", dtype=self.types[storage])

    def param(self, value: Any) -> Any:
        return self.torch.from_numpy(value).to("cuda") if isinstance(value, np.ndarray) else value

    def numpy(self, tensor: Any) -> npt.NDArray[Any]:
        return np.asarray(tensor.float().cpu().numpy())

    def time(self, call: Any, repeat: int) -> list[float]:
        event = self.torch.cuda.Event
        found = []
        for _ in range(repeat):
            start, stop = event(enable_timing=True), event(enable_timing=True)
            start.record()
            for _ in range(_BATCH):
                call()
            stop.record()
            stop.synchronize()
            found.append(start.elapsed_time(stop) / _BATCH)
        return found


class _Cupy:
    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy

    def tensor(self, array: npt.NDArray[Any], storage: str) -> Any:
        return self.cupy.asarray(array.astype(np.float16) if storage == "f16" else array)

    def param(self, value: Any) -> Any:
        return self.cupy.asarray(value) if isinstance(value, np.ndarray) else value

    def numpy(self, tensor: Any) -> npt.NDArray[Any]:
        return np.asarray(self.cupy.asnumpy(tensor).astype(np.float32))

    def time(self, call: Any, repeat: int) -> list[float]:
        found = []
        for _ in range(repeat):
            start, stop = self.cupy.cuda.Event(), self.cupy.cuda.Event()
            start.record()
            for _ in range(_BATCH):
                call()
            stop.record()
            stop.synchronize()
            found.append(float(self.cupy.cuda.get_elapsed_time(start, stop)) / _BATCH)
        return found


def _torch(dtype: str) -> _Torch | None:
    try:
        import torch
    except ImportError:
        return None
    return _Torch(torch) if torch.cuda.is_available() else None


def _cupy(dtype: str) -> _Cupy:
    from attncc.cli.environment import gpu_count

    if gpu_count() == 0:
        raise ToolchainError(
            "A1011",
            "there is no GPU here",
            expected="an NVIDIA GPU and its driver",
            got="none",
            help="use --device cpu to run the reference",
        )
    if dtype != "f16":
        raise ToolchainError(
            "A1012",
            f"running in {dtype} needs a CUDA build of torch",
            expected="torch with CUDA: cupy has no bf16",
            got="no such torch in this environment",
            help="install torch with CUDA, or use --dtype f16",
        )
    import cupy

    return _Cupy(cupy)
