"""``At``: the coordinates, inputs and sizes a variant's formulas are made of."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, NoReturn

from attncc.diagnostics import Span, TracingError
from attncc.frontend import misuse
from attncc.frontend.location import caller
from attncc.frontend.value import Value
from attncc.ir.nodes import AXES, EXTENTS, INPUTS, Coord, Extent, Input


class At:
    """One (row, column) pair of one head, seen by a variant's function.

    Coordinates (i32): ``b`` request, ``h`` query head, ``hk`` KV head, ``row`` and ``col`` storage indices, ``q`` and
    ``k`` positions, ``own`` the row's own key slot, ``d`` the channel. Inputs (f32): ``query key value`` channel
    vectors, ``sm_scale score logits prob out total lse`` scalars of the hooks that may read them. Sizes (i32): ``batch
    num_heads num_kv_heads head_dim head_dim_v qo_len kv_len``. A misspelt name raises TracingError A0611.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        b: Value
        h: Value
        hk: Value
        row: Value
        col: Value
        q: Value
        k: Value
        own: Value
        d: Value
        sm_scale: Value
        query: Value
        key: Value
        value: Value
        score: Value
        logits: Value
        prob: Value
        out: Value
        total: Value
        lse: Value
        batch: Value
        num_heads: Value
        num_kv_heads: Value
        head_dim: Value
        head_dim_v: Value
        qo_len: Value
        kv_len: Value

    else:

        def __getattr__(self, name: str) -> Value:
            if name.startswith("__"):
                raise AttributeError(name)
            span = caller()
            if name in AXES:
                return Value(Coord(name), span)
            if name in EXTENTS:
                return Value(Extent(name), span)
            if name in INPUTS:
                return Value(Input(name), span)
            raise _unknown("at", name, (*AXES, *INPUTS, *EXTENTS), span)

        def __setattr__(self, name: str, value: object) -> NoReturn:
            raise misuse.assigned(caller())

    def extent(self, name: str) -> Value:
        """The size ``name``, which some tensor's dims bind: ``table: F32[Tensor, "n"]`` binds ``at.extent("n")``."""
        return Value(Extent(name), caller())

    def branch(self, name: str) -> BranchAt:
        """The results of the branch ``name``, for ``output`` and ``emit``: ``at.branch("x").out``."""
        return BranchAt(name)

    def __repr__(self) -> str:
        return "<at: coordinates, inputs and sizes>"


class BranchAt:
    """The inputs one branch provides."""

    __slots__ = ("_name",)

    if TYPE_CHECKING:
        score: Value
        logits: Value
        prob: Value
        out: Value
        total: Value
        lse: Value

    def __init__(self, name: str) -> None:
        self._name = name

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Value:
            if name.startswith("__"):
                raise AttributeError(name)
            if name in INPUTS:
                return Value(Input(name, self._name), caller())
            raise _unknown(f'at.branch("{self._name}")', name, INPUTS, caller())


def _unknown(of: str, name: str, known: tuple[str, ...], span: Span | None) -> TracingError:
    near = difflib.get_close_matches(name, known, 1)
    return TracingError(
        "A0611",
        f"`{of}` has no `{name}`",
        span=span,
        expected=", ".join(known),
        got=name,
        help=f"did you mean `{of}.{near[0]}`?" if near else "parameters are keyword-only arguments of the function",
    )
