"""What the runtime needs of a tensor, whichever library made it. Imports no array library of its own accord."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from attncc.diagnostics import CallError

# Storage types by what torch, numpy and cupy call them.
DTYPES = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "float64": "f64",
    "bool": "bool",
    "uint8": "u8",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint32": "u32",
}
ITEMSIZE = {
    "f64": 8,
    "f32": 4,
    "f16": 2,
    "bf16": 2,
    "bool": 1,
    "u8": 1,
    "i8": 1,
    "i16": 2,
    "i32": 4,
    "i64": 8,
    "u32": 4,
}
CPU = "cpu"


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as a kernel sees it: strides in elements; ``device`` is "cpu" or "cuda:0"; ``dtype`` a storage type."""

    array: Any
    library: str
    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: str

    @property
    def on_gpu(self) -> bool:
        return self.device != CPU

    @property
    def index(self) -> int:
        """The CUDA device."""
        return int(self.device[5:])

    @property
    def span(self) -> tuple[int, int]:
        """The first and one past the last byte that any element touches."""
        if 0 in self.shape:
            return self.pointer, self.pointer
        low = high = 0
        for count, step in zip(self.shape, self.strides, strict=True):
            if step < 0:
                low += (count - 1) * step
            else:
                high += (count - 1) * step
        size = ITEMSIZE[self.dtype]
        return self.pointer + low * size, self.pointer + (high + 1) * size


def library_of(value: object) -> str | None:
    """ "torch", "cupy" or "numpy" for an array of that library; None for anything else."""
    # A tensor can only exist once its library is imported.
    for name, kind in (("torch", "Tensor"), ("cupy", "ndarray"), ("numpy", "ndarray")):
        module = sys.modules.get(name)
        if module is not None and isinstance(value, getattr(module, kind)):
            return name
    return None


def view(value: object, name: str) -> View:
    """The tensor ``value``, called ``name`` in errors.

    Raises CallError A0832 (no tensor), A0833 (a device that is neither CPU nor CUDA) or A0837 (a dtype attncc has not).
    """
    library = library_of(value)
    if library is None:
        raise CallError(
            "A0832",
            f"`{name}` is not a tensor",
            expected="a torch, cupy or numpy array",
            got=f"{value!r:.60} of type {type(value).__name__}",
            help=f"pass `{name}` as a tensor on the device that is to compute",
        )
    array: Any = value
    if library == "torch":
        dtype = _torch_dtypes().get(array.dtype)
        device = array.device
        if device.type not in ("cpu", "cuda"):
            raise CallError(
                "A0833",
                f"`{name}` is on the device {device}",
                expected="cpu or cuda",
                got=str(device),
                help="move it with `.to('cuda')` or `.to('cpu')`",
            )
        if dtype is None or array.layout is not sys.modules["torch"].strided:
            raise _dtype_error(name, f"{array.dtype} ({array.layout})")
        place = CPU if device.type == "cpu" else f"cuda:{device.index}"
        return View(array, library, array.data_ptr(), tuple(array.shape), array.stride(), dtype, place)
    dtype = DTYPES.get(array.dtype.name)
    if dtype is None or not array.dtype.isnative:
        raise _dtype_error(name, str(array.dtype))
    size = array.dtype.itemsize
    if any(step % size for step in array.strides):
        raise CallError(
            "A0839",
            f"`{name}` has strides that are no whole elements",
            expected=f"multiples of {size} bytes",
            got=str(array.strides),
            help=f"copy it first: `{library}.ascontiguousarray({name})`",
        )
    strides = tuple(step // size for step in array.strides)
    if library == "numpy":
        return View(array, library, array.ctypes.data, array.shape, strides, dtype, CPU)
    return View(array, library, array.data.ptr, array.shape, strides, dtype, f"cuda:{array.device.id}")


@dataclass(frozen=True)
class Library:
    """What repeated calls do with the arrays of one library, without a View: each is called several times a launch.

    - ``signature(array)``: everything but the pointer that a check of the array looks at, hashable.
    - ``pointer(array)``: the address of its first element.
    - ``empty(shape, dtype, device)``: an uninitialised array, in the order of the device's current stream.
    - ``stream(device)``: the driver's handle of that stream.
    """

    name: str
    signature: Callable[[Any], Any]
    pointer: Callable[[Any], int]
    empty: Callable[[tuple[int, ...], Any, int], Any]
    stream: Callable[[int], int]
    dtypes: dict[str, Any]  # by storage type, for ``empty``


@functools.cache
def library(kind: Any) -> Library | None:
    """The library whose plain arrays are of type ``kind``; None for every other type, subclasses included."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and kind in (torch.Tensor, torch.nn.Parameter):
        return _torch_library()
    if cupy is not None and kind is cupy.ndarray:
        return _cupy_library()
    return None


def library_named(name: str) -> Library:
    """torch's or cupy's."""
    return _torch_library() if name == "torch" else _cupy_library()


@functools.cache
def _torch_library() -> Library:
    torch = sys.modules["torch"]
    grad_mode, tensor, make = torch.is_grad_enabled, torch.Tensor, torch.empty
    devices = [torch.device("cuda", index) for index in range(64)]
    # What generated code of torch itself calls; the public way makes two objects.
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)

    def signature(array: Any) -> Any:
        grad = array.requires_grad and grad_mode()
        return array.shape, array.stride(), array.dtype, array.get_device(), grad

    def empty(shape: tuple[int, ...], dtype: Any, device: int) -> Any:
        return make(shape, dtype=dtype, device=devices[device])

    def stream(device: int) -> int:
        handle: int = torch.cuda.current_stream(device).cuda_stream
        return handle

    return Library("torch", signature, tensor.data_ptr, empty, raw or stream, _torch_names())


@functools.cache
def _cupy_library() -> Library:
    cupy = sys.modules["cupy"]

    def signature(array: Any) -> Any:
        return array.shape, array.strides, array.dtype, array.device.id

    def pointer(array: Any) -> int:
        address: int = array.data.ptr
        return address

    def empty(shape: tuple[int, ...], dtype: Any, device: int) -> Any:
        with cupy.cuda.Device(device):
            return cupy.empty(shape, dtype)

    def stream(device: int) -> int:
        with cupy.cuda.Device(device):
            handle: int = cupy.cuda.get_current_stream().ptr
        return handle

    return Library("cupy", signature, pointer, empty, stream, _NUMPY)


def requires_grad(tensor: View) -> bool:
    """Whether autograd would want a gradient through this tensor now."""
    if tensor.library != "torch" or not tensor.array.requires_grad:
        return False
    grad: bool = sys.modules["torch"].is_grad_enabled()
    return grad


def empty(like: View, shape: tuple[int, ...], dtype: str) -> Any:
    """An uninitialised array of ``like``'s library and device, allocated in the order of its current stream."""
    if like.library == "torch":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=_torch_names()[dtype], device=like.array.device)
    module = sys.modules[like.library]
    kind = like.array.dtype if dtype == like.dtype else _NUMPY[dtype]
    if like.library == "cupy":
        with module.cuda.Device(like.index):
            return module.empty(shape, kind)
    return module.empty(shape, kind)


