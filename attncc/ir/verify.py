"""The verifier: what may stand where, as tables. It runs after each front end and between passes.

Three tables say it all: the operand and result types of each operator, what each hook yields, reads and may vary with,
and the axes each input varies with. The checks below only walk them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from attncc.diagnostics import LanguageError, Span
from attncc.ir.extents import is_shape
from attncc.ir.nodes import (
    AXES,
    EXTENTS,
    INPUTS,
    After,
    Binary,
    Branch,
    Cast,
    Const,
    Coord,
    Emit,
    Expr,
    Extent,
    Input,
    Load,
    Param,
    Reduce,
    Rotate,
    Select,
    Slice,
    Unary,
    Variant,
)
from attncc.ir.types import Type
from attncc.ir.walk import walk

FLOAT = frozenset({Type.F32})
INTEGER = frozenset({Type.I32, Type.U32})
NUMBER = FLOAT | INTEGER
BOOL = frozenset({Type.BOOL})

UNARY: dict[str, frozenset[Type]] = {
    "neg": NUMBER,
    "abs": NUMBER,
    "not": BOOL,
    "bitnot": INTEGER,
    **dict.fromkeys(["exp", "exp2", "log", "log2", "log1p", "tanh", "sigmoid", "softplus", "sqrt", "rsqrt"], FLOAT),
    **dict.fromkeys(["sin", "cos", "floor", "round", "erf"], FLOAT),
}
BINARY: dict[str, frozenset[Type]] = {
    **dict.fromkeys(["add", "sub", "mul", "floordiv", "mod", "min", "max", "lt", "le"], NUMBER),
    **dict.fromkeys(["div", "pow"], FLOAT),
    **dict.fromkeys(["and", "or", "xor"], BOOL),
    **dict.fromkeys(["bitand", "bitor", "bitxor", "shl", "shr"], INTEGER),
    "eq": NUMBER | BOOL,
}
REDUCE: dict[str, frozenset[Type]] = {
    "sum": NUMBER,
    **dict.fromkeys(["any", "all"], BOOL),
    **dict.fromkeys(["dot", "expect", "rowmax", "colsum"], FLOAT),
}
INDEXED = ("sum", "any", "all")

# What each input varies with. A parameter or a length may differ per request, so it varies with b.
INPUT_AXES: dict[str, frozenset[str]] = {
    "sm_scale": frozenset({"b", "h"}),
    "query": frozenset({"b", "h", "row", "d"}),
    "key": frozenset({"b", "hk", "col", "d"}),
    "value": frozenset({"b", "hk", "col", "d"}),
    **dict.fromkeys(("score", "logits", "prob"), frozenset({"b", "h", "row", "col"})),
    "out": frozenset({"b", "h", "row", "d"}),
    **dict.fromkeys(("total", "lse"), frozenset({"b", "h", "row"})),
}
COORD_AXES: dict[str, frozenset[str]] = {
    "q": frozenset({"b", "row"}),
    "k": frozenset({"b", "col"}),
    "own": frozenset({"b", "row"}),
    **{axis: frozenset({axis}) for axis in ("b", "h", "hk", "row", "col", "d")},
}
_UNIFORM_EXTENTS = frozenset(EXTENTS) - {"qo_len", "kv_len"}
_ROWWISE = frozenset({"b", "h", "hk", "row"})
_ATTENDED = {
    "expect": frozenset({"b", "h", "row"}),
    "rowmax": frozenset({"b", "h", "row"}),
    "colsum": frozenset({"b", "h", "col"}),
}
_PAIRWISE = _ROWWISE | {"col"}


@dataclass(frozen=True)
class Hook:
    """A hook's value type, the inputs it reads and the axes it may vary with."""

    type: Type
    reads: frozenset[str]
    axes: frozenset[str]
    reductions: frozenset[str] = frozenset({"sum", "any", "all", "dot"})


def _hook(type: Type, reads: str, axes: frozenset[str], extra: str = "") -> Hook:
    return Hook(type, frozenset(reads.split()), axes, frozenset({"sum", "any", "all", "dot", *extra.split()}))


