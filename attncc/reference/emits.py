"""The extra outputs of a variant: row emits block by block, column emits summed over blocks. Knows no hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from attncc.ir.nodes import Expr, Input, Reduce
from attncc.ir.walk import walk
from attncc.reference.call import Block, Call
from attncc.reference.hooks import Rows, internal, row_results, without_columns
from attncc.reference.rounding import Array

_PAIR_REDUCTIONS = ("expect", "rowmax", "colsum")


@dataclass
class Emits:
    """The emits of a call: ``values`` by name; ``sums`` are the column sums of the heads being worked on."""

    call: Call
    values: dict[str, Array]
    sums: dict[Expr, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, call: Call) -> Emits:
        sizes = call.sizes
        tokens = {"row": sizes.qo_len, "col": sizes.kv_len}
        shapes = {emit.name: (sizes.batch, tokens[emit.axis], sizes.num_heads) for emit in call.variant.emits}
        return cls(call, {name: np.zeros(shape) for name, shape in shapes.items()})

    def rows(self, block: Block, done: Mapping[str, Rows]) -> None:
        """Row emits of a block, and the block's share of every ``colsum``."""
        assert block.rows is not None
        for emit in self.call.variant.emits:
            inputs = row_results(done)
            for node in walk(emit.value):
                if not isinstance(node, Reduce) or node.kind not in _PAIR_REDUCTIONS:
                    continue
                part = done[_branch_of(node, done)]
                scope = self.call.scope(
                    Block(block.b, block.heads, block.rows, part.cols),
                    inputs={**inputs, **_pair_results(done)},
                    attend=part.attend,
                    prob=part.prob,
                )
                value = internal(scope, node)
                if node.kind == "colsum":
                    self.sums.setdefault(node, np.zeros((len(block.heads), 1, int(self.call.kv_lens[block.b]), 1)))
                    self.sums[node][:, :, part.cols.start : part.cols.stop] += value
                else:
                    inputs[node] = value
            if emit.axis == "row":
                value = internal(self.call.scope(without_columns(block), inputs=inputs), emit.value)
                shape = (len(block.heads), len(block.rows))
                target = self.values[emit.name][block.b, block.rows.start : block.rows.stop]
                target[:, block.heads.start : block.heads.stop] = np.broadcast_to(value[..., 0, 0], shape).T

    def columns(self, block: Block) -> None:
        """Column emits of the heads whose rows are all done."""
        assert block.cols is not None
        for emit in self.call.variant.emits:
            if emit.axis != "col":
                continue
            zero = np.zeros((1, 1, 1, 1))
            inputs = {node: self.sums.get(node, zero) for node in walk(emit.value) if _is_colsum(node)}
            value = internal(self.call.scope(block, inputs=inputs), emit.value)
            shape = (len(block.heads), len(block.cols))
            target = self.values[emit.name][block.b, : len(block.cols)]
            target[:, block.heads.start : block.heads.stop] = np.broadcast_to(value[:, 0, :, 0], shape).T
        self.sums.clear()


def _pair_results(done: Mapping[str, Rows]) -> dict[Expr, Array]:
    found: dict[Expr, Array] = {}
    for name, part in done.items():
        found[Input("logits", name)] = part.logits[..., None]
        if part.prob is not None:
            found[Input("prob", name)] = part.prob[..., None]
    return found


def _is_colsum(node: Expr) -> bool:
    return isinstance(node, Reduce) and node.kind == "colsum"


def _branch_of(node: Reduce, done: Mapping[str, Rows]) -> str:
    """Whose pairs a reduction runs over: the branch its body reads (the verifier has seen that it is one)."""
    if len(done) == 1:
        return next(iter(done))
    return next(below.branch for below in walk(node.body) if isinstance(below, Input))
