"""The parameter list of a variant: runtime scalars, constants, captured tensors, extra operands and their extents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attncc.diagnostics import LanguageError, Span
from attncc.grammar import tree
from attncc.grammar.expressions import Expressions
from attncc.grammar.operators import scalar_type, shape_problem
from attncc.grammar.scope import Bound, Captured, Context, Scope, check_free, declared_twice, is_builtin
from attncc.ir.definition import check_value
from attncc.ir.extents import is_shape
from attncc.ir.nodes import Const, Expr, Extent, Input, Operand, Param, ParamDecl, Tensor
from attncc.ir.types import Storage, Type, Value
from attncc.ir.walk import walk

ROLES = ("query", "key")
_STORAGES = {storage.value: storage for storage in Storage}
_LITERALS: Mapping[str, Value] = {"true": True, "false": False, "inf": float("inf"), "pi": 3.141592653589793}


@dataclass(frozen=True)
class Declared:
    """What a parameter list declares, in its order."""

    params: tuple[ParamDecl, ...]
    tensors: tuple[Tensor, ...]
    operands: tuple[Operand, ...]


def scalars(variant: tree.Variant) -> tuple[tuple[ParamDecl, ...], tuple[ParamDecl, ...]]:
    """The constants and the runtime scalars of a variant.

    Raises LanguageError A0202, A0203, A0506, A0511, A0514, A0515 or A0516.
    """
    seen: dict[str, Span] = {}
    constants: list[ParamDecl] = []
    runtime: list[ParamDecl] = []
    for param in variant.params:
        check_free(param.name)
        if param.name.text in seen:
            raise declared_twice(param.name, seen[param.name.text])
        seen[param.name.text] = param.name.span
        if param.type.dims is not None:
            _check_plain(param)
        elif param.type.name.text in ROLES:
            raise _operand_shape(param)
        else:
            type = scalar_type(param.type)
            default = _default(param, type) if param.default is not None else None
            (constants if param.const else runtime).append(ParamDecl(param.name.text, type, default))
    return tuple(constants), tuple(runtime)


def _check_plain(param: tree.Param) -> None:
    """A tensor or an operand is neither ``const`` nor has it a default."""
    what = "an operand" if param.type.name.text in ROLES else "a tensor"
    if param.const or param.default is not None:
        raise LanguageError(
            "A0515",
            f"{what} cannot be constant" if param.const else f"{what} has no default",
            span=param.span if param.default is None else param.default.span,
            expected=f"`{param.name.text}: {param.type.span.text}`",
            got="const" if param.const else "a default",
            help=f"remove {'`const`' if param.const else 'the default'}; {what} is given at each call",
        )


def _default(param: tree.Param, type: Type) -> Value:
    node = param.default
    sign = 1
    if isinstance(node, tree.Unary) and node.op in ("-", "+"):
        sign, node = (-1 if node.op == "-" else 1), node.operand
    value: Value | None = None
    if isinstance(node, tree.Number):
        value = sign * node.value
    elif isinstance(node, tree.Name) and node.text in _LITERALS:
        value = _LITERALS[node.text]
        value = value if isinstance(value, bool) else sign * value
    if param.default is None or value is None:
        raise LanguageError(
            "A0514",
            f"the default of `{param.name.text}` is not a literal",
            span=param.default.span if param.default is not None else param.span,
            expected=f"a literal of type {type.value}",
            got="an expression",
            help="compute it yourself, or name the expression with `let` inside the variant",
        )
    try:
        return check_value(param.name.text, value, type)
    except LanguageError as error:
        literal = {Type.F32: "0.5", Type.BOOL: "true"}.get(type, "64")
        error.help = f"write a literal of type {type.value}, for example `{literal}`"
        raise error.with_span(param.default.span) from None


def declare(variant: tree.Variant, constants: Mapping[str, Value], scope: Scope, expressions: Expressions) -> Declared:
    """Bind every parameter in ``scope``. Raises LanguageError A0508, A0511, A0512, A0513, A0516."""
    constant_decls, runtime = scalars(variant)
    spans = {param.name.text: param.name.span for param in variant.params}
    for decl in constant_decls:
        scope.names[decl.name] = Bound(Const(constants[decl.name], decl.type), "a constant", spans[decl.name])
    for decl in runtime:
        scope.names[decl.name] = Bound(Param(decl.name, decl.type), "a parameter", spans[decl.name])
    shaped = [param for param in variant.params if param.type.dims is not None]
    _bind_extents(shaped, scope, {param.name.text for param in shaped})
    tensors: list[Tensor] = []
    operands: list[Operand] = []
    for param in shaped:
        dims = tuple(_dim(dim, scope, expressions) for dim in param.type.dims or ())
        name, kind = param.name.text, param.type.name.text
        if kind in ROLES:
            if len(dims) != 2:
                raise _operand_shape(param)
            operand = Operand(name, kind, dims[0], dims[1])
            operands.append(operand)
            expressions.operands[name] = operand
            scope.declare(param.name, Bound(Input(name), "an operand", param.name.span))
        elif kind in _STORAGES:
            tensors.append(Tensor(name, _STORAGES[kind], dims))
            scope.declare(param.name, Captured(tensors[-1], param.name.span))
        else:
            raise LanguageError(
                "A0511",
                f"no element type `{kind}`",
                span=param.type.name.span,
                expected=", ".join(_STORAGES),
                got=f"`{kind}`",
                help="write the element type of the tensor, as in `f32[num_heads]`; query and key declare operands",
            )
    return Declared(runtime, tuple(tensors), tuple(operands))


def _bind_extents(shaped: list[tree.Param], scope: Scope, tensors: set[str]) -> None:
    """A bare new name as an axis is bound by the tensor's shape, and can be used in every other shape."""
    for param in shaped:
        if param.type.name.text in ROLES:
            continue
        for dim in param.type.dims or ():
            if not isinstance(dim, tree.Name) or is_builtin(dim.text) or dim.text in scope.names:
                continue
            if dim.text in tensors:
                raise _bad_shape(dim, f"the tensor `{dim.text}`")
            scope.names[dim.text] = Bound(Extent(dim.text), "an extent", dim.span)