HOOKS: dict[str, Hook] = {
    "sm_scale": _hook(Type.F32, "", frozenset({"b", "h", "hk"})),
    "query": _hook(Type.F32, "query", _ROWWISE | {"d"}),
    "key": _hook(Type.F32, "key", frozenset({"b", "hk", "col", "d"})),
    "value": _hook(Type.F32, "value", frozenset({"b", "hk", "col", "d"})),
    "score": _hook(Type.F32, "query key sm_scale OPERANDS", _PAIRWISE),
    "logits": _hook(Type.F32, "score", _PAIRWISE),
    "mask": _hook(Type.BOOL, "", _PAIRWISE),
    "weight": _hook(Type.F32, "score logits", _PAIRWISE, "after"),
    "normalize": _hook(Type.F32, "total", _ROWWISE),
    "sink": _hook(Type.F32, "", _ROWWISE),
    "output": _hook(Type.F32, "out total lse", _ROWWISE | {"d"}),
    "emit": _hook(Type.F32, "logits prob total lse", _PAIRWISE, "expect rowmax colsum"),
}


def axes(root: Expr) -> frozenset[str]:
    """The coordinates a value may differ over: a subset of {b, h, hk, row, col, d} and comprehension indices."""
    return axes_below(root)[root]


def axes_below(root: Expr) -> dict[Expr, frozenset[str]]:
    """``axes`` of every node below ``root``, in one walk."""
    found: dict[Expr, frozenset[str]] = {}
    for node in walk(root):
        below = frozenset[str]().union(*(found[operand] for operand in node.operands))
        if isinstance(node, Coord):
            below = COORD_AXES.get(node.axis, frozenset({node.axis}))
        elif isinstance(node, Input):
            # An extra operand is a query or a key; its role is not known here, so it counts as both.
            below = INPUT_AXES.get(node.name, INPUT_AXES["query"] | INPUT_AXES["key"])
        elif isinstance(node, Param) or (isinstance(node, Extent) and node.name not in _UNIFORM_EXTENTS):
            below = frozenset({"b"}) if isinstance(node, Param) or node.name in EXTENTS else frozenset()
        elif isinstance(node, Reduce):
            below -= {"dot": {"d"}, "expect": {"col"}, "rowmax": {"col"}, "colsum": {"row"}}.get(node.kind, {node.axis})
            # which pairs are attended differs from row to row and from column to column, whatever is reduced
            below |= _ATTENDED.get(node.kind, frozenset())
        found[node] = below
    return found


def emit_axis(value: Expr) -> str:
    """Whether an emitted value is one per row or one per column; "" if it varies with both."""
    over = axes(value) & {"row", "col"}
    return "" if len(over) == 2 else next(iter(over), "row")


def verify(variant: Variant) -> None:
    """Check a variant. Raises LanguageError (A03 types, A04 hooks, A05 declarations) with the span of the node."""
    _declarations(variant)
    for where, expr in variant.roots():
        _types(variant, expr)
        if where.startswith(("tensor", "operand")) and not is_shape(expr):
            raise _error(variant, expr, "A0508", "a shape is made of integers and extents", "an integer expression")
    for require in variant.requires:
        _require(variant, require.cond)
    for branch in variant.branches:
        _branch(variant, branch)
    if variant.output is not None:
        _place(variant, "output", variant.output, branches=_branch_names(variant))
    for emit in variant.emits:
        _emit(variant, emit)


def _declarations(variant: Variant) -> None:
    names: set[str] = set()
    kinds = (variant.params, variant.tensors, variant.operands)
    for name in (declared.name for kind in kinds for declared in kind):
        if name in names:
            raise LanguageError("A0507", f"`{name}` is declared twice", help="rename one of them")
        names.add(name)
    if not variant.branches:
        raise LanguageError("A0407", f"`{variant.name}` has no branch", expected="at least one", got="none")
    branches = _branch_names(variant)
    if len(set(branches)) != len(branches) or (len(branches) > 1 and "" in branches):
        raise LanguageError("A0407", "branches need distinct names", expected="distinct names", got=str(branches))
    if "" not in branches and variant.output is None:
        raise LanguageError(
            "A0408",
            f"`{variant.name}` has branches but no output",
            expected="output = an expression of the branches' results",
            got="no output hook",
            help=f"combine them, for example `output = {' - '.join(name + '.out' for name in branches)}`",
        )
    emitted = [emit.name for emit in variant.emits]
    for name in emitted:
        if emitted.count(name) > 1:
            raise LanguageError("A0507", f"`{name}` is emitted twice", help="rename one of them")


