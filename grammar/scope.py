"""What a name can stand for, and which names the language keeps for itself. Knows the IR's words, not how to lower."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from attncc.diagnostics import LanguageError, Note, Span
from attncc.grammar import tree
from attncc.ir.build import FUNCTIONS, literal
from attncc.ir.nodes import AXES, EXTENTS, INPUTS, Expr, Tensor
from attncc.ir.types import Type

CONSTANTS: Mapping[str, Expr] = {
    "true": literal(True),
    "false": literal(False),
    "inf": literal(math.inf),
    "pi": literal(math.pi),
}
COMPREHENSIONS = ("any", "all", "sum")
HOOKS = ("sm_scale", "query", "key", "value", "score", "logits", "mask", "weight", "normalize", "output")

# What the language calls these, for errors: "`q` is a coordinate".
_BUILTIN = {
    **dict.fromkeys(CONSTANTS, "a constant"),
    **dict.fromkeys([*FUNCTIONS, "softmax", *COMPREHENSIONS], "a function"),
    **dict.fromkeys(INPUTS, "a value of the algorithm"),
    **dict.fromkeys(EXTENTS, "an extent"),
    **dict.fromkeys(AXES, "a coordinate"),
}


@dataclass(frozen=True, eq=False)
class Bound:
    """A name with a value that is the same everywhere: a parameter, a constant, an extent, the index of a loop."""

    value: Expr
    what: str
    span: Span | None


@dataclass(frozen=True, eq=False)
class Captured:
    tensor: Tensor
    span: Span
    what: str = "a tensor"


@dataclass(frozen=True, eq=False)
class Lazy:
    """A ``let``, or an argument: lowered where it is used, in the scope where it was written.

    Late, because one text may be needed in several branches and below several loops.
    """

    node: tree.Expr
    scope: Scope
    context: Context
    type: Type | None
    span: Span
    what: str = "a value"
    done: dict[tuple[str | None, int, int], Expr] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Macro:
    """A ``mask`` or ``def`` with the names of the file it stands in."""

    function: tree.Function
    scope: Scope

    @property
    def span(self) -> Span:
        return self.function.name.span

    @property
    def what(self) -> str:
        return f"a {self.function.kind}"


@dataclass(frozen=True, eq=False)
class Alias:
    """A file that was imported as a whole."""

    scope: Scope
    span: Span
    what: str = "an imported file"


@dataclass(frozen=True, eq=False)
class BranchName:
    name: str
    span: Span
    what: str = "a branch"


Binding = Bound | Captured | Lazy | Macro | Alias | BranchName


class Scope:
    """Names by their place in the text.

    ``before()`` sees only the names declared so far; ``later`` are those that the same
    body defines further down.
    """

    def __init__(self, parent: Scope | None = None, names: Mapping[str, Binding] | None = None) -> None:
        self.parent = parent
        self.names: dict[str, Binding] = dict(names or {})
        self.later: dict[str, Span] = {}
        self._order: dict[str, int] = {}
        self._limit: int | None = None

    def before(self) -> Scope:
        """This scope as it is now: what is declared from here on stays invisible."""
        view = Scope(self.parent)
        view.names, view.later, view._order, view._limit = self.names, self.later, self._order, len(self._order)
        return view

    def _hides(self, name: str) -> bool:
        return self._limit is not None and self._order.get(name, -1) >= self._limit

    def find(self, name: str) -> Binding | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names and not scope._hides(name):
                return scope.names[name]
            scope = scope.parent
        return None

    def find_later(self, name: str) -> Span | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.later:
                return scope.later[name]
            scope = scope.parent
        return None

    def all_names(self) -> set[str]:
        found: set[str] = set()
        scope: Scope | None = self
        while scope is not None:
            found.update(name for name in scope.names if not scope._hides(name))
            scope = scope.parent
        return found

    def declare(self, name: tree.Identifier, binding: Binding) -> None:
        """Bind a name here. Raises LanguageError A0202 (twice) or A0203 (a name of the language)."""
        check_free(name)
        known = self.names.get(name.text)
        if known is not None:
            raise declared_twice(name, known.span)
        self.names[name.text] = binding
        self._order[name.text] = len(self._order)


@dataclass(frozen=True)
class Context:
    """What an expression's meaning depends on beside its scope.

    ``branch`` is "" in a variant without branches and None where an input must name its branch; ``coordinates`` holds
    those that a call rebinds, ``loops`` the number of comprehensions around.
    """

    branch: str | None = ""
    coordinates: Mapping[str, Lazy] = field(default_factory=dict)
    loops: int = 0

    def inside_loop(self) -> Context:
        return replace(self, loops=self.loops + 1)


def is_builtin(name: str) -> bool:
    return name in _BUILTIN


def describe_builtin(name: str) -> str:
    return _BUILTIN[name]


def check_free(name: tree.Identifier) -> None:
    """Raise LanguageError A0203 if the language keeps ``name`` for itself."""
    if name.text in _BUILTIN:
        raise LanguageError(
            "A0203",
            f"`{name.text}` is {_BUILTIN[name.text]} of the language",
            span=name.span,
            expected="a name of your own",
            got=f"`{name.text}`",
            help=f"choose another name, for example `{name.text}_`",
        )


def declared_twice(name: tree.Identifier, first: Span | None) -> LanguageError:
    return LanguageError(
        "A0202",
        f"`{name.text}` is declared twice",
        span=name.span,
        expected="a new name",
        got=f"`{name.text}`",
        help="rename one of them",
        notes=(Note("first declared here", first),) if first is not None else (),
    )


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The known name a misspelt one most likely means."""
    if len(name) > 40:
        return None
    candidates = sorted(known)
    folded = {candidate.lower(): candidate for candidate in candidates}
    if name.lower() in folded:
        return folded[name.lower()]
    # A one-letter name is near every other one-letter name; that is no hint.
    found = difflib.get_close_matches(name, [c for c in candidates if len(c) > 1], n=1, cutoff=0.6)
    return found[0] if found and len(name) > 1 else None


