"""Where each value of a variant is computed: once an item, once a row, once a key, or for every pair.

Owns the split of the hooks into the stages of ``struct Variant``; it knows the IR, not C++.
"""

from __future__ import annotations

import enum
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from attncc.codegen.emit.diagonals import OnDiagonal
from attncc.codegen.emit.expressions import is_loop_index, loop_indices
from attncc.codegen.emit.params import Names
from attncc.codegen.emit.positions import COL, OWN_OFFSET, POSITIONS, ROW
from attncc.codegen.emit.thresholds import Threshold
from attncc.codegen.emit.vectors import Channel, ChannelSum
from attncc.codegen.emit.views import Axes, Element, Fetch, Pointer, Whole, split
from attncc.ir.nodes import Binary, Cast, Const, Coord, Expr, Extent, Input, Load, Param, Reduce, Unary
from attncc.ir.verify import axes_below
from attncc.ir.walk import walk


def split_loads(root: Expr, over_tokens: Container[str] = ()) -> Expr:
    """``root`` with every load that differs by pair or by key split into what is known before and the rest.

    Of the tensors ``over_tokens``, where a request takes long to find, those that differ by row too.
    """
    stage, indices = stages([root]), loop_indices([root])

    def known(load: Load) -> list[int]:
        """The axes whose index is there before: a loop over a row's elements may stand in a pair's formula."""
        latest = Stage.ITEM if stage[load] is Stage.ROW and not indices[load] else Stage.ROW
        return [i for i, index in enumerate(load.indices) if stage[index] <= latest and not indices[index]]

    done: dict[Expr, Expr] = {}
    for node in walk(root):
        if isinstance(node, OnDiagonal):  # its function reads whole tensors
            done[node] = node
            continue
        operands = tuple(done[operand] for operand in node.operands)
        made = node if operands == node.operands else node.with_operands(operands)
        if isinstance(node, Load) and isinstance(made, Load):
            tokens = node.tensor in over_tokens
            often = stage[node] >= Stage.KEY or indices[node]
            fixed = {axis: made.indices[axis] for axis in known(node)}
            if often or (tokens and stage[node] is Stage.ROW and 0 in fixed):
                made = split(made, fixed, tokens=tokens)
        done[node] = made
    return done[root]


class Stage(enum.IntEnum):
    """When a value is known, earliest first; KEY and ROW are independent of each other."""

    CONST = 0
    ITEM = 1
    ROW = 2
    KEY = 3
    PAIR = 4


@dataclass(frozen=True)
class Member:
    """A value kept in one of the structs: computed by its stage's function, read by a later one."""

    name: str
    expr: Expr


@dataclass(frozen=True)
class Plan:
    """The members of each struct, in order of evaluation."""

    item: tuple[Member, ...]
    row: tuple[Member, ...]
    key: tuple[Member, ...]
    diagonal: tuple[Member, ...]  # of OnDiagonal nodes
    stage: Mapping[Expr, Stage] = field(repr=False)


# What a node costs a thread, in instructions of full rate, roughly; the rest counts 1. Special functions run at a
# quarter of that rate or less (CUDA programming guide, "arithmetic instructions", throughput by capability).
TRANSCENDENTAL = {"exp", "exp2", "log", "log2", "log1p", "tanh", "sigmoid", "softplus", "sin", "cos", "erf", "pow"}
_SPECIAL = TRANSCENDENTAL | {"sqrt", "rsqrt", "div", "floordiv", "mod"}
_STAGING = 6  # the shared-memory read of a staged value, with its address, costs about this


def plan(
    hooks: Iterable[Expr],
    row_values: Iterable[Expr],
    channels: Iterable[Expr] = (),
    screened: Iterable[Expr] = (),
) -> Plan:
    """Splits expressions for pairs (``hooks``) and for rows (``row_values``), all over storage indices.

    ``hooks`` may also read what is known at a row's end only, such as its total. ``channels`` are computed from the
    item's values for each channel of a vector, ``screened`` before the first tile, by row, by column or once.
    """
    hooks, row_values, channels, screened = tuple(hooks), tuple(row_values), tuple(channels), tuple(screened)
    roots = (*hooks, *row_values, *channels, *screened)
    stage = stages(roots)
    indices = loop_indices(roots)
    heavy = heavy_keys(roots, stage)

    pair_needs = list(_frontier(hooks, Stage.PAIR, stage, indices, heavy))
    key = [node for node in pair_needs if stage[node] is Stage.KEY]
    row = [node for node in pair_needs if stage[node] is Stage.ROW]
    row += [node for node in row_values if stage[node] is Stage.ROW and node not in row]
    item = [node for node in pair_needs if stage[node] is Stage.ITEM]
    item += [node for node in row_values if stage[node] is Stage.ITEM]
    item += _frontier(row, Stage.ROW, stage, indices, heavy)
    item += _frontier(key, Stage.KEY, stage, indices, heavy)
    item += _frontier(channels, Stage.ROW, stage, indices, heavy)
    diagonal = [node for node in walk(*hooks) if isinstance(node, OnDiagonal)]
    item += _frontier((node.value for node in diagonal), Stage.ROW, stage, indices, heavy)
    item += _frontier((node for node in screened if node not in row), Stage.ROW, stage, indices, heavy)
    return Plan(
        _members(dict.fromkeys(item)),
        _members(dict.fromkeys(row)),
        _members(dict.fromkeys(key)),
        _members(diagonal),
        stage,
    )