def _branch_names(variant: Variant) -> tuple[str, ...]:
    return tuple(branch.name for branch in variant.branches)


def _types(variant: Variant, root: Expr) -> None:
    for node in walk(root):
        _node(variant, node)


def _node(variant: Variant, node: Expr) -> None:
    match node:
        case Unary():
            _operand(variant, node, node.operand, UNARY.get(node.op), node.op)
        case Binary():
            _operand(variant, node, node.left, BINARY.get(node.op), node.op)
            shift = node.op in ("shl", "shr")
            if node.left.type is not node.right.type and not (shift and node.right.type.is_integer):
                raise _error(variant, node, "A0303", f"`{node.op}` of two types", node.left.type.value, node.right)
        case Select():
            _operand(variant, node, node.cond, BOOL, "select")
            if node.then.type is not node.other.type:
                raise _error(variant, node, "A0303", "a selection of two types", node.then.type.value, node.other)
        case Reduce():
            _operand(variant, node, node.body, REDUCE.get(node.kind), node.kind)
            if (node.kind in INDEXED) != (node.extent is not None):
                raise _error(variant, node, "A0307", f"`{node.kind}` with a wrong extent", "an extent for loops only")
            if node.extent is not None and node.extent.type is not Type.I32:
                raise _error(variant, node, "A0304", "a loop counts to an i32", "i32", node.extent)
        case Slice():
            for bound in (node.start, node.stop):
                if not is_shape(bound):
                    raise _error(variant, node, "A0406", "slice bounds are fixed", "constants and extents")
        case Rotate():
            _operand(variant, node, node.operand, FLOAT, f"rotate_{node.kind}")
        case After():
            _operand(variant, node, node.operand, FLOAT, "after")
        case Load():
            tensor = next((t for t in variant.tensors if t.name == node.tensor), None)
            if tensor is None:
                raise _error(variant, node, "A0509", f"`{node.tensor}` is not a tensor of the variant", "a tensor")
            if len(node.indices) != len(tensor.dims):
                raise _error(
                    variant,
                    node,
                    "A0510",
                    f"`{node.tensor}` has {len(tensor.dims)} axes",
                    f"{len(tensor.dims)} indices",
                    f"{len(node.indices)}",
                )
            for index in node.indices:
                if not index.type.is_integer:
                    raise _error(variant, index, "A0304", "an index is an integer", "i32 or u32", index)
            if node.type is not tensor.storage.loaded:
                raise _error(variant, node, "A0303", "a load of another type", tensor.storage.loaded.value, node)
        case Param():
            declared = next((p for p in variant.params if p.name == node.name), None)
            if declared is None or declared.type is not node.type:
                raise _error(variant, node, "A0509", f"`{node.name}` is not a parameter of that type", "a parameter")
        case Coord():
            if node.axis not in AXES and not node.axis.startswith("i"):
                raise _error(variant, node, "A0509", f"no coordinate `{node.axis}`", ", ".join(AXES))
        case Input():
            if node.name not in INPUTS and node.name not in {o.name for o in variant.operands}:
                raise _error(variant, node, "A0509", f"no input `{node.name}`", ", ".join(INPUTS))
        case Extent():
            _extent(variant, node)
        case Const() | Cast():
            pass
        case _:
            raise TypeError(f"not a node of the IR: {node!r}")


def _extent(variant: Variant, node: Extent) -> None:
    """A call's shapes must say how long it is: a size of the call, or an axis of a tensor by itself."""
    if node.name not in EXTENTS and not any(dim is node for tensor in variant.tensors for dim in tensor.dims):
        raise _error(
            variant,
            node,
            "A0512",
            f"nothing binds the extent `{node.name}`",
            "a known extent, a constant, or a name that is an axis by itself",
            f"`{node.name}`",
            f"one tensor must have `{node.name}` alone as an axis",
        )