# Habits from elsewhere, by the word typed.
_HABITS = {
    "True": "write `true`",
    "False": "write `false`",
    "None": "leave a hook out for its default",
    "INFINITY": "write `inf`",
    "infinity": "write `inf`",
    "nan": "there is no `nan`; a masked logit is `-inf`",
    "math": "functions have no prefix: `exp(x)`",
    "torch": "functions have no prefix: `exp(x)`",
    "q_idx": "the position of the query is `q`, its storage index `row`",
    "kv_idx": "the position of the key is `k`, its storage index `col`",
    "head_idx": "the query head is `h`, the key head `hk`",
    "seq_len": "lengths are `qo_len` and `kv_len`",
    "float": "convert with `f32(x)`",
    "int": "convert with `i32(x)`",
    "maximum": "write `max(x, y)`",
    "minimum": "write `min(x, y)`",
    "sigma": "write `sigmoid(x)`",
    "ln": "the natural logarithm is `log(x)`",
}
_WRITE_ONLY = ("mask", "weight", "normalize", "output")


def unknown_name(name: str, span: Span, scope: Scope, *, callables: bool = False) -> LanguageError:
    """The error for a name that stands for nothing, with the likeliest intention."""
    later = scope.find_later(name)
    if later is not None:
        return LanguageError(
            "A0204",
            f"`{name}` is used before its `let`",
            span=span,
            expected="a name defined above",
            got=f"`{name}`",
            help="move the `let` up",
            notes=(Note("defined here", later),),
        )
    if name in _WRITE_ONLY:
        return LanguageError(
            "A0206",
            f"`{name}` is a hook, its value cannot be read",
            span=span,
            expected="a value",
            got=f"the hook `{name}`",
            help=f"name the expression with `let`, and use that here and in `{name} = ...`",
        )
    known = scope.all_names() | set(_BUILTIN)
    if callables:
        known = {n for n in known if n in FUNCTIONS or n in COMPREHENSIONS or isinstance(scope.find(n), Macro)}
    near = suggest(name, known)
    help = _HABITS.get(name) or (f"did you mean `{near}`?" if near else None)
    if help is None:
        help = (
            f"declare it with `def {name}(...) = ...`, or import it"
            if callables
            else f"declare it as a parameter, for example `{name}: f32`, or name a value with `let`"
        )
    return LanguageError(
        "A0201",
        f"no {'function' if callables else 'name'} `{name}`",
        span=span,
        expected="a function" if callables else "a name that is defined here",
        got=f"`{name}`",
        help=help,
    )
