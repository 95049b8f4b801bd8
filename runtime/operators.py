"""torch operators ``attncc::attention`` and ``attncc::merge_states``: what torch.compile and export see of a call.

Functional, one node a call, with fakes that give shapes without data. A variant travels as a string, the hash of its
canonical text, and its parameters and tensors as arguments of the operator, so that a compiled program may change them.
Registered when a call is traced first; the eager path never comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from attncc.binding import BoundVariant, VariantFactory
from attncc.diagnostics import CallError
from attncc.runtime.launch import Frame
from attncc.runtime.layouts import Layout, Shapes, layout_of
from attncc.runtime.plan import GIVEN
from attncc.runtime.states import State

_GIVEN = tuple(GIVEN)

# A call's arguments besides q, k and v, as every operator here takes them. ``values``: parameters given as tensors, by
# the names before the colon of ``names``; ``captures``: captured tensors, by those after it.
_CALL = (
    "str variant, str names, Tensor[] values, float[] floats, int[] ints, Tensor[] captures, "
    "Tensor?[] given, float? sm_scale, SymInt? q_start, SymInt? k_start, str layout"
)
_ATTENTION = (
    f"(Tensor q, Tensor k, Tensor v, {_CALL}, bool return_lse, bool partial, SymInt? num_splits, "
    "SymInt? max_qo_len, SymInt? max_kv_len, str options) -> (Tensor, Tensor)"
)
_MERGE = (
    f"(Tensor[] accs, Tensor[] states, {_CALL}, str dtype, bool ragged_keys, SymInt[] shapes, bool return_lse) "
    "-> (Tensor, Tensor)"
)
_library = torch.library.Library("attncc", "DEF")
_library.define("attention" + _ATTENTION, tags=(torch.Tag.pt2_compliant_tag,))
_library.define("merge_states" + _MERGE, tags=(torch.Tag.pt2_compliant_tag,))


# What is traced: plain Python over attributes, so that no graph breaks ------------------------------------------------


def traced(
    variant: Any, options: Any, q: Any, k: Any, v: Any, out: Any, given: tuple[Any, ...], wanted: tuple[Any, ...]
) -> Any:
    """``attend`` as one operator. ``out`` is filled by a copy: the operator itself is functional."""
    return_lse, return_emits, partial, num_splits, max_qo_len, max_kv_len, layout = wanted
    if return_emits or (partial and (out is not None or return_lse)):
        raise CallError(
            "A0852",
            "a traced call returns no emits, and a state or a result",
            expected="no `return_emits`; with `partial` neither `out` nor `return_lse`",
            got="both",
            help="call it outside of torch.compile",
        )
    bound = _bound(variant)
    first, second = torch.ops.attncc.attention(
        q,
        k,
        v,
        *_arguments(bound, given, layout),
        return_lse,
        partial,
        num_splits,
        max_qo_len,
        max_kv_len,
        _options_text(options),
    )
    if partial:
        shapes = _shapes(q, k, v, given, layout, max_qo_len, max_kv_len)
        places = layout_of(layout, ragged=given[5] is not None), layout_of(layout, ragged=given[6] is not None)
        frame = Frame(places[0], places[1], shapes, "torch", _DTYPES[q.dtype], str(q.device))
        return State(first, second, bound, frame, given)
    if out is not None:
        out.copy_(first)
        first = out
    return (first, second) if return_lse else first


def traced_merge(states: Sequence[State], variant: Any, return_lse: bool) -> Any:
    """``merge_states`` as one operator."""
    first = states[0]
    bound = first.variant if variant is None else _bound(variant)
    frame = first.frame
    sizes = frame.shapes
    out, lse = torch.ops.attncc.merge_states(
        [state.acc for state in states],
        [state.state for state in states],
        *_arguments(bound, first.given, frame.layout.order),
        frame.dtype,
        frame.kv_layout.ragged,
        [
            sizes.batch,
            sizes.num_heads,
            sizes.num_kv_heads,
            sizes.head_dim,
            sizes.head_dim_v,
            sizes.qo_len,
            sizes.kv_len,
            sizes.qo_tokens,
            sizes.kv_tokens,
        ],
        return_lse,
    )
    return (out, lse) if return_lse else out


_DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64"}


def _bound(variant: BoundVariant | VariantFactory[...] | None) -> BoundVariant:
    if variant is None:
        from attncc.runtime.calls import plain

        return plain()
    if isinstance(variant, VariantFactory):
        return variant.bind({})
    return variant


def _arguments(bound: BoundVariant, given: tuple[Any, ...], layout: str) -> tuple[Any, ...]:
    """The arguments of _CALL."""
    values, floats, ints, names = [], [], [], []
    for name, value in bound.params.items():
        if isinstance(value, torch.Tensor):
            names.append("t" + name)
            values.append(value)
        elif isinstance(value, float):
            names.append("f" + name)
            floats.append(value)
        else:
            names.append(("b" if isinstance(value, bool) else "i") + name)
            ints.append(int(value))
    arrays = [value if isinstance(value, torch.Tensor) else None for value in given]
    numbers = [None if isinstance(value, torch.Tensor) else value for value in given[:3]]
    scale = None if numbers[0] is None else float(numbers[0])
    text = ",".join(names) + ":" + ",".join(bound.tensors)
    captures = list(bound.tensors.values())
    return (bound.handle, text, values, floats, ints, captures, arrays, scale, numbers[1], numbers[2], layout)


def _shapes(q: Any, k: Any, v: Any, given: tuple[Any, ...], layout: str, max_qo_len: Any, max_kv_len: Any) -> Shapes:
    """The sizes of a call, unchecked; symbolic sizes stay so."""
    qo_indptr, kv_indptr = given[5], given[6]
    token, head = (0, 1) if layout == "nhd" else (1, 0)
    q_token, q_head = (token, head) if qo_indptr is not None else (token + 1, head + 1)
    k_token, k_head = (token, head) if kv_indptr is not None else (token + 1, head + 1)
    qo_tokens = q.shape[q_token] if qo_indptr is not None else 0
    kv_tokens = k.shape[k_token] if kv_indptr is not None else 0
    return Shapes(
        q.shape[0] if qo_indptr is None else qo_indptr.shape[0] - 1,
        q.shape[q_head],
        k.shape[k_head],
        q.shape[-1],
        v.shape[-1],
        q.shape[q_token] if qo_indptr is None or max_qo_len is None else max_qo_len,
        k.shape[k_token] if kv_indptr is None or max_kv_len is None else max_kv_len,
        qo_tokens,
        kv_tokens,
    )


def _options_text(options: Any) -> str:
    return f"{options.arch or ''},{options.family or ''},{'precise' if options.precise else ''}"


# What runs ------------------------------------------------------------------------------------------------------------


def _rebuilt(
    handle: str, names: str, values: list[Any], floats: list[float], ints: list[int], captures: list[Any]
) -> BoundVariant:
    """The bound variant of an operator's arguments."""
    from attncc.binding import of_handle

    params: dict[str, Any] = {}
    scalars, tensors = names.split(":")
    integers = iter(ints)
    given = {"t": iter(values), "f": iter(floats), "i": integers, "b": integers}
    for name in filter(None, scalars.split(",")):
        value = next(given[name[0]])
        params[name[1:]] = bool(value) if name[0] == "b" else value
    return of_handle(handle, params, dict(zip(filter(None, tensors.split(",")), captures, strict=True)))


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    variant: str,
    names: str,
    values: list[torch.Tensor],
    floats: list[float],
    ints: list[int],
    captures: list[torch.Tensor],
    given: list[torch.Tensor | None],
    sm_scale: float | None,
    q_start: int | None,
    k_start: int | None,
    layout: str,
    return_lse: bool,
    partial: bool,
    num_splits: int | None,
    max_qo_len: int | None,
    max_kv_len: int | None,
    options: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    from attncc.runtime.api import attend
    from attncc.runtime.calls import Options

    arch, family, precise = options.split(",")
    bound = _rebuilt(variant, names, values, floats, ints, captures)
    whole = _with_numbers(given, sm_scale, q_start, k_start)
    wanted = (return_lse, False, partial, num_splits, max_qo_len, max_kv_len, layout)
    made = attend(bound, Options(arch or None, family or None, bool(precise)), q, k, v, None, whole, wanted)
    if partial:
        return made.acc, made.state
    return made if return_lse else (made, q.new_empty(0, dtype=torch.float32))


