"""The LALR table of attn.lark: made by Lark, kept in attn_table.py, and rebuilt when the two do not belong together.

Building takes Lark a third of a second, reading the kept table three milliseconds. ``python -m attncc.grammar.table``
writes attn_table.py after an edit of attn.lark; a forgotten one costs time, never correctness.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRAMMAR = Path(__file__).with_name("attn.lark")
KEPT = Path(__file__).with_name("attn_table.py")
END_OF_INPUT = "$END"


@dataclass(frozen=True)
class Rule:
    """A production: pop ``size`` values, apply ``action`` to them, go to ``origin``.

    ``action`` names a method of builder.Builder, ``pass`` to hand on the only value, ``splice`` to hand on all values
    as part of the list they stand in.
    """

    origin: str
    size: int
    action: str


@dataclass(frozen=True)
class Table:
    """``states[s][symbol]``: a state to go to, or ``-1 - r`` to reduce by ``rules[r]``."""

    start: int
    end: int
    rules: tuple[Rule, ...]
    states: tuple[dict[str, int], ...]


@functools.cache
def table() -> Table:
    """The table of the grammar beside this file."""
    grammar = GRAMMAR.read_text(encoding="utf-8")
    from attncc.grammar import attn_table

    if _digest(grammar) == attn_table.DIGEST:
        return _decode(attn_table.RULES, attn_table.STATES)
    return build(grammar)


def build(grammar: str) -> Table:
    """The table by Lark. Raises lark.exceptions.GrammarError for an ambiguous grammar (``strict``)."""
    from lark import Lark
    from lark.lexer import Lexer

    class NoLexer(Lexer):
        """Only the table is wanted; lexer.py makes the tokens."""

        def __init__(self, conf: Any) -> None:
            pass

        def lex(self, *args: Any) -> Iterator[Any]:
            return iter(())

    made: Any = Lark(grammar, parser="lalr", lexer=NoLexer, strict=True, maybe_placeholders=False).parser
    parse_table = made.parser._parse_table
    numbers = {rule: i for i, rule in enumerate(made.parser_conf.rules)}
    # Lark numbers states in the order of a set, which changes from run to run; ours follow from the grammar.
    order = {parse_table.start_states["start"]: 0}
    states: list[dict[str, int]] = []
    for state in (pending := list(order)):
        row: dict[str, int] = {}
        for symbol, (_, argument) in sorted(parse_table.states[state].items()):
            if isinstance(argument, int):
                if argument not in order:
                    order[argument] = len(order)
                    pending.append(argument)
                row[symbol] = order[argument]
            else:
                row[symbol] = -1 - numbers[argument]
        states.append(row)
    rules = tuple(Rule(str(r.origin.name), len(r.expansion), _action(r)) for r in numbers)
    return Table(0, order[parse_table.end_states["start"]], rules, tuple(states))


def _action(rule: Any) -> str:
    name = str(rule.origin.name)
    if name.startswith("_"):
        return "splice"
    if rule.alias:
        return str(rule.alias)
    return "pass" if rule.options.expand1 and len(rule.expansion) == 1 else name


def _digest(grammar: str) -> str:
    return hashlib.sha256(grammar.replace("\r\n", "\n").encode()).hexdigest()


def _decode(rules: str, states: str) -> Table:
    lines = states.strip().splitlines()
    start, end = map(int, lines[0].split())
    decoded: list[dict[str, int]] = []
    for line in lines[1:]:
        pairs = (entry.split(":") for entry in line.split())
        decoded.append({symbol: int(number) for symbol, number in pairs})
    made = (line.split() for line in rules.strip().splitlines())
    return Table(start, end, tuple(Rule(origin, int(size), action) for origin, size, action in made), tuple(decoded))


def encode(made: Table, grammar: str) -> str:
    """The text of attn_table.py."""
    rules = "\n".join(f"{rule.origin} {rule.size} {rule.action}" for rule in made.rules)
    states = "\n".join(" ".join(f"{symbol}:{n}" for symbol, n in state.items()) for state in made.states)
    return (
        '"""The LALR table of attn.lark. Written by `python -m attncc.grammar.table`; do not edit."""\n\n'
        f'# ruff: noqa: E501\n\nDIGEST = "{_digest(grammar)}"\n\n'
        f'RULES = """\n{rules}\n"""\n\nSTATES = """\n{made.start} {made.end}\n{states}\n"""\n'
    )


if __name__ == "__main__":
    text = GRAMMAR.read_text(encoding="utf-8")
    KEPT.write_text(encode(build(text), text), encoding="utf-8")
