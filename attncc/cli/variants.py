"""Which variant a command works on, and the values given to its parameters on the command line (``-D name=value``)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from attncc.cli.files import read_source
from attncc.diagnostics import CallError, LanguageError

if TYPE_CHECKING:
    from attncc.ir.definition import Definition
    from attncc.ir.nodes import ParamDecl, Variant
    from attncc.ir.types import Value

_F = TypeVar("_F", bound=Callable[..., Any])


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


define_option = click.option(
    "-D",
    "defines",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_parse_assignments,
    help="Set a parameter or constant; several values with commas are one per request.",
)
variant_option = click.option("--variant", "name", metavar="NAME", help="Which variant, if the file has several.")


@dataclass(frozen=True)
class Chosen:
    """A variant with its constants substituted, and the values of the parameters that were given or have defaults.

    A value is a Python scalar, or a tuple with one per request.
    """

    definition: Definition
    constants: Mapping[str, Value]
    variant: Variant
    params: Mapping[str, Value | tuple[Value, ...]]

    def require_params(self) -> None:
        """Raise CallError A0820 for a parameter without a value."""
        for decl in self.variant.params:
            if decl.name not in self.params:
                raise CallError(
                    "A0820",
                    f"parameter `{decl.name}` of `{self.variant.name}` has no value",
                    expected=f"a value of type {decl.type.value}",
                    got="nothing",
                    help=f"set it: -D {decl.name}={_EXAMPLES[decl.type.value]}",
                )


_EXAMPLES = {"f32": "1.0", "i32": "128", "u32": "128", "bool": "true"}


def choose(path: str, name: str | None, defines: Mapping[str, str]) -> Chosen:
    """The variant of ``path`` that the command line means, canonical, with its values.

    Raises CallError A0821 (no such variant, or several and none named), A0822 (no such parameter), A0823 (a value that
    does not read as the parameter's type), and what reading the file raises.
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
                "A0822",
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
    params: dict[str, Value | tuple[Value, ...]] = {}
    for param in variant.params:
        if param.name in defines:
            params[param.name] = _values(param, defines[param.name])
        elif param.default is not None:
            params[param.name] = param.default
    return Chosen(definition, constants, variant, params)


def constants_of(definition: Definition, defines: Mapping[str, str]) -> dict[str, Value]:
    """The constants of a variant among the values of the command line. Raises CallError A0823."""
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
            "A0821",
            f"{where} has no variant",
            expected="`variant NAME { ... }`",
            got="masks and functions only",
            help="name a file that declares a variant",
        )
    if name is None:
        raise CallError(
            "A0821",
            f"{where} has {len(found)} variants",
            expected="one of " + names,
            got="none named",
            help=f"say which: --variant {next(iter(found))}",
        )
    near = difflib.get_close_matches(name, found, n=1)
    raise CallError(
        "A0821",
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

    try:
        if decl.type is Type.BOOL:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        value: Value = float(text) if decl.type is Type.F32 else int(text, 0)
        return check_value(decl.name, value, decl.type)
    except (ValueError, KeyError):
        wrong = text
    except LanguageError as error:
        wrong = error.got or text
    raise CallError(
        "A0823",
        f"`{decl.name}` is {decl.type.value}",
        expected=f"a value of type {decl.type.value}",
        got=wrong,
        help=f"for example -D {decl.name}={_EXAMPLES[decl.type.value]}",
    )
