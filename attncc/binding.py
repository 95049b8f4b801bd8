"""Binding: a variant together with the values of its parameters and tensors, and what a call's shapes say about it.

Knows the IR and arrays by their ``shape`` and ``dtype`` alone; it launches nothing and copies nothing.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from attncc.diagnostics import AttnccError, CallError, Note
from attncc.ir.definition import Definition, check_value
from attncc.ir.extents import evaluate
from attncc.ir.nodes import Binary, Const, Coord, Expr, Extent, Load, Param, ParamDecl, Tensor, Variant
from attncc.ir.types import Storage, Type, Value
from attncc.ir.walk import rewrite, walk

if TYPE_CHECKING:
    from attncc.grammar import Module

P = ParamSpec("P")

# The name an array library gives a storage type; torch's is the same after "torch.".
DTYPES: dict[str, Storage] = {
    "float32": Storage.F32,
    "float16": Storage.F16,
    "bfloat16": Storage.BF16,
    "bool": Storage.BOOL,
    "uint8": Storage.U8,
    "int8": Storage.I8,
    "int16": Storage.I16,
    "int32": Storage.I32,
    "int64": Storage.I64,
    "uint32": Storage.U32,
}
_PER_REQUEST: dict[Type, tuple[Storage, ...]] = {
    Type.F32: (Storage.F32,),
    Type.I32: (Storage.I32,),
    Type.U32: (Storage.U32,),
    Type.BOOL: (Storage.BOOL,),
}


def storage_of(array: Any) -> Storage | None:
    """The storage type of a torch, cupy or numpy array; None for a dtype the language has not."""
    name = str(getattr(array, "dtype", "")).removeprefix("torch.")
    return DTYPES.get(name)


def is_array(value: object) -> bool:
    """Whether a value is an array of some library: it has a shape and a dtype."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


@dataclass(frozen=True, repr=False, eq=False)
class BoundVariant:
    """A variant with everything a call needs besides query, key and value.

    ``variant`` is verified and canonical. ``params`` holds Python scalars, or 1-d arrays with one element per request;
    ``tensors`` and ``operands`` hold the caller's own arrays. Shapes are checked at the call, by ``bind_extents``.
    """

    definition: Definition
    constants: Mapping[str, Value]
    variant: Variant
    params: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Any] = field(default_factory=dict)
    operands: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.variant.name

    def __repr__(self) -> str:
        scalars = {**self.constants, **self.params}
        shown = [
            f"{name}={_shown(value)}" for name, value in (scalars | dict(self.tensors) | dict(self.operands)).items()
        ]
        return f"{self.name}({', '.join(shown)})"


def _shown(value: object) -> str:
    if not is_array(value):
        return repr(value)
    storage = storage_of(value)
    kind = storage.value if storage is not None else str(getattr(value, "dtype", "?"))
    return f"{kind}[{', '.join(str(n) for n in getattr(value, 'shape', ()))}]"


