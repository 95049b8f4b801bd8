"""Errors, spans and the catalogue of codes; every layer may use it, it uses none."""

from attncc.diagnostics.errors import (
    ArtifactError,
    AttnccError,
    CallError,
    LanguageError,
    Note,
    ToolchainError,
    TracingError,
    UnsupportedError,
)
from attncc.diagnostics.source import Source, Span, join

__all__ = [
    "ArtifactError",
    "AttnccError",
    "CallError",
    "LanguageError",
    "Note",
    "Source",
    "Span",
    "ToolchainError",
    "TracingError",
    "UnsupportedError",
    "join",
]
