"""Variants of the tree to variants of the IR: statements, hooks, branches and emits. Knows the IR and no kernel."""

from __future__ import annotations

from collections.abc import Mapping

from attncc.diagnostics import LanguageError, Note, Span
from attncc.grammar import tree
from attncc.grammar.declarations import Declared, declare, scalars
from attncc.grammar.expressions import MAX_SPANS, Expressions
from attncc.grammar.inlining import MAX_NOTES
from attncc.grammar.mistakes import use_note
from attncc.grammar.scope import HOOKS, BranchName, Context, Lazy, Scope, declared_twice, suggest
from attncc.ir import build
from attncc.ir.definition import Definition
from attncc.ir.nodes import Branch, Emit, Expr, Require, Variant
from attncc.ir.placement import place
from attncc.ir.types import Type, Value
from attncc.ir.verify import HOOKS as RULES
from attncc.ir.verify import emit_axis, verify

_HOOK_HABITS = {
    "sink": "write `normalize = softmax(sink = ...)`",
    "mask_mod": "the hook is `mask`",
    "score_mod": "the hook is `logits`; it reads `score`",
    "bias": "add it to the score: `logits = score + bias[h]`",
    "scale": "the hook is `sm_scale`",
    "softcap": "write `logits = softcap * tanh(score / softcap)`",
    "out": "the hook is `output`; it reads `out`",
    "return": "a hook is written `name = expression`",
}


def definition(variant: tree.Variant, scope: Scope) -> Definition:
    """A variant of a file whose names are ``scope``. Raises LanguageError for mistakes in its scalar parameters."""
    constants, _ = scalars(variant)
    return Definition(
        variant.name.text,
        constants,
        lambda values: _Lowering(variant, scope, values).run(),
        variant.name.span,
        variant.doc,
    )


class _Lowering:
    """One variant with the values of its constants."""

    def __init__(self, variant: tree.Variant, scope: Scope, constants: Mapping[str, Value]) -> None:
        self.tree = variant
        self.expressions = Expressions({})
        self.scope = Scope(scope)
        self.constants = constants
        # Spans by the statement that wrote them, so that an error in one hook is never shown in another.
        self.records: dict[str, dict[Expr, list[Span]]] = {}

    def run(self) -> Variant:
        self._begin("declarations")
        declared = declare(self.tree, self.constants, self.scope, self.expressions)
        variant = self._statements(declared)
        try:
            verify(variant)
        except LanguageError as error:
            self._place(error, variant)
            raise
        return variant

    def _begin(self, where: str) -> None:
        self.expressions.record = self.records.setdefault(where, {})

    # Statements -------------------------------------------------------------------------------------------------------

    def _statements(self, declared: Declared) -> Variant:
        statements = self.tree.statements
        branches = [statement for statement in statements if isinstance(statement, tree.Branch)]
        self.scope.later = {s.name.text: s.name.span for s in statements if isinstance(s, tree.Let)}
        for branch in branches:
            self.scope.declare(branch.name, BranchName(branch.name.text, branch.name.span))
        outside = Context(branch=None if branches else "")
        shared: dict[str, tuple[tree.Hook, Scope]] = {}
        output: Expr | None = None
        output_span: Span | None = None
        emits: dict[str, tuple[Emit, Span]] = {}
        requires: list[Require] = []
        made: dict[str, dict[str, Expr]] = {}
        for statement in statements:
            # A hook sees the lets above it, also where it is lowered later, once per branch.
            scope = self.scope.before()
            match statement:
                case tree.Let():
                    # Even a let that nobody uses must make sense, if only in the first branch.
                    inside = Context(branch=branches[0].name.text) if branches else outside
                    self._let(statement, self.scope, inside)
                case tree.Hook() if statement.name.text == "output":
                    if output_span is not None:
                        raise _hook_twice(statement, output_span)
                    self._begin("output")
                    output_span = statement.name.span
                    output = self._value(statement.value, scope, outside, "output")
                case tree.Hook():
                    _check_hook(statement)
                    if statement.name.text in shared:
                        raise _hook_twice(statement, shared[statement.name.text][0].name.span)
                    shared[statement.name.text] = (statement, scope)
                    if not branches:
                        self._hook(statement, scope, outside, made.setdefault("", {}))
                case tree.Branch():
                    made[statement.name.text] = self._branch(statement, scope)
                case tree.Emit():
                    name = statement.name
                    if name.text in emits:
                        raise declared_twice(name, emits[name.text][1])
                    self._begin(f"emit {name.text}")
                    value = self._value(statement.value, scope, outside, "emit")
                    emits[name.text] = Emit(name.text, emit_axis(value) or "row", value), name.span
                case tree.Require():
                    self._begin(f"require {len(requires)}")
                    cond = self.expressions.lower(statement.cond, scope, outside)
                    text = statement.text.value if statement.text is not None else statement.cond.span.text
                    requires.append(Require(cond, text))
        for branch in branches:
            own = made[branch.name.text]
            for hook_name, (hook, scope) in shared.items():
                if hook_name not in own and not (hook_name == "normalize" and "sink" in own):
                    self._hook(hook, scope, Context(branch=branch.name.text), own)
        return Variant(
            self.tree.name.text,
            declared.params,
            declared.tensors,
            declared.operands,
            tuple(requires),
            tuple(Branch(name, **hooks) for name, hooks in made.items()) or (Branch(),),
            output,
            tuple(emit for emit, _ in emits.values()),
            self._spans(),
        )

    def _let(self, let: tree.Let, scope: Scope, context: Context) -> None:
        inner = scope.before()
        scope.declare(let.name, Lazy(let.value, inner, context, None, let.name.span))
        self._begin(f"let {let.name.text}")
        self.expressions.lower(let.value, inner, context)

    def _branch(self, branch: tree.Branch, outer: Scope) -> dict[str, Expr]:
        context = Context(branch=branch.name.text)
        scope = Scope(outer)
        scope.later = {s.name.text: s.name.span for s in branch.statements if isinstance(s, tree.Let)}
        made: dict[str, Expr] = {}
        written: dict[str, Span] = {}
        for statement in branch.statements:
            if isinstance(statement, tree.Let):
                self._let(statement, scope, context)
                continue
            name = statement.name.text
            if name == "output":
                raise LanguageError(
                    "A0416",
                    "`output` stands outside the branches",
                    span=statement.name.span,
                    expected="a hook of one branch",
                    got="`output`",
                    help=f"combine the branches behind them: `output = {branch.name.text}.out - ...`",
                )
            _check_hook(statement)
            if name in written:
                raise _hook_twice(statement, written[name])
            written[name] = statement.name.span
            self._hook(statement, scope, context, made)
        return made

    def _hook(self, hook: tree.Hook, scope: Scope, context: Context, made: dict[str, Expr]) -> None:
        name = hook.name.text
        prefix = f"{context.branch}." if context.branch else ""
        if name == "normalize" and (softmax := _softmax(hook.value)) is not None:
            if softmax.keywords:
                self._begin(f"{prefix}sink")
                made["sink"] = self._value(softmax.keywords[0].value, scope, context, "sink")
            return
        self._begin(prefix + name)
        made[name] = self._value(hook.value, scope, context, name)

    def _value(self, node: tree.Expr, scope: Scope, context: Context, hook: str) -> Expr:
        """The value of a hook; an integer becomes the f32 most hooks are."""
        value = self.expressions.lower(node, scope, context)
        if RULES[hook].type is Type.F32 and value.type.is_integer:
            value = build.cast(value, Type.F32)
            self.expressions.record.setdefault(value, []).append(node.span)
        return value

    # Spans ------------------------------------------------------------------------------------------------------------

    def _spans(self) -> dict[Expr, tuple[Span, ...]]:
        merged: dict[Expr, list[Span]] = {}
        for record in self.records.values():
            for expr, spans in record.items():
                known = merged.setdefault(expr, [])
                if len(known) < MAX_SPANS:
                    known.extend(span for span in spans if span not in known)
        return {expr: tuple(spans) for expr, spans in merged.items()}

    def _place(self, error: LanguageError, variant: Variant) -> None:
        """Move an error of the verifier to the statement it is about, with the calls that led there."""
        where = place(error, variant, self.records)
        if where is None or error.span is None:
            error.with_span(self.tree.name.span)
        else:
            error.notes = (*error.notes, *self._uses(self.records[where], error.span))

    def _uses(self, record: dict[Expr, list[Span]], span: Span) -> list[Note]:
        """The calls that brought ``span`` here, if it lies in the body of a mask or def."""
        notes: list[Note] = []
        inlined = self.expressions.inlined.get(id(record), [])
        while len(notes) < MAX_NOTES:
            use = next(((function, call) for function, call in inlined if _within(span, function.body.span)), None)
            if use is None:
                break
            notes.append(use_note(*use))
            span = use[1]
        return notes


