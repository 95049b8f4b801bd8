"""``hooks(...)``: what a variant's function returns, collected and checked for form; meaning is the verifier's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never

from attncc.diagnostics import AttnccError, Span, TracingError
from attncc.frontend.location import call_keywords, caller
from attncc.frontend.value import Operand, Value, lift
from attncc.ir.nodes import BRANCH_HOOKS

# The default of every hook. None is not it: a helper that lacks its `return` must not leave a hook out.
UNWRITTEN: Any = object()
_WRITTEN = tuple(name for name in BRANCH_HOOKS if name != "sink")


@dataclass(frozen=True)
class Softmax:
    """The softmax normaliser, with an optional ``sink``: the logit of an extra key whose value is 0."""

    sink: Operand = UNWRITTEN


def softmax(*, sink: Operand = UNWRITTEN) -> Softmax:
    """The default normaliser; ``sink`` adds exp(sink) to the denominator: learnable sinks, softmax + 1."""
    return Softmax(sink)


@dataclass(frozen=True)
class BranchHooks:
    """The hooks of one branch, by name; ``sink`` is that of ``normalize=softmax(sink=...)``."""

    written: Mapping[str, Value]


@dataclass(frozen=True)
class Hooks:
    """Everything a variant's function states; ``written`` holds for every branch that does not write its own."""

    written: Mapping[str, Value]
    output: Value | None
    emits: Mapping[str, Value]
    branches: Mapping[str, Mapping[str, Value]]


def hooks(
    *,
    sm_scale: Operand = UNWRITTEN,
    query: Operand = UNWRITTEN,
    key: Operand = UNWRITTEN,
    value: Operand = UNWRITTEN,
    score: Operand = UNWRITTEN,
    logits: Operand = UNWRITTEN,
    mask: Operand = UNWRITTEN,
    weight: Operand = UNWRITTEN,
    normalize: Operand | Softmax = UNWRITTEN,
    output: Operand = UNWRITTEN,
    emit: Mapping[str, Operand] = UNWRITTEN,
    branches: Mapping[str, BranchHooks] = UNWRITTEN,
    **unknown: Never,
) -> Hooks:
    """The hooks of a variant; one that is left out has its default.

    ``emit`` names extra outputs. ``branches`` gives several score branches over the same rows, each a ``branch(...)``;
    hooks written beside them hold for every branch that does not write its own. Raises TracingError A0604, A0605,
    A0611, A0615.
    """
    spans = _arguments("hooks", (*_WRITTEN, "output", "emit", "branches"), unknown)
    given = _written(spans, sm_scale, query, key, value, score, logits, mask, weight, normalize)
    return Hooks(
        given,
        _lifted(output, spans.get("output")) if output is not UNWRITTEN else None,
        {
            _identifier(name, "an emitted value", spans.get("emit")): _lifted(item, spans.get("emit"))
            for name, item in _mapping(emit, "emit", "{name: value}", spans).items()
        },
        {
            _identifier(name, "a branch", spans.get("branches")): _branch(item, spans.get("branches")).written
            for name, item in _mapping(branches, "branches", "{name: branch(...)}", spans).items()
        },
    )


def branch(
    *,
    sm_scale: Operand = UNWRITTEN,
    query: Operand = UNWRITTEN,
    key: Operand = UNWRITTEN,
    value: Operand = UNWRITTEN,
    score: Operand = UNWRITTEN,
    logits: Operand = UNWRITTEN,
    mask: Operand = UNWRITTEN,
    weight: Operand = UNWRITTEN,
    normalize: Operand | Softmax = UNWRITTEN,
    **unknown: Never,
) -> BranchHooks:
    """The hooks of one score branch; ``at.query``, ``at.score`` and so on mean this branch's own."""
    spans = _arguments("branch", _WRITTEN, unknown)
    return BranchHooks(_written(spans, sm_scale, query, key, value, score, logits, mask, weight, normalize))


def _arguments(function: str, known: tuple[str, ...], unknown: Mapping[str, object]) -> dict[str, Span]:
    """The spans of a call's arguments; TracingError A0611 for a name that is no hook."""
    span = caller()
    spans = call_keywords(span)
    for name in unknown:
        near = difflib.get_close_matches(name, known, 1)
        raise TracingError(
            "A0611",
            f"no hook `{name}`",
            span=_keyword(spans.get(name), name) or span,
            expected=", ".join(known),
            got=name,
            help=f"did you mean `{near[0]}`?" if near else f"`{function}` takes the hooks of the language reference",
        )
    return spans


def _keyword(value: Span | None, name: str) -> Span | None:
    """The span of a keyword's name, left of its value."""
    if value is None:
        return None
    start = value.source.text.rfind(name, 0, value.start)
    return Span(value.source, start, start + len(name)) if start >= 0 else None


def _written(spans: Mapping[str, Span], *values: Operand | Softmax) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name, value in zip(_WRITTEN, values, strict=True):
        span = spans.get(name)
        if isinstance(value, Softmax):
            if name != "normalize":
                raise TracingError(
                    "A0604",
                    "`softmax()` is a normaliser",
                    span=span,
                    expected=f"a value for `{name}`",
                    got="softmax()",
                    help="write `normalize=softmax(sink=...)`",
                )
            if value.sink is not UNWRITTEN:
                found["sink"] = _lifted(value.sink, span)
        elif value is not UNWRITTEN:
            found[name] = _lifted(value, span)
    return found


def _lifted(value: object, span: Span | None) -> Value:
    """A hook's value, written at its argument too: a parameter or a number has no other place."""
    try:
        return Value(lift(value), span, (value,) if isinstance(value, Value) else ())
    except AttnccError as error:
        raise error.with_span(span or caller()) from None


def _mapping(given: object, name: str, form: str, spans: Mapping[str, Span]) -> Mapping[str, Any]:
    if given is UNWRITTEN:
        return {}
    if not isinstance(given, Mapping):
        raise TracingError(
            "A0615",
            f"`{name}` is a dict",
            span=spans.get(name) or caller(),
            expected=form,
            got=type(given).__name__,
            help=f"write `{name}={form}`",
        )
    return given


def _identifier(name: object, what: str, span: Span | None) -> str:
    if isinstance(name, str) and name.isidentifier():
        return name
    raise TracingError(
        "A0615",
        f"{what} is named by an identifier",
        span=span or caller(),
        expected="letters, digits and underscores",
        got=repr(name),
        help="it becomes the name of a result",
    )


def _branch(item: object, span: Span | None) -> BranchHooks:
    if isinstance(item, BranchHooks):
        return item
    raise TracingError(
        "A0615",
        "`branches` holds the hooks of each branch",
        span=span or caller(),
        expected="branch(...)",
        got=type(item).__name__,
        help="write `branches={'x': branch(query=...), 'y': branch(query=...)}`",
    )
