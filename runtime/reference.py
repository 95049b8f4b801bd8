"""Calls on CPU tensors: the reference runs, on numpy copies. The bridge from checked calls to the oracle."""

from __future__ import annotations

from typing import Any

from attncc.binding import BoundVariant, shape_text
from attncc.diagnostics import CallError
from attncc.ir.extents import evaluate
from attncc.ir.nodes import Operand
from attncc.runtime import tensors
from attncc.runtime.launch import Inputs
from attncc.runtime.tensors import View


def run(bound: BoundVariant, call: Inputs, *, return_emits: bool) -> dict[str, Any]:
    """Evaluate a checked call into ``call.out`` and ``call.lse``; gives the extra outputs if they are wanted.

    Results are rounded to the dtype of q. Rows past a request's length stay as they are. Raises CallError A0850 for an
    operand of the wrong shape.
    """
    import numpy as np

    from attncc.reference import attention

    variant, shapes, layout = bound.variant, call.shapes, call.layout
    if not (shapes.batch and shapes.num_heads and shapes.qo_len):
        return {}

    def nhd(tensor: View) -> Any:
        array = tensors.to_numpy(tensor)
        return array if layout.token == 1 else np.moveaxis(array, 1, 2)

    def value(item: Any) -> Any:
        return tensors.to_numpy(item) if isinstance(item, View) else item

    operands = {operand.name: _operand(operand, bound.operands[operand.name], call) for operand in variant.operands}
    result = attention(
        variant,
        nhd(call.q),
        nhd(call.k),
        nhd(call.v),
        params={name: value(item) for name, item in call.params.items()},
        tensors={name: value(item) for name, item in call.captures.items()},
        operands={name: nhd(operand) for name, operand in operands.items()},
        sm_scale=value(call.sm_scale),
        q_start=value(call.q_start),
        k_start=value(call.k_start),
        qo_lens=value(call.qo_lens),
        kv_lens=value(call.kv_lens),
    )

    def write(values: Any, into: View) -> None:
        ordered = values if layout.token == 1 else np.moveaxis(values, 1, 2)
        lens = None if call.qo_lens is None else tensors.to_numpy(call.qo_lens)
        for b in range(shapes.batch):
            rows = slice(None if lens is None else int(lens[b]))
            at = (b, rows) if layout.token == 1 else (b, slice(None), rows)
            tensors.store(np.ascontiguousarray(ordered[at]), into.array[at])

    write(result.out, call.out)
    if call.lse is not None:
        assert result.lse is not None  # api.py has refused return_lse for such variants
        write(result.lse, call.lse)
    if not return_emits:
        return {}
    emits = {}
    for name, values in result.emits.items():
        ordered = np.ascontiguousarray(values if layout.token == 1 else np.moveaxis(values, 1, 2))
        emits[name] = tensors.empty(call.q, ordered.shape, "f32")
        tensors.store(ordered, emits[name])
    return emits


def _operand(operand: Operand, array: Any, call: Inputs) -> View:
    """An extra score operand, shaped as its declaration and this call say."""
    tensor = tensors.view(array, operand.name)
    shapes = call.shapes
    heads, dim = (evaluate(size, shapes.extents()) for size in (operand.heads, operand.dim))
    length = shapes.qo_len if operand.role == "query" else shapes.kv_len
    expected = call.layout.shape(shapes.batch, length, heads or 0, dim or 0)
    if tensor.shape != expected or tensor.on_gpu:
        raise CallError(
            "A0850",
            f"the operand `{operand.name}` does not fit the call",
            expected=f"{list(expected)} on {call.q.device}",
            got=f"{list(tensor.shape)} on {tensor.device}",
            help=f"it is declared {operand.role}[{shape_text(operand.heads)}, {shape_text(operand.dim)}], "
            f"laid out as `{'q' if operand.role == 'query' else 'k'}` is",
        )
    return tensor
