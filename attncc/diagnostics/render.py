"""How an error looks in a terminal: the shape rustc made familiar. Knows errors and spans, nothing of their cause."""

from __future__ import annotations

import unicodedata

from attncc.diagnostics.errors import AttnccError
from attncc.diagnostics.source import Span

_STYLES = {"error": "1;31", "frame": "1;34", "caret": "1;31", "bold": "1", "help": "1;32", "note": "1;36"}
_TAB = "    "


def plain(error: AttnccError) -> str:
    """The error without colours, as golden tests and log files want it."""
    return _render(error, color=False)


def colored(error: AttnccError) -> str:
    """The error with ANSI colours."""
    return _render(error, color=True)


def _render(error: AttnccError, *, color: bool) -> str:
    def paint(style: str, text: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if color else text

    lines = [paint("error", f"error[{error.code}]") + paint("bold", f": {error.message}")]
    spans = [error.span, *(note.span for note in error.notes)]
    gutter = max((len(str(span.end_position[0])) for span in spans if span is not None), default=1)
    frame = paint("frame", " " * gutter + " |")

    def excerpt(span: Span, mark: str) -> None:
        (line, column), (end_line, end_column) = span.begin_position, span.end_position
        lines.append(paint("frame", " " * gutter + "--> ") + f"{span.source.name}:{line}:{column}")
        lines.append(frame)
        text = span.source.line(line)
        # A span over several lines is underlined to the end of its first one.
        stop = end_column if end_line == line else len(text) + 1
        before, marked = text[: column - 1], text[column - 1 : max(stop - 1, column - 1)]
        lines.append(paint("frame", f"{line:>{gutter}} | ") + text.replace("\t", _TAB))
        lines.append(frame + " " + " " * _width(before) + paint("caret", mark * max(1, _width(marked))))

    if error.span is not None:
        excerpt(error.span, "^")
    prefix = paint("frame", " " * gutter + " = ")
    for label, text in (("expected", error.expected), ("got", error.got)):
        if text is not None:
            lines.append(prefix + paint("bold", label) + f": {text}")
    for note in error.notes:
        lines.append(prefix + paint("note", "note") + f": {note.text}")
        if note.span is not None:
            excerpt(note.span, "-")
    if error.help is not None:
        lines.append(prefix + paint("help", "help") + f": {error.help}")
    return "\n".join(lines)


def _width(text: str) -> int:
    """Terminal cells of a text: wide characters take two, combining ones none."""
    cells = 0
    for char in text.replace("\t", _TAB):
        if unicodedata.combining(char):
            continue
        cells += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return cells
