"""The errors a user can see. Each carries its code and its data; how they look is render.py's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attncc.diagnostics.source import Span


@dataclass(frozen=True)
class Note:
    """A second place or fact that explains an error ("first declared here")."""

    text: str
    span: Span | None = None


class AttnccError(Exception):
    """A mistake of the user, or something attncc does not support.

    ``code`` is a key of the catalogue (``attncc explain CODE``); ``expected`` and ``got`` are short phrases, ``help``
    says what to write instead.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        span: Span | None = None,
        expected: str | None = None,
        got: str | None = None,
        help: str | None = None,
        notes: tuple[Note, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.span = span
        self.expected = expected
        self.got = got
        self.help = help
        self.notes = notes

    def with_span(self, span: Span | None) -> AttnccError:
        """The same error placed at ``span``, unless it already has a place."""
        if self.span is None:
            self.span = span
        return self

    def to_json(self) -> dict[str, Any]:
        """The error as plain data, one shape for every front end (``--error-format=json``)."""
        return {
            "code": self.code,
            "kind": type(self).__name__,
            "message": self.message,
            "expected": self.expected,
            "got": self.got,
            "help": self.help,
            "span": _span_json(self.span),
            "notes": [{"text": note.text, "span": _span_json(note.span)} for note in self.notes],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (
            type(self),
            self.code,
            self.message,
            {"span": self.span, "expected": self.expected, "got": self.got, "help": self.help, "notes": self.notes},
        )

    def __str__(self) -> str:
        from attncc.diagnostics.render import plain

        return plain(self)


class LanguageError(AttnccError):
    """A mistake in a variant's text or formula, from either front end: syntax, names, types, hooks."""


class TracingError(AttnccError):
    """A Python twin that cannot be traced."""


class UnsupportedError(AttnccError):
    """A correct variant that no kernel family serves for this target, dtype or head dim."""


class CallError(AttnccError):
    """A call with the wrong tensors, shapes, dtypes, devices or parameter values."""


class ArtifactError(AttnccError):
    """A kernel, cache entry, IR text or file that is damaged, foreign or missing."""


class ToolchainError(AttnccError):
    """The environment lacks something, or the CUDA compiler refused generated code."""


def _rebuild(kind: type[AttnccError], code: str, message: str, rest: dict[str, Any]) -> AttnccError:
    return kind(code, message, **rest)


def _span_json(span: Span | None) -> dict[str, Any] | None:
    if span is None:
        return None
    (line, column), (end_line, end_column) = span.begin_position, span.end_position
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "text": span.text,
    }
