"""One tracing of one variant function: what it records while the user's code runs. Knows the IR, no Python values."""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from attncc.diagnostics import Span, TracingError
from attncc.ir.nodes import Coord, Expr, Reduce, Require
from attncc.ir.walk import rewrite


@dataclass
class Trace:
    """Spans of nodes and the conditions of ``require``, in the order they were met."""

    name: str
    spans: dict[Expr, tuple[Span, ...]] = field(default_factory=dict)
    requires: list[Require] = field(default_factory=list)
    _fresh: Iterator[int] = field(default_factory=itertools.count)

    def record(self, expr: Expr, span: Span | None) -> None:
        """Note that ``expr`` was written at ``span``."""
        if span is not None:
            known = self.spans.get(expr, ())
            if span not in known:
                self.spans[expr] = (*known, span)

    def fresh_index(self) -> Coord:
        """The index of a new comprehension, unlike any other; ``number_indices`` gives it its final name."""
        return Coord(f"i_{next(self._fresh)}")

    def replace(self, root: Expr, values: dict[Expr, Expr]) -> Expr:
        """``root`` with whole nodes replaced; the nodes that change take their spans along."""
        memo = dict(values)
        result = rewrite(root, lambda node: node, memo)
        for old, new in memo.items():
            if old is not new:
                for span in self.spans.get(old, ()):
                    self.record(new, span)
        return result

    def number_indices(self, root: Expr, depth: int = 0) -> Expr:
        """Name the index of each comprehension by its depth: ``i0`` outermost, ``i1`` inside it."""
        replaced: dict[Expr, Expr] = {}
        for node in _outermost(root):
            index = Coord(f"i{depth}")
            body = self.replace(node.body, {Coord(node.axis): index})
            replaced[node] = Reduce(node.kind, self.number_indices(body, depth + 1), index.axis, node.extent)
        return self.replace(root, replaced) if replaced else root


def _outermost(root: Expr) -> Iterator[Reduce]:
    """The comprehensions below ``root`` that stand in no other."""
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


_current: contextvars.ContextVar[Trace] = contextvars.ContextVar("attncc_trace")


@contextmanager
def tracing(trace: Trace) -> Iterator[Trace]:
    """Make ``trace`` the one that values record into."""
    token = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(token)


def current(what: str, span: Span | None) -> Trace:
    """The tracing under way; ``what`` cannot be used outside one."""
    trace = _current.get(None)
    if trace is None:
        raise TracingError(
            "A0614",
            f"`{what}` outside a variant",
            span=span,
            expected="a function decorated with @attncc.variant",
            got="no variant is being traced",
            help=f"use `{what}` inside the variant's function, or in a helper that it calls",
        )
    return trace


def record_made(expr: Expr, span: Span | None) -> None:
    """Note where ``expr`` was written, and what its construction put between it and its operands (a cast, a sum)."""
    trace = _current.get(None)
    if trace is None or span is None:
        return
    trace.record(expr, span)
    stack = list(expr.operands)
    while stack:
        node = stack.pop()
        if node.operands and node not in trace.spans:
            trace.record(node, span)
            stack.extend(node.operands)


def record(expr: Expr, span: Span | None) -> None:
    """Note where ``expr`` was written, if a tracing is under way."""
    trace = _current.get(None)
    if trace is not None:
        trace.record(expr, span)
