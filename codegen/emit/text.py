"""C++ text under construction: indented lines, each with the source span it comes from. Knows no IR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from attncc.diagnostics import Span

WIDTH = 118
_BREAKS = ((", ", 1), (" ? ", 0), (" : ", 0), (" + ", 0), (" & ", 0), (" | ", 0))  # what stays before the break


@dataclass(frozen=True)
class Line:
    """One line of C++ and, where it computes something a user wrote, the place it was written."""

    text: str
    span: Span | None = None


@dataclass
class Text:
    """Lines being written, at a current indentation."""

    lines: list[Line] = field(default_factory=list)
    depth: int = 0

    def add(self, text: str = "", span: Span | None = None) -> None:
        """Appends ``text``, one Line for each of its lines."""
        for part in text.split("\n"):
            for line in wrap("  " * self.depth + part if part else ""):
                self.lines.append(Line(line, span))

    def comment(self, text: str) -> None:
        """A ``//`` comment; a backslash at its end would swallow the next line, so none may stand there."""
        start = "  " * self.depth + "//"
        for part in text.splitlines() or [""]:
            line = start
            for word in part.split(" "):
                if len(line) + 1 + len(word) > WIDTH and line != start:
                    self.lines.append(Line(line.rstrip("\\ ")))
                    line = start + "    "
                line += f" {word}"
            self.lines.append(Line(line.rstrip("\\ ")))

    def extend(self, other: Text) -> None:
        for line in other.lines:
            moved = "  " * self.depth + line.text if line.text else ""
            self.lines.extend(Line(part, line.span) for part in ([moved] if _is_comment(moved) else wrap(moved)))

    @contextmanager
    def block(self, head: str, tail: str = "}", span: Span | None = None) -> Iterator[None]:
        """``head {`` … ``tail``, what is added inside indented once more."""
        self.add(f"{head} {{", span)
        self.depth += 1
        yield
        self.depth -= 1
        self.add(tail)

    def render(self) -> str:
        return "".join(f"{line.text}\n" for line in self.lines)


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("//")


def wrap(line: str) -> list[str]:
    """A line of code without strings, broken between operands or arguments where it is too long."""
    if len(line) <= WIDTH or '"' in line:
        return [line]
    code, mark, remark = line.partition("  //")
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    found: list[str] = []
    while len(code) > WIDTH:
        places = [(code.rfind(symbol, len(indent), WIDTH - 2), keep) for symbol, keep in _BREAKS]
        at, keep = max(places)
        if at <= 0:
            break
        found.append(code[: at + keep])
        code = indent + code[at + keep :].lstrip()
    return [*found, code + mark + remark]


def render_mapped(lines: Iterable[Line], name: str) -> str:
    """The text with ``#line`` directives: a line with a span belongs to the user's file, every other one to ``name``.

    Compiler messages, debuggers and profilers then point into the file the user wrote.
    """
    out: list[str] = []
    file, number = name, 1  # where the compiler believes the next line of ``out`` to be
    for line in lines:
        if line.span is not None:
            wanted_file, wanted = line.span.source.name, line.span.begin_position[0]
        elif file == name:
            wanted_file, wanted = file, number
        else:
            wanted_file, wanted = name, len(out) + 2
        if (wanted_file, wanted) != (file, number):
            out.append(f"#line {wanted} {quote(wanted_file)}")
            file, number = wanted_file, wanted
        out.append(line.text)
        number += 1
    return "".join(f"{line}\n" for line in out)


def quote(text: str) -> str:
    """``text`` as a C++ string literal, for a file name."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else "?" for char in escaped) + '"'