def stages(roots: Iterable[Expr]) -> dict[Expr, Stage]:
    """The stage of every node below the roots: by the axes it varies over; PAIR for channels and for what the algorithm
    provides."""
    found: dict[Expr, Stage] = {}
    for root in roots:
        axes = axes_below(root)
        for node in walk(root):
            if node not in found:
                below = {found[operand] for operand in node.operands}
                if isinstance(node, Input | Channel | ChannelSum | OnDiagonal) or Stage.PAIR in below:
                    found[node] = Stage.PAIR
                elif _compile_time(node) and below <= {Stage.CONST}:
                    found[node] = Stage.CONST
                else:
                    found[node] = _stage(node, axes[node])
    return found


def key_reads(plan: Plan) -> tuple[Member, ...]:
    """The elements that keys read at places that need no other read of a key, outside loops."""
    roots = [member.expr for member in plan.key]
    indices, stage = loop_indices(roots), plan.stage
    reads: dict[Expr, None] = {}
    for node in walk(*roots):
        below = walk(*node.operands) if node.operands else ()
        first = not any(isinstance(item, Element | Fetch) and stage[item] is Stage.KEY for item in below)
        if isinstance(node, Element) and stage[node] is Stage.KEY and not indices[node] and first:
            reads[node] = None
    return _members(reads)


def _compile_time(node: Expr) -> bool:
    """Whether a node is a constant of the kernel if its operands are."""
    if isinstance(node, Extent):
        return node.name in ("head_dim", "head_dim_v")
    return not isinstance(node, Coord | Param | Load | Reduce | Pointer | Axes | Whole)


def _stage(node: Expr, axes: frozenset[str]) -> Stage:
    if axes & {"d", "delta", "col_base", "col_step"}:
        return Stage.PAIR
    by_row = bool(axes & {"row", "h"})
    if "col" in axes:
        return Stage.PAIR if by_row else Stage.KEY
    if by_row:
        return Stage.ROW
    return Stage.ITEM


def heavy_keys(roots: Iterable[Expr], stage: Mapping[Expr, Stage]) -> set[Expr]:
    """Values of a key that are worth staging instead of computing again for every pair."""
    cost: dict[Expr, int] = {}
    for node in walk(*roots):
        if stage[node] is not Stage.KEY:
            cost[node] = 0
            continue
        cost[node] = _cost(node) + sum(cost[operand] for operand in node.operands)
    return {node for node, total in cost.items() if total >= _STAGING}


def pair_cost(root: Expr, members: Iterable[Member]) -> int:
    """Instructions, roughly, that one pair takes for ``root`` when ``members`` are there."""
    ready = {member.expr for member in members}
    cost = 0
    for node in _computed([root], ready):
        if isinstance(node, Element | Fetch):
            cost += 8 + 6 * len(node.indices)  # clamps, a 64-bit address, the load
        elif not isinstance(node, Const | Input):
            cost += 3 * _cost(node)
    return cost


def _cost(node: Expr) -> int:
    if isinstance(node, Load | Element | Fetch | Reduce):
        return 100
    if isinstance(node, Unary | Binary) and node.op in _SPECIAL:
        power = isinstance(node, Binary) and isinstance(node.right, Const) and _power_of_two(node.right)
        return 1 if power and node.op in ("floordiv", "mod") else 8
    if isinstance(node, Cast):
        return 2
    return 0 if isinstance(node, Coord) else 1


def _power_of_two(node: Const) -> bool:
    value = node.value
    return isinstance(value, int) and value > 0 and value & (value - 1) == 0


def _frontier(
    roots: Iterable[Expr],
    at: Stage,
    stage: Mapping[Expr, Stage],
    indices: Mapping[Expr, frozenset[str]],
    heavy: set[Expr],
) -> Iterable[Expr]:
    """The values of earlier stages that code of stage ``at`` reads, each once, operands before users."""
    found: dict[Expr, None] = {}
    seen: set[Expr] = set()
    stack = list(reversed(tuple(roots)))
    while stack:
        node = stack.pop()
        if node in seen or stage[node] is Stage.CONST or node in (ROW, COL) or is_loop_index(node):
            continue
        if isinstance(node, OnDiagonal):
            continue
        seen.add(node)
        earlier = stage[node] < at and not indices[node]
        if earlier and (stage[node] is not Stage.KEY or node in heavy):
            found[node] = None
            continue
        stack.extend(reversed(node.operands))
    return found


def _computed(roots: Iterable[Expr], ready: set[Expr]) -> list[Expr]:
    found: list[Expr] = []
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node in seen or node in ready:
            continue
        seen.add(node)
        found.append(node)
        if not isinstance(node, OnDiagonal):
            stack.extend(node.operands)
    return found


def _members(nodes: Iterable[Expr]) -> tuple[Member, ...]:
    names = Names()
    return tuple(Member(names.pick(value_name(node)), node) for node in nodes)


def value_name(node: Expr) -> str:
    """A name that says what a member holds: the one thing it is computed from, or the position it is."""
    if node is POSITIONS[Coord("q")]:
        return "q"
    if node is POSITIONS[Coord("own")]:
        return "own"
    if node is OWN_OFFSET:
        return "own_offset"
    if isinstance(node, Coord):
        return node.axis
    if isinstance(node, Threshold):
        return "limit"
    if isinstance(node, Pointer | Axes):
        return f"{node.tensor}_{'axes' if isinstance(node, Axes) else 'at'}"
    if isinstance(node, Whole):
        return node.tensor
    below = list(walk(node))
    tensors = [item.tensor for item in below if isinstance(item, Load | Pointer | Whole)]
    params = [item.name for item in below if isinstance(item, Param)]
    extents = [item.name for item in below if isinstance(item, Extent)]
    found = dict.fromkeys(name.lstrip("$") for name in tensors or params or extents)
    joined = "_".join(found)
    return joined if found and len(joined) <= 24 else "value"