def _dim(node: tree.Expr, scope: Scope, expressions: Expressions) -> Expr:
    try:
        value = expressions.lower(node, scope, Context())
    except LanguageError as error:
        if error.code != "A0201" or error.span is None:
            raise
        name = error.span.text
        raise LanguageError(
            "A0512",
            f"nothing binds the extent `{name}`",
            span=error.span,
            expected="a known extent, a constant, or a name that is an axis by itself",
            got=f"`{name}`",
            help=f"one tensor must have `{name}` alone as an axis, or declare `const {name}: i32`",
        ) from None
    if value.type is Type.I32 and is_shape(value):
        return value
    for below in walk(value):
        if isinstance(below, Param):
            raise LanguageError(
                "A0513",
                "a shape cannot depend on a runtime parameter",
                span=node.span,
                expected="integers, constants and extents",
                got=f"the parameter `{below.name}`",
                help=f"declare it `const {below.name}`, or use a new name, which the tensor's shape binds",
            )
    raise _bad_shape(node, shape_problem(value))


def _bad_shape(node: tree.Expr, got: str) -> LanguageError:
    return LanguageError(
        "A0508",
        "a shape is made of integers and extents",
        span=node.span,
        expected="an integer expression of extents",
        got=got,
        help="axes are extents such as num_heads, qo_len or kv_len, integers, or new names",
    )


def _operand_shape(param: tree.Param) -> LanguageError:
    role = param.type.name.text
    return LanguageError(
        "A0516",
        "an operand has two axes",
        span=param.type.span,
        expected=f"`{role}[heads, channels]`",
        got=f"`{param.type.span.text}`",
        help=f"write `{param.name.text}: {role}[{'num_heads' if role == 'query' else 'num_kv_heads'}, 64]`",
    )
