"""One tracing of one variant function: what is under way while the user's code runs. Knows no values."""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from attncc.diagnostics import Span, TracingError
from attncc.ir.nodes import Coord, Expr


@dataclass
class Trace:
    """``operands`` holds the channels of each extra operand, ``requires`` each (condition, text) in order."""

    operands: Mapping[str, Expr]
    requires: list[tuple[Any, str]] = field(default_factory=list)
    _fresh: Iterator[int] = field(default_factory=itertools.count)

    def fresh_index(self) -> Coord:
        """The index of a new loop, unlike any other; ``finish.number_indices`` gives it its final name."""
        return Coord(f"i_{next(self._fresh)}")


_current: contextvars.ContextVar[Trace] = contextvars.ContextVar("attncc_trace")


@contextmanager
def tracing(trace: Trace) -> Iterator[Trace]:
    """Make ``trace`` the one under way."""
    token = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(token)


def operand_channels(name: str) -> Expr | None:
    """How many channels the extra operand ``name`` of the variant being traced has."""
    trace = _current.get(None)
    return None if trace is None else trace.operands.get(name)


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