def full(like: View, shape: tuple[int, ...], dtype: str, value: float) -> Any:
    """``empty`` filled with one value, on the current stream."""
    array = empty(like, shape, dtype)
    fill(array, value)
    return array


def fill(array: Any, value: float) -> None:
    """Set every element on the current stream."""
    if library_of(array) == "torch":
        array.fill_(value)
    elif library_of(array) == "cupy":
        with array.device:
            array.fill(value)
    else:
        array[...] = value


def as_i32(tensor: View) -> Any:
    """A bool tensor as i32 of the same library, converted on the current stream."""
    if tensor.library == "torch":
        return tensor.array.to(sys.modules["torch"].int32)
    return tensor.array.astype("int32")


def repeated(tensor: View, count: int) -> Any:
    """A 0-d array as [count] of its value, made on the current stream: a graph's replay makes it again."""
    if tensor.library == "torch":
        return tensor.array.expand(count).contiguous()
    module = sys.modules[tensor.library]
    return module.ascontiguousarray(module.broadcast_to(tensor.array, (count,)))


def stacked(arrays: Sequence[Any]) -> Any:
    """Arrays of one shape as one with a new first axis, on the current stream."""
    return sys.modules[library_of(arrays[0]) or "numpy"].stack(list(arrays))


def to_numpy(tensor: View) -> Any:
    """A CPU tensor as a numpy array, bf16 widened to float32; shares memory where numpy can express it."""
    if tensor.library == "torch":
        array = tensor.array.detach()
        return array.float().numpy() if tensor.dtype == "bf16" else array.numpy()
    return tensor.array.astype("float32") if tensor.dtype == "bf16" else tensor.array


def store(values: Any, into: Any) -> None:
    """Write a numpy array into a CPU array of any library, rounding once to its dtype."""
    if library_of(into) == "torch":
        torch = sys.modules["torch"]
        into.copy_(torch.from_numpy(values))
    else:
        into[...] = values


_NUMPY = {name: spelled for spelled, name in DTYPES.items() if name != "bf16"}


@functools.cache
def _torch_names() -> dict[str, Any]:
    torch = sys.modules["torch"]
    return {name: getattr(torch, spelled) for spelled, name in DTYPES.items() if hasattr(torch, spelled)}


@functools.cache
def _torch_dtypes() -> dict[Any, str]:
    return {dtype: name for name, dtype in _torch_names().items()}


def _dtype_error(name: str, got: str) -> CallError:
    return CallError(
        "A0837",
        f"`{name}` has a dtype attncc does not know",
        expected="a dense tensor of one of " + ", ".join(DTYPES.values()),
        got=got,
        help=f"convert `{name}` first",
    )
