"""Expressions of the tree to nodes of the IR: names, operators, calls and comprehensions. Knows nothing of hooks."""

from __future__ import annotations

from dataclasses import replace

from attncc.diagnostics import LanguageError, Note, Span
from attncc.grammar import tree
from attncc.grammar.inlining import inline
from attncc.grammar.mistakes import misused, not_callable, unknown_member
from attncc.grammar.operators import apply, at, converted, demand, guilty, number, shape_problem
from attncc.grammar.scope import (
    COMPREHENSIONS,
    CONSTANTS,
    Alias,
    Binding,
    Bound,
    BranchName,
    Captured,
    Context,
    Lazy,
    Macro,
    Scope,
    check_free,
    declared_twice,
    describe_builtin,
    is_builtin,
    suggest,
    unknown_name,
)
from attncc.ir import build
from attncc.ir.extents import CHANNELS, is_shape
from attncc.ir.nodes import (
    AXES,
    EXTENTS,
    INPUTS,
    Coord,
    Expr,
    Extent,
    Input,
    Load,
    Operand,
    Reduce,
    Slice,
)
from attncc.ir.types import Type

# A level costs at most five Python frames, and callers need some of the thousand there are.
MAX_DEPTH = 130
MAX_NODES = 100_000
# A node that is written more often than this (`q`, `0`) has no place worth telling.
MAX_SPANS = 16


