"""From traced values to a variant: spans per statement, branches told apart, loop indices numbered. Knows no Python."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from attncc.diagnostics import LanguageError, Span
from attncc.frontend.hooks import Hooks
from attncc.frontend.value import Value
from attncc.ir import build
from attncc.ir.nodes import (
    INPUTS,
    Branch,
    Coord,
    Emit,
    Expr,
    Input,
    Operand,
    ParamDecl,
    Reduce,
    Require,
    Tensor,
    Variant,
)
from attncc.ir.types import Type
from attncc.ir.verify import HOOKS, emit_axis
from attncc.ir.walk import rewrite, walk


@dataclass
class Statements:
    """The expressions of a variant as they are finished, and where each statement wrote its nodes."""

    records: dict[str, dict[Expr, list[Span]]] = field(default_factory=dict)

    def finish(self, where: str, hook: str, value: Value, branch: str = "") -> Expr:
        """The final expression of one statement: in the type of its hook, reading the inputs of its branch."""
        spans = self.records[where] = spans_of(value)
        expr = value.expr
        if hook in HOOKS and HOOKS[hook].type is Type.F32 and expr.type.is_integer:
            _carry({expr: build.cast(expr, Type.F32)}, spans)
            expr = build.cast(expr, Type.F32)
        if branch:
            own = [node for node in walk(expr) if isinstance(node, Input) and node.name in INPUTS and not node.branch]
            expr = _replace(expr, {node: Input(node.name, branch) for node in own}, spans)
        return number_indices(expr, spans)

    def spans(self) -> dict[Expr, tuple[Span, ...]]:
        """All places of every node."""
        merged: dict[Expr, list[Span]] = {}
        for record in self.records.values():
            for expr, spans in record.items():
                known = merged.setdefault(expr, [])
                known.extend(span for span in spans if span not in known)
        return {expr: tuple(spans) for expr, spans in merged.items()}


def assemble(
    name: str,
    params: tuple[ParamDecl, ...],
    tensors: tuple[Tensor, ...],
    operands: tuple[Operand, ...],
    requires: list[tuple[Value, str]],
    stated: Hooks,
) -> tuple[Variant, Statements]:
    """The variant that ``stated`` means, not yet verified, and the places of its statements."""
    statements = Statements()
    conditions = [
        Require(statements.finish(f"require {i}", "require", cond), text) for i, (cond, text) in enumerate(requires)
    ]
    branches = [_branch(statements, branch, _combined(stated.written, own)) for branch, own in stated.branches.items()]
    known = tuple(stated.branches)
    output = None if stated.output is None else statements.finish("output", "output", stated.output)
    if output is not None:
        _check_branch(output, known, statements.records["output"])
    emits = [_emit(statements, emitted, value) for emitted, value in stated.emits.items()]
    for emit in emits:
        _check_branch(emit.value, known, statements.records[f"emit {emit.name}"])
    variant = Variant(
        name,
        params,
        tensors,
        operands,
        tuple(conditions),
        tuple(branches) or (_branch(statements, "", stated.written),),
        output,
        tuple(emits),
    )
    return variant, statements


def _combined(shared: Mapping[str, Value], own: Mapping[str, Value]) -> dict[str, Value]:
    """A branch's hooks over the shared ones; a sink and a denominator are two forms of one hook, ``normalize``."""
    hidden = {"normalize", "sink"} if {"normalize", "sink"} & own.keys() else set()
    return {**{hook: value for hook, value in shared.items() if hook not in hidden}, **own}


def _branch(statements: Statements, name: str, written: Mapping[str, Value]) -> Branch:
    prefix = f"{name}." if name else ""
    return Branch(
        name, **{hook: statements.finish(prefix + hook, hook, value, name) for hook, value in written.items()}
    )


def _emit(statements: Statements, name: str, value: Value) -> Emit:
    expr = statements.finish(f"emit {name}", "emit", value)
    return Emit(name, emit_axis(expr) or "row", expr)


def _check_branch(expr: Expr, branches: tuple[str, ...], spans: Mapping[Expr, list[Span]]) -> None:
    """Outside the branches an input is one branch's. Raises LanguageError A0407."""
    for node in walk(expr):
        if branches and isinstance(node, Input) and node.name in INPUTS and not node.branch:
            raise LanguageError(
                "A0407",
                f"`{node.name}` of which branch?",
                span=next(iter(spans.get(node, ())), None),
                expected=" or ".join(f'at.branch("{branch}").{node.name}' for branch in branches),
                got=f"at.{node.name}",
                help=f'this variant has branches; name the one you mean: `at.branch("{branches[0]}").{node.name}`',
            )


def spans_of(value: Value) -> dict[Expr, list[Span]]:
    """Where each node below a value was written, as its own computation says; the inner expressions come first."""
    found: dict[Expr, list[Span]] = {}
    seen: set[int] = set()
    stack: list[tuple[Value, bool]] = [(value, False)]
    while stack:
        item, ready = stack.pop()
        if not ready:
            if id(item) not in seen:
                seen.add(id(item))
                stack.append((item, True))
                stack.extend((source, False) for source in reversed(item.sources))
        elif item.span is not None:
            _note(found, item.expr, item.span)
            for node in _introduced(item):
                _note(found, node, item.span)
    return found


def _introduced(value: Value) -> Iterator[Expr]:
    """The nodes that one operation put between its result and its operands: a cast, the product in a dot."""
    known = {source.expr for source in value.sources}
    stack = [] if value.expr in known else list(value.expr.operands)
    while stack:
        node = stack.pop()
        if node.operands and node not in known:
            known.add(node)
            yield node
            stack.extend(node.operands)


def _note(found: dict[Expr, list[Span]], expr: Expr, span: Span) -> None:
    spans = found.setdefault(expr, [])
    if span not in spans:
        spans.append(span)


def _carry(replaced: Mapping[Expr, Expr], spans: dict[Expr, list[Span]]) -> None:
    for old, new in replaced.items():
        if old is not new:
            for span in spans.get(old, ()):
                _note(spans, new, span)


def _replace(root: Expr, values: Mapping[Expr, Expr], spans: dict[Expr, list[Span]]) -> Expr:
    """``root`` with whole nodes replaced; the nodes that change take their spans along."""
    memo = dict(values)
    result = rewrite(root, lambda node: node, memo)
    _carry(memo, spans)
    return result


def number_indices(root: Expr, spans: dict[Expr, list[Span]], depth: int = 0) -> Expr:
    """Name the index of each loop by its depth: ``i0`` outermost, ``i1`` inside it."""
    replaced: dict[Expr, Expr] = {}
    for node in _outermost(root):
        index = Coord(f"i{depth}")
        body = _replace(node.body, {Coord(node.axis): index}, spans)
        replaced[node] = Reduce(node.kind, number_indices(body, spans, depth + 1), index.axis, node.extent)
    return _replace(root, replaced, spans) if replaced else root


def _outermost(root: Expr) -> Iterator[Reduce]:
    """The loops below ``root`` that stand in no other."""
    seen: set[Expr] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node, Reduce) and node.extent is not None:
            yield node
        else:
            stack.extend(node.operands)
