"""A variant before its constants are known: what a front end hands over, and the tools instantiate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from attncc.diagnostics import LanguageError, Span
from attncc.ir.nodes import ParamDecl, Variant
from attncc.ir.types import I32_MAX, I32_MIN, U32_MAX, Type, Value


@dataclass(frozen=True)
class Definition:
    """A named variant with its ``const`` parameters still open.

    ``build`` receives a value for every constant and returns a verified Variant; it raises LanguageError for mistakes.
    """

    name: str
    constants: tuple[ParamDecl, ...]
    build: Callable[[Mapping[str, Value]], Variant]
    span: Span | None = None
    doc: str = ""

    def instantiate(self, constants: Mapping[str, Value] | None = None) -> Variant:
        """The variant with its constants substituted. Raises LanguageError A0504 (unknown), A0505 (missing), A0506."""
        given = dict(constants or {})
        known = {decl.name: decl for decl in self.constants}
        for name in given:
            if name not in known:
                raise LanguageError(
                    "A0504",
                    f"`{self.name}` has no constant `{name}`",
                    span=self.span,
                    expected=", ".join(known) or "no constants",
                    got=name,
                    help="only parameters declared `const` are set at compile time; others are set at the call",
                )
        values: dict[str, Value] = {}
        for name, decl in known.items():
            value = given.get(name, decl.default)
            if value is None:
                raise LanguageError(
                    "A0505",
                    f"constant `{name}` of `{self.name}` has no value",
                    span=self.span,
                    expected=f"a value of type {decl.type.value}",
                    got="nothing",
                    help=f"give it a default in the variant, or set it: -D {name}=...",
                )
            values[name] = check_value(name, value, decl.type)
        return self.build(values)


def check_value(name: str, value: object, type: Type) -> Value:
    """A Python scalar as a value of ``type``, or LanguageError A0506 naming what came instead."""
    if type is Type.BOOL and isinstance(value, bool):
        return value
    if type is Type.F32 and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type.is_integer and isinstance(value, int) and not isinstance(value, bool):
        low, high = (I32_MIN, I32_MAX) if type is Type.I32 else (0, U32_MAX)
        if low <= value <= high:
            return value
        raise LanguageError("A0506", f"`{name}` is out of range", expected=f"{low} to {high}", got=str(value))
    raise LanguageError(
        "A0506",
        f"`{name}` has the wrong type",
        expected=type.value,
        got=f"{value!r} of type {value.__class__.__name__}",
        help=f"pass a Python {'bool' if type is Type.BOOL else 'float' if type is Type.F32 else 'int'}",
    )
