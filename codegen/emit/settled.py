"""Where values of row − col stop changing: ``Variant::settled``, over bounds of the diagonals of a tile.

A relative position beyond a table's last bucket has that bucket's value, so that whole tiles have one. Knows the IR and
``device/interval.cuh``, no kernel family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from attncc.codegen.emit.diagonals import DELTA
from attncc.codegen.emit.expressions import CTYPE
from attncc.codegen.emit.text import Text
from attncc.ir.nodes import Binary, Cast, Expr, Load, Select, Unary
from attncc.ir.types import Type
from attncc.ir.verify import axes
from attncc.ir.walk import walk

_NAMESPACE = "attncc::interval"
_TYPES = (Type.I32, Type.F32, Type.BOOL)
# Operations that bounds follow, by the type of their operands.
_NUMBERS = {
    Type.I32: frozenset({"add", "sub", "mul", "neg", "abs", "min", "max", "floordiv", "shr", "lt", "le", "eq"}),
    Type.F32: frozenset({"add", "sub", "mul", "neg", "abs", "min", "max", "div", "log", "lt", "le", "eq"}),
    Type.BOOL: frozenset(),
}
_LOGICAL = {"not": "logical_not", "and": "logical_and", "or": "logical_or"}


def settling(values: Iterable[Expr]) -> tuple[Expr, ...]:
    """What of ``values``, functions of DELTA, decides them: all of it a point, none of them changes.

    Integers and conditions by which the diagonal enters. Empty where bounds of one tell nothing, or none can settle.
    """
    found: dict[Expr, None] = {}
    stack = list(values)
    while stack:
        node = stack.pop()
        if not _varies(node):
            continue
        if node.type is not Type.F32:
            if "h" in axes(node) or not _followed(node):
                return ()
            found[node] = None
        elif node is DELTA:
            return ()
        else:
            stack.extend(node.operands)
    settles = any(_varies(node) and _bounded(node) for node in walk(*found)) if found else False
    return tuple(found) if settles else ()


def write_settled(out: Text, deciding: tuple[Expr, ...], spell: Callable[[list[Expr]], list[str]]) -> None:
    """The body of ``settled``, of diagonals ``lo`` to ``hi``; ``spell`` gives what does not vary with them."""
    nodes = list(walk(*deciding))
    fixed = [node for node in nodes if not _varies(node)]
    needed = {operand for node in nodes if _varies(node) for operand in node.operands}
    fixed = [node for node in fixed if node in needed]
    text = {node: f"{_NAMESPACE}::point({value})" for node, value in zip(fixed, spell(fixed), strict=True)}
    text[DELTA] = "delta"
    out.add("const attncc::Interval<int> delta{lo, hi};")
    varying = [node for node in nodes if _varies(node) and node is not DELTA]
    for number, node in enumerate(varying):
        name = f"x{number}"
        operands = ", ".join(text[operand] for operand in node.operands)
        out.add(f"const attncc::Interval<{CTYPE[node.type]}> {name} = {_NAMESPACE}::{_operation(node)}({operands});")
        text[node] = name
    out.add(f"return {' && '.join(f'{text[node]}.lo == {text[node]}.hi' for node in deciding)};")


def _varies(node: Expr) -> bool:
    return "delta" in axes(node)


def _bounded(node: Expr) -> bool:
    """Whether a node may have one value for many of its operands'."""
    return isinstance(node, Select) or (isinstance(node, Binary) and node.op in ("min", "max"))


def _followed(root: Expr) -> bool:
    return all(not _varies(node) or node is DELTA or bool(_operation(node)) for node in walk(root))


def _operation(node: Expr) -> str:
    """What ``device/interval.cuh`` calls a node's operation; empty where it has none."""
    if isinstance(node, Load) or any(operand.type not in _TYPES for operand in (node, *node.operands)):
        return ""
    match node:
        case Unary() | Binary() if node.op in _LOGICAL and node.operands[0].type is Type.BOOL:
            return _LOGICAL[node.op]
        case Unary() | Binary() if node.op in _NUMBERS[node.operands[0].type]:
            return node.op
        case Cast():
            return f"to_{node.type.value}"
        case Select():
            return "select"
    return ""
