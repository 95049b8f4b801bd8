"""The errors of names and calls that more than one module raises. Knows bindings, not how to lower."""

from __future__ import annotations

from attncc.diagnostics import LanguageError, Note, Span
from attncc.grammar import tree
from attncc.grammar.scope import Macro, Scope, suggest


def use_note(function: tree.Function, call: Span) -> Note:
    """What an error inside a mask or def says about the place that used it."""
    return Note(f"in this use of `{function.name.text}`", call)


def misused(span: Span, name: str, what: str, help: str) -> LanguageError:
    """A name that stands for ``what`` where a value is needed."""
    return LanguageError(
        "A0206", f"`{name}` is {what}, not a value", span=span, expected="a value", got=what, help=help
    )


def not_callable(span: Span, what: str, help: str | None = None, declared: Span | None = None) -> LanguageError:
    """A call of ``what``, which is no function."""
    return LanguageError(
        "A0205",
        f"`{span.text}` cannot be called" if len(span.text) < 40 else "this cannot be called",
        span=span,
        expected="a function, a `mask` or a `def`",
        got=what,
        help=help or "for a product write `*` before the parenthesis",
        notes=(Note("declared here", declared),) if declared is not None else (),
    )


def wrong_arguments(macro: Macro, span: Span, got: str, help: str | None = None) -> LanguageError:
    """A call whose arguments do not match the parameters of the mask or def."""
    function = macro.function
    formals = function.formals or ()
    shown = f"{function.name.text}({', '.join(formal.span.text for formal in formals)})"
    return LanguageError(
        "A0211",
        f"wrong arguments for `{function.name.text}`",
        span=span,
        expected=shown,
        got=got,
        help=help or f"call it as `{function.name.text}({', '.join(formal.name.text for formal in formals)})`",
        notes=(Note("declared here", function.name.span),),
    )


def wrong_argument(span: Span, name: str, expected: str, got: str, macro: Macro) -> LanguageError:
    """An argument of another type than its parameter declares."""
    return LanguageError(
        "A0308",
        f"`{name}` has another type",
        span=span,
        expected=expected,
        got=got,
        help="pass a tensor of the declared type, by its bare name",
        notes=(Note("declared here", macro.function.name.span),),
    )


def unknown_member(name: tree.Identifier, scope: Scope) -> LanguageError:
    """The error for a name an imported file does not define."""
    known = [known for known, binding in scope.names.items() if isinstance(binding, Macro)]
    near = suggest(name.text, known)
    return LanguageError(
        "A0209",
        f"the imported file has no mask or def `{name.text}`",
        span=name.span,
        expected=", ".join(sorted(known)) or "a file that declares masks or defs",
        got=f"`{name.text}`",
        help=f"did you mean `{near}`?" if near else "only masks and defs can be imported",
    )
