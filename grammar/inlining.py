"""Masks and defs written out where they are used: arguments, defaults, rebound coordinates. Knows one call only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attncc.diagnostics import LanguageError, Span
from attncc.grammar import tree
from attncc.grammar.mistakes import use_note, wrong_argument, wrong_arguments
from attncc.grammar.operators import demand, scalar_type
from attncc.grammar.scope import Bound, Captured, Context, Lazy, Macro, Scope, is_builtin, suggest
from attncc.ir import build
from attncc.ir.nodes import AXES, Expr
from attncc.ir.types import Type

if TYPE_CHECKING:
    from attncc.grammar.expressions import Expressions

MAX_NOTES = 6


def inline(expressions: Expressions, macro: Macro, call: tree.Call, scope: Scope, context: Context) -> Expr:
    """The body of a ``mask`` or ``def`` with its arguments bound and coordinates rebound.

    Raises LanguageError A0211 and A0308 for the call; errors of the body get a note that names the call.
    """
    function = macro.function
    formals = {formal.name.text: formal for formal in function.formals or ()}
    given: dict[str, tree.Expr] = dict(zip(formals, call.arguments, strict=False))
    if len(call.arguments) > len(formals):
        raise wrong_arguments(macro, call.arguments[len(formals)].span, f"{len(call.arguments)} arguments")
    coordinates: dict[str, Lazy] = {}
    for keyword in call.keywords:
        name = keyword.name.text
        if name in given or name in coordinates:
            raise wrong_arguments(macro, keyword.span, f"`{name}` twice")
        if name in formals:
            given[name] = keyword.value
        elif name in AXES:
            coordinates[name] = _rebind(expressions, keyword, scope, context)
        else:
            near = suggest(name, [*formals, *AXES])
            help = f"did you mean `{near}`?" if near else "named arguments are its parameters and coordinates"
            raise wrong_arguments(macro, keyword.name.span, f"`{name}`", help)
    body_scope = Scope(macro.scope)
    inner = replace(context, coordinates={**context.coordinates, **coordinates})
    for name, formal in formals.items():
        if name in given:
            _bind(expressions, formal, given[name], scope, context, body_scope, macro)
        elif formal.default is not None:
            _bind(expressions, formal, formal.default, macro.scope, inner, body_scope, macro)
        else:
            raise wrong_arguments(macro, call.span, f"no `{name}`")
    expressions.inlined.setdefault(id(expressions.record), []).append((function, call.span))
    try:
        value = expressions.lower(function.body, body_scope, inner)
        if function.kind == "mask":
            demand(build.boolean, value, f"mask `{function.name.text}`", function.body)
        return value
    except LanguageError as error:
        if len(error.notes) < MAX_NOTES:
            error.notes = (*error.notes, use_note(function, call.span))
        raise


def _rebind(expressions: Expressions, keyword: tree.Keyword, scope: Scope, context: Context) -> Lazy:
    lazy = Lazy(keyword.value, scope, context, Type.I32, keyword.value.span, f"coordinate `{keyword.name.text}`")
    expressions.force(lazy, context)
    return lazy


def _bind(
    expressions: Expressions,
    formal: tree.Formal,
    node: tree.Expr,
    scope: Scope,
    context: Context,
    body: Scope,
    macro: Macro,
) -> None:
    name, span = formal.name.text, node.span
    captured = scope.find(node.text) if isinstance(node, tree.Name) else None
    if isinstance(captured, Captured):
        if formal.type is not None:
            _bind_tensor(formal.type, captured, span, body, macro)
        body.names[name] = captured
        return
    if formal.type is not None and formal.type.dims is not None:
        raise wrong_argument(span, name, f"a tensor {formal.type.span.text}", "a value", macro)
    type = scalar_type(formal.type) if formal.type is not None else None
    lazy = Lazy(node, scope, context, type, span, f"`{name}`")
    expressions.force(lazy, context)
    body.names[name] = lazy


def _bind_tensor(type: tree.TypeName, captured: Captured, span: Span, body: Scope, macro: Macro) -> None:
    """Check a tensor against a parameter's type, and give new extent names of that type their sizes."""
    tensor, dims = captured.tensor, type.dims
    if dims is None or type.name.text != tensor.storage.value or len(dims) != len(tensor.dims):
        got = f"{tensor.storage.value} with {len(tensor.dims)} axes"
        raise wrong_argument(span, tensor.name, f"`{type.span.text}`", got, macro)
    for written, actual in zip(dims, tensor.dims, strict=True):
        if isinstance(written, tree.Name) and not is_builtin(written.text) and written.text not in body.names:
            body.names[written.text] = Bound(actual, "an extent", written.span)
