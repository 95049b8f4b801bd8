"""Expressions to C++: every node and operation of the IR as text over ``attncc::Fn``. Knows no hook and no family.

The text keeps the IR's total semantics: i32 wraps, so integer arithmetic that might overflow goes through ``exact::``;
conditions join with ``&`` and ``|``, which do not short-circuit; loads clamp. Arithmetic of f32 is infix, so that a
multiplication and an addition may fuse, except where a score-free value decides something (a comparison, a rounding):
there ``exact::`` keeps every rounding step, and the kernel takes the same side as the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from attncc.codegen.emit.formula import shortest
from attncc.codegen.emit.intervals import Interval, exact_interval, intervals
from attncc.codegen.emit.text import Text
from attncc.codegen.emit.thresholds import Threshold
from attncc.codegen.emit.vectors import Channel, ChannelSum
from attncc.codegen.emit.views import Axes, Element, Fetch, Pointer, Whole
from attncc.diagnostics import Span
from attncc.ir.nodes import Binary, Cast, Const, Coord, Expr, Extent, Input, Load, Reduce, Select, Unary
from attncc.ir.types import I32_MAX, I32_MIN, Type
from attncc.ir.walk import walk

Leaf = Callable[[Expr], str | None]
Printed = tuple[str, int]

CTYPE = {Type.F32: "float", Type.I32: "int", Type.U32: "unsigned", Type.BOOL: "bool"}
INDEXED = ("sum", "any", "all")

# C++ precedence, higher binds tighter.
ATOM, UNARY, MUL, ADD, SHIFT, RELATION, EQUALITY, AND, XOR, OR, CHOICE = range(20, 9, -1)
_INFIX: dict[str, tuple[str, int]] = {
    "add": ("+", ADD),
    "sub": ("-", ADD),
    "mul": ("*", MUL),
    "lt": ("<", RELATION),
    "le": ("<=", RELATION),
    "eq": ("==", EQUALITY),
    "and": ("&", AND),
    "bitand": ("&", AND),
    "bitxor": ("^", XOR),
    "or": ("|", OR),
    "bitor": ("|", OR),
    "xor": ("!=", EQUALITY),
}
# Operations whose result does not depend on the accuracy.
_ALWAYS_EXACT = frozenset(
    ["abs", "neg", "min", "max", "floor", "round", "erf", "log1p", "mod", "floordiv", "shl", "shr"]
)
# An f32 operand just below and just above a point gives different results.
_DECISIVE = frozenset({"lt", "le", "eq", "floor", "round", "mod", "floordiv"})
_LONG = 90  # a longer expression gets a name, so that lines stay readable


def loop_indices(roots: Iterable[Expr]) -> dict[Expr, frozenset[str]]:
    """For every node the comprehension indices it needs from outside."""
    found: dict[Expr, frozenset[str]] = {}
    for node in walk(*roots):
        free = frozenset[str]().union(*(found[operand] for operand in node.operands))
        if isinstance(node, Coord) and is_loop_index(node):
            free = frozenset({node.axis})
        elif isinstance(node, Reduce) and node.extent is not None:
            free = (found[node.body] - {node.axis}) | found[node.extent]
        found[node] = free
    return found


def is_loop_index(node: Expr) -> bool:
    return isinstance(node, Coord) and node.axis[0] == "i" and node.axis[1:].isdigit()


def score_dependent(roots: Iterable[Expr]) -> set[Expr]:
    """The nodes that read the score or a vector, where a family may approximate."""
    found: set[Expr] = set()
    for node in walk(*roots):
        if isinstance(node, Input | Channel | ChannelSum) or any(item in found for item in node.operands):
            found.add(node)
    return found


def deciding(roots: Iterable[Expr], approximate: set[Expr]) -> set[Expr]:
    """f32 arithmetic that must round as written: score-free, below a comparison or a rounding."""
    nodes = list(walk(*roots))
    found: set[Expr] = set()
    for node in reversed(nodes):
        floats = [item for item in node.operands if item.type is Type.F32 and item not in approximate]
        rounds = isinstance(node, Cast) and node.type is not Type.F32
        if node in found or rounds or (isinstance(node, Unary | Binary) and node.op in _DECISIVE):
            found.update(floats)
    return found


@dataclass(frozen=True)
class Facts:
    """What an Emitter must know of the nodes of one variant, computed once over all hooks."""

    indices: Mapping[Expr, frozenset[str]]
    approximate: set[Expr]
    deciding: set[Expr]
    intervals: Mapping[Expr, Interval]
    spans: Mapping[Expr, tuple[Span, ...]] = field(default_factory=dict)

    @staticmethod
    def of(roots: Iterable[Expr], spans: Mapping[Expr, tuple[Span, ...]]) -> Facts:
        roots = tuple(roots)
        approximate = score_dependent(roots)
        return Facts(loop_indices(roots), approximate, deciding(roots, approximate), intervals(roots), spans)


class Emitter:
    """Writes the statements that compute expressions inside one C++ function.

    ``leaf`` gives the text of a node that is there already (an argument, a member), or None; ``tensor`` how a captured
    tensor is spelled. Statements go to ``out``; numbering follows the order of evaluation, so equal input, equal text.
    """

    def __init__(self, out: Text, facts: Facts, leaf: Leaf, tensor: Callable[[str], str]) -> None:
        self.out, self.facts, self.leaf, self.tensor = out, facts, leaf, tensor
        self.names = 0
        self.written: Span | None = None  # of nodes that nobody wrote
        self.deduced = False  # a condition may be of many columns at once

    def values(self, roots: Iterable[Expr]) -> list[str]:
        """Writes what ``roots`` need and returns an expression for each."""
        wanted = list(roots)
        return [text for text, _ in self._block(wanted, {}, frozenset())]

    def _name(self) -> str:
        self.names += 1
        return f"t{self.names - 1}"

    def _block(self, roots: list[Expr], outer: Mapping[Expr, Printed], bound: frozenset[str]) -> list[Printed]:
        """The roots inside a scope where the indices ``bound`` have values and ``outer`` was written before."""
        done = dict(outer)
        order, uses = self._order(roots, done)
        for node in order:
            if not self.facts.indices[node] <= bound:
                continue  # belongs to a loop further inside
            text = self.leaf(node)
            if isinstance(node, Reduce) and text is None:
                done[node] = self._loop(node, done, bound)
                continue
            printed = self._print(node, done) if text is None else (text, ATOM)
            looped = any(not self.facts.indices[user] <= bound for user in uses[node])
            repeated = len(uses[node]) > 1 or looped
            trivial = printed[1] == ATOM and "(" not in printed[0]
            if not trivial and (repeated or (uses[node] and len(printed[0]) > _LONG)):
                printed = self._declare(node, printed[0])
            done[node] = printed
        return [done[root] for root in roots]

    def _declare(self, node: Expr, text: str) -> Printed:
        name = self._name()
        deduced = isinstance(node, Pointer | Axes | Whole) or (self.deduced and node.type is Type.BOOL)
        ctype = "auto" if deduced else CTYPE[node.type]
        self.out.add(f"const {ctype} {name} = {text};", self._span(node))
        return name, ATOM

    def _span(self, node: Expr) -> Span | None:
        spans = self.facts.spans.get(node)
        return spans[0] if spans else self.written

    def _order(self, roots: list[Expr], done: dict[Expr, Printed]) -> tuple[list[Expr], dict[Expr, list[Expr]]]:
        """What is not yet written below the roots, operands first, and each one's users. Leaves go to ``done``."""
        order: list[Expr] = []
        uses: dict[Expr, list[Expr]] = {}
        stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
        seen: set[Expr] = set()
        while stack:
            node, ready = stack.pop()
            if ready:
                order.append(node)
                continue
            if node in done or node in seen:
                continue
            seen.add(node)
            if (text := self.leaf(node)) is not None:
                if "(" in text:  # read once, if it is read from memory
                    order.append(node)
                else:
                    done[node] = (text, ATOM)
                continue
            stack.append((node, True))
            for operand in reversed(node.operands):
                stack.append((operand, False))
        for node in order:
            uses.setdefault(node, [])
            for operand in () if self.leaf(node) is not None else node.operands:
                uses.setdefault(operand, []).append(node)
        for root in roots:
            uses.setdefault(root, [])
        return order, uses

    def _loop(self, node: Reduce, done: Mapping[Expr, Printed], bound: frozenset[str]) -> Printed:
        if node.extent is None or node.kind not in INDEXED:
            raise TypeError(f"{node.kind} is not a loop over a comprehension index")
        total, ctype = self._name(), CTYPE[node.type]
        start = {"any": "false", "all": "true"}.get(node.kind, "0.0f" if node.type is Type.F32 else "0")
        span = self._span(node)
        self.out.add(f"{ctype} {total} = {start};", span)
        if isinstance(node.extent, Const) and int(node.extent.value) <= 16:
            self.out.add("#pragma unroll")
        index = node.axis
        with self.out.block(f"for (int {index} = 0; {index} < {done[node.extent][0]}; ++{index})", span=span):
            ((body, level),) = self._block([node.body], done, bound | {index})
            if node.kind == "sum" and node.type is Type.I32:  # the number of terms is not known: it may wrap
                self.out.add(f"{total} = exact::add({total}, {body});", span)
            else:
                symbol = {"any": "|", "all": "&"}.get(node.kind, "+")
                least = ADD + 1 if symbol == "+" else ATOM
                self.out.add(f"{total} = {total} {symbol} {parenthesise((body, level), least)};", span)
        return total, ATOM

    def _print(self, node: Expr, done: Mapping[Expr, Printed]) -> Printed:
        match node:
            case Const():
                return constant(node)
            case Coord() if is_loop_index(node):
                return node.axis, ATOM
            case Extent(name="head_dim" | "head_dim_v"):
                return f"Config::{node.name}", ATOM
            case Load():
                return f"{self.tensor(node.tensor)}.load({', '.join(done[i][0] for i in node.indices)})", ATOM
            case Pointer() | Axes():
                function = "pointer" if isinstance(node, Pointer) else "axes"
                numbers = ", ".join(map(str, node.axes))
                given = [self.tensor(node.tensor), *(done[index][0] for index in node.operands)]
                return f"attncc::{function}<{numbers}>({', '.join(given)})", ATOM
            case Whole():
                return f"&{self.tensor(node.tensor)}", UNARY
            case Fetch():
                indices = ", ".join(done[index][0] for index in node.indices)
                return f"{parenthesise(done[node.whole], ATOM)}->load({indices})", ATOM
            case Channel():
                return f"x({done[node.index][0]})", ATOM
            case ChannelSum():
                return f"sums[{node.number}]", ATOM
            case Element():
                return f"attncc::element({', '.join(done[item][0] for item in node.operands)})", ATOM
            case Threshold():
                wide = [f"attncc::i64({done[item][0]})" for item in node.operands]
                first, second = wide[: len(node.plus)], wide[len(node.plus) :]
                difference = " - ".join([" + ".join(first) or "0", *second])
                return f"attncc::bounds::end({difference})", ATOM
            case Cast():
                return _cast(node, done)
            case Unary():
                return self._unary(node, done)
            case Binary():
                return self._binary(node, done)
            case Select():
                cond, then, other = (parenthesise(done[item], CHOICE + 1) for item in node.operands)
                return f"{cond} ? {then} : {other}", CHOICE
        raise TypeError(f"{node!r} cannot be computed here")

    def _function(self, node: Unary | Binary, done: Mapping[Expr, Printed], name: str = "") -> Printed:
        accuracy = "fast" if node in self.facts.approximate and node.op not in _ALWAYS_EXACT else "exact"
        return f"{accuracy}::{name or node.op}({', '.join(done[item][0] for item in node.operands)})", ATOM

    def _unary(self, node: Unary, done: Mapping[Expr, Printed]) -> Printed:
        symbol = {"not": "!", "bitnot": "~"}.get(node.op)
        if node.op == "neg" and not (node.type is Type.I32 and self._wraps(node)):
            symbol = "-"
        if symbol is None:
            return self._function(node, done)
        operand = parenthesise(done[node.operand], UNARY)
        return (f"{symbol}({operand})" if operand[0] == symbol else symbol + operand), UNARY

    def _wraps(self, node: Expr) -> bool:
        """Whether i32 arithmetic may leave 32 bits, which is undefined for C++'s own operators."""
        low, high = exact_interval(node, self.facts.intervals) or (I32_MIN - 1, I32_MAX + 1)
        return low < I32_MIN or high > I32_MAX

    def _binary(self, node: Binary, done: Mapping[Expr, Printed]) -> Printed:
        op, left, right = node.op, node.left, node.right
        if op in ("add", "sub", "mul"):
            if (node.type is Type.I32 and self._wraps(node)) or node in self.facts.deciding:
                return self._function(node, done)
        elif op in ("floordiv", "mod", "shl", "shr") and isinstance(right, Const):
            known = self.facts.intervals.get(left)
            constant = _by_constant(op, left, right, done, nonnegative=known is not None and known[0] >= 0)
            return constant or self._function(node, done)
        if op not in _INFIX:
            return self._function(node, done)
        symbol, level = _INFIX[op]
        if op in ("and", "or") or level in (AND, OR, XOR):  # & and | bind less tightly than they look
            chained = isinstance(left, Binary) and left.op == op
            first = parenthesise(done[left], level if chained else UNARY)
            return f"{first} {symbol} {parenthesise(done[right], UNARY)}", level
        return f"{parenthesise(done[left], level)} {symbol} {parenthesise(done[right], level + 1)}", level


