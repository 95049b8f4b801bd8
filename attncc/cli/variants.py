"""Which variant a command works on, and the values given to its parameters on the command line (``-D name=value``)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from attncc.cli.files import read_source
from attncc.diagnostics import CallError, LanguageError

if TYPE_CHECKING:
    from attncc.binding import BoundVariant
    from attncc.ir.definition import Definition
    from attncc.ir.nodes import ParamDecl, Variant
    from attncc.ir.types import Value


def definitions(path: str) -> Mapping[str, Definition]:
    """Every variant of a file, or of standard input for ``-``."""
    from attncc.grammar import read

    return read(read_source(path)).definitions


def _parse_assignments(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier() or not value.strip():
            raise click.BadParameter(f"{text!r} is not name=value")
        if name.strip() in found:
            raise click.BadParameter(f"{name.strip()} is set twice")
        found[name.strip()] = value.strip()
    return found


def _define_option(help: str) -> Callable[[Any], Any]:
    return click.option("-D", "defines", multiple=True, metavar="NAME=VALUE", callback=_parse_assignments, help=help)


define_option = _define_option("Set a parameter or constant; several values with commas are one per request.")
constant_option = _define_option("Set a `const` parameter.")
variant_option = click.option("--variant", "name", metavar="NAME", help="Which variant, if the file has several.")


@dataclass(frozen=True)
class Chosen:
    """A canonical variant with its constants substituted, and the values of its parameters that were given.

    A value is a Python scalar, or a tuple with one per request.
    """

    definition: Definition
    constants: Mapping[str, Value]
    variant: Variant
    given: Mapping[str, Value | tuple[Value, ...]]

    def params(self, batch: int) -> dict[str, Any]:
        """Every parameter: a scalar, or an array [batch]. Raises CallError A0803 (no value), A0804 (not one each)."""
        found: dict[str, Any] = {}
        for decl in self.variant.params:
            value = self.given.get(decl.name, decl.default)
            if value is None:
                raise CallError(
                    "A0803",
                    f"parameter `{decl.name}` of `{self.variant.name}` has no value",
                    expected=f"a value of type {decl.type.value}",
                    got="nothing",
                    help=f"set it: -D {decl.name}={_EXAMPLES[decl.type.value]}",
                )
            found[decl.name] = self._per_request(decl, value, batch) if isinstance(value, tuple) else value
        return found

    def _per_request(self, decl: ParamDecl, values: tuple[Value, ...], batch: int) -> Any:
        import numpy as np

        if len(values) != batch:
            raise CallError(
                "A0804",
                f"`{decl.name}` has {len(values)} values for {batch} request{'s' if batch != 1 else ''}",
                expected=f"one value, or {batch}",
                got=str(len(values)),
                help="give one value per request, or set --batch",
            )
        return np.array(values, _NUMPY[decl.type.value])

    def bind(self, batch: int, tensors: Mapping[str, Any], operands: Mapping[str, Any]) -> BoundVariant:
        """The variant with all its values, as a call takes it."""
        from attncc.binding import BoundVariant

        return BoundVariant(self.definition, self.constants, self.variant, self.params(batch), tensors, operands)


_EXAMPLES = {"f32": "1.0", "i32": "128", "u32": "128", "bool": "true"}
_NUMPY = {"f32": "float32", "i32": "int32", "u32": "uint32", "bool": "bool"}


def choose(path: str, name: str | None, defines: Mapping[str, str]) -> Chosen:
    """The variant of ``path`` that the command line means, canonical, with its values.

    Raises CallError A0807 (no such variant, or several and none named), A0802 (no such parameter), A0804 (a value that
    is not of the parameter's type), and what reading the file raises.
    """
    from attncc.passes.canonicalize import canonicalize

    definition = _pick(path, definitions(path), name)
    constants = constants_of(definition, defines)
    variant = canonicalize(definition.instantiate(constants))
    declared = {decl.name: decl for decl in variant.params}
    for given in defines:
        if given not in declared and given not in constants:
            known = [*declared, *(decl.name for decl in definition.constants)]
            near = difflib.get_close_matches(given, known, n=1)
            tensor = any(tensor.name == given for tensor in variant.tensors)
            raise CallError(
                "A0802",
                f"`{definition.name}` has no parameter `{given}`",
                expected=", ".join(known) or "no parameters",
                got=given,
                help=f"`{given}` is a tensor: --input {given}=FILE.npy"
                if tensor
                else f"did you mean `{near[0]}`?"
                if near
                else f"its parameters are {', '.join(known)}"
                if known
                else "leave -D away",
            )
    values = {decl.name: _values(decl, defines[decl.name]) for decl in variant.params if decl.name in defines}
    return Chosen(definition, constants, variant, values)


def constants_of(definition: Definition, defines: Mapping[str, str]) -> dict[str, Value]:
    """The constants of a variant among the values of the command line. Raises CallError A0804."""
    return {decl.name: _value(decl, defines[decl.name]) for decl in definition.constants if decl.name in defines}


def _pick(path: str, found: Mapping[str, Definition], name: str | None) -> Definition:
    where = "standard input" if path == "-" else path
    if name is not None and name in found:
        return found[name]
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    names = ", ".join(found)
    if not found:
        raise CallError(
            "A0807",
            f"{where} has no variant",
            expected="`variant NAME { ... }`",
            got="masks and functions only",
            help="name a file that declares a variant",
        )
    if name is None:
        raise CallError(
            "A0807",
            f"{where} has {len(found)} variants",
            expected="one of " + names,
            got="none named",
            help=f"say which: --variant {next(iter(found))}",
        )
    near = difflib.get_close_matches(name, found, n=1)
    raise CallError(
        "A0807",
        f"{where} has no variant `{name}`",
        expected=names,
        got=name,
        help=f"did you mean `{near[0]}`?" if near else f"it has {names}",
    )


def _values(decl: ParamDecl, text: str) -> Value | tuple[Value, ...]:
    if "," not in text:
        return _value(decl, text)
    return tuple(_value(decl, part.strip()) for part in text.split(","))


def _value(decl: ParamDecl, text: str) -> Value:
    from attncc.ir.definition import check_value
    from attncc.ir.types import Type

    expected, got = f"a value of type {decl.type.value}", text
    try:
        if decl.type is Type.BOOL:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        value: Value = float(text) if decl.type is Type.F32 else int(text, 0)
        return check_value(decl.name, value, decl.type)
    except (ValueError, KeyError):
        pass
    except LanguageError as error:
        expected, got = error.expected or expected, error.got or got
    raise CallError(
        "A0804",
        f"`{decl.name}` is {decl.type.value}",
        expected=expected,
        got=got,
        help=f"for example -D {decl.name}={_EXAMPLES[decl.type.value]}",
    )
