"""What a call's shapes and parameter values say about a variant: extents, conditions, positions used as storage.

Knows the IR, and arrays by their shape and dtype alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attncc.diagnostics import CallError
from attncc.ir.extents import evaluate
from attncc.ir.nodes import Binary, Const, Coord, Expr, Extent, Load, Param, Tensor, Variant
from attncc.ir.types import Storage, Type, Value
from attncc.ir.walk import rewrite, walk

# The name an array library gives a storage type; torch's is the same after "torch.".
DTYPES: dict[str, Storage] = {
    "float32": Storage.F32,
    "float16": Storage.F16,
    "bfloat16": Storage.BF16,
    "bool": Storage.BOOL,
    "uint8": Storage.U8,
    "int8": Storage.I8,
    "int16": Storage.I16,
    "int32": Storage.I32,
    "int64": Storage.I64,
    "uint32": Storage.U32,
}


def storage_of(array: Any) -> Storage | None:
    """The storage type of a torch, cupy or numpy array; None for a dtype the language has not."""
    name = str(getattr(array, "dtype", "")).removeprefix("torch.")
    return DTYPES.get(name)


def is_array(value: object) -> bool:
    """Whether a value is an array of some library: it has a shape and a dtype."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def shown(value: object) -> str:
    """A value for messages: arrays by dtype and shape."""
    if not is_array(value):
        return repr(value)
    storage = storage_of(value)
    kind = storage.value if storage is not None else str(getattr(value, "dtype", "?"))
    return f"{kind}[{', '.join(str(n) for n in getattr(value, 'shape', ()))}]"


def bind_extents(variant: Variant, shapes: Mapping[str, tuple[int, ...]], base: Mapping[str, int]) -> dict[str, int]:
    """Every extent of a call: ``base`` (batch, num_heads, …) and the names the tensors' shapes bind.

    ``shapes`` holds each captured tensor's shape. An axis that is a bare new name binds it, the others must agree; on
    ``qo_len`` and ``kv_len`` axes ``base`` counts the storage per request (the longest of a padded batch). Raises
    CallError A0809 (rank), A0810 (an axis differs; names the tensor that bound the size), A0811 (a name none binds).
    """
    extents, bound_by = dict(base), dict.fromkeys(base, "query, key and value")
    for tensor in variant.tensors:
        if len(shapes[tensor.name]) != len(tensor.dims):
            raise rank_error(tensor, shapes[tensor.name])
        for axis, (dim, size) in enumerate(zip(tensor.dims, shapes[tensor.name], strict=True)):
            if isinstance(dim, Extent) and dim.name not in extents:
                extents[dim.name], bound_by[dim.name] = size, f"axis {axis} of `{tensor.name}`"
    for tensor in variant.tensors:
        for axis, (dim, size) in enumerate(zip(tensor.dims, shapes[tensor.name], strict=True)):
            expected = evaluate(dim, extents)
            if expected is None:
                raise _unbound(tensor, axis, dim, extents)
            if expected != size:
                names = sorted({node.name for node in walk(dim) if isinstance(node, Extent)})
                givers = " and ".join(f"`{name}` = {extents[name]} from {bound_by[name]}" for name in names)
                raise CallError(
                    "A0810",
                    f"`{tensor.name}` of `{variant.name}` has the wrong size on axis {axis}",
                    expected=f"{shape_text(dim)} = {expected}" if names else str(expected),
                    got=f"{size}, of shape {list(shapes[tensor.name])}",
                    help=f"{givers}; `{tensor.name}` is declared [{_dims(tensor)}]"
                    if names
                    else f"declared [{_dims(tensor)}]",
                )
    return extents


def over_tokens(tensor: Tensor) -> bool:
    """Whether the tensor is over a batch's tokens, [batch, qo_len or kv_len, ...]: it may be ragged, [tokens, ...]."""
    return tensor.dims[:2] in ((Extent("batch"), Extent("qo_len")), (Extent("batch"), Extent("kv_len")))


def _dims(tensor: Tensor) -> str:
    return ", ".join(map(shape_text, tensor.dims))


def rank_error(tensor: Tensor, shape: tuple[int, ...]) -> CallError:
    """A0809: a tensor with more or fewer axes than declared."""
    return CallError(
        "A0809",
        f"`{tensor.name}` has {len(shape)} ax{'i' if len(shape) == 1 else 'e'}s",
        expected=f"[{_dims(tensor)}]",
        got=f"shape {list(shape)}",
        help="reshape it, or declare the axes it has",
    )


def _unbound(tensor: Tensor, axis: int, dim: Expr, extents: Mapping[str, int]) -> CallError:
    unknown = sorted({n.name for n in walk(dim) if isinstance(n, Extent) and n.name not in extents})
    return CallError(
        "A0811",
        f"nothing binds `{unknown[0]}` on axis {axis} of `{tensor.name}`",
        expected=f"a tensor with an axis that is `{unknown[0]}` alone",
        got=shape_text(dim),
        help=f"declare the axis as a bare name, or pass a tensor whose shape binds `{unknown[0]}`",
    )


