"""Text to tree: the LALR automaton over the table, and syntax errors in the user's words. Knows nothing of meaning."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

from attncc.diagnostics import LanguageError, Source, Span
from attncc.grammar import tree
from attncc.grammar.builder import Builder
from attncc.grammar.lexer import Token, scan, tokens
from attncc.grammar.syntax_errors import syntax_error
from attncc.grammar.table import END_OF_INPUT, Table, table

# What is open at once; expressions of builder.MAX_DEPTH levels need less.
MAX_STATES = 2000


def parse(source: Source) -> tree.Module:
    """The syntax tree of a .attn text. Raises LanguageError A01xx (and A0306 for absurd integers)."""
    automaton, builder = table(), Builder(source)
    states: list[int] = [automaton.start]
    values: list[Any] = []
    recent: deque[Token] = deque(maxlen=3)
    for token in tokens(source):
        _reduce(automaton, builder, states, values, token, recent, source)
        states.append(automaton.states[states[-1]][token.kind])
        if len(states) > MAX_STATES:
            raise LanguageError(
                "A0107",
                "the expression is nested too deeply",
                span=Span(source, token.start, token.end),
                expected=f"at most {MAX_STATES} open operators and brackets",
                got="more",
                help="name a part of the expression with `let`",
            )
        values.append(token)
        recent.append(token)
    end = recent[-1].end if recent else len(source.text)
    _reduce(automaton, builder, states, values, Token(END_OF_INPUT, "", end, end), recent, source)
    module: tree.Module = values[-1]
    return _with_docs(module, source)


def _reduce(
    automaton: Table,
    builder: Builder,
    states: list[int],
    values: list[Any],
    token: Token,
    recent: deque[Token],
    source: Source,
) -> None:
    """Apply every production that ends before ``token``, so that it can be shifted (or the input accepted)."""
    # Reductions lose what else could have stood here, so an error looks at the states before them.
    before = tuple(states)
    while True:
        action = automaton.states[states[-1]].get(token.kind)
        if action is None:
            raise syntax_error(automaton, before, tuple(recent), token, source)
        if action >= 0:
            return
        rule = automaton.rules[-1 - action]
        cut = len(values) - rule.size
        if rule.action == "splice" and isinstance(values[cut], list):
            # The list so far: it is longer every time, so it is not copied.
            children, rest = values[cut], values[cut + 1 :]
        else:
            children, rest = [], values[cut:]
        for value in rest:
            if isinstance(value, list):
                children.extend(value)
            else:
                children.append(value)
        del values[cut:]
        del states[len(states) - rule.size :]
        if rule.action == "splice":
            values.append(children)
        elif rule.action == "pass":
            values.append(children[0])
        else:
            values.append(getattr(builder, f"on_{rule.action}")(children))
        states.append(automaton.states[states[-1]][rule.origin])
        if token.kind == END_OF_INPUT and states[-1] == automaton.end:
            return


def _with_docs(module: tree.Module, source: Source) -> tree.Module:
    """Variants with the comment block that ends on the line above them."""
    if not any(isinstance(item, tree.Variant) for item in module.items) or "#" not in source.text:
        return module
    comments: dict[int, str] = {}
    line_has_code: set[int] = set()
    for token in scan(source):
        line = source.position(token.start)[0]
        if token.kind == "COMMENT" and line not in line_has_code:
            comments[line] = token.text[1:].strip()
        elif token.kind not in ("END", "COMMENT"):
            line_has_code.add(line)

    def doc(item: tree.Variant) -> str:
        line = item.span.begin_position[0] - 1
        block: list[str] = []
        while line in comments:
            block.append(comments[line])
            line -= 1
        return "\n".join(reversed(block)).strip()

    items = tuple(replace(item, doc=doc(item)) if isinstance(item, tree.Variant) else item for item in module.items)
    return replace(module, items=items)
