"""The tree made of each production of attn.lark: one method ``on_<action>`` a rule. Knows tokens and the tree.

A method receives the values of the right-hand side in order, every token included.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, TypeVar

from attncc.diagnostics import LanguageError, Source, Span
from attncc.grammar import tree
from attncc.grammar.lexer import Token

MAX_DEPTH = 100
_ESCAPES = {'"': '"', "\\": "\\", "n": "\n", "t": "\t"}
_Node = TypeVar("_Node", bound=tree.Expr)


class Builder:
    """Builds the tree of one source. Raises LanguageError A0107 where expressions nest deeper than MAX_DEPTH."""

    def __init__(self, source: Source) -> None:
        self._source = source
        # Depth of each expression by identity; a chain of left operands counts once, lowering walks it in a loop.
        self._depths: dict[int, int] = {}

    def span(self, values: list[Any]) -> Span:
        return Span(self._source, self._begin(values[0]), self._end(values[-1]))

    def _begin(self, value: Any) -> int:
        return int(value.start if isinstance(value, Token) else value.span.start)

    def _end(self, value: Any) -> int:
        return int(value.end if isinstance(value, Token) else value.span.end)

    def _identifier(self, token: Token) -> tree.Identifier:
        return tree.Identifier(token.text, self.span([token]))

    def _text(self, token: Token) -> tree.Text:
        written = token.text[1:-1]

        def resolve(match: re.Match[str]) -> str:
            escape = match.group(1)
            if escape in _ESCAPES:
                return _ESCAPES[escape]
            start = token.start + 1 + match.start()
            raise LanguageError(
                "A0109",
                "unknown escape in a text",
                span=Span(self._source, start, start + 2),
                expected='`\\"`, `\\\\`, `\\n` or `\\t`',
                got=f"`\\{escape}`",
                help="write `\\\\` for a backslash; paths take `/` on every system",
            )

        value = re.sub(r"\\(.)", resolve, written)
        return tree.Text(value, self.span([token]))

    def _deep(self, node: _Node, nested: list[Any], *, level: tuple[Any, ...] = ()) -> _Node:
        """``node`` with its depth recorded: one more than ``nested``, the same as ``level``."""
        depths = self._depths
        depth = max(
            1 + max((depths.get(id(child), 0) for child in nested), default=0),
            max((depths.get(id(child), 0) for child in level), default=0),
        )
        if depth > MAX_DEPTH:
            raise LanguageError(
                "A0107",
                "the expression is nested too deeply",
                span=node.span,
                expected=f"at most {MAX_DEPTH} levels",
                got=f"{depth} levels",
                help="name a part of the expression with `let`",
            )
        depths[id(node)] = depth
        return node

    # Files and declarations -------------------------------------------------------------------------------------------

    def on_start(self, values: list[Any]) -> tree.Module:
        items = tuple(value for value in values if not isinstance(value, Token))
        return tree.Module(items, Span(self._source, 0, len(self._source.text)))

    def on_imported(self, values: list[Any]) -> tuple[tree.Identifier, tree.Identifier]:
        return self._identifier(values[0]), self._identifier(values[-1])

    def on_from_import(self, values: list[Any]) -> tree.FromImport:
        names = tuple(value for value in values if isinstance(value, tuple))
        begin, end = self._begin(values[0]), names[-1][1].span.end
        return tree.FromImport(self._text(values[1]), names, Span(self._source, begin, end))

    def on_import(self, values: list[Any]) -> tree.Import:
        return tree.Import(self._text(values[1]), self._identifier(values[3]), self.span(values))

    def on_mask(self, values: list[Any]) -> tree.Function:
        formals = values[2] if isinstance(values[2], tuple) else None
        return tree.Function("mask", self._identifier(values[1]), formals, values[-1], self.span(values))

    def on_def(self, values: list[Any]) -> tree.Function:
        return tree.Function("def", self._identifier(values[1]), values[2], values[-1], self.span(values))

    def on_formals(self, values: list[Any]) -> tuple[Any, ...]:
        return tuple(value for value in values if not isinstance(value, Token))

    on_params = on_formals

    def on_formal(self, values: list[Any]) -> tree.Formal:
        type, default = _annotation(values)
        return tree.Formal(self._identifier(values[0]), type, default, self.span(values))

    def on_param(self, values: list[Any]) -> tree.Param:
        const = values[0].kind == "CONST"
        type, default = _annotation(values)
        if type is None:
            raise AssertionError("the grammar demands a type")
        return tree.Param(const, self._identifier(values[int(const)]), type, default, self.span(values))

    def on_type(self, values: list[Any]) -> tree.TypeName:
        dims = tuple(value for value in values if not isinstance(value, Token))
        return tree.TypeName(self._identifier(values[0]), dims if len(values) > 1 else None, self.span(values))

    # Statements -------------------------------------------------------------------------------------------------------

    def on_variant(self, values: list[Any]) -> tree.Variant:
        params = values[2] if isinstance(values[2], tuple) else ()
        statements = tuple(value for value in values if not isinstance(value, Token | tuple))
        return tree.Variant(self._identifier(values[1]), params, statements, self.span(values))

    def on_branch(self, values: list[Any]) -> tree.Branch:
        statements = tuple(value for value in values if not isinstance(value, Token))
        return tree.Branch(self._identifier(values[1]), statements, self.span(values))

    def on_hook_name(self, values: list[Any]) -> Token:
        token: Token = values[0]
        return token

    on_comparator = on_hook_name

    def on_hook(self, values: list[Any]) -> tree.Hook:
        return tree.Hook(self._identifier(values[0]), values[2], self.span(values))

    def on_let(self, values: list[Any]) -> tree.Let:
        return tree.Let(self._identifier(values[1]), values[3], self.span(values))

    def on_emit(self, values: list[Any]) -> tree.Emit:
        return tree.Emit(self._identifier(values[1]), values[3], self.span(values))

    def on_require(self, values: list[Any]) -> tree.Require:
        text = self._text(values[3]) if len(values) > 2 else None
        return tree.Require(values[1], text, self.span(values))

    # Expressions ------------------------------------------------------------------------------------------------------

    def on_conditional(self, values: list[Any]) -> tree.Conditional:
        then, _, cond, _, other = values
        return self._deep(tree.Conditional(cond, then, other, self.span(values)), [cond, then, other])

    def on_binary(self, values: list[Any]) -> tree.Binary:
        left, op, right = values
        return self._deep(tree.Binary(op.text, left, right, self.span(values)), [right], level=(left,))

    def on_unary(self, values: list[Any]) -> tree.Unary:
        op, operand = values
        return self._deep(tree.Unary(op.text, operand, self.span(values)), [operand])

    def on_compare(self, values: list[Any]) -> tree.Compare:
        rest = tuple((values[i].text, values[i + 1]) for i in range(1, len(values), 2))
        return self._deep(tree.Compare(values[0], rest, self.span(values)), values[::2])

    def on_attribute(self, values: list[Any]) -> tree.Attribute:
        base, _, member = values
        return self._deep(tree.Attribute(base, self._identifier(member), self.span(values)), [base])

    def on_keyword(self, values: list[Any]) -> tree.Keyword:
        return tree.Keyword(self._identifier(values[0]), values[2], self.span(values))

    def on_call(self, values: list[Any]) -> tree.Call:
        given = [value for value in values[1:] if not isinstance(value, Token)]
        keywords = tuple(value for value in given if isinstance(value, tree.Keyword))
        arguments = tuple(value for value in given if not isinstance(value, tree.Keyword))
        if keywords and arguments and arguments[-1].span.start > keywords[0].span.start:
            raise LanguageError(
                "A0101",
                "a positional argument stands behind one with a name",
                span=arguments[-1].span,
                expected="`name = value`",
                got=f"`{_shorten(arguments[-1].span.text)}`",
                help="arguments without a name come first",
            )
        nested = [values[0], *arguments, *(keyword.value for keyword in keywords)]
        return self._deep(tree.Call(values[0], arguments, keywords, self.span(values)), nested)

    def on_comprehension(self, values: list[Any]) -> tree.Comprehension:
        function, _, body, _, index, _, extent, _ = values
        node = tree.Comprehension(function, body, self._identifier(index), extent, self.span(values))
        return self._deep(node, [function, body, extent])

    def on_slice(self, values: list[Any]) -> tree.Range:
        colon = next(i for i, value in enumerate(values) if isinstance(value, Token))
        start, stop = values[:colon], values[colon + 1 :]
        return tree.Range(start[0] if start else None, stop[0] if stop else None, self.span(values))

    def on_index(self, values: list[Any]) -> tree.Index:
        indices = tuple(value for value in values[1:] if not isinstance(value, Token))
        nested = [values[0]]
        for index in indices:
            nested.extend((index.start, index.stop) if isinstance(index, tree.Range) else (index,))
        return self._deep(tree.Index(values[0], indices, self.span(values)), nested)

    def on_name(self, values: list[Any]) -> tree.Name:
        return tree.Name(values[0].text, self.span(values))

    def on_integer(self, values: list[Any]) -> tree.Number:
        digits = values[0].text
        if len(digits) > 80:  # far above 32 bits; int() of a megabyte would take seconds
            raise LanguageError(
                "A0306",
                "integer literal out of range",
                span=self.span(values),
                expected="a 32-bit integer",
                got=f"{len(digits)} digits",
                help="integers have 32 bits; write a float (with a point) for larger magnitudes",
            )
        return tree.Number(int(digits, 0), self.span(values))

    def on_float(self, values: list[Any]) -> tree.Number:
        return tree.Number(float(values[0].text), self.span(values))

    def on_group(self, values: list[Any]) -> tree.Expr:
        # The parentheses belong to what they enclose: carets cover them, and they add no depth.
        node: tree.Expr = replace(values[1], span=self.span(values))
        self._depths[id(node)] = self._depths.get(id(values[1]), 0)
        return node


def _annotation(values: list[Any]) -> tuple[tree.TypeName | None, tree.Expr | None]:
    """The type and the default of ``name : type = default``, either of which may be missing."""
    type = default = None
    for i, value in enumerate(values):
        if isinstance(value, Token) and value.kind == "COLON":
            type = values[i + 1]
        elif isinstance(value, Token) and value.kind == "ASSIGN":
            default = values[i + 1]
    return type, default


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."
