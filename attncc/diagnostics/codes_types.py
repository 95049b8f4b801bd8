"""Codes A03: types."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {}
