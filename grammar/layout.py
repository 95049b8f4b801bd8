"""The standard layout of .attn text. Works on tokens and comments, so that nothing is lost; knows no meaning.

Line breaks stay where the author put them, because they are what ends statements; spaces, indentation, blank lines and
the column of ``=`` in a run of hooks are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attncc.diagnostics import Source
from attncc.grammar.lexer import BINARY, OPEN_ENDED, Token, scan
from attncc.grammar.parser import parse

INDENT = 4
_TIGHT_AFTER = {"LPAR", "LSQB", "DOT"}
_TIGHT_BEFORE = {"RPAR", "RSQB", "DOT", "COMMA", "END"}
# Behind one of these a parenthesis opens a call, and a minus has a left operand.
_VALUE_ENDS = {"NAME", "MASK", "INTEGER", "FLOAT", "STRING", "RPAR", "RSQB"}


@dataclass
class _Line:
    """One line of text: its tokens, its comment, and how deep it is indented; ``previous`` is the token before it."""

    tokens: list[Token] = field(default_factory=list)
    comment: str | None = None
    depth: int = 0
    continues: bool = False
    previous: Token | None = None

    @property
    def is_blank(self) -> bool:
        return not self.tokens and self.comment is None

    @property
    def column(self) -> tuple[str, int]:
        """For a hook or an emit, what it is and the width in front of its ``=``."""
        kinds = [token.kind for token in self.tokens[:3]]
        if not self.continues and kinds[:2] in (["NAME", "ASSIGN"], ["MASK", "ASSIGN"]):
            return "hook", len(self.tokens[0].text)
        if not self.continues and kinds == ["EMIT", "NAME", "ASSIGN"]:
            return "emit", len("emit ") + len(self.tokens[1].text)
        return "", 0


def format(source: Source) -> str:
    """``source`` in the standard layout, ending in a newline; the empty text stays empty.

    Raises LanguageError A01xx for text that does not parse.
    """
    parse(source)
    lines = _tidy(_indent(_split(source)))
    columns = _columns(lines)
    text = "\n".join(_render(line, column) for line, column in zip(lines, columns, strict=True))
    return text + "\n" if text else ""


def _split(source: Source) -> list[_Line]:
    lines = [_Line()]
    for token in scan(source):
        if token.kind == "COMMENT":
            lines[-1].comment = _comment(token.text)
        elif token.kind == "END" and token.text != ";":
            lines.append(_Line())
        else:
            lines[-1].tokens.append(token)
    return lines


def _comment(text: str) -> str:
    body = text[1:].rstrip()
    return f"# {body}" if body and body[0] not in " #!" else f"#{body}"


def _indent(lines: list[_Line]) -> list[_Line]:
    braces = 0
    brackets: list[int] = []  # for every open ( or [, the depth of the line it stands in
    previous: Token | None = None
    for line in lines:
        first = line.tokens[0].kind if line.tokens else None
        line.previous = previous
        goes_on = previous is not None and previous.kind in OPEN_ENDED and previous.kind != "LBRACE"
        line.continues = bool(brackets) or goes_on or (first in BINARY and previous is not None)
        if brackets:
            line.depth = brackets[-1] + (first not in ("RPAR", "RSQB"))
        else:
            line.depth = max(0, braces - (first == "RBRACE")) + line.continues
        for token in line.tokens:
            braces += (token.kind == "LBRACE") - (token.kind == "RBRACE")
            if token.kind in ("LPAR", "LSQB"):
                brackets.append(line.depth)
            elif token.kind in ("RPAR", "RSQB") and brackets:
                brackets.pop()
            previous = token
    return lines


def _tidy(lines: list[_Line]) -> list[_Line]:
    """Blank lines: none at the ends of the file or of a block, otherwise at most one."""
    kept: list[_Line] = []
    for line in lines:
        if line.is_blank:
            if kept and not kept[-1].is_blank and not (kept[-1].tokens and kept[-1].tokens[-1].kind == "LBRACE"):
                kept.append(line)
            continue
        if line.tokens and line.tokens[0].kind == "RBRACE" and kept and kept[-1].is_blank:
            kept.pop()
        kept.append(line)
    if kept and kept[-1].is_blank:
        kept.pop()
    return kept


def _columns(lines: list[_Line]) -> list[int]:
    """For each line the column of its ``=``, the same in a run of hooks and in a run of emits; 0 for other lines."""
    columns = [0] * len(lines)
    runs: list[tuple[str, int, list[int]]] = []
    open_run = False
    for i, line in enumerate(lines):
        kind, width = line.column
        columns[i] = width
        if kind and open_run and runs[-1][:2] == (kind, line.depth):
            runs[-1][2].append(i)
        elif kind:
            runs.append((kind, line.depth, [i]))
        open_run = bool(kind) or (open_run and line.continues and not line.is_blank)
    for _, _, members in runs:
        widest = max(columns[i] for i in members)
        for i in members:
            columns[i] = widest
    return columns


def _render(line: _Line, column: int) -> str:
    text = ""
    brackets: list[str] = []
    before, last = None, line.previous
    for i, token in enumerate(line.tokens):
        if token.kind == "ASSIGN" and column and len(text) <= column and not brackets:
            text = text.ljust(column)
        if last is not None and i > 0 and _space(before, last, token, brackets):
            text += " "
        text += token.text
        if token.kind in ("LPAR", "LSQB"):
            brackets.append(token.kind)
        elif token.kind in ("RPAR", "RSQB") and brackets:
            brackets.pop()
        before, last = last, token
    if line.comment is not None:
        text = f"{text}  {line.comment}" if text else line.comment
    return " " * (INDENT * line.depth) + text if text else ""


def _space(before: Token | None, left: Token, right: Token, brackets: list[str]) -> bool:
    """Whether a space stands between ``left`` and ``right``; ``before`` is the token in front of ``left``."""
    if left.kind in _TIGHT_AFTER or right.kind in _TIGHT_BEFORE:
        return False
    if {left.kind, right.kind} == {"LBRACE", "RBRACE"}:
        return False
    if _is_unary(before, left):
        return False
    if right.kind in ("LPAR", "LSQB"):
        return left.kind not in _VALUE_ENDS
    return right.kind != "COLON" or (bool(brackets) and brackets[-1] == "LSQB")


def _is_unary(before: Token | None, token: Token) -> bool:
    if token.kind == "TILDE":
        return True
    return token.kind in ("MINUS", "PLUS") and (before is None or before.kind not in _VALUE_ENDS)
