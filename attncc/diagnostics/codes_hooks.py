"""Codes A04: hooks and what they may vary with."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {}