class VariantFactory(Generic[P]):
    """A variant that can be called with its parameters by name: ``gemma2(softcap=30.0)`` gives a BoundVariant.

    Variants from Python and from files are the same to it. Constants are set by name too, ``attncc.load`` or not; each
    set of constants is built once.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._built: dict[tuple[tuple[str, str], ...], tuple[Mapping[str, Value], Variant]] = {}
        self.__doc__ = definition.doc or None

    @property
    def name(self) -> str:
        return self.definition.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> BoundVariant:
        """Bind the parameters. Raises CallError A0801-A0807, LanguageError or TracingError for the variant itself."""
        if args:
            raise CallError(
                "A0801",
                f"`{self.name}` takes its parameters by name",
                expected=f"{self.name}(name=value, ...)",
                got=f"{len(args)} positional argument{'s' if len(args) > 1 else ''}",
                help="name each parameter; query, key and value are arguments of attncc.attention",
            )
        return self.bind(kwargs)

    def bind(self, given: Mapping[str, Any]) -> BoundVariant:
        """``__call__`` with the parameters as a mapping."""
        names = {declared.name: declared for declared in self.definition.constants}
        constants = {name: _constant(self.name, names[name], value) for name, value in given.items() if name in names}
        for declared in self.definition.constants:
            if declared.default is None and declared.name not in constants:
                raise self._missing(declared.name, f"a constant of type {declared.type.value}")
        filled, variant = self.instantiate(constants)
        rest = {name: value for name, value in given.items() if name not in names}
        self._check_names(rest, variant)
        params = {declared.name: self._param(declared, rest.get(declared.name)) for declared in variant.params}
        tensors = {tensor.name: self._tensor(tensor, rest) for tensor in variant.tensors}
        operands = {
            operand.name: self._array(operand.name, f"{operand.role} operand", rest) for operand in variant.operands
        }
        return BoundVariant(self.definition, filled, variant, params, tensors, operands)

    def instantiate(self, constants: Mapping[str, Value]) -> tuple[Mapping[str, Value], Variant]:
        """All constants with their values, and the verified canonical variant for them."""
        filled = {declared.name: declared.default for declared in self.definition.constants} | dict(constants)
        known = {name: value for name, value in filled.items() if value is not None}
        key = tuple((name, repr(value)) for name, value in known.items())
        built = self._built.get(key)
        if built is None:
            from attncc.passes.canonicalize import canonicalize

            built = self._built[key] = (known, canonicalize(self.definition.instantiate(known)))
        return built

    def _check_names(self, given: Mapping[str, Any], variant: Variant) -> None:
        known = [declared.name for declared in self.definition.constants]
        known += [declared.name for kind in (variant.params, variant.tensors, variant.operands) for declared in kind]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                raise CallError(
                    "A0802",
                    f"`{self.name}` has no parameter `{name}`",
                    expected=", ".join(known) or "no parameters",
                    got=name,
                    help=f"did you mean `{near[0]}`?" if near else f"declare `{name}` in the variant to pass it",
                    notes=self._declared_here(),
                )

    def _declared_here(self) -> tuple[Note, ...]:
        span = self.definition.span
        return () if span is None else (Note(f"`{self.name}` is declared here", span),)

    def _missing(self, name: str, what: str) -> CallError:
        return CallError(
            "A0803",
            f"`{self.name}` needs `{name}`",
            expected=what,
            got="nothing",
            help=f"call it as `{self.name}({name}=...)`",
            notes=self._declared_here(),
        )

    def _param(self, declared: ParamDecl, value: Any) -> Any:
        """A scalar, or an array with one element per request, as given."""
        if value is None:
            value = declared.default
        if value is None:
            raise self._missing(declared.name, f"a value of type {declared.type.value}")
        if not is_array(value):
            return _scalar(self.name, declared, value)
        shape = tuple(getattr(value, "shape", ()))
        if not shape and type(value).__module__ == "numpy":
            return _scalar(self.name, declared, value.item())
        if len(shape) > 1 or storage_of(value) not in _PER_REQUEST[declared.type]:
            raise CallError(
                "A0804",
                f"`{declared.name}` of `{self.name}` is one {declared.type.value}, or one per request",
                expected=f"a Python number, or {declared.type.value}[batch]",
                got=_shown(value),
                help=f"convert it to {declared.type.value}[batch]; for one value per head declare a tensor",
            )
        return value

    def _tensor(self, tensor: Tensor, given: Mapping[str, Any]) -> Any:
        storage = tensor.storage
        value = self._array(tensor.name, f"a tensor {storage.value}[{', '.join(map(shape_text, tensor.dims))}]", given)
        if storage_of(value) is not storage:
            raise CallError(
                "A0806",
                f"`{tensor.name}` of `{self.name}` has the wrong dtype",
                expected=storage.value,
                got=str(getattr(value, "dtype", None)),
                help=f"convert it, or declare `{tensor.name}` with the dtype you have",
            )
        if len(value.shape) != len(tensor.dims):
            raise _rank_error(tensor, tuple(value.shape))
        return value

    def _array(self, name: str, what: str, given: Mapping[str, Any]) -> Any:
        value = given.get(name)
        if value is None:
            raise self._missing(name, what)
        if not is_array(value):
            raise CallError(
                "A0805",
                f"`{name}` of `{self.name}` is no tensor",
                expected="a torch, cupy or numpy array",
                got=f"{value!r:.60} of type {type(value).__name__}",
                help="attncc copies nothing behind your back: make it a tensor on the device of the query",
            )
        return value

    def __repr__(self) -> str:
        return f"<variant {self.name}>"


def as_bound(variant: BoundVariant | VariantFactory[...]) -> BoundVariant:
    """A bound variant as it is, an uncalled one with its defaults. Raises CallError A0803 where one is missing."""
    if isinstance(variant, BoundVariant):
        return variant
    if isinstance(variant, VariantFactory):
        return variant.bind({})
    raise CallError(
        "A0808",
        "this is no variant",
        expected="a variant called with its parameters, such as gemma2(softcap=30.0)",
        got=f"{variant!r:.60} of type {type(variant).__name__}",
        help="decorate a function with @attncc.variant, or take one from attncc.load(path)",
    )


def _constant(variant: str, declared: ParamDecl, value: Any) -> Value:
    if is_array(value) and not (type(value).__module__ == "numpy" and value.shape == ()):
        raise CallError(
            "A0804",
            f"constant `{declared.name}` of `{variant}` is one Python number",
            expected=declared.type.value,
            got=_shown(value),
            help="constants are fixed at compile time; declare a runtime parameter for one value per request",
        )
    return _scalar(variant, declared, value.item() if is_array(value) else value)


def _scalar(variant: str, declared: ParamDecl, value: Any) -> Value:
    """A Python or numpy number as a value of the declared type."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        value = value.item()
    try:
        return check_value(declared.name, value, declared.type)
    except AttnccError as error:
        raise CallError(
            "A0804",
            f"`{declared.name}` of `{variant}`: {error.message.partition('` ')[2] or error.message}",
            expected=error.expected,
            got=error.got,
            help=error.help or f"pass a value of type {declared.type.value}",
        ) from None


