"""Binding: a variant together with the values of its parameters and tensors, from Python or from a file.

Knows the IR, and arrays by their ``shape`` and ``dtype`` alone; it launches nothing and copies nothing. What a call
checks before it launches stands in attncc.shapes and is part of this module's surface.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from attncc.diagnostics import AttnccError, CallError, Note
from attncc.ir.definition import Definition, check_value
from attncc.ir.nodes import ParamDecl, Tensor, Variant
from attncc.ir.types import Storage, Value
from attncc.shapes import (
    DTYPES,
    bind_extents,
    check_requires,
    is_array,
    over_tokens,
    rank_error,
    refuses_starts,
    shape_text,
    shown,
    storage_of,
)

if TYPE_CHECKING:
    from attncc.grammar import Module

__all__ = [
    "DTYPES",
    "BoundVariant",
    "LoadedModule",
    "VariantFactory",
    "as_bound",
    "bind_extents",
    "check_requires",
    "is_array",
    "load",
    "over_tokens",
    "refuses_starts",
    "shape_text",
    "storage_of",
]

P = ParamSpec("P")


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
    handle: str = ""  # what a traced program calls the variant: a hash of its canonical text, see ``of_handle``

    @property
    def name(self) -> str:
        return self.variant.name

    def __repr__(self) -> str:
        given = {**self.constants, **self.params, **self.tensors, **self.operands}
        items = [f"{name}={shown(value)}" for name, value in given.items()]
        return f"{self.name}({', '.join(items)})"


class VariantFactory(Generic[P]):
    """A variant that can be called with its parameters by name: ``gemma2(softcap=30.0)`` gives a BoundVariant.

    Variants from Python and from files are the same to it. Constants are set by name too, ``attncc.load`` or not; each
    set of constants is built once.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self._built: dict[tuple[tuple[str, str], ...], tuple[Mapping[str, Value], Variant, str]] = {}
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
        filled, variant, handle = self._instance(constants)
        rest = {name: value for name, value in given.items() if name not in names}
        self._check_names(rest, variant)
        params = {declared.name: self._param(declared, rest.get(declared.name)) for declared in variant.params}
        tensors = {tensor.name: self._tensor(tensor, rest) for tensor in variant.tensors}
        operands = {
            operand.name: self._array(operand.name, f"{operand.role} operand", rest) for operand in variant.operands
        }
        return BoundVariant(self.definition, filled, variant, params, tensors, operands, handle)

    def instantiate(self, constants: Mapping[str, Value]) -> tuple[Mapping[str, Value], Variant]:
        """All constants with their values, and the verified canonical variant for them."""
        return self._instance(constants)[:2]

    def _instance(self, constants: Mapping[str, Value]) -> tuple[Mapping[str, Value], Variant, str]:
        filled = {declared.name: declared.default for declared in self.definition.constants} | dict(constants)
        known = {name: value for name, value in filled.items() if value is not None}
        key = tuple((name, repr(value)) for name, value in known.items())
        built = self._built.get(key)
        if built is None:
            from attncc.passes.canonicalize import canonicalize

            variant = canonicalize(self.definition.instantiate(known))
            built = self._built[key] = (known, variant, registered(self.definition, known, variant))
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
        if len(shape) > 1 or storage_of(value) is not Storage(declared.type.value):
            raise CallError(
                "A0804",
                f"`{declared.name}` of `{self.name}` is one {declared.type.value}, or one per request",
                expected=f"a Python number, or {declared.type.value}[batch]",
                got=shown(value),
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
        if len(value.shape) != len(tensor.dims) - (over_tokens(tensor) and len(value.shape) < len(tensor.dims)):
            raise rank_error(tensor, tuple(value.shape))
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


_registered: dict[str, tuple[Definition, Mapping[str, Value], Variant]] = {}


def registered(definition: Definition, constants: Mapping[str, Value], variant: Variant) -> str:
    """The handle of a variant: the same for one formula in every process, so that compiled programs may be kept."""
    from hashlib import blake2b

    from attncc.ir.text import dump

    handle = f"{variant.name}.{blake2b(dump(variant).encode(), digest_size=12).hexdigest()}"
    _registered.setdefault(handle, (definition, constants, variant))
    return handle


def of_handle(handle: str, params: Mapping[str, Any], tensors: Mapping[str, Any]) -> BoundVariant:
    """A variant of this process, by its handle, with other values. Raises CallError A0808 for an unknown handle."""
    found = _registered.get(handle)
    if found is None:
        raise CallError(
            "A0808",
            f"no variant `{handle}` was made in this process",
            expected="a variant that was bound here before the program that calls it runs",
            got=handle,
            help="call the variant, gemma2(...), once before a saved program is loaded",
        )
    return BoundVariant(*found, params, tensors, {}, handle)


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
            got=shown(value),
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
