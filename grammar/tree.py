"""The untyped syntax tree of a .attn file: what was written and where. Knows no types and no meaning."""

from __future__ import annotations

from dataclasses import dataclass

from attncc.diagnostics import Span


@dataclass(frozen=True)
class Identifier:
    """A name where one is declared or referred to."""

    text: str
    span: Span


@dataclass(frozen=True)
class Text:
    """A string in double quotes; ``value`` is without them, escapes resolved."""

    value: str
    span: Span


# Expressions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A literal; ``value`` is an int or a float as written."""

    value: int | float
    span: Span


@dataclass(frozen=True)
class Name:
    text: str
    span: Span


@dataclass(frozen=True)
class Attribute:
    """``base.member``: an input of a branch (``x.out``), or a name of an imported file (``m.causal``)."""

    base: Expr
    member: Identifier
    span: Span


@dataclass(frozen=True)
class Keyword:
    """``name = value`` in a call."""

    name: Identifier
    value: Expr
    span: Span


@dataclass(frozen=True)
class Call:
    function: Expr
    arguments: tuple[Expr, ...]
    keywords: tuple[Keyword, ...]
    span: Span


@dataclass(frozen=True)
class Comprehension:
    """``function(body for index in extent)``."""

    function: Expr
    body: Expr
    index: Identifier
    extent: Expr
    span: Span


@dataclass(frozen=True)
class Range:
    """``start : stop`` between square brackets; None is the end of the vector."""

    start: Expr | None
    stop: Expr | None
    span: Span


@dataclass(frozen=True)
class Index:
    """``base[i, j]``, an element of a tensor, or ``base[start : stop]``, a slice of channels."""

    base: Expr
    indices: tuple[Expr | Range, ...]
    span: Span


@dataclass(frozen=True)
class Unary:
    """``op`` is ``-``, ``+``, ``~`` or ``not``."""

    op: str
    operand: Expr
    span: Span


@dataclass(frozen=True)
class Binary:
    """Any operator of two operands but comparisons; ``op`` as written."""

    op: str
    left: Expr
    right: Expr
    span: Span


@dataclass(frozen=True)
class Compare:
    """``first op expr op expr …``: neighbours are compared, all must hold."""

    first: Expr
    rest: tuple[tuple[str, Expr], ...]
    span: Span


@dataclass(frozen=True)
class Conditional:
    """``then if cond else other``."""

    cond: Expr
    then: Expr
    other: Expr
    span: Span


Expr = Number | Name | Attribute | Call | Comprehension | Index | Unary | Binary | Compare | Conditional

# Declarations and statements ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TypeName:
    """``f32``, ``f32[num_heads, n]`` or ``query[num_heads, 64]``; ``dims`` is None without brackets."""

    name: Identifier
    dims: tuple[Expr, ...] | None
    span: Span


@dataclass(frozen=True)
class Formal:
    """A parameter of a ``mask`` or ``def``."""

    name: Identifier
    type: TypeName | None
    default: Expr | None
    span: Span


@dataclass(frozen=True)
class Function:
    """A ``mask`` or ``def``; ``formals`` is None where there are no parentheses."""

    kind: str
    name: Identifier
    formals: tuple[Formal, ...] | None
    body: Expr
    span: Span


@dataclass(frozen=True)
class Param:
    """A parameter, tensor or operand of a variant."""

    const: bool
    name: Identifier
    type: TypeName
    default: Expr | None
    span: Span


@dataclass(frozen=True)
class Hook:
    name: Identifier
    value: Expr
    span: Span


@dataclass(frozen=True)
class Let:
    name: Identifier
    value: Expr
    span: Span


@dataclass(frozen=True)
class Branch:
    name: Identifier
    statements: tuple[Hook | Let, ...]
    span: Span


@dataclass(frozen=True)
class Emit:
    name: Identifier
    value: Expr
    span: Span


@dataclass(frozen=True)
class Require:
    cond: Expr
    text: Text | None
    span: Span


Statement = Hook | Let | Branch | Emit | Require


@dataclass(frozen=True)
class Variant:
    """``doc`` is the comment that stands directly above."""

    name: Identifier
    params: tuple[Param, ...]
    statements: tuple[Statement, ...]
    span: Span
    doc: str = ""


@dataclass(frozen=True)
class Import:
    """``import path as alias``."""

    path: Text
    alias: Identifier
    span: Span


@dataclass(frozen=True)
class FromImport:
    """``from path import name as alias, …``."""

    path: Text
    names: tuple[tuple[Identifier, Identifier], ...]
    span: Span


Item = Import | FromImport | Function | Variant


@dataclass(frozen=True)
class Module:
    items: tuple[Item, ...]
    span: Span
