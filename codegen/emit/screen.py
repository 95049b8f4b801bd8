"""The tile screen of a mask as C++: ``RowBounds``, ``KeyBounds`` and what they prove. ``device/interval.cuh`` computes.

Knows the Screen of attncc.passes.screen and how the emitter spells expressions, no kernel family.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from attncc.codegen.emit.expressions import CTYPE
from attncc.codegen.emit.formula import formula
from attncc.codegen.emit.params import Names
from attncc.codegen.emit.positions import COL
from attncc.codegen.emit.stages import Member, split_loads, value_name
from attncc.codegen.emit.text import Text
from attncc.codegen.emit.views import Element
from attncc.ir.nodes import Expr
from attncc.passes.screen import Bound, Operation, Place, Screen, Value, screen

_NAMESPACE = "attncc::interval"


@dataclass(frozen=True)
class ScreenHook:
    """A mask's screen with its values as a kernel reads them: ``kernel`` maps each of the Screen's expressions."""

    program: Screen
    kernel: Mapping[Expr, Expr] = field(repr=False)

    @property
    def items(self) -> tuple[Expr, ...]:
        return self._of(self.program.items)

    @property
    def rows(self) -> tuple[Member, ...]:
        return _members(self._of(self.program.rows))

    @property
    def keys(self) -> tuple[Member, ...]:
        return _members(self._of(self.program.keys))

    @property
    def exprs(self) -> tuple[Expr, ...]:
        """All of them."""
        return self._of((*self.program.items, *self.program.rows, *self.program.keys))

    def _of(self, exprs: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return tuple(dict.fromkeys(self.kernel[expr] for expr in exprs))


def screen_hook(mask: Expr | None, over_tokens: Container[str]) -> ScreenHook | None:
    """The screen of a mask over storage indices, where it is worth having."""
    found = None if mask is None else screen(mask)
    if found is None:
        return None
    exprs = (*found.items, *found.rows, *found.keys)
    return ScreenHook(found, {expr: split_loads(expr, over_tokens) for expr in exprs})


def is_read_by_column(expr: Expr) -> bool:
    """Whether a value of a column is an element that lies there, and nothing is done with it."""
    return isinstance(expr, Element) and expr.indices == (COL,)


def _members(exprs: tuple[Expr, ...]) -> tuple[Member, ...]:
    names = Names()
    return tuple(Member(names.pick(value_name(expr)), expr) for expr in exprs)


def write_bounds(out: Text, name: str, members: tuple[Member, ...]) -> None:
    """A struct of intervals with ``merge`` and ``each``."""
    fields = [member.name for member in members]
    out.add()
    with out.block(f"struct {name}", "};"):
        for member in members:
            remark = formula(member.expr, 80)
            out.add(f"attncc::Interval<{CTYPE[member.expr.type]}> {member.name};  // {remark}")
        other = "other" if fields else ""
        with out.block(f"__device__ __forceinline__ void merge(const {name}& {other})".replace("& )", "&)")):
            for field_name in fields:
                out.add(f"{field_name}.merge(other.{field_name});")
        out.add("template <class Op>")
        with out.block(f"__device__ __forceinline__ void each(const Op&{' op' if fields else ''})"):
            for field_name in fields:
                out.add(f"op({field_name});")


def write_program(out: Text, hook: ScreenHook, point: Mapping[Expr, str]) -> None:
    """The body of ``screen``; ``point`` spells the item's values."""
    spelled: dict[int, str] = {}
    rows = {member.expr: f"r.{member.name}" for member in hook.rows}
    keys = {member.expr: f"c.{member.name}" for member in hook.keys}

    def spell(bound: Bound) -> str:
        match bound:
            case Operation():
                return spelled[id(bound)]
            case Place():
                return f"attncc::Interval<int>{{box.{bound.axis}_lo, box.{bound.axis}_hi - 1}}"
            case Value():
                expr = hook.kernel[bound.expr]
                known = rows.get(expr) or keys.get(expr)
                return known or f"{_NAMESPACE}::point({point[expr]})"
        return f"{_NAMESPACE}::everything<{CTYPE[bound.type]}>()"

    for number, operation in enumerate(hook.program.operations):
        text = f"{_NAMESPACE}::{operation.op}({', '.join(map(spell, operation.operands))})"
        if operation is hook.program.root:
            out.add(f"return {text};")
            return
        out.add(f"const attncc::Interval<{CTYPE[operation.type]}> x{number} = {text};")
        spelled[id(operation)] = f"x{number}"
    out.add(f"return {spell(hook.program.root)};")