# Files ----------------------------------------------------------------------------------------------------------------


class LoadedModule:
    """The variants of a ``.attn`` file, as attributes: ``attncc.load("gemma2.attn").gemma2(softcap=30.0)``."""

    def __init__(self, name: str, definitions: Mapping[str, Definition]) -> None:
        self._name = name
        self._factories: dict[str, VariantFactory[...]] = {
            name: VariantFactory(definition) for name, definition in definitions.items()
        }

    def __getattr__(self, name: str) -> VariantFactory[...]:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> VariantFactory[...]:
        """The variant ``name``. Raises CallError A0807."""
        found: VariantFactory[...] | None = self.__dict__.get("_factories", {}).get(name)
        if found is None:
            known = list(self.__dict__.get("_factories", {}))
            near = difflib.get_close_matches(name, known, 1)
            raise CallError(
                "A0807",
                f"{self.__dict__.get('_name')} declares no variant `{name}`",
                expected=", ".join(known) or "no variants",
                got=name,
                help=f"did you mean `{near[0]}`?" if near else "masks and functions of a file are not variants",
            )
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._factories)

    def __len__(self) -> int:
        return len(self._factories)

    def __contains__(self, name: object) -> bool:
        return name in self._factories

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._factories]

    def __repr__(self) -> str:
        return f"<{self._name}: {', '.join(self._factories)}>"


def load(path: str | os.PathLike[str]) -> LoadedModule:
    """The variants of a ``.attn`` file. Raises LanguageError for mistakes in it, ArtifactError if it cannot be read."""
    from attncc.grammar import read

    module: Module = read(os.fspath(path))
    return LoadedModule(os.fspath(path), module.definitions)


