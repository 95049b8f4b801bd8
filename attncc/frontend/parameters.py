"""How a variant's parameters are annotated, and what the annotations declare.

Written so that type checkers read them too: ``F32[Tensor, "num_heads"]`` is ``Tensor`` to a checker, as ``Annotated``
is, ``Const[int]`` is ``int``, and ``UInt32`` is ``int``.
"""

from __future__ import annotations

import ast
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar, Union, get_args, get_origin

from attncc.diagnostics import LanguageError, TracingError
from attncc.frontend.location import caller
from attncc.frontend.value import Tensor
from attncc.ir import build
from attncc.ir.nodes import Expr, Extent
from attncc.ir.types import Storage, Type, Value

__all__ = [
    "BF16",
    "F16",
    "F32",
    "I8",
    "I16",
    "I32",
    "I64",
    "U8",
    "U32",
    "Bool",
    "Const",
    "Key",
    "Query",
    "Scalar",
    "TensorForm",
    "UInt32",
    "dims",
    "read",
]

T = TypeVar("T")


@dataclass(frozen=True)
class _ConstMark:
    """The mark in ``Const[int]``."""


Const = Annotated[T, _ConstMark()]


@dataclass(frozen=True)
class TensorForm:
    """``F32[Tensor, "dims"]``: a captured tensor; ``role`` "query" or "key" for an extra operand, else ""."""

    storage: Storage | None
    dims: str
    role: str = ""


@dataclass(frozen=True)
class _Subscripted:
    name: str
    storage: Storage | None
    role: str = ""

    def __getitem__(self, item: object) -> TensorForm:
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str):
            return TensorForm(self.storage, item[1], self.role)
        raise TracingError(
            "A0608",
            f"`{self.name}` takes a tensor type and its dims",
            span=caller(),
            expected=f'{self.name}[Tensor, "num_heads"]',
            got=f"{self.name}[{item!r:.60}]",
            help="the dims are one string, axes separated by commas",
        )


if TYPE_CHECKING:
    from typing import Annotated as BF16
    from typing import Annotated as Bool
    from typing import Annotated as F16
    from typing import Annotated as F32
    from typing import Annotated as I8
    from typing import Annotated as I16
    from typing import Annotated as I32
    from typing import Annotated as I64
    from typing import Annotated as Key
    from typing import Annotated as Query
    from typing import Annotated as U8
    from typing import Annotated as U32

    UInt32 = int
else:
    F32, F16, BF16 = (_Subscripted(s.name, s) for s in (Storage.F32, Storage.F16, Storage.BF16))
    I8, I16, I32, I64 = (_Subscripted(s.name, s) for s in (Storage.I8, Storage.I16, Storage.I32, Storage.I64))
    U8, U32, Bool = _Subscripted("U8", Storage.U8), _Subscripted("U32", Storage.U32), _Subscripted("Bool", Storage.BOOL)
    Query, Key = _Subscripted("Query", None, "query"), _Subscripted("Key", None, "key")

    class UInt32(int):
        """A u32 parameter."""


_SCALARS = {float: Type.F32, int: Type.I32, bool: Type.BOOL, UInt32: Type.U32}


@dataclass(frozen=True)
class Scalar:
    """A scalar parameter; ``const`` ones are Python numbers while tracing."""

    type: Type
    const: bool


def read(annotation: object) -> Scalar | TensorForm | None:
    """What an annotation declares; None for one that means nothing here."""
    if isinstance(annotation, TensorForm):
        return annotation
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        form = read(inner)
        if isinstance(form, Scalar) and any(isinstance(mark, _ConstMark) for mark in marks):
            return Scalar(form.type, const=True)
        return form
    if get_origin(annotation) in (Union, types.UnionType):
        # `float | Tensor`: one value, or for a type checker too, one per request
        rest = [item for item in get_args(annotation) if item is not Tensor]
        return read(rest[0]) if len(rest) == 1 else None
    return (
        Scalar(_SCALARS[annotation], const=False) if isinstance(annotation, type) and annotation in _SCALARS else None
    )


_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}


def dims(text: str, constants: dict[str, Value], parameters: set[str]) -> tuple[Expr, ...]:
    """The axes in a dims text: integer expressions over sizes, constants and new names. Raises TracingError A0609."""
    try:
        tree = ast.parse(f"({text.strip().rstrip(',')},)", mode="eval").body
    except SyntaxError:
        raise _bad_dims(text, repr(text), 'separate the axes with commas: "batch, kv_len"') from None
    axes = tree.elts if isinstance(tree, ast.Tuple) else []
    if not axes:
        raise _bad_dims(text, repr(text), 'give one size per axis: "num_heads", "batch, kv_len"')
    return tuple(_dim(axis, text, constants, parameters) for axis in axes)


def _dim(node: ast.expr, text: str, constants: dict[str, Value], parameters: set[str]) -> Expr:
    def below(inner: ast.expr) -> Expr:
        return _dim(inner, text, constants, parameters)

    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return build.i32(number)
        case ast.Name(id=name) if name in constants:
            try:
                return build.integer(build.literal(constants[name]), f"the dims `{text}`")
            except LanguageError as error:
                raise _bad_dims(text, f"`{name}` of type {error.got}", "sizes are integers") from None
        case ast.Name(id=name) if name in parameters:
            raise _bad_dims(text, f"the parameter `{name}`", f"declare `{name}: Const[int]`, so that the size is known")
        case ast.Name(id=name):
            return Extent(name)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return build.binary(_OPERATORS[type(op)], below(left), below(right))
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=[left, right], keywords=[]):
            return build.call(name, (below(left), below(right)))
    raise _bad_dims(text, f"`{ast.unparse(node)}`", "a size is an integer, a name, or + - * // % min max of them")


def _bad_dims(text: str, got: str, help: str) -> TracingError:
    return TracingError(
        "A0609", "these dims cannot be read", expected="integer expressions over sizes", got=got, help=help
    )
