"""The .attn language: text to tree to IR; it knows the IR and nothing of kernels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attncc.diagnostics import Source

if TYPE_CHECKING:
    from attncc.grammar import tree
    from attncc.ir.definition import Definition

__all__ = ["Module", "format", "parse", "read"]


@dataclass(frozen=True)
class Module:
    """A file that was read: its syntax tree, and its variants by name in the order of the text."""

    source: Source
    tree: tree.Module
    definitions: Mapping[str, Definition]


def parse(source: Source) -> tree.Module:
    """The syntax tree of a text; names and types are not looked at. Raises LanguageError A01xx."""
    from attncc.grammar.parser import parse

    return parse(source)


def read(source: Source | str | os.PathLike[str], *, search: Sequence[Path] = ()) -> Module:
    """Read a text or a file with its imports.

    Imports are relative to the importing file (to the working directory for ``<stdin>``), then looked for in
    ``search``. Raises LanguageError: A01xx for text, A02xx for names and imports, A05xx for parameter lists. Mistakes
    in the hooks of a variant show when its definition is instantiated.
    """
    from attncc.grammar.imports import Loader, read_source
    from attncc.grammar.lower import definition

    if not isinstance(source, Source):
        source = read_source(source)
    file = Loader(search).load(source)
    definitions = {name: definition(variant, file.scope) for name, variant in file.variants.items()}
    return Module(source, file.module, definitions)


def format(text: str, name: str = "<text>") -> str:
    """A .attn text in the standard layout; comments stay, the meaning does not change. Raises LanguageError A01xx."""
    from attncc.grammar.layout import format

    return format(Source(name, text))
