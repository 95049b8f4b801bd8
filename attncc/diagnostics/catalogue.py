"""The table of error codes: a title and the long form that ``attncc explain`` prints. Data only.

Ranges: A01 reading text, A02 names and imports, A03 types, A04 hooks and what they may vary with, A05 parameters and
tensors, A06 Python front end, A07 what a kernel or target supports, A08 calls, A09 files, cache and kernels on disk,
A10 environment and toolchain.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One code. ``explanation`` is Markdown: what is wrong, an example that fails, the example mended."""

    title: str
    explanation: str


_AREAS = ("text", "names", "types", "hooks", "declarations", "frontend", "support", "calls", "files", "environment")


@functools.cache
def catalogue() -> Mapping[str, Entry]:
    """Every code with its entry, in order. The areas are one module each: ``codes_text`` holds A01, and so on."""
    found: dict[str, Entry] = {}
    for area in _AREAS:
        module = importlib.import_module(f"attncc.diagnostics.codes_{area}")
        found.update(module.CODES)
    return dict(sorted(found.items()))
