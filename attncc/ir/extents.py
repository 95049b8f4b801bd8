"""Integer expressions over extents, evaluated: tensor shapes, slice bounds and the lengths of channel vectors."""

from __future__ import annotations

from collections.abc import Mapping

from attncc.diagnostics import LanguageError, Span
from attncc.ir.nodes import Binary, Const, Coord, Expr, Extent, Input, Reduce, Rotate, Slice, Variant
from attncc.ir.types import Type
from attncc.ir.walk import walk

CHANNELS = {"query": "head_dim", "key": "head_dim", "value": "head_dim_v", "out": "head_dim_v"}


def is_shape(expr: Expr) -> bool:
    """Whether an expression is made of integer constants, extents and + - * // % min max alone."""
    allowed = ("add", "sub", "mul", "floordiv", "mod", "min", "max")
    return all(
        isinstance(node, Extent)
        or (isinstance(node, Const) and node.type is Type.I32)
        or (isinstance(node, Binary) and node.op in allowed)
        for node in walk(expr)
    )


def evaluate(expr: Expr, extents: Mapping[str, int]) -> int | None:
    """The value of a shape expression, or None while an extent it needs is unknown. Division by zero gives 0."""
    done: dict[Expr, int | None] = {}
    for node in walk(expr):
        if isinstance(node, Const):
            done[node] = int(node.value)
        elif isinstance(node, Extent):
            done[node] = extents.get(node.name)
        elif isinstance(node, Binary):
            left, right = done[node.left], done[node.right]
            done[node] = None if left is None or right is None else _apply(node.op, left, right)
        else:
            raise ValueError(f"{type(node).__name__} in a shape expression")
    return done[expr]


def _apply(op: str, left: int, right: int) -> int:
    match op:
        case "add":
            return left + right
        case "sub":
            return left - right
        case "mul":
            return left * right
        case "floordiv":
            return left // right if right else 0
        case "mod":
            return left % right if right else 0
        case "min":
            return min(left, right)
        case "max":
            return max(left, right)
    raise ValueError(f"{op} in a shape expression")


def channel_lengths(root: Expr, variant: Variant, extents: Mapping[str, int]) -> dict[Expr, int | None]:
    """For every node below ``root`` the number of channels it varies over: None for scalars and for bare ``d``.

    ``extents`` must hold head_dim and head_dim_v. Raises LanguageError A0405 where two vectors of different lengths
    meet, A0406 where a slice leaves its vector or a rotation meets an odd one.
    """
    dims = {operand.name: evaluate(operand.dim, extents) for operand in variant.operands}
    found: dict[Expr, int | None] = {}
    for node in walk(root):
        if isinstance(node, Input):
            name = CHANNELS.get(node.name)
            found[node] = extents[name] if name is not None else dims.get(node.name)
            continue
        lengths = {n for operand in node.operands if (n := found[operand]) is not None}
        if isinstance(node, Coord):
            found[node] = None
            continue
        if isinstance(node, Slice):
            found[node] = _sliced(node, found[node.operand], extents, variant)
            continue
        if len(lengths) > 1:
            raise LanguageError(
                "A0405",
                "channel vectors of different lengths meet",
                span=_span(variant, node),
                expected="one length",
                got=" and ".join(str(n) for n in sorted(lengths)) + f" at head_dim {extents['head_dim']}",
                help="slice the longer one, or load both with the same channel index",
            )
        length = lengths.pop() if lengths else None
        if isinstance(node, Rotate) and (length is None or length % 2):
            raise LanguageError(
                "A0406",
                f"rotate_{node.kind} needs an even number of channels",
                span=_span(variant, node),
                expected="a channel vector of even length",
                got="a scalar" if length is None else f"{length} channels",
                help="rotate a slice of even length, for example query[0 : 64]",
            )
        found[node] = None if isinstance(node, Reduce) and node.kind == "dot" else length
    return found


def _sliced(node: Slice, length: int | None, extents: Mapping[str, int], variant: Variant) -> int | None:
    start, stop = evaluate(node.start, extents), evaluate(node.stop, extents)
    if start is None or stop is None:
        return None
    if length is None or not 0 <= start < stop <= length:
        raise LanguageError(
            "A0406",
            "slice outside its channel vector",
            span=_span(variant, node),
            expected="a channel vector" if length is None else f"0 <= start < stop <= {length}",
            got=f"[{start} : {stop}]",
            help="slice bounds count channels of this vector and may use head_dim",
        )
    return stop - start


def _span(variant: Variant, node: Expr) -> Span | None:
    spans = variant.spans.get(node)
    return spans[0] if spans else None
