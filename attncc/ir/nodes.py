"""The node set of the IR: every expression and declaration a variant is made of, and nothing that interprets them.

Expressions are immutable and interned: two equal expressions are the same object, so ``is`` compares structure, sharing
needs no pass of its own, and a dictionary keyed by node is a dictionary keyed by meaning. Spans are no part of a node;
a ``Variant`` carries them beside it.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from attncc.diagnostics import Span
from attncc.ir.types import Storage, Type, Value, round_f32, wrap

AXES = ("b", "h", "hk", "row", "col", "q", "k", "own", "d")
EXTENTS = ("batch", "num_heads", "num_kv_heads", "head_dim", "head_dim_v", "qo_len", "kv_len")
INPUTS = ("sm_scale", "query", "key", "value", "score", "logits", "prob", "out", "total", "lse")

_table: weakref.WeakValueDictionary[tuple[Any, ...], Expr] = weakref.WeakValueDictionary()
_lock = threading.Lock()


class _Interned(type):
    """Construction returns the one object of that structure."""

    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            made = super().__call__(*args, **kwargs)
            key = (cls, *(_key(getattr(made, name)) for name in made.parts))
            with _lock:
                found = _table.get(key)
                if found is None:
                    object.__setattr__(made, "digest", _digest(made))
                    if isinstance(made, _Derived):
                        object.__setattr__(made, "_type", made.infer())
                    _table[key] = found = made
            return found


def _key(value: Any) -> Any:
    # 0.0 == -0.0 and True == 1 == 1.0 in Python; constants of different types or signs are different constants.
    return repr(value) if isinstance(value, float | bool) else value


def _digest(expr: Expr) -> bytes:
    state = hashlib.blake2b(type(expr).__name__.encode(), digest_size=12)
    for name in expr.parts:
        value = getattr(expr, name)
        for item in value if isinstance(value, tuple) else (value,):
            state.update(b"|" + (item.digest if isinstance(item, Expr) else repr(item).encode()))
        state.update(b";")
    return state.digest()


@dataclass(frozen=True, eq=False)
class Expr(metaclass=_Interned):
    """An expression. ``digest`` is a stable hash of its structure, for ordering and cache keys."""

    digest: bytes = field(init=False, repr=False)
    parts: ClassVar[tuple[str, ...]] = ()
    if TYPE_CHECKING:

        @property
        def type(self) -> Type:
            """What the expression evaluates to."""
            raise NotImplementedError

    def __init_subclass__(cls) -> None:
        cls.parts = tuple(name for name in cls.__annotations__ if not name.startswith("_"))

    @property
    def operands(self) -> tuple[Expr, ...]:
        """The child expressions, in order."""
        found: list[Expr] = []
        for name in self.parts:
            value = getattr(self, name)
            found.extend(item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, Expr))
        return tuple(found)

    def with_operands(self, operands: Iterable[Expr]) -> Expr:
        """The same node over other children."""
        rest = iter(operands)

        def swap(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(swap(item) for item in value)
            return next(rest) if isinstance(value, Expr) else value

        return type(self)(*(swap(getattr(self, name)) for name in self.parts))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.parts)

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Expr:
        return self


@dataclass(frozen=True, eq=False)
class _Derived(Expr):
    """A node whose type follows from its operands; inferred once, at construction."""

    _type: Type = field(init=False, repr=False)

    @property
    def type(self) -> Type:
        return self._type

    def infer(self) -> Type:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Const(Expr):
    """A literal: f32 rounded to f32, integers wrapped to 32 bits."""

    value: Value
    type: Type

    def __post_init__(self) -> None:
        if self.type is Type.F32:
            value: Value = round_f32(float(self.value))
        else:
            value = bool(self.value) if self.type is Type.BOOL else wrap(int(self.value), self.type)
        object.__setattr__(self, "value", value)


@dataclass(frozen=True, eq=False)
class Coord(Expr):
    """A coordinate of AXES, or the index of an enclosing comprehension: ``i0`` for the outermost, ``i1`` inside it."""

    axis: str

    @property
    def type(self) -> Type:
        return Type.I32


@dataclass(frozen=True, eq=False)
class Extent(Expr):
    """A size: one of EXTENTS (``qo_len`` and ``kv_len`` are the request's own), or a name a tensor's shape binds."""

    name: str

    @property
    def type(self) -> Type:
        return Type.I32


@dataclass(frozen=True, eq=False)
class Param(Expr):
    """The value of a runtime parameter; one for all requests or one per request, which the expression cannot see."""

    name: str
    type: Type


@dataclass(frozen=True, eq=False)
class Input(Expr):
    """A value the algorithm provides: one of INPUTS, or an extra operand by name. ``branch`` is "" without branches.

    ``query``, ``key`` and ``value`` inside their own hook are the stored vectors, in ``score`` the transformed ones.
    """

    name: str
    branch: str = ""

    @property
    def type(self) -> Type:
        return Type.F32


@dataclass(frozen=True, eq=False)
class Load(Expr):
    """An element of a captured tensor. Each index is clamped to its axis; an empty axis reads 0."""

    tensor: str
    indices: tuple[Expr, ...]
    type: Type


@dataclass(frozen=True, eq=False)
class Cast(Expr):
    """Conversion: int to f32 rounds, f32 to int truncates and saturates (NaN gives 0), bool is 0 or 1, x != 0."""

    type: Type
    operand: Expr


@dataclass(frozen=True, eq=False)
class Unary(_Derived):
    """``op`` is a key of verify.UNARY."""

    op: str
    operand: Expr

    def infer(self) -> Type:
        return self.operand.type


@dataclass(frozen=True, eq=False)
class Binary(_Derived):
    """``op`` is a key of verify.BINARY; comparisons give bool, everything else the type of the left operand."""

    op: str
    left: Expr
    right: Expr

    def infer(self) -> Type:
        return Type.BOOL if self.op in COMPARISONS else self.left.type


@dataclass(frozen=True, eq=False)
class Select(_Derived):
    """``then if cond else other``; both sides have a value everywhere."""

    cond: Expr
    then: Expr
    other: Expr

    def infer(self) -> Type:
        return self.then.type


@dataclass(frozen=True, eq=False)
class Reduce(_Derived):
    """A reduction of ``body``.

    ``sum any all``: over ``i<depth>`` in [0, extent), where ``axis`` names that index. ``dot``: over the channels d
    (``extent`` is None). ``expect``: over keys, weighted by the softmax probability. ``rowmax``: maximum over the
    keys a row attends, −inf if none. ``colsum``: sum over the rows that attend a key.
    """

    kind: str
    body: Expr
    axis: str = ""
    extent: Expr | None = None

    def infer(self) -> Type:
        return self.body.type


@dataclass(frozen=True, eq=False)
class Slice(_Derived):
    """Channels [start, stop) of a channel vector, renumbered from 0. The bounds are over constants and extents only."""

    operand: Expr
    start: Expr
    stop: Expr

    def infer(self) -> Type:
        return self.operand.type


@dataclass(frozen=True, eq=False)
class Rotate(_Derived):
    """``half``: (x1, x2) → (−x2, x1) on the two halves of the channels. ``pairs``: the same on neighbours 2i, 2i+1."""

    kind: str
    operand: Expr

    def infer(self) -> Type:
        return self.operand.type


@dataclass(frozen=True, eq=False)
class After(_Derived):
    """The sum of ``operand`` over the later keys of the row that are not masked (stick-breaking)."""

    operand: Expr

    def infer(self) -> Type:
        return self.operand.type


COMPARISONS = ("lt", "le", "eq")


# Declarations ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParamDecl:
    """A runtime scalar; ``const`` parameters are substituted before the IR and do not appear."""

    name: str
    type: Type
    default: Value | None = None


@dataclass(frozen=True)
class Tensor:
    """A captured tensor. ``dims`` are i32 expressions over extents; an Extent of a new name is bound by the tensor."""

    name: str
    storage: Storage
    dims: tuple[Expr, ...]


@dataclass(frozen=True)
class Operand:
    """An extra score operand: ``role`` query is [tokens, heads, dim] over rows, key the same over columns."""

    name: str
    role: str
    heads: Expr
    dim: Expr


@dataclass(frozen=True)
class Require:
    """A condition over parameters and extents that a call must meet."""

    cond: Expr
    text: str


@dataclass(frozen=True)
class Emit:
    """An extra output: one f32 per row and query head (``axis`` row) or per column and query head (``axis`` col)."""

    name: str
    axis: str
    value: Expr


BRANCH_HOOKS = (
    "sm_scale",
    "query",
    "key",
    "value",
    "score",
    "logits",
    "mask",
    "weight",
    "normalize",
    "sink",
)


@dataclass(frozen=True)
class Branch:
    """One score branch. None is the hook's default; ``normalize`` is the denominator over ``total`` and goes with
    ``weight``; ``sink`` is the extra logit of a softmax and does not."""

    name: str = ""
    sm_scale: Expr | None = None
    query: Expr | None = None
    key: Expr | None = None
    value: Expr | None = None
    score: Expr | None = None
    logits: Expr | None = None
    mask: Expr | None = None
    weight: Expr | None = None
    normalize: Expr | None = None
    sink: Expr | None = None

    def hooks(self) -> dict[str, Expr]:
        """The hooks that are written, in the order of evaluation."""
        return {name: value for name in BRANCH_HOOKS if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class RowReduction:
    """How a row is normalised, as data: state names, order of the keys, and what makes a split mergeable (section 3.1).

    ``order`` is "any" or "descending"; ``factors`` names which accumulators a combine rescales.
    """

    name: str
    order: str
    state: tuple[str, ...]
    identity: tuple[float, ...]


SOFTMAX = RowReduction("softmax", "any", ("max", "sum"), (float("-inf"), 0.0))
WEIGHTED = RowReduction("weighted", "any", ("total",), (0.0,))
STICK_BREAKING = RowReduction("stick_breaking", "descending", ("total", "carry"), (0.0, 0.0))


@dataclass(frozen=True)
class Variant:
    """An attention variant. ``spans`` maps a node to every place it was written; it does not take part in equality."""

    name: str
    params: tuple[ParamDecl, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    operands: tuple[Operand, ...] = ()
    requires: tuple[Require, ...] = ()
    branches: tuple[Branch, ...] = (Branch(),)
    output: Expr | None = None
    emits: tuple[Emit, ...] = ()
    spans: Mapping[Expr, tuple[Span, ...]] = field(default_factory=dict, compare=False, repr=False)

    def roots(self) -> tuple[tuple[str, Expr], ...]:
        """Every expression with the place it stands in, in the order the text prints them."""
        found: list[tuple[str, Expr]] = []
        for tensor in self.tensors:
            found.extend((f"tensor {tensor.name} dim {i}", dim) for i, dim in enumerate(tensor.dims))
        for operand in self.operands:
            found.append((f"operand {operand.name} heads", operand.heads))
            found.append((f"operand {operand.name} dim", operand.dim))
        found.extend((f"require {i}", require.cond) for i, require in enumerate(self.requires))
        for branch in self.branches:
            prefix = f"{branch.name}." if branch.name else ""
            found.extend((prefix + name, expr) for name, expr in branch.hooks().items())
        if self.output is not None:
            found.append(("output", self.output))
        found.extend((f"emit {emit.name}", emit.value) for emit in self.emits)
        return tuple(found)

    def branch(self, name: str = "") -> Branch:
        return next(branch for branch in self.branches if branch.name == name)

    def tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def reduction(self, branch: Branch) -> RowReduction:
        """Which row reduction a branch uses; it follows from its hooks."""
        if branch.weight is None:
            return SOFTMAX
        from attncc.ir.walk import walk

        return STICK_BREAKING if any(isinstance(node, After) for node in walk(branch.weight)) else WEIGHTED


def field_names(kind: type[Any]) -> tuple[str, ...]:
    """The constructor fields of a declaration, in order."""
    return tuple(item.name for item in fields(kind) if item.init)
