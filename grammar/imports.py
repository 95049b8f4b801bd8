"""Files: reading them as text, following their imports, and the names each one defines. Knows no hooks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attncc.diagnostics import LanguageError, Note, Source, Span
from attncc.grammar import tree
from attncc.grammar.check import check_functions
from attncc.grammar.lexer import MAX_CHARACTERS
from attncc.grammar.mistakes import unknown_member
from attncc.grammar.parser import parse
from attncc.grammar.scope import Alias, Macro, Scope, declared_twice, suggest

MAX_IMPORT_DEPTH = 40


@dataclass(frozen=True)
class File:
    """A parsed file with its names: ``scope`` holds masks, defs and imports, ``variants`` are a space of their own."""

    source: Source
    module: tree.Module
    scope: Scope
    variants: dict[str, tree.Variant]


@dataclass
class Loader:
    """Reads each file once. ``search`` are folders to look in after the importing file's own."""

    search: Sequence[Path] = ()
    _files: dict[str, File] = field(default_factory=dict)
    _open: list[tuple[str, tree.Text | None]] = field(default_factory=list)

    def load(self, source: Source, key: str | None = None, via: tree.Text | None = None) -> File:
        """Parse ``source`` and what it imports. Raises LanguageError A01xx and A02xx."""
        key = key or os.path.realpath(source.name)
        self._open.append((key, via))
        module = parse(source)
        file = File(source, module, Scope(), {})
        for item in module.items:
            match item:
                case tree.FromImport():
                    imported = self._imported(item.path, source)
                    for name, alias in item.names:
                        file.scope.declare(alias, _find(name, imported))
                case tree.Import():
                    file.scope.declare(item.alias, Alias(self._imported(item.path, source).scope, item.alias.span))
                case tree.Function():
                    file.scope.declare(item.name, Macro(item, file.scope))
                case tree.Variant():
                    if item.name.text in file.variants:
                        raise declared_twice(item.name, file.variants[item.name.text].name.span)
                    file.variants[item.name.text] = item
        check_functions(module.items, file.scope)
        self._open.pop()
        self._files[key] = file
        return file

    def _imported(self, path: tree.Text, importer: Source) -> File:
        found = self._locate(path, importer)
        key = os.path.realpath(found)
        if key in self._files:
            return self._files[key]
        chain = [i for i, (open_key, _) in enumerate(self._open) if open_key == key]
        if chain:
            links = [via for _, via in self._open[chain[0] + 1 :] if via is not None]
            raise LanguageError(
                "A0207",
                "files import each other in a circle",
                span=path.span,
                expected="imports without a circle",
                got=" -> ".join([*(os.path.basename(open_key) for open_key, _ in self._open[chain[0] :]), path.value]),
                help="move what both need into a third file",
                notes=tuple(Note("imported here", link.span) for link in links),
            )
        if len(self._open) > MAX_IMPORT_DEPTH:
            raise LanguageError(
                "A0107",
                "imports are nested too deeply",
                span=path.span,
                expected=f"at most {MAX_IMPORT_DEPTH} files, each importing the next",
                got="more",
                help="import the file that defines the mask, not one that imports it",
            )
        return self.load(read_source(found, path.span), key, path)

    def _locate(self, path: tree.Text, importer: Source) -> str:
        if not path.value or "\0" in path.value:
            raise _not_found(path, [])
        stdin = importer.name.startswith("<")
        folders = ["" if stdin else os.path.dirname(importer.name), *map(str, self.search)]
        candidates = [os.path.join(folder, path.value) for folder in folders]
        for candidate in candidates:
            if os.path.isfile(candidate):
                return candidate
        raise _not_found(path, candidates)


def _not_found(path: tree.Text, candidates: Sequence[str]) -> LanguageError:
    near = None
    for candidate in candidates:
        folder, name = os.path.split(candidate)
        try:
            near = near or suggest(name, [n for n in os.listdir(folder or ".") if n.endswith(".attn")])
        except OSError:
            continue
    return LanguageError(
        "A0208",
        "the imported file does not exist",
        span=path.span,
        expected="a .attn file, relative to this one",
        got=f'"{path.value}"',
        help=f"did you mean `{near}`?" if near else "paths are relative to the file that imports",
    )


def read_source(path: str | os.PathLike[str], span: Span | None = None) -> Source:
    """The text of a file under the name the user gave; newlines become ``\\n``.

    ``span`` is the import that asks for it. Raises LanguageError A0112 (unreadable), A0105 (not UTF-8) or A0108 (too
    large).
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read(4 * MAX_CHARACTERS + 4)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise LanguageError(
            "A0112",
            f"cannot read `{name}`",
            span=span,
            expected="a readable .attn file",
            got=reason,
            help="check the path; `-` reads standard input",
        ) from None
    if len(data) > 4 * MAX_CHARACTERS:
        raise LanguageError(
            "A0108",
            "the file is too large for a variant",
            span=span,
            expected=f"at most {MAX_CHARACTERS} characters",
            got=f"more than {4 * MAX_CHARACTERS} bytes",
            help="split it into files and import the masks they share",
        )
    return decode_source(name, data, span)


def decode_source(name: str, data: bytes, span: Span | None = None) -> Source:
    """Bytes of a .attn file as a Source. Raises LanguageError A0105 where they are not UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LanguageError(
            "A0105",
            f"`{name}` is not text in UTF-8",
            span=span,
            expected="UTF-8",
            got=f"byte 0x{data[error.start]:02x} in line {line}",
            help="save the file as UTF-8",
        ) from None
    return Source(name, text.replace("\r\n", "\n").replace("\r", "\n"))


def _find(name: tree.Identifier, imported: File) -> Macro:
    found = imported.scope.names.get(name.text)
    if isinstance(found, Macro):
        return found
    error = unknown_member(name, imported.scope)
    if name.text in imported.variants:
        error.notes = (Note("this is a variant", imported.variants[name.text].name.span),)
    raise error
