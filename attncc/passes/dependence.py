"""What each value varies with, and so where a kernel computes it. Knows the IR; decides nothing about kernels' shapes.

Facts are a subset of ``b hk h row col delta d geom score``. ``geom`` is request geometry (lengths and starts), kept
apart from ``b`` so that causal is no per-request mask in a uniform batch. A runtime parameter may have one value per
request, so it counts as ``b``. ``delta`` replaces ``row`` and ``col`` where they enter only as row − col: 32-bit
wrap-around keeps that true for sums and products, and a comparison of row against col has it when no parameter takes
part on either side, for lengths are below 2²⁸ and starts within ±2²⁹, so positions do not wrap. ``score`` stands for
everything that follows from q·k. Indices of comprehensions (``i0``) are facts inside their body only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from attncc.ir.nodes import (
    EXTENTS,
    After,
    Binary,
    Branch,
    Const,
    Coord,
    Expr,
    Extent,
    Input,
    Load,
    Param,
    Reduce,
    Unary,
    Variant,
)
from attncc.ir.types import Type
from attncc.ir.walk import walk

Facts = frozenset[str]
Stage = Literal["item", "row", "key", "delta", "element"]

NONE: Facts = frozenset()
_GEOMETRY = ("qo_len", "kv_len")
_COORDS: dict[str, Facts] = {
    "q": frozenset({"row", "geom"}),
    "k": frozenset({"col", "geom"}),
    "own": frozenset({"row", "geom"}),
}
_INPUTS: dict[str, Facts] = {
    "sm_scale": frozenset({"b", "h"}),
    "query": frozenset({"b", "h", "row", "d"}),
    "key": frozenset({"b", "hk", "col", "d"}),
    "value": frozenset({"b", "hk", "col", "d"}),
    "out": frozenset({"b", "h", "row", "d"}),
    "total": frozenset({"b", "h", "row"}),
    "lse": frozenset({"b", "h", "row"}),
    **dict.fromkeys(("score", "logits", "prob", "dot"), frozenset({"score"})),
}
_REDUCED = {"dot": Facts({"d"}), "expect": Facts({"col", "delta", "score"}), "rowmax": Facts({"col", "delta", "score"})}


@dataclass(frozen=True)
class _Affine:
    """row·row_factor + col·col_factor + rest (mod 2³²); ``rest`` varies with ``facts``, which hold no row or col.

    ``small``: no intermediate value can have left 32 bits, so comparisons may be moved across.
    """

    row: int
    col: int
    facts: Facts
    small: bool


def dependence(variant: Variant) -> Mapping[Expr, Facts]:
    """The facts of every node of every hook of a variant."""
    return facts(*(expr for _, expr in variant.roots()), variant=variant)


def facts(*roots: Expr, variant: Variant | None = None, branch: Branch | None = None) -> dict[Expr, Facts]:
    """The facts of every node below ``roots``. ``variant`` gives the roles of extra operands and the axes of tensors;
    ``branch`` its ``sm_scale``, without which that varies with {b, h}."""
    found: dict[Expr, Facts] = {}
    affine: dict[Expr, _Affine] = {}
    scale = None if branch is None else _scale_facts(branch, variant)
    for node in walk(*roots):
        found[node] = _own(node, found, variant)
        if scale is not None and isinstance(node, Input) and node.name == "sm_scale":
            found[node] = scale
        form = _affine(node, affine, found)
        if form is not None:
            affine[node] = form
            found[node] = form.facts | _enters(form.row, form.col)
        elif isinstance(node, Binary) and node.op in ("lt", "le", "eq"):
            left, right = affine.get(node.left), affine.get(node.right)
            if left and right and (node.op == "eq" or (left.small and right.small)):
                found[node] = left.facts | right.facts | _enters(left.row - right.row, left.col - right.col)
    return found


def stage(of: Facts) -> Stage:
    """Where a value with these facts is computed: per work item, packed row, key, diagonal, or pair.

    A work item has one b and one hk; a row of it one row and one h. Values over channels (``d``) have no stage here.
    """
    if of <= {"b", "hk", "geom"}:
        return "item"
    if of <= {"b", "hk", "geom", "row", "h"}:
        return "row"
    if of <= {"b", "hk", "geom", "col"}:
        return "key"
    return "delta" if of <= {"b", "hk", "geom", "delta"} else "element"


def _scale_facts(branch: Branch, variant: Variant | None) -> Facts:
    # A call may override sm_scale per request, whatever the hook says.
    if branch.sm_scale is None:
        return Facts({"b"})
    return facts(branch.sm_scale, variant=variant)[branch.sm_scale] | {"b"}


def _enters(row: int, col: int) -> Facts:
    if row == -col:
        return Facts({"delta"}) if row else NONE
    return Facts(name for name, factor in (("row", row), ("col", col)) if factor)


def _join(parts: list[Facts]) -> Facts:
    """The facts of a function of several values: a diagonal beside a row or a column is neither."""
    joined = NONE.union(*parts)
    if "delta" in joined and joined & {"row", "col"}:
        joined = (joined - {"delta"}) | {"row", "col"}
    return joined


def _own(node: Expr, found: Mapping[Expr, Facts], variant: Variant | None) -> Facts:
    match node:
        case Coord():
            return _COORDS.get(node.axis, Facts({node.axis}))
        case Param():
            return Facts({"b"})
        case Extent():
            return Facts({"geom"}) if node.name in _GEOMETRY else NONE
        case Input():
            return _INPUTS.get(node.name) or _operand(node, variant)
        case Load():
            joined = _join([found[index] for index in node.indices])
            return joined | {"geom"} if _has_token_axis(node, variant) else joined
        case Reduce():
            joined = _join([found[operand] for operand in node.operands])
            if node.kind == "colsum":  # over all rows and heads' own rows of a key
                return (joined - {"row", "delta", "score"}) | {"b", "h", "col"}
            reduced = joined - _REDUCED.get(node.kind, Facts({node.axis}))
            return reduced | {"b", "h", "row"} if node.kind in ("expect", "rowmax") else reduced
        case After():
            return found[node.operand] | {"b", "h", "row", "col"}
    return _join([found[operand] for operand in node.operands])


def _operand(node: Input, variant: Variant | None) -> Facts:
    roles = {} if variant is None else {operand.name: operand.role for operand in variant.operands}
    role = roles.get(node.name)
    return _INPUTS[role] if role in ("query", "key") else _INPUTS["query"] | _INPUTS["key"]


def _has_token_axis(node: Load, variant: Variant | None) -> bool:
    """Whether clamping an index looks at the request's own length."""
    tensors = () if variant is None else variant.tensors
    dims = next((tensor.dims for tensor in tensors if tensor.name == node.tensor), ())
    return any(isinstance(part, Extent) and part.name in _GEOMETRY for dim in dims for part in walk(dim))


