"""Symbolic values: what a variant's function computes with. They build IR nodes and note where each was written.

Operators follow the language (``/`` is f32, ``//`` and ``%`` floor, no implicit bool). What Python cannot pass on to an
object (``if``, ``and``, ``not``, ``int()``, iteration) raises a TracingError that names what to write instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeAlias

from attncc.diagnostics import AttnccError, LanguageError, Span, TracingError
from attncc.frontend import misuse
from attncc.frontend.location import caller, operand_spans
from attncc.frontend.trace import operand_channels
from attncc.ir import build
from attncc.ir.extents import CHANNELS
from attncc.ir.nodes import Const, Expr, Extent, Input, Load, Param, Slice
from attncc.ir.nodes import Tensor as TensorDecl
from attncc.ir.types import Type, round_f32
from attncc.ir.walk import walk


class Tensor(Protocol):
    """A tensor argument of a variant: torch, cupy or numpy, or whatever else has a shape and a dtype."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, index: Any, /) -> Any: ...


# What may stand in a formula. A parameter annotated `Query[Tensor, ...]` is a channel vector inside the variant, so
# Tensor is among them; a captured tensor must be indexed first, which the tracer checks.
Operand: TypeAlias = "Value | float | Tensor"


class Operators:
    """The operators a symbolic object has; each builds a node and records the caller's expression."""

    __slots__ = ("__weakref__",)
    __array_ufunc__: Any

    def __add__(self, other: Operand) -> Value:
        return _binary("+", self, other)

    def __radd__(self, other: Operand) -> Value:
        return _binary("+", other, self)

    def __sub__(self, other: Operand) -> Value:
        return _binary("-", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return _binary("-", other, self)

    def __mul__(self, other: Operand) -> Value:
        return _binary("*", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return _binary("*", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return _binary("/", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return _binary("/", other, self)

    def __floordiv__(self, other: Operand) -> Value:
        return _binary("//", self, other)

    def __rfloordiv__(self, other: Operand) -> Value:
        return _binary("//", other, self)

    def __mod__(self, other: Operand) -> Value:
        return _binary("%", self, other)

    def __rmod__(self, other: Operand) -> Value:
        return _binary("%", other, self)

    def __pow__(self, other: Operand) -> Value:
        return _binary("**", self, other)

    def __rpow__(self, other: Operand) -> Value:
        return _binary("**", other, self)

    def __and__(self, other: Operand) -> Value:
        return _binary("&", self, other)

    def __rand__(self, other: Operand) -> Value:
        return _binary("&", other, self)

    def __or__(self, other: Operand) -> Value:
        return _binary("|", self, other)

    def __ror__(self, other: Operand) -> Value:
        return _binary("|", other, self)

    def __xor__(self, other: Operand) -> Value:
        return _binary("^", self, other)

    def __rxor__(self, other: Operand) -> Value:
        return _binary("^", other, self)

    def __lshift__(self, other: Operand) -> Value:
        return _binary("<<", self, other)

    def __rlshift__(self, other: Operand) -> Value:
        return _binary("<<", other, self)

    def __rshift__(self, other: Operand) -> Value:
        return _binary(">>", self, other)

    def __rrshift__(self, other: Operand) -> Value:
        return _binary(">>", other, self)

    def __lt__(self, other: Operand) -> Value:
        return _compare("<", self, other)

    def __le__(self, other: Operand) -> Value:
        return _compare("<=", self, other)

    def __gt__(self, other: Operand) -> Value:
        return _compare(">", self, other)

    def __ge__(self, other: Operand) -> Value:
        return _compare(">=", self, other)

    def __eq__(self, other: Operand) -> Value:  # type: ignore[override]
        return _compare("==", self, other)

    def __ne__(self, other: Operand) -> Value:  # type: ignore[override]
        return _compare("!=", self, other)

    def __neg__(self) -> Value:
        return made(lambda: build.negate(lift(self)), self)

    def __pos__(self) -> Value:
        return made(lambda: build.number(lift(self), "`+`"), self)

    def __invert__(self) -> Value:
        return made(lambda: build.invert(lift(self)), self)

    def __abs__(self) -> Value:
        return made(lambda: build.call("abs", (lift(self),)), self)

    def __round__(self) -> Value:
        return made(lambda: build.call("round", (lift(self),)), self)

    if not TYPE_CHECKING:  # a checker must not take a symbolic value for a float, a sequence or an index

        def __hash__(self) -> NoReturn:
            raise misuse.hashed(caller())

        def __bool__(self) -> NoReturn:
            raise misuse.truth(caller(), fixed=_is_fixed(self))

        def __int__(self) -> NoReturn:
            raise misuse.number(caller(), "an int", "i32(x)")

        def __index__(self) -> NoReturn:
            raise misuse.index(caller())

        def __float__(self) -> NoReturn:
            raise misuse.number(caller(), "a float", "f32(x)")

        def __complex__(self) -> NoReturn:
            raise misuse.number(caller(), "a complex number", "f32(x)")

        def __iter__(self) -> NoReturn:
            raise misuse.iterated(caller())

        def __len__(self) -> NoReturn:
            raise misuse.length(caller())

        def __contains__(self, item: object) -> NoReturn:
            raise misuse.truth(caller(), fixed=False)

        def __setitem__(self, index: object, value: object) -> NoReturn:
            raise misuse.assigned(caller())

        def __call__(self, *args: object, **kwargs: object) -> NoReturn:
            raise misuse.called(caller())

        def __array__(self, *args: object, **kwargs: object) -> NoReturn:
            raise misuse.foreign_function(caller(), "numpy", "asarray")

        def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Value:
            symbol = misuse.UFUNC_OPERATORS.get(ufunc.__name__)
            if symbol is None or method != "__call__" or len(inputs) != 2:
                raise misuse.foreign_function(caller(), "numpy", ufunc.__name__)
            # numpy scalars on the left of an operator ask numpy first
            return _compare(symbol, *inputs) if symbol in build.COMPARE else _binary(symbol, *inputs)

        def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
            raise misuse.foreign_function(caller(), "numpy", function.__name__)

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
            name = getattr(function, "__name__", str(function))
            raise misuse.foreign_function(caller(), "torch", name)

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):
                raise AttributeError(name)
            raise misuse.attribute(caller(), name)


class Value(Operators):
    """A number or a condition that differs per element: a coordinate, a score, a parameter, or a formula of them."""

    # Equal nodes are one object, so that where a value was written is the value's own: its span, and the values it was
    # computed from.
    __slots__ = ("expr", "sources", "span")
    expr: Expr
    span: Span | None
    sources: tuple[Value, ...]

    def __init__(self, expr: Expr, span: Span | None = None, sources: tuple[Value, ...] = ()) -> None:
        object.__setattr__(self, "expr", expr)
        object.__setattr__(self, "span", span)
        object.__setattr__(self, "sources", sources)

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> NoReturn:
            raise misuse.assigned(caller())

    def __getitem__(self, channels: slice) -> Value:
        """Channels ``[start, stop)`` of a channel vector such as ``at.query``."""
        return made(lambda: _slice(self.expr, channels), sources=(self, *_bounds(channels)))

    def __repr__(self) -> str:
        return f"<symbolic {self.expr.type.value}>"


class TensorValue(Operators):
    """A captured tensor inside a variant's function: index it to get a Value; ``shape`` are its extents."""

    __slots__ = ("declared",)
    declared: TensorDecl

    def __init__(self, declared: TensorDecl) -> None:
        self.declared = declared

    @property
    def shape(self) -> tuple[Value, ...]:
        return tuple(Value(dim) for dim in self.declared.dims)

    @property
    def ndim(self) -> int:
        return len(self.declared.dims)

    def __getitem__(self, index: object) -> Value:
        """The element at integer indices, one per axis; each is clamped to its axis."""
        indices = index if isinstance(index, tuple) else (index,)
        return made(lambda: self._load(indices), *indices)

    def _load(self, indices: tuple[object, ...]) -> Expr:
        name, rank = self.declared.name, self.ndim
        if len(indices) != rank or any(isinstance(index, slice) or index is Ellipsis for index in indices):
            raise TracingError(
                "A0605",
                f"`{name}` is read one element at a time",
                expected=f"{rank} {'index' if rank == 1 else 'indices'}",
                got="a slice"
                if len(indices) == rank
                else f"{len(indices)} {'index' if len(indices) == 1 else 'indices'}",
                help=f"write `{name}[{', '.join('ijklmn'[:rank])}]`, where each index is a coordinate or a formula",
            )
        what = f"an index of `{name}`"
        found = tuple(build.cast(build.integer(lift(index), what), Type.I32) for index in indices)
        return Load(name, found, self.declared.storage.loaded)

    def __repr__(self) -> str:
        return f"<symbolic tensor {self.declared.name} with {self.ndim} axes>"


def lift(value: object) -> Expr:
    """A value of a formula as an expression; numbers of Python and numpy too. Raises TracingError A0604, A0605."""
    if isinstance(value, Value):
        return value.expr
    if isinstance(value, bool | int | float):
        return _literal(value)
    if isinstance(value, TensorValue):
        name = value.declared.name
        raise TracingError(
            "A0605",
            f"tensor `{name}` stands in a formula without an index",
            expected=f"{value.ndim} {'index' if value.ndim == 1 else 'indices'}",
            got="the whole tensor",
            help=f"write which element: `{name}[{', '.join(['at.h', 'at.k', 'at.q'][: value.ndim]) or '...'}]`",
        )
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        number = value.item()
        if isinstance(number, bool | int | float):
            return _literal(number)
    raise misuse.not_a_value(value)


def _literal(value: bool | int | float) -> Expr:
    if isinstance(value, float) and math.isfinite(value) and math.isinf(round_f32(value)):
        raise LanguageError(
            "A0306",
            "float literal out of range",
            expected="a magnitude below 3.4028236e38",
            got=f"{value!r}",
            help='floats have 32 bits; infinity is `float("inf")`',
        )
    return build.literal(value)


def made(make: Callable[[], Expr], *operands: object, sources: tuple[object, ...] | None = None) -> Value:
    """The value that ``make`` builds, placed at the caller's expression.

    An error is placed there too, or at the one of ``operands``, in source order, that it is about. ``sources`` are the
    values it is computed from, if they are not the operands.
    """
    span = caller()
    try:
        expr = make()
    except AttnccError as error:
        raise error.with_span(_guilty(error, span, operands)) from None
    from_values = operands if sources is None else sources
    return Value(expr, span, tuple(source for source in from_values if isinstance(source, Value)))


def _guilty(error: AttnccError, span: Span | None, operands: tuple[object, ...]) -> Span | None:
    places = operand_spans(span)
    if len(places) != len(operands):
        return span
    for operand, place in zip(operands, places, strict=True):
        if error.got is not None and _complaint(operand, error.code) == error.got:
            return place
    return span


def _complaint(operand: object, code: str) -> str | None:
    """What an error of this code would say of an operand: its type, or what it is if no formula is made of it."""
    try:
        expr = lift(operand)
    except AttnccError as error:
        return error.got if error.code == code else None
    return str(expr.type.value) if code in _TYPE_CODES else None


_TYPE_CODES = ("A0301", "A0302", "A0304")  # one operand has a wrong type, and `got` is that type


def _binary(symbol: str, left: object, right: object) -> Value:
    return made(lambda: build.binary(symbol, lift(left), lift(right)), left, right)


def _compare(symbol: str, left: object, right: object) -> Value:
    # Python swaps the sides of `1 < x` to ask x first; which one an error means is then not known by position.
    sides = (left, right) if isinstance(left, Operators) and isinstance(right, Operators) else ()
    return made(lambda: build.compare(symbol, lift(left), lift(right)), *sides, sources=(left, right))


def _is_fixed(value: object) -> bool:
    """Whether a value depends on parameters alone, so that ``Const`` would make it a Python number."""
    return (
        isinstance(value, Value)
        and all(node.operands or isinstance(node, Const | Param) for node in walk(value.expr))
        and any(isinstance(node, Param) for node in walk(value.expr))
    )


def _bounds(channels: object) -> tuple[object, ...]:
    return (channels.start, channels.stop) if isinstance(channels, slice) else ()


def _slice(vector: Expr, channels: object) -> Expr:
    if not isinstance(channels, slice):
        raise TracingError(
            "A0606",
            "a channel vector is sliced, not indexed",
            expected="vector[start : stop]",
            got="one index",
            help="every channel is computed alike; use `at.d` where the formula depends on the channel",
        )
    length = _channels(vector)
    if channels.step is not None or (length is None and channels.stop is None):
        raise TracingError(
            "A0606",
            "a slice of channels has a step" if channels.step is not None else "not a channel vector",
            expected="vector[start : stop]",
            got="a step" if channels.step is not None else "a scalar",
            help="slice `at.query`, `at.key`, `at.value` or an extra operand as `[start : stop]`",
        )
    start = build.i32(0) if channels.start is None else build.integer(lift(channels.start), "a slice bound")
    stop = length if channels.stop is None else build.integer(lift(channels.stop), "a slice bound")
    if stop is None:
        raise TypeError("unreachable: the length is known where the stop is left out")
    return Slice(build.floating(vector, "a slice of channels"), start, stop)


def _channels(vector: Expr) -> Expr | None:
    """How many channels a vector has, as an expression over extents; None for scalars."""
    lengths: dict[Expr, Expr | None] = {}
    for node in walk(vector):
        if isinstance(node, Input):
            size = CHANNELS.get(node.name)
            lengths[node] = operand_channels(node.name) if size is None else Extent(size)
        elif isinstance(node, Slice):
            lengths[node] = build.binary("-", node.stop, node.start)
        else:
            lengths[node] = next((n for inner in node.operands if (n := lengths[inner]) is not None), None)
    return lengths[vector]