def _attention_fake(q: Any, k: Any, v: Any, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    given, layout, return_lse, partial = rest[6], rest[10], rest[11], rest[12]
    max_qo_len, max_kv_len = rest[14], rest[15]
    shapes = _shapes(q, k, v, tuple(given), layout, max_qo_len, max_kv_len)
    place = layout_of(layout, ragged=given[5] is not None)
    if partial:
        tokens = shapes.qo_tokens if place.ragged else shapes.batch * shapes.qo_len
        return _states_like(q, tokens, shapes)
    return _results_like(q, q.dtype, place, shapes, return_lse)


def _merge(
    accs: list[torch.Tensor],
    states: list[torch.Tensor],
    variant: str,
    names: str,
    values: list[torch.Tensor],
    floats: list[float],
    ints: list[int],
    captures: list[torch.Tensor],
    given: list[torch.Tensor | None],
    sm_scale: float | None,
    q_start: int | None,
    k_start: int | None,
    layout: str,
    dtype: str,
    ragged_keys: bool,
    shapes: list[int],
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    from attncc.runtime.states import finish

    bound = _rebuilt(variant, names, values, floats, ints, captures)
    whole = _with_numbers(given, sm_scale, q_start, k_start)
    place, kv_place = layout_of(layout, ragged=given[5] is not None), layout_of(layout, ragged=ragged_keys)
    device = accs[0].device
    where = "cpu" if device.type == "cpu" else f"cuda:{device.index}"
    frame = Frame(place, kv_place, Shapes(*shapes), "torch", dtype, where)
    out, lse = finish(bound, accs, states, frame, whole, return_lse)
    return out, lse if return_lse else accs[0].new_empty(0)


def _merge_fake(accs: Any, states: Any, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    given, layout, dtype, shapes, return_lse = rest[6], rest[10], rest[11], Shapes(*rest[13]), rest[14]
    kind = next(kind for kind, name in _DTYPES.items() if name == dtype)
    place = layout_of(layout, ragged=given[5] is not None)
    return _results_like(accs[0], kind, place, shapes, return_lse)


def _with_numbers(given: Sequence[Any], *numbers: Any) -> tuple[Any, ...]:
    return (*(number if array is None else array for number, array in zip(numbers, given, strict=False)), *given[3:])


def _results_like(
    like: Any, dtype: torch.dtype, place: Layout, shapes: Shapes, return_lse: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    length = shapes.qo_tokens if place.ragged else shapes.qo_len
    out = like.new_empty(place.shape(shapes.batch, length, shapes.num_heads, shapes.head_dim_v), dtype=dtype)
    lse_shape = place.shape(shapes.batch, length, shapes.num_heads) if return_lse else (0,)
    return out, like.new_empty(lse_shape, dtype=torch.float32)


def _states_like(like: Any, tokens: Any, shapes: Shapes) -> tuple[torch.Tensor, torch.Tensor]:
    rows = (tokens, shapes.num_heads)
    acc = like.new_empty((*rows, shapes.head_dim_v), dtype=torch.float32)
    return acc, like.new_empty((*rows, 2), dtype=torch.float32)


for _name, _run, _fake in (("attention", _attention, _attention_fake), ("merge_states", _merge, _merge_fake)):
    _library.impl(_name, _run, "CPU")
    _library.impl(_name, _run, "CUDA")
    torch.library.register_fake(f"attncc::{_name}", _fake, lib=_library)
