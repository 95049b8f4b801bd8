"""Calls on CPU tensors: the reference runs, on numpy copies. The bridge from checked calls to the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from attncc.binding import BoundVariant, over_tokens, shape_text
from attncc.diagnostics import CallError
from attncc.ir.extents import evaluate
from attncc.ir.nodes import Extent, Operand, Variant
from attncc.ir.walk import walk
from attncc.runtime import tensors
from attncc.runtime.launch import Inputs
from attncc.runtime.layouts import Layout
from attncc.runtime.plan import Results
from attncc.runtime.tensors import View


def run(bound: BoundVariant, call: Inputs, *, return_emits: bool) -> dict[str, Any]:
    """Evaluate a checked call into ``call.out`` and ``call.lse``; gives the extra outputs if they are wanted.

    Results are rounded to the dtype of q. Rows past a request's length stay as they are. Raises CallError A0850 for an
    operand of the wrong shape.
    """
    from attncc.reference import attention

    variant, shapes = bound.variant, call.shapes
    if not (shapes.batch and shapes.num_heads and shapes.qo_len):
        return {}
    batch = _Batch(call, variant)
    operands = {operand.name: _operand(operand, bound.operands[operand.name], call) for operand in variant.operands}
    result = attention(
        variant,
        *batch.operands(),
        operands={
            operand.name: batch.rows(operands[operand.name])
            if operand.role == "query"
            else batch.columns(operands[operand.name])
            for operand in variant.operands
        },
        sm_scale=_value(call.sm_scale),
        **batch.context(),
    )
    assert call.out is not None
    batch.write(result.out, call.out)
    if call.lse is not None:
        assert result.lse is not None  # the checks have refused return_lse for such variants
        batch.write(result.lse, call.lse)
    return batch.emits(result.emits, variant) if return_emits else {}


def partial(bound: BoundVariant, call: Inputs) -> Results:
    """The state of a checked call, as arrays of its library."""
    import numpy as np

    from attncc.reference import states

    shapes = call.shapes
    rows = (call.tokens, shapes.num_heads)
    acc = np.zeros((*rows, shapes.head_dim_v))
    numbers = np.zeros((*rows, 2))
    if shapes.batch and shapes.num_heads and shapes.qo_len:
        batch = _Batch(call, bound.variant)
        found = states.partial(bound.variant, *batch.operands(), sm_scale=_value(call.sm_scale), **batch.context())
        for b, (first, length) in enumerate(batch.tokens()):
            acc[first : first + length], numbers[first : first + length] = (part[b, :length] for part in found)
    made = tensors.empty(call.q, acc.shape, "f32"), tensors.empty(call.q, numbers.shape, "f32")
    tensors.store(acc, made[0])
    tensors.store(numbers, made[1])
    return Results(None, None, *made)


def merge(bound: BoundVariant, call: Inputs, parts: Sequence[tuple[Any, Any]]) -> None:
    """Combine and finish states into ``call.out`` and ``call.lse``."""
    import numpy as np

    from attncc.reference import Sizes, states

    shapes = call.shapes
    if not (shapes.batch and shapes.num_heads and shapes.qo_len):
        return
    batch = _Batch(call, bound.variant)
    padded = []
    for acc, numbers in parts:
        wide = []
        for part in (acc, numbers):
            values = tensors.to_numpy(tensors.view(part, "state"))
            array = np.zeros((shapes.batch, batch.qo_len, *values.shape[1:]))
            for b, (first, length) in enumerate(batch.tokens()):
                array[b, :length] = values[first : first + length]
            wide.append(array)
        padded.append((wide[0], wide[1]))
    sizes = Sizes(
        shapes.batch,
        shapes.num_heads,
        shapes.num_kv_heads,
        shapes.head_dim,
        shapes.head_dim_v,
        batch.qo_len,
        batch.kv_len,
    )
    out, lse = states.merge(bound.variant, padded, sizes, **batch.context())
    assert call.out is not None
    batch.write(out, call.out)
    if call.lse is not None:
        assert lse is not None
        batch.write(lse, call.lse)


class _Batch:
    """A call as the reference takes it: padded, [batch, len, heads, dim], with lengths. Ragged requests are spread."""

    def __init__(self, call: Inputs, variant: Variant) -> None:
        self.call = call
        self.variant = variant
        self.qo_at = None if call.qo_indptr is None else tensors.to_numpy(call.qo_indptr)
        self.kv_at = None if call.kv_indptr is None else tensors.to_numpy(call.kv_indptr)
        self.qo_len = self._length(self.qo_at, call.shapes.qo_len, "qo_len")
        self.kv_len = self._length(self.kv_at, call.shapes.kv_len, "kv_len")

    def _length(self, indptr: Any, bound: int, extent: str) -> int:
        """The longest request, unless a tensor that is not spread out is as long as the bound of it."""
        for tensor in self.variant.tensors:
            ragged = over_tokens(tensor) and len(self.call.captures[tensor.name].shape) < len(tensor.dims)
            named = any(isinstance(node, Extent) and node.name == extent for dim in tensor.dims for node in walk(dim))
            if named and not ragged:
                return bound
        return bound if indptr is None else int(max((indptr[1:] - indptr[:-1]).max(), 1))

    def operands(self) -> tuple[Any, Any, Any]:
        return self.rows(self.call.q), self.columns(self.call.k), self.columns(self.call.v)

    def rows(self, tensor: View) -> Any:
        return self._spread(_nhd(tensor, self.call.layout), self.qo_at, self.qo_len)

    def columns(self, tensor: View) -> Any:
        return self._spread(_nhd(tensor, self.call.kv_layout), self.kv_at, self.kv_len)

    def context(self) -> dict[str, Any]:
        """Parameters, captured tensors, starts and lengths, by the reference's names."""
        call = self.call
        return {
            "params": {name: _value(item) for name, item in call.params.items()},
            "tensors": {tensor.name: self._captured(tensor) for tensor in self.variant.tensors},
            "q_start": _value(call.q_start),
            "k_start": _value(call.k_start),
            "qo_lens": _value(call.qo_lens) if self.qo_at is None else self.qo_at[1:] - self.qo_at[:-1],
            "kv_lens": _value(call.kv_lens) if self.kv_at is None else self.kv_at[1:] - self.kv_at[:-1],
        }

    def _captured(self, tensor: Any) -> Any:
        view = self.call.captures[tensor.name]
        values = tensors.to_numpy(view)
        if len(view.shape) == len(tensor.dims):
            return values
        over_rows = tensor.dims[1] == Extent("qo_len")
        return self._spread(values, *((self.qo_at, self.qo_len) if over_rows else (self.kv_at, self.kv_len)))

    def _spread(self, values: Any, indptr: Any, length: int) -> Any:
        """[tokens, ...] as [batch, length, ...], zeros past each request; what is padded already stays."""
        if indptr is None:
            return values
        import numpy as np

        found = np.zeros((len(indptr) - 1, length, *values.shape[1:]), values.dtype)
        for b, (first, last) in enumerate(pairwise(indptr)):
            found[b, : last - first] = values[first:last]
        return found

    def tokens(self) -> list[tuple[int, int]]:
        """The first token of each request, as a state numbers them, and how many there are."""
        if self.qo_at is not None:
            return [(int(a), int(b - a)) for a, b in pairwise(self.qo_at)]
        lens = None if self.call.qo_lens is None else tensors.to_numpy(self.call.qo_lens)
        return [(b * self.qo_len, self.qo_len if lens is None else int(lens[b])) for b in range(self.call.shapes.batch)]

    def write(self, values: Any, into: View) -> None:
        """Store [batch, len, heads, ...] where each request's rows are."""
        import numpy as np

        layout = self.call.layout
        for b, (first, length) in enumerate(self.tokens()):
            start = first if layout.ragged else 0
            rows = slice(start, start + length)
            at: tuple[Any, ...] = (rows,) if layout.token < layout.head else (slice(None), rows)
            part = values[b, :length]
            part = part if layout.token < layout.head else np.moveaxis(part, 1, 0)
            tensors.store(np.ascontiguousarray(part), into.array[at if layout.ragged else (b, *at)])

    def emits(self, found: dict[str, Any], variant: Variant) -> dict[str, Any]:
        """The extra outputs, f32, laid out as an LSE is: over rows, or over keys."""
        import numpy as np

        call, made = self.call, {}
        for emit in variant.emits:
            values = found[emit.name]
            over_rows = emit.axis == "row"
            layout = call.layout if over_rows else call.kv_layout
            indptr = self.qo_at if over_rows else self.kv_at
            if indptr is not None:
                tokens = call.shapes.qo_tokens if over_rows else call.shapes.kv_tokens
                flat = np.zeros((tokens, values.shape[2]), values.dtype)
                for b, (first, last) in enumerate(pairwise(indptr)):
                    flat[first:last] = values[b, : last - first]
                values = flat
            if layout.token > layout.head:
                values = np.moveaxis(values, -1, -2)
            ordered = np.ascontiguousarray(values)
            made[emit.name] = tensors.empty(call.q, ordered.shape, "f32")
            tensors.store(ordered, made[emit.name])
        return made