# Shapes of a call -----------------------------------------------------------------------------------------------------


def bind_extents(variant: Variant, shapes: Mapping[str, tuple[int, ...]], base: Mapping[str, int]) -> dict[str, int]:
    """Every extent of a call: ``base`` (batch, num_heads, …) and the names the tensors' shapes bind.

    ``shapes`` holds each captured tensor's shape. An axis that is a bare new name binds it, the others must agree; on
    ``qo_len`` and ``kv_len`` axes ``base`` counts the storage per request (the longest of a padded batch). Raises
    CallError A0809 (rank), A0810 (an axis differs; names the tensor that bound the size), A0811 (a name none binds).
    """
    extents, bound_by = dict(base), dict.fromkeys(base, "query, key and value")
    for tensor in variant.tensors:
        if len(shapes[tensor.name]) != len(tensor.dims):
            raise _rank_error(tensor, shapes[tensor.name])
        for axis, (dim, size) in enumerate(zip(tensor.dims, shapes[tensor.name], strict=True)):
            if isinstance(dim, Extent) and dim.name not in extents:
                extents[dim.name], bound_by[dim.name] = size, f"axis {axis} of `{tensor.name}`"
    for tensor in variant.tensors:
        for axis, (dim, size) in enumerate(zip(tensor.dims, shapes[tensor.name], strict=True)):
            expected = evaluate(dim, extents)
            if expected is None:
                raise _unbound(tensor, axis, dim, extents)
            if expected != size:
                names = sorted({node.name for node in walk(dim) if isinstance(node, Extent)})
                givers = " and ".join(f"`{name}` = {extents[name]} from {bound_by[name]}" for name in names)
                raise CallError(
                    "A0810",
                    f"`{tensor.name}` of `{variant.name}` has the wrong size on axis {axis}",
                    expected=f"{shape_text(dim)} = {expected}" if names else str(expected),
                    got=f"{size}, of shape {list(shapes[tensor.name])}",
                    help=f"{givers}; `{tensor.name}` is declared [{_dims(tensor)}]"
                    if names
                    else f"declared [{_dims(tensor)}]",
                )
    return extents


def _dims(tensor: Tensor) -> str:
    return ", ".join(map(shape_text, tensor.dims))


def _rank_error(tensor: Tensor, shape: tuple[int, ...]) -> CallError:
    return CallError(
        "A0809",
        f"`{tensor.name}` has {len(shape)} ax{'i' if len(shape) == 1 else 'e'}s",
        expected=f"[{_dims(tensor)}]",
        got=f"shape {list(shape)}",
        help="reshape it, or declare the axes it has",
    )


def _unbound(tensor: Tensor, axis: int, dim: Expr, extents: Mapping[str, int]) -> CallError:
    unknown = sorted({n.name for n in walk(dim) if isinstance(n, Extent) and n.name not in extents})
    return CallError(
        "A0811",
        f"nothing binds `{unknown[0]}` on axis {axis} of `{tensor.name}`",
        expected=f"a tensor with an axis that is `{unknown[0]}` alone",
        got=shape_text(dim),
        help=f"declare the axis as a bare name, or pass a tensor whose shape binds `{unknown[0]}`",
    )


_SIGNS = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "floordiv": ("//", 2), "mod": ("%", 2)}


def shape_text(dim: Expr) -> str:
    """A shape expression as a person writes it."""
    done: dict[Expr, tuple[str, int]] = {}  # text, how tightly it binds
    for node in walk(dim):
        if isinstance(node, Binary) and node.op in _SIGNS:
            sign, level = _SIGNS[node.op]
            (left, left_level), (right, right_level) = done[node.left], done[node.right]
            left = left if left_level >= level else f"({left})"
            right = right if right_level > level else f"({right})"
            done[node] = f"{left} {sign} {right}", level
        elif isinstance(node, Binary):
            done[node] = f"{node.op}({done[node.left][0]}, {done[node.right][0]})", 3
        elif isinstance(node, Const):
            done[node] = str(node.value), 3
        elif isinstance(node, Extent):
            done[node] = node.name, 3
        else:
            raise ValueError(f"{type(node).__name__} in a shape expression")
    return done[dim][0]


