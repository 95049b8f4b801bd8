"""Where a comparison with the column turns: what stands on its other side, summed up exactly. Knows the IR alone."""

from __future__ import annotations

from dataclasses import dataclass

from attncc.ir.nodes import Expr
from attncc.ir.types import Type


@dataclass(frozen=True, eq=False)
class Threshold(Expr):
    """The sum of ``plus`` less that of ``minus`` in 64 bits, cut to ±2³⁰: every column lies in [0, 2²⁸)."""

    plus: tuple[Expr, ...]
    minus: tuple[Expr, ...]

    @property
    def type(self) -> Type:
        return Type.I32