def _operand(variant: Variant, node: Expr, operand: Expr, allowed: frozenset[Type] | None, what: str) -> None:
    if allowed is None:
        raise ValueError(f"no operator `{what}` in the IR")
    if operand.type not in allowed:
        expected = " or ".join(sorted(t.value for t in allowed))
        raise _error(variant, node, "A0301", f"`{what}` of a wrong type", expected, operand)


def _require(variant: Variant, cond: Expr) -> None:
    if cond.type is not Type.BOOL:
        raise _error(variant, cond, "A0302", "`require` takes a condition", "bool", cond)
    for node in walk(cond):
        if isinstance(node, Coord | Input | Load) and not (isinstance(node, Coord) and node.axis.startswith("i")):
            raise _error(
                variant,
                node,
                "A0411",
                "`require` is checked at the call, before any element is read",
                "parameters, extents and constants",
                "a coordinate, an input or a tensor element",
                "conditions on elements belong in `mask`",
            )


def _branch(variant: Variant, branch: Branch) -> None:
    for name, expr in branch.hooks().items():
        _place(variant, name, expr, branches=("", branch.name))
    if branch.normalize is not None and branch.weight is None:
        raise _error(
            variant,
            branch.normalize,
            "A0409",
            "a denominator needs `weight`",
            "softmax(sink = ...)",
            "an expression",
            "without `weight` rows are normalised by softmax; add `weight = ...` to use your own denominator",
        )
    if branch.sink is not None and branch.weight is not None:
        raise _error(
            variant,
            branch.sink,
            "A0409",
            "a sink belongs to softmax",
            "an expression over `total`",
            "softmax(sink = ...) with `weight`",
            "with `weight` write the denominator, for example `normalize = total + exp(sink[h])`",
        )


def _emit(variant: Variant, emit: Emit) -> None:
    _place(variant, "emit", emit.value, branches=_branch_names(variant))
    axis = emit_axis(emit.value)
    # A value that turned out constant still fills the axis it was declared over.
    if not axes(emit.value) & {"row", "col"} <= {emit.axis}:
        raise _error(
            variant,
            emit.value,
            "A0410",
            f"`{emit.name}` varies with row and col" if not axis else f"`{emit.name}` is one value per {axis}",
            "one value per row, or one per column",
            "one per pair" if not axis else f"declared per {emit.axis}",
            "reduce it: expect(x), rowmax(x) over the keys, colsum(x) over the rows",
        )
    for node in walk(emit.value):
        if isinstance(node, Reduce) and node.kind in _ATTENDED:
            _over_pairs(variant, node)


def _over_pairs(variant: Variant, reduction: Reduce) -> None:
    """A reduction over attended pairs runs over those of one branch, and before any column sum is known."""
    inside = tuple(walk(reduction.body))
    if any(isinstance(node, Reduce) and node.kind == "colsum" for node in inside):
        raise _error(
            variant,
            reduction,
            "A0410",
            "a column sum is known after the last row only",
            "colsum(x) outside other reductions",
            f"colsum inside {reduction.kind}",
            "emit the column sums on their own, and combine them with the other output afterwards",
        )
    read = sorted({node.branch for node in inside if isinstance(node, Input)})
    if len(variant.branches) > 1 and len(read) != 1:
        raise _error(
            variant,
            reduction,
            "A0410",
            f"`{reduction.kind}` runs over the pairs of one branch",
            "inputs of one branch",
            " and ".join(f"`{name}`" for name in read) or "none",
            f"write one `{reduction.kind}` per branch",
        )


