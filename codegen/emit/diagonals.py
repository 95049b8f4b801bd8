"""Values by diagonal: expressions of row − col become functions of one number, computed once a diagonal of a tile.

Owns that substitution and the node that stands for such a value in a pair's formula. Knows the IR, not C++.
"""

from __future__ import annotations

from dataclasses import dataclass

from attncc.codegen.emit.positions import positions
from attncc.ir.nodes import Const, Coord, Expr, Variant
from attncc.ir.types import Type
from attncc.ir.walk import substitute
from attncc.passes.canonicalize import simplified
from attncc.passes.diagonals import diagonals

DELTA = Coord("delta")  # row - col, in storage indices


@dataclass(frozen=True, eq=False)
class OnDiagonal(Expr):
    """A value that the pair's diagonal holds; ``value`` is over storage indices, with ``delta`` for row and col."""

    value: Expr

    @property
    def type(self) -> Type:
        return self.value.type


def by_diagonal(roots: list[Expr], variant: Variant) -> dict[Expr, Expr]:
    """What to put in place of expressions below ``roots``, those of q, k, own, row and col."""
    return {node: OnDiagonal(_at_delta(node)) for node in diagonals(roots, variant)}


def _at_delta(expr: Expr) -> Expr:
    """``expr``, in which row and col enter as row - col alone, at row = delta and col = 0."""
    at: dict[Expr, Expr] = {Coord("row"): DELTA, Coord("col"): Const(0, Type.I32)}
    return simplified(substitute(positions(expr), at))