def _affine(node: Expr, known: Mapping[Expr, _Affine], found: Mapping[Expr, Facts]) -> _Affine | None:
    if node.type is not Type.I32:
        return None
    match node:
        case Coord(axis="row" | "q" | "own"):
            return _Affine(1, 0, found[node] - {"row"}, True)
        case Coord(axis="col" | "k"):
            return _Affine(0, 1, found[node] - {"col"}, True)
        case Const():
            return _Affine(0, 0, NONE, abs(int(node.value)) < 2**29)
        case Unary(op="neg"):
            inner = known.get(node.operand)
            return inner and _Affine(-inner.row, -inner.col, inner.facts, inner.small)
        case Binary(op="add" | "sub"):
            left, right = known.get(node.left), known.get(node.right)
            if left is not None and right is not None:
                sign = 1 if node.op == "add" else -1
                row, col = left.row + sign * right.row, left.col + sign * right.col
                # One sum of positions and small constants stays within 32 bits; sums of sums are not followed.
                leaves = all(isinstance(operand, Coord | Const | Extent) for operand in node.operands)
                return _Affine(row, col, left.facts | right.facts, left.small and right.small and leaves)
        case Binary(op="mul" | "shl", right=Const() as factor):
            inner, value = known.get(node.left), int(factor.value)
            times = value if node.op == "mul" else 1 << (value & 31)
            return inner and _Affine(inner.row * times, inner.col * times, inner.facts, False)
    if found[node] & {"row", "col", "delta"}:
        return None
    return _Affine(0, 0, found[node], isinstance(node, Extent | Coord) and _bounded(node))


def _bounded(node: Extent | Coord) -> bool:
    return not isinstance(node, Extent) or node.name in EXTENTS