def _place(variant: Variant, name: str, expr: Expr, *, branches: Iterable[str]) -> None:
    hook = HOOKS[name]
    if expr.type is not hook.type:
        help = _type_help(hook, expr)
        raise _error(variant, expr, "A0401", f"`{name}` is {hook.type.value}", hook.type.value, expr, help)
    operands = {operand.name for operand in variant.operands}
    known = tuple(branches)
    for node in walk(expr):
        if isinstance(node, Input):
            allowed = node.name in hook.reads or (node.name in operands and "OPERANDS" in hook.reads)
            if not allowed:
                readable = sorted((hook.reads - {"OPERANDS"}) | (operands if "OPERANDS" in hook.reads else set()))
                raise _error(
                    variant,
                    node,
                    "A0402",
                    f"`{name}` cannot read `{node.name}`",
                    ", ".join(readable) or "coordinates, parameters and tensors only",
                    node.name,
                    _READ_HELP.get((name, node.name)),
                )
            if node.branch not in known or (node.branch == "" and node.name != "sm_scale" and "" not in known):
                raise _error(variant, node, "A0407", f"no branch `{node.branch}` here", ", ".join(known), node.branch)
            if node.name == "lse" and variant.branch(node.branch).weight is not None:
                help = "with `weight` read `total`, the sum of the weights"
                raise _error(variant, node, "A0402", "`lse` belongs to softmax", "`total`", "`lse` with `weight`", help)
        kind = node.kind if isinstance(node, Reduce) else "after" if isinstance(node, After) else None
        if kind is not None and kind not in hook.reductions:
            places = [other for other, rule in HOOKS.items() if kind in rule.reductions]
            raise _error(
                variant,
                node,
                "A0404",
                f"`{kind}` cannot stand in `{name}`",
                " or ".join(places),
                name,
                _REDUCTION_HELP.get(kind),
            )
    below = axes_below(expr)
    extra = below[expr] - hook.axes
    if extra:
        culprit = next(node for node, over in below.items() if over & extra)
        raise _error(
            variant,
            culprit,
            "A0403",
            f"`{name}` may not vary with {', '.join(sorted(extra))}",
            "a value that varies with " + (", ".join(sorted(hook.axes)) or "nothing"),
            "varies with " + ", ".join(sorted(below[culprit])),
            _axis_help(name, extra),
        )


_REDUCTION_HELP = {
    "after": "`after(x)` sums x over the later keys of a row, which only `weight` can use",
    "expect": "averages over the keys exist once the row is finished: write `emit name = expect(x)`",
    "rowmax": "maxima over the keys exist once the row is finished: write `emit name = rowmax(x)`",
    "colsum": "sums over the rows are an output of their own: write `emit name = colsum(x)`",
}
_READ_HELP = {
    ("mask", "score"): "a mask never reads the score; to drop low scores use `logits = where(score > t, score, -inf)`",
    ("mask", "logits"): "a mask never reads the logits; use `logits = where(cond, score, -inf)`",
    ("logits", "query"): "use `score`; to change the dot product itself, write the `score` hook",
    ("logits", "key"): "use `score`; to change the dot product itself, write the `score` hook",
}


def _type_help(hook: Hook, expr: Expr) -> str:
    if hook.type is Type.BOOL:
        return "compare it, for example `x != 0`"
    return "convert with `f32(x)`" if expr.type is not Type.BOOL else "write `x if cond else y`"


def _axis_help(name: str, extra: frozenset[str]) -> str:
    if "d" in extra:
        return "reduce over the channels with dot(x, y), or move it to `query`, `key`, `value` or `output`"
    if extra & {"row", "h"} and name in ("key", "value"):
        return "a key is shared by all rows and by all query heads of its group; use hk and col"
    if "col" in extra:
        return "the hook sees one row, not a pair; move it to `logits`, `mask` or `weight`"
    return f"remove the dependence from `{name}`"


def _error(
    variant: Variant,
    node: Expr,
    code: str,
    message: str,
    expected: str | None = None,
    got: str | Expr | None = None,
    help: str | None = None,
) -> LanguageError:
    return LanguageError(
        code,
        message,
        span=span_of(variant, node),
        expected=expected,
        got=got.type.value if isinstance(got, Expr) else got,
        help=help,
    )


def span_of(variant: Variant, node: Expr) -> Span | None:
    """The first place a node was written."""
    spans = variant.spans.get(node)
    return spans[0] if spans else None
