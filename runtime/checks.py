"""Checking a call: every mistake in its arguments ends here, as one CallError. Launches nothing, copies nothing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from attncc.diagnostics import CallError
from attncc.runtime import tensors
from attncc.runtime.launch import PerRequest
from attncc.runtime.layouts import MAX_START, Layout, Ragged, Shapes, read_shapes
from attncc.runtime.tensors import View, view

FLOATS = ("f32", "f16", "bf16", "f64")
F32_MAX = 3.4028234663852886e38


def check_tensors(
    layout: Layout, kv_layout: Layout, q: object, k: object, v: object, qo: Ragged | None, kv: Ragged | None
) -> tuple[View, View, View, Shapes]:
    """q, k and v as views of one library, device and dtype, and the call's sizes; ``qo``, ``kv`` of ragged operands.

    Raises CallError A0832–A0839: no tensor, device, rank, shapes, heads, dtype, gradient, strides.
    """
    views = view(q, "q"), view(k, "k"), view(v, "v")
    first = views[0]
    for name, tensor in zip("qkv", views, strict=True):
        same_device(name, tensor, first)
        if tensor.library != first.library:
            raise CallError(
                "A0833",
                f"`{name}` is a {tensor.library} array and `q` a {first.library} array",
                expected=f"{first.library}, as `q`",
                got=tensor.library,
                help="convert one of them; torch.from_dlpack shares memory",
            )
        if tensor.dtype not in FLOATS:
            raise CallError(
                "A0837",
                f"`{name}` is {tensor.dtype}",
                expected="one of " + ", ".join(FLOATS),
                got=tensor.dtype,
                help=f"convert `{name}` to a float dtype",
            )
        if tensor.dtype != first.dtype:
            raise CallError(
                "A0837",
                f"`{name}` and `q` have different dtypes",
                expected=f"{first.dtype}, as `q`",
                got=tensor.dtype,
                help="attncc converts nothing behind your back: convert one of them",
            )
        no_gradient(name, tensor)
    q_shape, k_shape, v_shape = (tensor.shape for tensor in views)
    shapes = read_shapes(layout, q_shape, k_shape, v_shape, kv_layout=kv_layout, qo=qo, kv=kv)
    for name, tensor in zip("qkv", views, strict=True):
        contiguous_rows(name, tensor)
    return *views, shapes


def no_gradient(name: str, tensor: View) -> None:
    """attncc is forward only. Raises CallError A0838 for an input that autograd tracks."""
    if tensors.requires_grad(tensor):
        raise CallError(
            "A0838",
            f"`{name}` requires a gradient, and attncc has no backward pass",
            expected="an input that needs no gradient",
            got=f"`{name}.requires_grad` is True in grad mode",
            help=f"call under `torch.no_grad()`, or pass `{name}.detach()`",
        )


def same_device(name: str, tensor: View, first: View) -> None:
    """Raises CallError A0833 unless both lie on one device."""
    if tensor.device != first.device:
        raise CallError(
            "A0833",
            f"`{name}` is on {tensor.device} and `q` on {first.device}",
            expected=f"{first.device}, as `q`",
            got=tensor.device,
            help=f"move `{name}`; attncc copies nothing between devices",
        )


def contiguous_rows(name: str, tensor: View) -> None:
    """Raises CallError A0839 unless the channels of a row lie side by side."""
    if tensor.shape[-1] > 1 and tensor.strides[-1] != 1 and 0 not in tensor.shape:
        raise CallError(
            "A0839",
            f"the last dimension of `{name}` is not contiguous",
            expected="a stride of 1 element on the last dimension",
            got=f"strides {list(tensor.strides)} of shape {list(tensor.shape)}",
            help=f"copy it first: `{name}.contiguous()` (torch), `ascontiguousarray({name})` (cupy, numpy)",
        )


def check_out(out: object, shape: tuple[int, ...], inputs: Mapping[str, View]) -> View:
    """The caller's output tensor. Raises CallError A0841 unless it can take the result; else as for inputs."""
    like = inputs["q"]
    tensor = view(out, "out")
    same_device("out", tensor, like)
    no_gradient("out", tensor)

    def refuse(what: str, expected: str, got: str, help: str) -> CallError:
        return CallError("A0841", f"`out` {what}", expected=expected, got=got, help=help)

    if tensor.library != like.library:
        raise refuse("is of another library than `q`", like.library, tensor.library, "allocate it like `q`")
    if tensor.shape != shape:
        raise refuse("has the wrong shape", str(list(shape)), str(list(tensor.shape)), "it is laid out as `q` is")
    if tensor.dtype != like.dtype:
        raise refuse("has the wrong dtype", f"{like.dtype}, as `q`", tensor.dtype, "allocate it like `q`")
    contiguous_rows("out", tensor)
    if _overlaps_itself(tensor):
        raise refuse(
            "has elements that share memory",
            "strides under which every element is a place of its own",
            f"strides {list(tensor.strides)} of shape {list(tensor.shape)}",
            "an expanded tensor cannot be written",
        )
    low, high = tensor.span
    for name, other in inputs.items():
        other_low, other_high = other.span
        if low < other_high and other_low < high:
            raise refuse(
                f"shares memory with `{name}`",
                "memory of its own",
                f"overlapping bytes with `{name}`",
                "blocks of the output are written while others still read the input",
            )
    return tensor


