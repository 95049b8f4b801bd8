"""Checks of a file's masks and defs that need no types: every name stands for something, none is defined by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attncc.diagnostics import LanguageError, Note, Span
from attncc.grammar import tree
from attncc.grammar.scope import Macro, Scope, is_builtin, unknown_name


def check_functions(items: Iterable[tree.Item], scope: Scope) -> None:
    """Every name in a mask or def must stand for something, and none may need itself.

    Raises LanguageError A0201, A0202, A0203 or A0210, also for definitions that nobody uses.
    """
    uses: dict[str, list[tuple[str, Span]]] = {}
    for item in items:
        if isinstance(item, tree.Function):
            uses[item.name.text] = _check_function(item, scope)
    _check_recursion(uses)


def _check_function(function: tree.Function, file_scope: Scope) -> list[tuple[str, Span]]:
    inner = Scope(file_scope)
    for formal in function.formals or ():
        inner.declare(formal.name, Macro(function, file_scope))
        if formal.type is not None:
            for dim in formal.type.dims or ():
                if isinstance(dim, tree.Name) and not is_builtin(dim.text):
                    inner.names.setdefault(dim.text, Macro(function, file_scope))
    used: list[tuple[str, Span]] = []
    for node, loops in _names(function.body):
        if node.text in inner.names or node.text in loops or is_builtin(node.text):
            continue
        binding = file_scope.find(node.text)
        if binding is None:
            raise unknown_name(node.text, node.span, inner)
        if isinstance(binding, Macro) and binding.scope is file_scope:
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


def _check_recursion(uses: dict[str, list[tuple[str, Span]]]) -> None:
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