class Expressions:
    """Lowers expressions of one variant. ``record`` receives every node with the span it came from.

    Raises LanguageError: A02xx names, A03xx types, A0107 and A0111 for what would never end.
    """

    def __init__(self, operands: dict[str, Operand]) -> None:
        self.operands = operands
        self.record: dict[Expr, list[Span]] = {}
        # Where masks and defs were written out: the body and the call, by record.
        self.inlined: dict[int, list[tuple[tree.Function, Span]]] = {}
        self._depth = 0
        self._nodes = 0

    def lower(self, node: tree.Expr, scope: Scope, context: Context) -> Expr:
        """The value of ``node``, typed."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise LanguageError(
                "A0111",
                "the variant is too large",
                span=node.span,
                expected=f"at most {MAX_NODES} expressions once masks and defs are written out",
                got="more",
                help="a `let` or an argument that is used twice is computed once; prefer it to nested calls",
            )
        if self._depth >= MAX_DEPTH:
            raise LanguageError(
                "A0107",
                "the expression is nested too deeply",
                span=node.span,
                expected=f"at most {MAX_DEPTH} levels once masks and defs are written out",
                got="more",
                help="flatten the chain of definitions that ends here",
            )
        self._depth += 1
        try:
            match node:
                case tree.Name():
                    value = self._name(node, scope, context)
                case tree.Number():
                    value = number(node.value, node.span)
                case tree.Binary():
                    value = self._binary(node, scope, context)
                case tree.Compare():
                    value = self._compare(node, scope, context)
                case tree.Unary():
                    value = self._unary(node, scope, context)
                case tree.Call():
                    value = self._call(node, scope, context)
                case tree.Index():
                    value = self._index(node, scope, context)
                case tree.Conditional():
                    value = self._conditional(node, scope, context)
                case tree.Attribute():
                    value = self._attribute(node, scope, context)
                case tree.Comprehension():
                    value = self._comprehension(node, scope, context)
        finally:
            self._depth -= 1
        return self._noted(value, node.span)

    def _noted(self, value: Expr, span: Span) -> Expr:
        """``value`` recorded at ``span``, with what construction put below it (casts, the parts of ``gelu``)."""
        spans = self.record.setdefault(value, [])
        if len(spans) < MAX_SPANS and span not in spans:
            spans.append(span)
        fresh = [operand for operand in value.operands if operand not in self.record]
        while fresh:
            node = fresh.pop()
            if node not in self.record:
                self.record[node] = [span]
                fresh.extend(node.operands)
        return value

    # Names ------------------------------------------------------------------------------------------------------------

    def _name(self, node: tree.Name, scope: Scope, context: Context) -> Expr:
        name = node.text
        binding = scope.find(name)
        if binding is not None:
            return self._bound_value(node, binding, context)
        if name in AXES:
            rebound = context.coordinates.get(name)
            return self.force(rebound, context) if rebound is not None else Coord(name)
        if name in EXTENTS:
            return Extent(name)
        if name in INPUTS:
            if context.branch is None:
                raise LanguageError(
                    "A0407",
                    f"`{name}` of which branch?",
                    span=node.span,
                    expected=f"`branch.{name}`",
                    got=f"`{name}`",
                    help=f"this variant has branches; write the branch in front, as in `x.{name}`",
                )
            return Input(name, context.branch)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if is_builtin(name):
            raise misused(node.span, name, describe_builtin(name), f"call it: `{name}(...)`")
        raise unknown_name(name, node.span, scope)

    def _bound_value(self, node: tree.Name, binding: Binding, context: Context) -> Expr:
        match binding:
            case Bound():
                return binding.value
            case Lazy():
                return self.force(binding, context)
            case Macro():
                return inline(self, binding, tree.Call(node, (), (), node.span), Scope(), context)
            case Captured():
                rank = len(binding.tensor.dims)
                help = f"index it: `{node.text}[{', '.join(['h', 'row', 'col'][:rank] if rank < 4 else ['...'])}]`"
                raise misused(node.span, node.text, "a tensor", help)
            case BranchName():
                raise misused(node.span, node.text, "a branch", f"read one of its values: `{node.text}.out`")
            case Alias():
                raise misused(node.span, node.text, "an imported file", f"name what you need: `{node.text}.causal`")

    def force(self, lazy: Lazy, context: Context) -> Expr:
        """The value of a ``let`` or an argument, for the branch and below the loops of the place that uses it."""
        key = (context.branch, context.loops, id(self.record))
        if key not in lazy.done:
            inner = replace(lazy.context, branch=context.branch, loops=context.loops)
            value = self.lower(lazy.node, lazy.scope, inner)
            lazy.done[key] = value if lazy.type is None else converted(value, lazy.type, lazy.node.span, lazy.what)
        return lazy.done[key]

    def _attribute(self, node: tree.Attribute, scope: Scope, context: Context) -> Expr:
        binding = self._base(node, scope)
        if isinstance(binding, Macro):
            return inline(self, binding, tree.Call(node, (), (), node.span), Scope(), context)
        member = node.member.text
        if member not in INPUTS:
            near = suggest(member, INPUTS)
            raise LanguageError(
                "A0212",
                f"a branch has no `{member}`",
                span=node.member.span,
                expected=", ".join(name for name in INPUTS if name not in ("query", "key", "value", "sm_scale")),
                got=f"`{member}`",
                help=f"did you mean `{near}`?" if near else f"the result of the branch is `{binding.name}.out`",
            )
        return Input(member, binding.name)

    def _base(self, node: tree.Attribute, scope: Scope) -> BranchName | Macro:
        """What ``base.member`` names: a value of a branch, or a definition of an imported file."""
        base = node.base
        binding = scope.find(base.text) if isinstance(base, tree.Name) else None
        if isinstance(binding, BranchName):
            return binding
        if not isinstance(binding, Alias):
            if isinstance(base, tree.Name) and binding is None and not is_builtin(base.text):
                raise unknown_name(base.text, base.span, scope)
            raise LanguageError(
                "A0212",
                "only branches and imported files have members",
                span=node.span,
                expected="a branch or an imported file before the point",
                got=f"`{base.span.text}`" if len(base.span.text) < 40 else "an expression",
                help="functions are called as `exp(x)`, elements are read as `x[i]`",
            )
        found = binding.scope.names.get(node.member.text)
        if not isinstance(found, Macro):
            raise unknown_member(node.member, binding.scope)
        return found

    # Operators --------------------------------------------------------------------------------------------------------

    def _binary(self, node: tree.Binary, scope: Scope, context: Context) -> Expr:
        # A long sum leans to the left; it is walked in a loop, so that its length does not count as depth.
        chain = [node]
        while isinstance(chain[-1].left, tree.Binary):
            chain.append(chain[-1].left)
        left = self.lower(chain[-1].left, scope, context)
        for step in reversed(chain):
            right = self.lower(step.right, scope, context)
            left = self._noted(apply(step, left, right), step.span)
        return left

    def _compare(self, node: tree.Compare, scope: Scope, context: Context) -> Expr:
        left, left_node = self.lower(node.first, scope, context), node.first
        result: Expr | None = None
        for op, right_node in node.rest:
            right = self.lower(right_node, scope, context)
            if not (op in ("==", "!=") and left.type is Type.BOOL and right.type is Type.BOOL):
                demand(build.number, left, f"`{op}`", left_node)
                demand(build.number, right, f"`{op}`", right_node)
            span = Span(node.span.source, left_node.span.start, right_node.span.end)
            with at(span):
                link = self._noted(build.compare(op, left, right), span)
            result = link if result is None else build.both(result, link)
            left, left_node = right, right_node
        if result is None:
            raise AssertionError("the grammar demands an operator")
        return result

    def _unary(self, node: tree.Unary, scope: Scope, context: Context) -> Expr:
        if node.op == "-" and isinstance(node.operand, tree.Number):
            return number(-node.operand.value, node.span)  # so that −2147483648 is one literal
        operand = self.lower(node.operand, scope, context)
        if node.op == "not":
            return build.invert(demand(build.boolean, operand, "`not`", node.operand))
        with at(node.operand.span):
            if node.op == "-":
                return build.negate(operand)
            return build.invert(operand) if node.op == "~" else build.number(operand, "`+`")

    def _conditional(self, node: tree.Conditional, scope: Scope, context: Context) -> Expr:
        cond = self.lower(node.cond, scope, context)
        demand(build.boolean, cond, "`if`", node.cond)
        then, other = self.lower(node.then, scope, context), self.lower(node.other, scope, context)
        with at(node.span):
            return build.select(cond, then, other)

    # Tensors and channels ---------------------------------------------------------------------------------------------

    def _index(self, node: tree.Index, scope: Scope, context: Context) -> Expr:
        binding = scope.find(node.base.text) if isinstance(node.base, tree.Name) else None
        if isinstance(binding, Captured):
            return self._load(node, binding, scope, context)
        base = self.lower(node.base, scope, context)
        first = node.indices[0]
        if len(node.indices) != 1 or not isinstance(first, tree.Range):
            raise LanguageError(
                "A0310",
                "this cannot be indexed",
                span=node.span,
                expected="a tensor, or a slice of channels",
                got=f"an index of a value of type {base.type.value}",
                help="only tensors have elements; channels are taken in ranges: `query[0 : 64]`",
            )
        start = self._bound(first.start, scope, context) if first.start is not None else build.i32(0)
        stop = self._bound(first.stop, scope, context) if first.stop is not None else self._length(base, first.span)
        with at(node.base.span):
            return Slice(build.floating(base, "a slice of channels"), start, stop)

    def _load(self, node: tree.Index, captured: Captured, scope: Scope, context: Context) -> Load:
        tensor = captured.tensor
        indices: list[Expr] = []
        for index in node.indices:
            if isinstance(index, tree.Range):
                raise LanguageError(
                    "A0310",
                    "tensors are read one element at a time",
                    span=index.span,
                    expected="an index",
                    got="a range",
                    help=f"to read a channel vector, index with `d`: `{tensor.name}[..., d]`",
                )
            value = self.lower(index, scope, context)
            demand(build.integer, value, f"`{tensor.name}[...]`", index)
            indices.append(build.cast(value, Type.I32))
        if len(indices) != len(tensor.dims):
            axes, given = len(tensor.dims), len(indices)
            raise LanguageError(
                "A0510",
                f"`{tensor.name}` has {axes} {'axis' if axes == 1 else 'axes'}",
                span=node.span,
                expected=f"{axes} {'index' if axes == 1 else 'indices'}",
                got=str(given),
                help="give one index for each axis",
                notes=(Note("declared here", captured.span),),
            )
        return Load(tensor.name, tuple(indices), tensor.storage.loaded)

    def _bound(self, node: tree.Expr, scope: Scope, context: Context) -> Expr:
        value = self.lower(node, scope, context)
        if value.type is not Type.I32 or not is_shape(value):
            raise LanguageError(
                "A0406",
                "slice bounds are known before the kernel runs",
                span=node.span,
                expected="integers, constants and extents",
                got=shape_problem(value),
                help="use head_dim, or declare the parameter `const`",
            )
        return value

    def _length(self, base: Expr, span: Span) -> Expr:
        """The number of channels of a vector whose slice leaves out its end."""
        if isinstance(base, Input) and base.name in CHANNELS:
            return Extent(CHANNELS[base.name])
        if isinstance(base, Input) and base.name in self.operands:
            return self.operands[base.name].dim
        if isinstance(base, Slice):
            return build.binary("-", base.stop, base.start)
        raise LanguageError(
            "A0310",
            "the end of this slice is not known",
            span=span,
            expected="start : stop",
            got=f"`{span.text}`",
            help="write both bounds, or slice the vector before computing with it",
        )

    # Calls ------------------------------------------------------------------------------------------------------------

    def _call(self, node: tree.Call, scope: Scope, context: Context) -> Expr:
        function = node.function
        if isinstance(function, tree.Attribute):
            found = self._base(function, scope)
            if isinstance(found, Macro):
                return inline(self, found, node, scope, context)
            raise not_callable(function.span, "a value of a branch")
        if not isinstance(function, tree.Name):
            raise not_callable(function.span, "an expression")
        name = function.text
        binding = scope.find(name)
        if isinstance(binding, Macro):
            return inline(self, binding, node, scope, context)
        if binding is not None:
            help = f"index it: `{name}[...]`" if isinstance(binding, Captured) else None
            raise not_callable(function.span, binding.what, help, binding.span)
        if name == "softmax":
            raise LanguageError(
                "A0415",
                "`softmax` stands only in `normalize`",
                span=node.span,
                expected="normalize = softmax() or softmax(sink = ...)",
                got="softmax inside an expression",
                help="rows are normalised by softmax unless `weight` is written; `emit` can read `prob` and `lse`",
            )
        if name in COMPREHENSIONS:
            raise LanguageError(
                "A0213",
                f"`{name}` goes over a comprehension",
                span=node.span,
                expected=f"{name}(expression for t in n)",
                got="no `for`",
                help=f"write `{name}(x[t] for t in n)`; the sum over the channels is `dot(x, y)`",
            )
        if name in build.FUNCTIONS:
            return self._library(name, node, scope, context)
        if is_builtin(name):
            raise not_callable(function.span, describe_builtin(name))
        raise unknown_name(name, function.span, scope, callables=True)

    def _library(self, name: str, node: tree.Call, scope: Scope, context: Context) -> Expr:
        if node.keywords:
            raise LanguageError(
                "A0211",
                f"`{name}` takes no named arguments",
                span=node.keywords[0].span,
                expected=build.FUNCTIONS[name].signature,
                got=f"`{node.keywords[0].name.text} =`",
                help="give the arguments in order, without names",
            )
        values = tuple(self.lower(argument, scope, context) for argument in node.arguments)
        try:
            return build.call(name, values)
        except LanguageError as error:
            raise error.with_span(guilty(name, error, values, node)) from None

    def _comprehension(self, node: tree.Comprehension, scope: Scope, context: Context) -> Expr:
        name = node.function.text if isinstance(node.function, tree.Name) else ""
        if name not in COMPREHENSIONS:
            raise LanguageError(
                "A0213",
                "a comprehension is the argument of `any`, `all` or `sum`",
                span=node.function.span,
                expected="any, all or sum",
                got=f"`{node.function.span.text}`",
                help="write `any(cond for t in n)`, `all(cond for t in n)` or `sum(x for t in n)`",
            )
        extent = self.lower(node.extent, scope, context)
        if extent.type is not Type.I32 or not is_shape(extent):
            raise LanguageError(
                "A0214",
                "a comprehension goes over a fixed number of steps",
                span=node.extent.span,
                expected="an integer, a `const` parameter or the extent of a tensor",
                got=shape_problem(extent),
                help="declare the parameter `const`, or use the name a tensor's shape binds: `x: i32[n]`",
            )
        check_free(node.index)
        if isinstance(known := scope.find(node.index.text), Bound | Lazy | Captured):
            raise declared_twice(node.index, known.span)
        axis = f"i{context.loops}"
        inside = Scope(scope, {node.index.text: Bound(Coord(axis), "the index of a comprehension", node.index.span)})
        body = self.lower(node.body, inside, context.inside_loop())
        demand(build.number if name == "sum" else build.boolean, body, f"`{name}`", node.body)
        return Reduce(name, body, axis, extent)