def _nhd(tensor: View, layout: Layout) -> Any:
    import numpy as np

    array = tensors.to_numpy(tensor)
    return array if layout.token < layout.head else np.moveaxis(array, layout.token, layout.head)


def _value(item: Any) -> Any:
    return tensors.to_numpy(item) if isinstance(item, View) else item


def _operand(operand: Operand, array: Any, call: Inputs) -> View:
    """An extra score operand, shaped as its declaration and this call say."""
    tensor = tensors.view(array, operand.name)
    shapes, over_rows = call.shapes, operand.role == "query"
    heads, dim = (evaluate(size, shapes.extents()) for size in (operand.heads, operand.dim))
    layout = call.layout if over_rows else call.kv_layout
    if layout.ragged:
        length = shapes.qo_tokens if over_rows else shapes.kv_tokens
    else:
        length = shapes.qo_len if over_rows else shapes.kv_len
    expected = layout.shape(shapes.batch, length, heads or 0, dim or 0)
    if tensor.shape != expected or tensor.on_gpu:
        raise CallError(
            "A0850",
            f"the operand `{operand.name}` does not fit the call",
            expected=f"{list(expected)} on {call.q.device}",
            got=f"{list(tensor.shape)} on {tensor.device}",
            help=f"it is declared {operand.role}[{shape_text(operand.heads)}, {shape_text(operand.dim)}], "
            f"laid out as `{'q' if over_rows else 'k'}` is",
        )
    return tensor