def parenthesise(printed: Printed, least: int) -> str:
    text, level = printed
    return text if level >= least else f"({text})"


def constant(node: Const) -> Printed:
    """A literal of the node's type and exact value."""
    value = node.value
    if node.type is Type.BOOL:
        return ("true" if value else "false"), ATOM
    if node.type is Type.U32:
        return f"{value}u", ATOM
    if node.type is Type.I32:
        if value == I32_MIN:
            return "(-2147483647 - 1)", ATOM
        return str(value), ATOM if int(value) >= 0 else UNARY
    number = float(value)
    if math.isnan(number):
        return "attncc::bits_to_float(0x7fc00000u)", ATOM
    if math.isinf(number):
        return ("attncc::infinity()", ATOM) if number > 0 else ("-attncc::infinity()", UNARY)
    return shortest(number) + "f", ATOM if math.copysign(1.0, number) > 0 else UNARY


def _cast(node: Cast, done: Mapping[Expr, Printed]) -> Printed:
    source, target, operand = node.operand.type, node.type, done[node.operand]
    if source is target:
        return operand
    if target is Type.BOOL:
        zero = {Type.F32: "0.0f", Type.U32: "0u"}.get(source, "0")
        return f"{parenthesise(operand, EQUALITY + 1)} != {zero}", EQUALITY
    if source is Type.BOOL:
        one, zero = {Type.F32: ("1.0f", "0.0f"), Type.U32: ("1u", "0u")}.get(target, ("1", "0"))
        return f"{parenthesise(operand, CHOICE + 1)} ? {one} : {zero}", CHOICE
    if source is Type.F32:
        return f"exact::to_{target.value}({operand[0]})", ATOM
    return f"{CTYPE[target]}({operand[0]})", ATOM


def _by_constant(
    op: str, left: Expr, right: Const, done: Mapping[Expr, Printed], *, nonnegative: bool
) -> Printed | None:
    """Shifts and masks. ``>>`` of an i32 is arithmetic and floors, so 2ⁿ needs no proof that ``left`` >= 0."""
    if left.type is Type.F32:
        return None
    value, mark = int(right.value), "u" if left.type is Type.U32 else ""
    power = value > 0 and value & (value - 1) == 0
    if op == "shr" or (op == "shl" and mark):
        return f"{parenthesise(done[left], ADD)} {'>>' if op == 'shr' else '<<'} {value & 31}", SHIFT
    if op == "floordiv" and power:
        return f"{parenthesise(done[left], ADD)} >> {value.bit_length() - 1}", SHIFT
    if op == "mod" and power:
        return f"{parenthesise(done[left], UNARY)} & {value - 1}{mark}", AND
    if op in ("floordiv", "mod") and value > 0 and (nonnegative or mark):
        return f"{parenthesise(done[left], MUL)} {'/' if op == 'floordiv' else '%'} {value}{mark}", MUL
    return None
