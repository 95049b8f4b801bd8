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
    def is_hook(self) -> bool:
        kinds = [token.kind for token in self.tokens[:2]]
        return not self.continues and len(kinds) == 2 and kinds[0] in ("NAME", "MASK") and kinds[1] == "ASSIGN"


def format(source: Source) -> str:
    """``source`` in the standard layout, ending in a newline; the empty text stays empty.

    Raises LanguageError A01xx for text that does not parse.
    """
    parse(source)
    lines = _tidy(_indent(_split(source)))
    columns = _hook_columns(lines)
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
    braces = brackets = 0
    previous: Token | None = None
    for line in lines:
        first = line.tokens[0].kind if line.tokens else None
        closes = first in ("RBRACE", "RPAR", "RSQB")
        line.continues = brackets > 0 or (
            previous is not None
            and (
                (previous.kind in OPEN_ENDED and previous.kind not in ("LBRACE", "END"))
                or first in BINARY
                or first == "LBRACE"
            )
        )
        line.previous = previous
        line.depth = max(0, braces - (first == "RBRACE")) + (line.continues and not closes and first != "LBRACE")
        for token in line.tokens:
            braces += (token.kind == "LBRACE") - (token.kind == "RBRACE")
            brackets += (token.kind in ("LPAR", "LSQB")) - (token.kind in ("RPAR", "RSQB"))
            previous = token
    return lines


def _tidy(lines: list[_Line]) -> list[_Line]:
    """Blank lines: none at the ends of the file or of a block, otherwise at most one."""
    kept: list[_Line] = []
    for i, line in enumerate(lines):
        if line.is_blank:
            following = next((later for later in lines[i + 1 :] if not later.is_blank), None)
            opens = not kept or kept[-1].is_blank or (kept[-1].tokens and kept[-1].tokens[-1].kind == "LBRACE")
            if opens or following is None or (following.tokens and following.tokens[0].kind == "RBRACE"):
                continue
        kept.append(line)
    return kept


def _hook_columns(lines: list[_Line]) -> list[int]:
    """For each line the width its hook name is padded to: the longest of the run it belongs to."""
    columns = [0] * len(lines)
    run: list[int] = []

    def close() -> None:
        width = max((len(lines[i].tokens[0].text) for i in run), default=0)
        for i in run:
            columns[i] = width
        run.clear()

    for i, line in enumerate(lines):
        if line.is_hook and (not run or lines[run[-1]].depth == line.depth):
            run.append(i)
        elif not line.continues or line.is_blank:
            close()
            if line.is_hook:
                run.append(i)
    close()
    return columns


def _render(line: _Line, column: int) -> str:
    parts: list[str] = []
    brackets: list[str] = []
    before, last = None, line.previous
    for i, token in enumerate(line.tokens):
        if last is not None and i > 0 and _space(before, last, token, brackets):
            parts.append(" ")
        parts.append(token.text.ljust(column) if i == 0 else token.text)
        before, last = last, token
        if token.kind in ("LPAR", "LSQB"):
            brackets.append(token.kind)
        elif token.kind in ("RPAR", "RSQB") and brackets:
            brackets.pop()
    text = "".join(parts).rstrip()
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
