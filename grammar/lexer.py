"""Text to tokens, and the rule which newlines end a statement. Knows no grammar.

The rule: a newline ends a statement unless it stands inside ``( )`` or ``[ ]``, after a token that cannot end an
expression, or before a line that starts with a binary operator. A run of newlines and ``;`` is one END token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from attncc.diagnostics import LanguageError, Note, Source, Span

MAX_CHARACTERS = 1 << 18
MAX_BRACKETS = 200

KEYWORDS = {
    word: word.upper()
    for word in (
        *("variant", "mask", "def", "let", "const", "branch", "emit", "require", "from", "import", "as"),
        *("for", "in", "if", "else", "and", "or", "not"),
    )
}
SYMBOLS = {
    "**": "POW",
    "//": "FLOORDIV",
    "<<": "SHL",
    ">>": "SHR",
    "<=": "LE",
    ">=": "GE",
    "==": "EQ",
    "!=": "NE",
    "+": "PLUS",
    "-": "MINUS",
    "*": "STAR",
    "/": "SLASH",
    "%": "PERCENT",
    "&": "AMP",
    "|": "BAR",
    "^": "CARET",
    "~": "TILDE",
    "<": "LT",
    ">": "GT",
    "=": "ASSIGN",
    "(": "LPAR",
    ")": "RPAR",
    "[": "LSQB",
    "]": "RSQB",
    "{": "LBRACE",
    "}": "RBRACE",
    ",": "COMMA",
    ":": "COLON",
    ".": "DOT",
}
TYPES = {"NAME", "INTEGER", "FLOAT", "STRING", "END", *KEYWORDS.values(), *SYMBOLS.values()}

BINARY = {
    *("POW", "FLOORDIV", "SHL", "SHR", "LE", "GE", "EQ", "NE", "LT", "GT", "PLUS", "MINUS", "STAR", "SLASH"),
    *("PERCENT", "AMP", "BAR", "CARET", "AND", "OR", "IF", "ELSE"),
}
# No statement ends with one of these, so a newline behind it is only layout; none begins with one of BINARY.
OPEN_ENDED = BINARY | {"TILDE", "NOT", "ASSIGN", "COMMA", "COLON", "DOT", "LBRACE"}
_CLOSES = {"RPAR": "LPAR", "RSQB": "LSQB", "RBRACE": "LBRACE"}
_NAMES_OF = {kind: symbol for symbol, kind in SYMBOLS.items()}

_TOKEN = re.compile(
    r"""(?P<space>[ \t\f]+)
      | (?P<end>\r\n|\n|\r|;)
      | (?P<comment>\#[^\r\n]*)
      | (?P<number>(?:[0-9]|\.[0-9])(?:[eE][+-](?=[0-9])|[A-Za-z0-9_.])*)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<string>"(?:[^"\\\r\n]|\\[^\r\n])*")
      | (?P<symbol>\*\*|//|<<|>>|<=|>=|==|!=|[-+*/%&|^~<>=()\[\]{},:.])
    """,
    re.VERBOSE,
)
_INTEGER = re.compile(r"0[xX](?:_?[0-9a-fA-F])+|0[bB](?:_?[01])+|0[oO](?:_?[0-7])+|0(?:_?0)*|[1-9](?:_?[0-9])*")
_DIGITS = r"[0-9](?:_?[0-9])*"
_FLOAT = re.compile(rf"(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?|{_DIGITS}[eE][+-]?{_DIGITS}")

# What people type out of habit from other languages, or paste from papers.
_HINTS = {
    "&&": "write `and`",
    "||": "write `or`",
    "!": "write `not`",
    "?": "write `x if condition else y`",
    "'": 'texts stand in double quotes: "..."',
    "@": "a product over channels is `dot(x, y)`",
    "$": "names consist of letters, digits and `_`",
    "\\": "no backslash is needed: break the line after an operator, or inside brackets",
    "≥": "write `>=`",
    "≤": "write `<=`",
    "≠": "write `!=`",
    "×": "write `*`",
    "·": "write `*`",
    "−": "this is a typographic minus; write `-`",
    "–": "this is a dash; write `-`",
    "—": "this is a dash; write `-`",
    "÷": "write `/`",
    "∧": "write `and`",
    "∨": "write `or`",
    "¬": "write `not`",
    "∞": "write `inf`",
    "π": "write `pi`",
    "√": "write `sqrt(x)`",
    "“": 'texts stand in straight quotes: "..."',
    "”": 'texts stand in straight quotes: "..."',
    "\u00a0": "this is a non-breaking space; type a plain one",
}


@dataclass(frozen=True, slots=True)
class Token:
    """A token, or a comment (kind COMMENT) where those are asked for. ``text`` is as written."""

    kind: str
    text: str
    start: int
    end: int


def tokens(source: Source) -> Iterator[Token]:
    """The tokens the grammar sees. Raises LanguageError A0102 to A0108 for text that is none."""
    raw = [token for token in scan(source) if token.kind != "COMMENT"]
    depth = 0
    previous: str | None = None
    for i, token in enumerate(raw):
        kind = token.kind
        if kind == "END":
            following = raw[i + 1].kind if i + 1 < len(raw) else None
            if depth and token.text == ";":
                yield token  # never right inside brackets; the parser says what it expected
            elif not depth and not _is_layout(token, previous, following):
                yield token
            else:
                continue
        else:
            depth += (kind in ("LPAR", "LSQB")) - (kind in ("RPAR", "RSQB"))
            yield token
        previous = kind


def _is_layout(token: Token, previous: str | None, following: str | None) -> bool:
    """Whether an END outside brackets separates nothing."""
    if previous in (None, "END", "LBRACE") or following in (None, "END", "RBRACE"):
        return True
    return token.text != ";" and (previous in OPEN_ENDED or following in BINARY or following == "LBRACE")


def scan(source: Source) -> Iterator[Token]:
    """Every token with comments and every newline, brackets checked to match."""
    text = source.text
    if len(text) > MAX_CHARACTERS:
        raise LanguageError(
            "A0108",
            "the file is too large for a variant",
            span=Span(source, 0, 0),
            expected=f"at most {MAX_CHARACTERS} characters",
            got=f"{len(text)} characters",
            help="split it into files and import the masks they share",
        )
    open_brackets: list[Token] = []
    position = 1 if text.startswith("\ufeff") else 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _unexpected(source, position)
        start, position = position, match.end()
        group = match.lastgroup
        if group == "space":
            continue
        word = match.group()
        if group == "name":
            kind = KEYWORDS.get(word, "NAME")
        elif group == "symbol":
            if word in "&|" and text.startswith(word, position):
                raise _unexpected(source, start)
            kind = SYMBOLS[word]
            _check_bracket(source, kind, Token(kind, word, start, position), open_brackets)
        elif group == "number":
            kind = _number(source, word, start)
        else:
            kind = {"end": "END", "comment": "COMMENT", "string": "STRING"}[str(group)]
        yield Token(kind, word, start, position)
    if open_brackets:
        last = open_brackets[-1]
        raise LanguageError(
            "A0106",
            f"`{last.text}` is never closed",
            span=Span(source, last.start, last.end),
            expected=f"`{_closing(last.kind)}`",
            got="the end of the file",
            help=f"close it with `{_closing(last.kind)}`",
        )


def _check_bracket(source: Source, kind: str, token: Token, open_brackets: list[Token]) -> None:
    if kind in _CLOSES.values():
        open_brackets.append(token)
        if len(open_brackets) > MAX_BRACKETS:
            raise LanguageError(
                "A0107",
                "brackets are nested too deeply",
                span=Span(source, token.start, token.end),
                expected=f"at most {MAX_BRACKETS} levels",
                got=f"{len(open_brackets)} levels",
                help="name a part of the expression with `let`",
            )
    elif kind in _CLOSES:
        if not open_brackets or open_brackets[-1].kind != _CLOSES[kind]:
            raise _mismatch(source, token, open_brackets[-1] if open_brackets else None)
        open_brackets.pop()


def _closing(kind: str) -> str:
    return next(_NAMES_OF[close] for close, opened in _CLOSES.items() if opened == kind)


def _mismatch(source: Source, token: Token, opened: Token | None) -> LanguageError:
    if opened is None:
        return LanguageError(
            "A0106",
            f"`{token.text}` closes nothing",
            span=Span(source, token.start, token.end),
            expected=f"`{_NAMES_OF[_CLOSES[token.kind]]}` before it",
            got=f"`{token.text}`",
            help=f"remove this `{token.text}`, or open its bracket",
        )
    wanted = _closing(opened.kind)
    return LanguageError(
        "A0106",
        f"`{opened.text}` is closed by `{token.text}`",
        span=Span(source, token.start, token.end),
        expected=f"`{wanted}`",
        got=f"`{token.text}`",
        help=f"put `{wanted}` before it",
        notes=(Note("opened here", Span(source, opened.start, opened.end)),),
    )


def _number(source: Source, word: str, start: int) -> str:
    if _INTEGER.fullmatch(word):
        return "INTEGER"
    if _FLOAT.fullmatch(word):
        return "FLOAT"
    stem = word.rstrip("fFlLuU")
    if stem != word and (_INTEGER.fullmatch(stem) or _FLOAT.fullmatch(stem)):
        help = f"numbers take no suffix: write `{stem}`"
    elif word.isdecimal() and len(word) < 40:
        help = f"leading zeros are not allowed: write `{int(word)}`"
    elif word[0] in "123456789" and "." not in word:
        help = "a name starts with a letter or `_`; a product needs `*`"
    else:
        help = "write numbers like 42, 0xff, 0b101, 1_000, 0.5 or 1e-6"
    raise LanguageError(
        "A0103",
        "malformed number",
        span=Span(source, start, start + len(word)),
        expected="an integer or a float",
        got=f"`{word}`" if len(word) <= 40 else f"`{word[:37]}...`",
        help=help,
    )


def _unexpected(source: Source, position: int) -> LanguageError:
    text = source.text
    char = text[position]
    if char == '"':
        end = position
        while end < len(text) and text[end] not in "\r\n":
            end += 1
        return LanguageError(
            "A0104",
            "the text is not closed",
            span=Span(source, position, end),
            expected='`"` before the end of the line',
            got="the end of the line",
            help='close it with `"`; a text stands on one line',
        )
    pair = text[position : position + 2]
    shown = pair if pair in _HINTS else char
    return LanguageError(
        "A0102",
        f"unexpected character {_show(shown)}" if len(shown) == 1 else f"there is no operator `{shown}`",
        span=Span(source, position, position + len(shown)),
        expected="a name, a number or an operator",
        got=_show(shown),
        help=_HINTS.get(shown, "remove it; outside comments and texts, a variant is written in ASCII"),
    )


def _show(chars: str) -> str:
    if chars.isprintable():
        return f"`{chars}`"
    return f"U+{ord(chars):04X} {unicodedata.name(chars, '')}".strip()