def check_requires(variant: Variant, params: Mapping[str, Any], extents: Mapping[str, int]) -> None:
    """Check the variant's ``require`` conditions for a call. Raises CallError A0812 where one does not hold.

    ``params`` holds a scalar or a per-request array for each parameter. Values in host memory are read; a condition
    over an array on a device is refused with A0813, since reading it would synchronise.
    """
    for require in variant.requires:
        used = sorted({node.name for node in walk(require.cond) if isinstance(node, Param)})
        batch = {name: _on_host(variant, name, params[name]) for name in used if is_array(params[name])}
        for request in range(max((len(values) for values in batch.values()), default=1)):
            scalars = {name: batch[name][request] if name in batch else params[name] for name in used}
            if not _holds(variant, require.cond, scalars, extents):
                where = f" for request {request}" if batch else ""
                values = ", ".join(f"{name} = {value}" for name, value in scalars.items())
                spans = variant.spans.get(require.cond, ())
                raise CallError(
                    "A0812",
                    f"`{variant.name}` requires: {require.text}",
                    span=spans[0] if spans else None,
                    expected="a true condition",
                    got=(f"false{where}" + (f" with {values}" if values else "")),
                    help="pass values that meet it; the condition stands in the variant's `require`",
                )


def _on_host(variant: Variant, name: str, array: Any) -> list[Value]:
    """The elements of an array that lies in host memory."""
    device = getattr(getattr(array, "device", None), "type", "cpu")
    if type(array).__module__.startswith("cupy") or device != "cpu":
        raise CallError(
            "A0813",
            f"a `require` of `{variant.name}` reads `{name}`, which lies on the device",
            expected="a Python number or an array in host memory",
            got=_shown(array),
            help="reading it would wait for the device; pass it in host memory, or leave the condition out",
        )
    values: list[Value] = array.reshape(-1).tolist()
    return values


def _holds(variant: Variant, cond: Expr, params: Mapping[str, Any], extents: Mapping[str, int]) -> bool:
    from attncc.passes.canonicalize import simplify

    def known(node: Expr) -> Expr:
        if isinstance(node, Param):
            return Const(params[node.name], node.type)
        if isinstance(node, Extent):
            return Const(extents[node.name], Type.I32)
        return simplify(node)

    result = rewrite(cond, known)
    if not isinstance(result, Const):
        raise ValueError(f"`require` of {variant.name} did not fold: {cond!r}")
    return bool(result.value)


def refuses_starts(variant: Variant) -> str | None:
    """Why a call of this variant cannot take ``q_start`` or ``k_start``; None if it can.

    A tensor over ``qo_len`` or ``kv_len`` holds storage slots. Indexed by a position (``q``, ``k``) it means the same
    only while positions count from the first stored key, so given starts would read other elements than were meant.
    """
    for _, root in variant.roots():
        for node in walk(root):
            if not isinstance(node, Load):
                continue
            for dim, index in zip(variant.tensor(node.tensor).dims, node.indices, strict=True):
                sized = {n.name for n in walk(dim) if isinstance(n, Extent)} & {"qo_len", "kv_len"}
                positions = [n.axis for n in walk(index) if isinstance(n, Coord) and n.axis in ("q", "k")]
                if sized and positions:
                    storage = "`own` or `row`" if positions[0] == "q" else "`col`"
                    return (
                        f"`{node.tensor}` has a {sized.pop()} axis that is indexed by the position `{positions[0]}`; "
                        f"index it by {storage} to give explicit starts"
                    )
    return None
