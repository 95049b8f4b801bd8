"""Vector hooks as functions of one channel: slices and rotations become index arithmetic, dot products become sums.

Owns the step from expressions over whole channel vectors to what ``Variant::query`` and its like compute for one
channel d, where ``x(i)`` is channel i of the vector before the hook. Knows the IR, not C++.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from dataclasses import dataclass

from attncc.codegen.emit.views import Axes, Element, Pointer, split
from attncc.ir.nodes import Binary, Const, Coord, Expr, Extent, Input, Load, Reduce, Rotate, Select, Slice, Unary
from attncc.ir.types import Type
from attncc.ir.walk import walk
from attncc.passes.canonicalize import simplified

CHANNEL = Coord("d")
LENGTHS = {"query": "head_dim", "key": "head_dim", "value": "head_dim_v", "out": "head_dim_v"}
_ZERO, _ONE = Const(0, Type.I32), Const(1, Type.I32)


@dataclass(frozen=True, eq=False)
class Channel(Expr):
    """``x(index)``: a channel of the vector that the hook transforms."""

    index: Expr

    @property
    def type(self) -> Type:
        return Type.F32


@dataclass(frozen=True, eq=False)
class ChannelSum(Expr):
    """``sums[number]``: a dot product over channels, computed before."""

    number: int

    @property
    def type(self) -> Type:
        return Type.F32


@dataclass(frozen=True)
class VectorHook:
    """A vector hook at channel d: ``value``, and for each of its sums the term that channel d adds to it."""

    value: Expr
    terms: tuple[Expr, ...]

    @property
    def across(self) -> bool:
        """Whether it reads the vector at other channels than d."""
        return any(isinstance(node, Channel) and node.index is not CHANNEL for node in walk(self.value, *self.terms))


def kept(value: Expr, name: str, given: Collection[Expr]) -> tuple[Expr, ...]:
    """The largest parts of a hook's value worth computing once: for a token and channel, whichever the head, or of
    ``out`` for a row of a head, whichever the channel. Not those that are ``given``, nor what is cheaper than to keep.
    """
    apart = {CHANNEL} if name == "out" else {Coord("h"), Coord("hk")}
    varies: set[Expr] = set()
    for node in walk(value):
        inside = walk(node) if isinstance(node, Reduce) else (node,)  # its index is nobody else's
        if any(isinstance(part, Channel | ChannelSum) or part in apart for part in inside) or (
            not isinstance(node, Reduce) and any(operand in varies for operand in node.operands)
        ):
            varies.add(node)
    found: dict[Expr, None] = {}
    left = [value]
    while left:
        node = left.pop()
        if node in given or not (node.operands or isinstance(node, Axes)):
            continue
        worth = node.type is Type.F32 or any(isinstance(part, Load | Pointer | Axes) for part in walk(node))
        if node not in varies and worth:
            found[node] = None
        elif not isinstance(node, Reduce):
            left.extend(reversed(node.operands))
    return tuple(found)


def with_reads(value: Expr, over_tokens: Container[str]) -> Expr:
    """An output hook's value whose loads for channel d are split: what the row knows of the address, and the rest."""
    done: dict[Expr, Expr] = {}
    for node in walk(value):
        operands = tuple(done[operand] for operand in node.operands)
        made = node if operands == node.operands else node.with_operands(operands)
        if isinstance(node, Load) and isinstance(made, Load) and _is_read(node):
            known = {i: index for i, index in enumerate(node.indices) if CHANNEL not in walk(index)}
            tokens = node.tensor in over_tokens
            made = made if tokens and 0 not in known else split(made, known, tokens=tokens)
        done[node] = made
    return done[value]


def reads(value: Expr) -> tuple[Element, ...]:
    """What ``with_reads`` has split: elements whose places do not depend on the output."""
    return tuple(dict.fromkeys(node for node in walk(value) if isinstance(node, Element)))


def _is_read(load: Load) -> bool:
    """Whether a load is for channel d, at a place that neither the output nor another load says, nor a loop."""
    inside = {part for index in load.indices for part in walk(index)}
    return CHANNEL in inside and not any(isinstance(part, Channel | ChannelSum | Load | Reduce) for part in inside)


