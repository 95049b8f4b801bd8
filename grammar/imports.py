"""Files: reading them as text, following their imports, and the names each one defines. Knows no hooks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attncc.diagnostics import LanguageError, Note, Source, Span
from attncc.grammar import tree
from attncc.grammar.expressions import unknown_member
from attncc.grammar.lexer import MAX_CHARACTERS
from attncc.grammar.parser import parse
from attncc.grammar.scope import Alias, Macro, Scope, declared_twice, is_builtin, suggest, unknown_name

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
        check_functions(file)
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


def check_functions(file: File) -> None:
    """Every name in a mask or def must stand for something, and none may need itself.

    Raises LanguageError A0201, A0202, A0203 or A0210, also for definitions that nobody uses.
    """
    uses: dict[str, list[tuple[str, Span]]] = {}
    for item in file.module.items:
        if isinstance(item, tree.Function):
            uses[item.name.text] = _check_function(item, file)
    _check_recursion(uses, file)


def _check_function(function: tree.Function, file: File) -> list[tuple[str, Span]]:
    inner = Scope(file.scope)
    for formal in function.formals or ():
        inner.declare(formal.name, Macro(function, file.scope))
        if formal.type is not None:
            for dim in formal.type.dims or ():
                if isinstance(dim, tree.Name) and not is_builtin(dim.text):
                    inner.names.setdefault(dim.text, Macro(function, file.scope))
    used: list[tuple[str, Span]] = []
    for node, loops in _names(function.body):
        if node.text in inner.names or node.text in loops or is_builtin(node.text):
            continue
        binding = file.scope.find(node.text)
        if binding is None:
            raise unknown_name(node.text, node.span, inner)
        if isinstance(binding, Macro) and binding.scope is file.scope:
            used.append((binding.function.name.text, node.span))
    return used


def _names(root: tree.Expr) -> Iterator[tuple[tree.Name, frozenset[str]]]:
    """Every name below an expression, with the loop indices around it, in the order of the text."""
    stack: list[tuple[tree.Expr, frozenset[str]]] = [(root, frozenset())]
    while stack:
        node, loops = stack.pop()
        below: list[tree.Expr] = []
        match node:
            case tree.Name():
                yield node, loops
            case tree.Attribute():
                below = [node.base]
            case tree.Call():
                below = [node.function, *node.arguments, *(keyword.value for keyword in node.keywords)]
            case tree.Comprehension():
                stack.append((node.extent, loops))
                stack.append((node.body, loops | {node.index.text}))
                stack.append((node.function, loops))
            case tree.Index():
                below = [node.base]
                for index in node.indices:
                    ends = (index.start, index.stop) if isinstance(index, tree.Range) else (index,)
                    below.extend(end for end in ends if end is not None)
            case tree.Unary():
                below = [node.operand]
            case tree.Binary():
                below = [node.left, node.right]
            case tree.Compare():
                below = [node.first, *(expr for _, expr in node.rest)]
            case tree.Conditional():
                below = [node.then, node.cond, node.other]
            case tree.Number():
                pass
        stack.extend((child, loops) for child in reversed(below))


def _check_recursion(uses: dict[str, list[tuple[str, Span]]], file: File) -> None:
    finished: set[str] = set()
    for first in uses:
        # ``path`` holds what leads to the current definition, each with the place that uses it.
        path: dict[str, Span | None] = {}
        stack: list[Iterator[tuple[str, Span | None]]] = [iter([(first, None)])]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
                if path:
                    finished.add(path.popitem()[0])
                continue
            name, span = step
            if name in path:
                circle = list(path)[list(path).index(name) :]
                raise _recursion([*circle, name], span, [path[link] for link in circle[1:]])
            if name not in finished:
                path[name] = span
                stack.append(iter(uses.get(name, ())))


def _recursion(names: list[str], span: Span | None, links: list[Span | None]) -> LanguageError:
    return LanguageError(
        "A0210",
        f"`{names[0]}` is defined by itself",
        span=span,
        expected="definitions without a circle",
        got=" -> ".join(names if len(names) <= 8 else [*names[:4], "...", *names[-3:]]),
        help="masks and defs are written out where they are used, so none may reach itself; see `any`, `all` and `sum`",
        notes=tuple(Note("used here", link) for link in links[:6] if link is not None),
    )
