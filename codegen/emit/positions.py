"""Positions as a kernel has them: sums of storage indices and a request's geometry. Knows the IR alone."""

from __future__ import annotations

from collections.abc import Mapping

from attncc.ir.nodes import Binary, Coord, Expr, Extent
from attncc.ir.walk import rewrite

# Geometry of a request as the kernel sees it; `$` keeps them apart from extents a user names.
Q_START, K_START = Extent("$q_start"), Extent("$k_start")
ROW, COL = Coord("row"), Coord("col")
# col = col_base + col_step: the step is a constant of the code, the base one value for all columns of a thread's tile.
COL_BASE, COL_STEP = Coord("col_base"), Coord("col_step")
OWN_OFFSET = Binary("sub", Extent("kv_len"), Extent("qo_len"))
POSITIONS: Mapping[Expr, Expr] = {
    Coord("q"): Binary("add", Q_START, ROW),
    Coord("k"): Binary("add", K_START, COL),
    Coord("own"): Binary("add", ROW, OWN_OFFSET),
}


def positions(root: Expr) -> Expr:
    """``root`` over storage indices: q = q_start + row, k = k_start + col, own = row + kv_len − qo_len."""
    return rewrite(root, lambda node: POSITIONS.get(node, node))