def vector_hook(root: Expr, name: str) -> VectorHook:
    """The hook that transforms Input ``name`` (query, key, value or out). Terms may read the sums before them."""
    return _Resolver(root, name).hook()


class _Resolver:
    def __init__(self, root: Expr, name: str) -> None:
        self.root, self.name = root, name
        self.whole = Extent(LENGTHS[name])
        self.length: dict[Expr, Expr | None] = {}
        self.number: dict[Expr, int] = {}
        for node in walk(root):
            self.length[node] = self._length(node)
            if isinstance(node, Reduce) and node.kind == "dot":
                self.number[node] = len(self.number)

    def hook(self) -> VectorHook:
        terms = tuple(self._term(node) for node in self.number if isinstance(node, Reduce))
        return VectorHook(simplified(self._at(self.root, CHANNEL)), tuple(simplified(term) for term in terms))

    def _length(self, node: Expr) -> Expr | None:
        """How many channels a node varies over; None for scalars and for a bare d, which goes with any vector."""
        if isinstance(node, Input):
            return self.whole if node.name == self.name else None
        if isinstance(node, Slice):
            return simplified(Binary("sub", node.stop, node.start))
        if isinstance(node, Reduce) and node.kind == "dot":
            return None
        return next((length for operand in node.operands if (length := self.length[operand]) is not None), None)

    def _term(self, node: Reduce) -> Expr:
        """What channel d adds to a dot product; the family sums over all channels, also of a dot over a slice."""
        length = self.length[node.body]
        if length is None or length is self.whole:
            return self._at(node.body, CHANNEL)
        last = Binary("sub", length, _ONE)
        inside = self._at(node.body, Binary("min", CHANNEL, last))
        return Select(Binary("le", CHANNEL, last), inside, Const(0.0, Type.F32))

    def _at(self, root: Expr, channel: Expr) -> Expr:
        """``root`` at one channel: iterative, so that no formula is too deep; memo by (node, channel)."""
        done: dict[tuple[Expr, Expr], Expr] = {}
        stack = [(root, channel)]
        while stack:
            key = node, at = stack[-1]
            if key in done:
                stack.pop()
                continue
            needs = self._needs(node, at)
            missing = [need for need in needs if need not in done]
            if missing:
                stack.extend(missing)
                continue
            done[key] = self._made(node, at, [done[need] for need in needs])
            stack.pop()
        return done[root, channel]

    def _needs(self, node: Expr, at: Expr) -> list[tuple[Expr, Expr]]:
        match node:
            case Slice():
                return [(node.operand, Binary("add", at, node.start))]
            case Rotate():
                return [(node.operand, self._partner(node, at))]
            case Reduce(kind="dot"):
                return []
        return [(operand, at) for operand in node.operands]

    def _made(self, node: Expr, at: Expr, operands: list[Expr]) -> Expr:
        match node:
            case Input() if node.name == self.name:
                return Channel(simplified(at))
            case Coord(axis="d"):
                return at
            case Reduce(kind="dot"):
                return ChannelSum(self.number[node])
            case Slice():
                return operands[0]
            case Rotate():
                return Select(self._first(node, at), Unary("neg", operands[0]), operands[0])
        return node if not operands else node.with_operands(operands)

    def _half(self, node: Rotate) -> Expr:
        return Binary("floordiv", self.length[node.operand] or self.whole, Const(2, Type.I32))

    def _first(self, node: Rotate, at: Expr) -> Expr:
        """Whether the channel is one of those that take their partner's negative: (x1, x2) becomes (−x2, x1)."""
        if node.kind == "half":
            return Binary("lt", at, self._half(node))
        return Binary("eq", Binary("bitand", at, _ONE), _ZERO)

    def _partner(self, node: Rotate, at: Expr) -> Expr:
        if node.kind == "pairs":
            return Binary("bitxor", at, _ONE)
        half = self._half(node)
        return Select(self._first(node, at), Binary("add", at, half), Binary("sub", at, half))
