"""A syntax tree as indented text, for ``--emit=ast``. Knows dataclasses, not the language."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from attncc.diagnostics import Source, Span


def dump_tree(root: Any) -> str:
    """One line a node: its name, its plain fields, its place; the nodes below it indented."""
    return "\n".join(_lines(root, "", 0)) + "\n"


def _lines(node: Any, label: str, depth: int) -> Iterator[str]:
    indent = "  " * depth + label
    if is_dataclass(node) and not isinstance(node, type | Span | Source):
        values = {item.name: getattr(node, item.name) for item in fields(node)}
        plain = [f"{name}={value!r}" for name, value in values.items() if _is_plain(value)]
        spans = [f"@{value}" for value in values.values() if isinstance(value, Span)]
        yield " ".join([indent + type(node).__name__, *plain, *spans[:1]])
        for name, value in values.items():
            if not _is_plain(value) and not isinstance(value, Span | Source):
                yield from _lines(value, f"{name}: ", depth + 1)
    elif isinstance(node, tuple | list):
        if node:
            yield f"{indent.rstrip(': ')}:"
            for item in node:
                yield from _lines(item, "- " if isinstance(item, tuple | list) else "", depth + 1)
    elif isinstance(node, Mapping):
        for name, value in node.items():
            yield from _lines(value, f"{name}: ", depth)
    elif not isinstance(node, Span | Source):
        yield f"{indent}{node!r}"


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool | enum.Enum)