def _overlaps_itself(tensor: View) -> bool:
    """Whether some two elements may share a place; exact for every tensor made by slicing and permuting a dense one."""
    if 0 in tensor.shape:
        return False
    reach = 0
    for stride, size in sorted((abs(s), n) for s, n in zip(tensor.strides, tensor.shape, strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def check_indptr(name: str, value: Any, max_name: str, max_len: Any) -> tuple[View, Ragged]:
    """An indptr, i32[batch + 1], and what it says of the batch. Raises CallError A0851, A0833.

    Values on the CPU are checked by ``check_indptr_values``; those on a GPU are not read: that would wait.
    """
    if tensors.library_of(value) is None:
        raise CallError(
            "A0851",
            f"`{name}` is not a tensor",
            expected="i32[batch + 1]: where each request's tokens begin, and the number of them all",
            got=f"{value!r:.60} of type {type(value).__name__}",
            help="pass a tensor on the device of `q`, for example torch.tensor([0, 3, 7], dtype=torch.int32)",
        )
    tensor = view(value, name)
    if tensor.dtype != "i32" or len(tensor.shape) != 1 or tensor.shape[0] < 1 or tensor.strides != (1,):
        raise CallError(
            "A0851",
            f"`{name}` has the wrong type or shape",
            expected="contiguous i32[batch + 1]",
            got=f"{tensor.dtype}{list(tensor.shape)}, strides {list(tensor.strides)}",
            help="convert it: `.to(torch.int32)` or `.astype('int32')`"
            if tensor.dtype != "i32"
            else "a batch of n requests has n + 1 entries, from 0 to the number of tokens",
        )
    return tensor, Ragged(tensor.shape[0] - 1, check_longest(max_name, max_len))


def check_indptr_values(name: str, tensor: View, tokens: int, longest: int) -> None:
    """Raises CallError A0851 for an indptr in host memory that falls, ends past the tokens or exceeds its bound."""
    if tensor.on_gpu:
        return
    values = [int(value) for value in tensors.to_numpy(tensor)]
    lengths = [after - before for before, after in pairwise(values)]
    wrong = None
    if values[0] < 0 or any(length < 0 for length in lengths):
        wrong = "it falls", "entries from 0 on that never fall"
    elif values[-1] > tokens:
        wrong = "it ends past the tokens", f"at most {tokens}, the tokens there are"
    elif any(length > longest for length in lengths):
        wrong = "a request is longer than the longest named", f"requests of at most {longest}"
    if wrong is not None:
        raise CallError(
            "A0851",
            f"`{name}` does not describe the batch: {wrong[0]}",
            expected=wrong[1],
            got=f"{values[:8]}{' …' if len(values) > 8 else ''}",
            help="request b has the tokens from indptr[b] up to indptr[b + 1]",
        )


def check_longest(name: str, value: Any) -> int | None:
    """The longest request of a ragged batch, an int ≥ 0. Raises CallError A0851."""
    if value is None:
        return None
    if not hasattr(value, "__index__") or isinstance(value, bool) or tensors.library_of(value) is not None or value < 0:
        raise CallError(
            "A0851",
            f"`{name}` is no length",
            expected="an int from 0 on",
            got=f"{value!r:.60} of type {type(value).__name__}",
            help="it bounds the longest request and sizes the launch, so it is known on the host",
        )
    return int(value)


def check_start(name: str, value: Any, like: View, batch: int) -> PerRequest:
    """A start: an int ≥ 0, or i32[batch] on the device of ``q``. Raises CallError A0842 (value), A0833 (device)."""
    if value is None or (tensors.library_of(value) is not None and (getattr(value, "ndim", 1) > 0 or like.on_gpu)):
        return check_lens(name, value, like, batch, scalar=True)
    number = _integer(name, value, "an int, or one i32 per request")
    if not 0 <= number <= MAX_START:
        raise CallError(
            "A0842",
            f"`{name}` is out of range",
            expected=f"0 to {MAX_START}",
            got=str(number),
            help="positions count from 0; leave it out to align the rows with the newest keys",
        )
    return number


def check_lens(
    name: str, value: Any, like: View, batch: int, limit: int | None = None, *, scalar: bool = False
) -> View | None:
    """One i32 per request, on the device of ``q``; values on the CPU are checked against [0, limit].

    ``scalar``: on a GPU, one for all of them too, i32 without axes.

    Raises CallError A0842 (type, shape, value) and A0833 (device). Values on a GPU are not read: that would wait.
    """
    if value is None:
        return None
    what = "i32[batch]: one per request"
    if tensors.library_of(value) is None:
        raise CallError(
            "A0842",
            f"`{name}` is not a tensor",
            expected=what,
            got=f"{value!r:.60} of type {type(value).__name__}",
            help=f"pass a tensor on {like.device}, for example torch.tensor([...], dtype=torch.int32)",
        )
    tensor = view(value, name)
    same_device(name, tensor, like)
    if tensor.dtype == "i32" and not tensor.shape and scalar and tensor.on_gpu:
        return tensor
    if tensor.dtype != "i32" or tensor.shape != (batch,) or (batch > 1 and tensor.strides != (1,)):
        raise CallError(
            "A0842",
            f"`{name}` has the wrong type or shape",
            expected=f"contiguous i32[{batch}]",
            got=f"{tensor.dtype}{list(tensor.shape)}, strides {list(tensor.strides)}",
            help="convert it: `.to(torch.int32)` or `.astype('int32')`"
            if tensor.dtype != "i32"
            else "one value per request, side by side in memory",
        )
    if not tensor.on_gpu and batch:
        values = tensors.to_numpy(tensor)
        low, high = int(values.min()), int(values.max())
        most = MAX_START if limit is None else limit
        if not 0 <= low <= high <= most:
            raise CallError(
                "A0842",
                f"`{name}` is out of range for request {int(values.argmin() if low < 0 else values.argmax())}",
                expected=f"0 to {most}",
                got=str(low if low < 0 else high),
                help="a request has between 0 rows or keys and what its storage holds"
                if limit is not None
                else "positions count from 0",
            )
    return tensor


def check_scale(value: Any, like: View, batch: int) -> float | View | None:
    """``sm_scale``: a number, or f32[batch] on the device of ``q``, there f32 without axes too. Raises CallError A0843,
    A0833.
    """
    if value is None:
        return None
    got = f"{value!r:.60}"
    on_host = tensors.library_of(value) is None or (not value.shape and not view(value, "sm_scale").on_gpu)
    if on_host:
        number = value.item() if hasattr(value, "item") else value  # a scalar of numpy, a tensor without axes
        if isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= F32_MAX:
            return float(number)
    else:
        tensor = view(value, "sm_scale")
        same_device("sm_scale", tensor, like)
        if tensor.dtype == "f32" and tensor.shape == (batch,) and (batch <= 1 or tensor.strides == (1,)):
            return tensor
        if tensor.dtype == "f32" and not tensor.shape:
            return tensor
        got = f"{tensor.dtype}{list(tensor.shape)}"
    raise CallError(
        "A0843",
        "`sm_scale` is not a finite number",
        expected=f"a finite number, or contiguous f32[{batch}] with one per request",
        got=got,
        help="leave it out for 1/√head_dim; a scale per head belongs into the variant",
    )


def check_params(params: Mapping[str, Any], like: View, batch: int) -> dict[str, Any]:
    """Parameters as scalars and views. Raises CallError A0847 (not one per request), A0833 (device)."""
    checked: dict[str, Any] = {}
    for name, value in params.items():
        if tensors.library_of(value) is None:
            checked[name] = value
            continue
        tensor = view(value, name)
        if not tensor.shape and not tensor.on_gpu:
            checked[name] = value.item()
            continue
        same_device(name, tensor, like)
        if tensor.shape and (tensor.shape != (batch,) or (batch > 1 and tensor.strides != (1,))):
            raise CallError(
                "A0847",
                f"the parameter `{name}` has the wrong shape",
                expected=f"a Python number, or contiguous [{batch}] with one value per request",
                got=f"shape {list(tensor.shape)}, strides {list(tensor.strides)}",
                help="one value per request, side by side in memory; for one per head declare a tensor",
            )
        checked[name] = tensor
    return checked


def check_captures(captures: Mapping[str, Any], like: View) -> dict[str, View]:
    """Captured tensors as views on the device of ``q``. Raises CallError A0833, A0838."""
    checked = {}
    for name, value in captures.items():
        tensor = view(value, name)
        same_device(name, tensor, like)
        no_gradient(name, tensor)
        checked[name] = tensor
    return checked


def _integer(name: str, value: Any, expected: str) -> int:
    # A 0-d tensor on a GPU would have to be waited for.
    readable = tensors.library_of(value) is None or not view(value, name).on_gpu
    if readable and hasattr(value, "__index__") and not isinstance(value, bool):
        return int(value.__index__())
    raise CallError(
        "A0842",
        f"`{name}` is not an integer",
        expected=expected,
        got=f"{value!r:.60} of type {type(value).__name__}",
        help="pass a Python int, or a tensor i32[batch] on the device of `q`",
    )
