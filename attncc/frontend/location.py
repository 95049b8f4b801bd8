"""Where the user's own code stands: the span of the expression that is being evaluated. Knows no IR.

Python says it exactly (PEP 657): each instruction has a line and a column range, so the operator method that is called
for ``a + b`` can name the characters of ``a + b``, whichever helper or lambda they stand in.
"""

from __future__ import annotations

import ast
import functools
import linecache
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType

from attncc.diagnostics import Source, Span

_PACKAGE = __name__.partition(".")[0]
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def caller_frame() -> FrameType | None:
    """The innermost frame outside this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
    return frame


def caller() -> Span | None:
    """The span of the expression the user's code is evaluating; None where Python has no source for it."""
    frame = caller_frame()
    if frame is None or frame.f_lasti < 0:
        return None
    line, end_line, column, end_column = _positions(frame.f_code)[frame.f_lasti // 2]
    source = source_of(frame.f_code.co_filename, frame.f_globals)
    if source is None or line is None or end_line is None or column is None or end_column is None:
        return None
    return _span(source, line, column, end_line, end_column)


@functools.lru_cache(maxsize=512)
def _positions(code: CodeType) -> tuple[tuple[int | None, int | None, int | None, int | None], ...]:
    return tuple(code.co_positions())


_sources: dict[str, Source] = {}


def source_of(filename: str, module_globals: dict[str, object] | None = None) -> Source | None:
    """The text of a Python file, notebook cell or interactive input; one object as long as the text is the same."""
    text = "".join(linecache.getlines(filename, module_globals))
    if not text:
        return None
    known = _sources.get(filename)
    if known is None or known.text != text:
        known = _sources[filename] = Source(_display(filename), text)
    return known


def _display(filename: str) -> str:
    """The file as a user would type it: relative to the working directory if it lies there."""
    if not os.path.isabs(filename):
        return filename
    try:
        relative = os.path.relpath(filename)
    except (OSError, ValueError):
        return filename
    return filename if relative.startswith(os.pardir) else relative


def _span(source: Source, line: int, column: int, end_line: int, end_column: int) -> Span | None:
    """A span from 1-based lines and columns that count UTF-8 bytes, as Python's do."""
    start, end = _offset(source, line, column), _offset(source, end_line, end_column)
    return None if start is None or end is None or end < start else Span(source, start, end)


def _offset(source: Source, line: int, column: int) -> int | None:
    if not 1 <= line <= len(source.line_starts):
        return None  # the file changed since Python read it
    before = source.line(line).encode()[:column]
    return source.line_starts[line - 1] + len(before.decode(errors="replace"))


# The syntax tree, which tells why Python asked for a truth value ------------------------------------------------------


@dataclass(frozen=True)
class _Tree:
    parents: dict[ast.AST, ast.AST]
    places: dict[tuple[int, int], list[ast.AST]]  # innermost first


@functools.lru_cache(maxsize=16)
def _tree(source: Source) -> _Tree | None:
    try:
        root = ast.parse(source.text)
    except (SyntaxError, ValueError):
        return None
    parents: dict[ast.AST, ast.AST] = {}
    places: dict[tuple[int, int], list[ast.AST]] = {}
    for node in ast.walk(root):  # parents before children
        for child in ast.iter_child_nodes(node):
            parents[child] = node
        span = node_span(source, node)
        if span is not None:
            places.setdefault((span.start, span.end), []).insert(0, node)
    return _Tree(parents, places)


def node_span(source: Source, node: ast.AST) -> Span | None:
    """The span of a syntax node; None for those without a position."""
    if not isinstance(node, ast.expr | ast.stmt | ast.keyword | ast.arg):
        return None
    if node.end_lineno is None or node.end_col_offset is None:
        return None
    return _span(source, node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)


def nodes_at(span: Span | None) -> Iterator[tuple[ast.AST, ast.AST | None]]:
    """The syntax nodes that cover exactly ``span``, innermost first, each with its parent."""
    tree = None if span is None else _tree(span.source)
    if span is None or tree is None:
        return
    for node in tree.places.get((span.start, span.end), ()):
        yield node, tree.parents.get(node)


def operand_spans(span: Span | None) -> list[Span]:
    """Of an operator, call or subscript that covers ``span``: the spans of its operands, left to right."""
    for node, _ in nodes_at(span):
        parts: list[ast.expr] = []
        match node:
            case ast.BinOp(left=left, right=right) | ast.Compare(left=left, comparators=[right]):
                parts = [left, right]
            case ast.AugAssign(target=target, value=value):
                parts = [target, value]
            case ast.UnaryOp(operand=operand):
                parts = [operand]
            case ast.Call(args=arguments, keywords=[]):
                parts = arguments
            case ast.Subscript(slice=ast.Tuple(elts=indices)):
                parts = indices
            case ast.Subscript(slice=index):
                parts = [index]
        if parts and span is not None:
            return [place for part in parts if (place := node_span(span.source, part)) is not None]
    return []


def call_keywords(span: Span | None) -> dict[str, Span]:
    """Of a call that covers ``span``: the span of each keyword argument's value."""
    for node, _ in nodes_at(span):
        if isinstance(node, ast.Call) and span is not None:
            found = ((k.arg, node_span(span.source, k.value)) for k in node.keywords)
            return {name: place for name, place in found if name is not None and place is not None}
    return {}


@dataclass(frozen=True)
class FunctionPlace:
    """Where a function is declared: its name, and each parameter's name, annotation and default."""

    name: Span
    parameters: dict[str, Span]
    annotations: dict[str, Span]
    defaults: dict[str, Span]


def function_place(code: CodeType, module_globals: dict[str, object]) -> FunctionPlace | None:
    """The spans of a function's signature, or None without source."""
    linecache.checkcache(code.co_filename)
    source = source_of(code.co_filename, module_globals)
    tree = None if source is None else _tree(source)
    if source is None or tree is None:
        return None
    for node in tree.parents:
        if not isinstance(node, _FUNCTIONS):
            continue
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        first = min([node.lineno, *(d.lineno for d in decorators)])
        name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
        if first == code.co_firstlineno and name == code.co_name:
            return _function_place(source, node)
    return None


def _function_place(source: Source, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> FunctionPlace | None:
    whole = node_span(source, node)
    if whole is None:
        return None
    name = whole
    if not isinstance(node, ast.Lambda):
        start = source.text.index(node.name, source.text.index("def", whole.start) + 3)
        name = Span(source, start, start + len(node.name))
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every.extend(extra for extra in (arguments.vararg, arguments.kwarg) if extra is not None)
    parameters, annotations, defaults = {}, {}, {}
    for arg in every:
        if (place := node_span(source, arg)) is not None:
            parameters[arg.arg] = Span(source, place.start, place.start + len(arg.arg))
        if arg.annotation is not None and (place := node_span(source, arg.annotation)) is not None:
            annotations[arg.arg] = place
    for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is not None and (place := node_span(source, default)) is not None:
            defaults[arg.arg] = place
    return FunctionPlace(name, parameters, annotations, defaults)