def _within(inner: Span, outer: Span) -> bool:
    return inner.source is outer.source and outer.start <= inner.start and inner.end <= outer.end


def _check_hook(hook: tree.Hook) -> None:
    name = hook.name.text
    if name in HOOKS:
        return
    near = suggest(name, HOOKS)
    raise LanguageError(
        "A0413",
        f"no hook `{name}`",
        span=hook.name.span,
        expected=", ".join(HOOKS),
        got=f"`{name}`",
        help=_HOOK_HABITS.get(name)
        or (f"did you mean `{near}`?" if near else f"to name a value, write `let {name} = ...`"),
    )


def _hook_twice(hook: tree.Hook, first: Span) -> LanguageError:
    return LanguageError(
        "A0414",
        f"`{hook.name.text}` is written twice",
        span=hook.name.span,
        expected="each hook once",
        got=f"`{hook.name.text}` again",
        help="join the two with `and`, or nest one in the other" if hook.name.text == "mask" else "remove one of them",
        notes=(Note("first written here", first),),
    )


def _softmax(value: tree.Expr) -> tree.Call | None:
    """The call if ``value`` is ``softmax()`` or ``softmax(sink = e)``. Raises LanguageError A0415 for other forms."""
    name = value.function if isinstance(value, tree.Call) else value
    if not (isinstance(name, tree.Name) and name.text == "softmax"):
        return None
    if isinstance(value, tree.Call) and not value.arguments and [k.name.text for k in value.keywords] in ([], ["sink"]):
        return value
    raise LanguageError(
        "A0415",
        "`softmax` takes nothing but a sink",
        span=value.span,
        expected="softmax() or softmax(sink = ...)",
        got=value.span.text if len(value.span.text) < 60 else "other arguments",
        help="write `normalize = softmax(sink = sink[h])`",
    )