_SIGNS = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "floordiv": ("//", 2), "mod": ("%", 2)}


def shape_text(dim: Expr) -> str:
    """A shape expression as a person writes it."""
    done: dict[Expr, tuple[str, int]] = {}  # text, how tightly it binds
    for node in walk(dim):
        if isinstance(node, Binary) and node.op in _SIGNS:
            sign, level = _SIGNS[node.op]
            (left, left_level), (right, right_level) = done[node.left], done[node.right]
            left = left if left_level >= level else f"({left})"
            right = right if right_level > level else f"({right})"
            done[node] = f"{left} {sign} {right}", level
        elif isinstance(node, Binary):
            done[node] = f"{node.op}({done[node.left][0]}, {done[node.right][0]})", 3
        elif isinstance(node, Const):
            done[node] = str(node.value), 3
        elif isinstance(node, Extent):
            done[node] = node.name, 3
        else:
            raise ValueError(f"{type(node).__name__} in a shape expression")
    return done[dim][0]


def check_requires(variant: Variant, params: Mapping[str, Any], extents: Mapping[str, int]) -> None:
    """Check the variant's ``require`` conditions for a call. Raises CallError A0812 where one does not hold.

    ``params`` holds a scalar or a per-request array for each parameter. Values in host memory are read; a condition
    over an array on a device is refused with A0813, since reading it would synchronise.
    """
    for require in variant.requires:
        used = sorted({node.name for node in walk(require.cond) if isinstance(node, Param)})
        batch = {name: _on_host(variant, name, params[name]) for name in used if is_array(params[name])}
        for request in range(max((len(values) for values in batch.values()), default=1)):
            scalars = {name: batch[name][request] if name in batch else params[name] for name in used}
            if not _holds(variant, require.cond, scalars, extents):
                where = f" for request {request}" if batch else ""
                values = ", ".join(f"{name} = {value}" for name, value in scalars.items())
                spans = variant.spans.get(require.cond, ())
                raise CallError(
                    "A0812",
                    f"`{variant.name}` requires: {require.text}",
                    span=spans[0] if spans else None,
                    expected="a true condition",
                    got=(f"false{where}" + (f" with {values}" if values else "")),
                    help="pass values that meet it; the condition stands in the variant's `require`",
                )


def _on_host(variant: Variant, name: str, array: Any) -> list[Value]:
    """The elements of an array that lies in host memory."""
    device = getattr(getattr(array, "device", None), "type", "cpu")
    if type(array).__module__.startswith("cupy") or device != "cpu":
        raise CallError(
            "A0813",
            f"a `require` of `{variant.name}` reads `{name}`, which lies on the device",
            expected="a Python number or an array in host memory",
            got=shown(array),
            help="reading it would wait for the device; pass it in host memory, or leave the condition out",
        )
    values: list[Value] = array.reshape(-1).tolist()
    return values


def _holds(variant: Variant, cond: Expr, params: Mapping[str, Any], extents: Mapping[str, int]) -> bool:
    from attncc.passes.canonicalize import simplified
    from attncc.passes.unroll import unrolled

    def known(node: Expr) -> Expr:
        if isinstance(node, Param):
            return Const(params[node.name], node.type)
        return Const(extents[node.name], Type.I32) if isinstance(node, Extent) else node

    result = simplified(unrolled(simplified(rewrite(cond, known))))
    if not isinstance(result, Const):
        raise ValueError(f"`require` of {variant.name} did not fold: {cond!r}")
    return bool(result.value)


def refuses_starts(variant: Variant) -> str | None:
    """Why a call of this variant cannot take ``q_start`` or ``k_start``; None if it can.

    A tensor over ``qo_len`` or ``kv_len`` holds storage slots. Indexed by a position (``q``, ``k``) it means the same
    only while positions count from the first stored key, so given starts would read other elements than were meant.
    """
    for _, root in variant.roots():
        for node in walk(root):
            if not isinstance(node, Load):
                continue
            for dim, index in zip(variant.tensor(node.tensor).dims, node.indices, strict=True):
                sized = {n.name for n in walk(dim) if isinstance(n, Extent)} & {"qo_len", "kv_len"}
                positions = [n.axis for n in walk(index) if isinstance(n, Coord) and n.axis in ("q", "k")]
                if sized and positions:
                    storage = "`own` or `row`" if positions[0] == "q" else "`col`"
                    return (
                        f"`{node.tensor}` has a {sized.pop()} axis that is indexed by the position `{positions[0]}`; "
                        f"index it by {storage} to give explicit starts"
                    )
    return None
