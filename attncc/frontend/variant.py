"""``@attncc.variant``: a function's signature and formulas become a Definition, the tracing happens on first use."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FrameType, FunctionType
from typing import Any, Concatenate, ParamSpec

from attncc.binding import VariantFactory
from attncc.diagnostics import AttnccError, LanguageError, Span, TracingError
from attncc.frontend import parameters as forms
from attncc.frontend.at import At
from attncc.frontend.finish import assemble
from attncc.frontend.hooks import Hooks
from attncc.frontend.location import FunctionPlace, caller, function_place
from attncc.frontend.trace import Trace, tracing
from attncc.frontend.value import TensorValue
from attncc.frontend.value import Value as Symbol
from attncc.ir.definition import Definition, check_value
from attncc.ir.nodes import Input, Operand, Param, ParamDecl, Tensor, Variant
from attncc.ir.placement import place
from attncc.ir.types import Value
from attncc.ir.verify import verify

P = ParamSpec("P")


def variant(function: Callable[Concatenate[At, P], Hooks]) -> VariantFactory[P]:
    """Declare an attention variant: ``function(at, *, parameters...)`` returns ``hooks(...)``.

    The result is called with the parameters by name and gives a BoundVariant. Parameters are annotated ``float``,
    ``int``, ``bool`` or ``UInt32`` (runtime scalars, one value or one per request), ``Const[...]`` (Python numbers
    while tracing), ``F32[Tensor, "num_heads"]`` and the like (captured tensors), ``Query[Tensor, "heads, dim"]`` and
    ``Key[...]`` (extra score operands). Raises TracingError A0607, A0608, A0610 and LanguageError A0506 for a signature
    that cannot be read; the formulas are traced on first use.
    """
    if not isinstance(function, FunctionType):
        raise TracingError(
            "A0607",
            "`variant` decorates a function",
            span=caller(),
            expected="a function of `at`",
            got=type(function).__name__,
            help="write `@attncc.variant` above `def name(at: At, *, ...)`",
        )
    declared = _declare(function, sys._getframe(1))
    definition = Definition(
        function.__name__,
        tuple(item.constant() for item in declared.scalars if item.form.const),
        lambda constants: _trace(function, declared, constants),
        span=declared.place.name if declared.place else None,
        doc=inspect.getdoc(function) or "",
    )
    return VariantFactory(definition)


@dataclass(frozen=True)
class _ScalarParameter:
    name: str
    form: forms.Scalar
    default: Value | None

    def constant(self) -> ParamDecl:
        return ParamDecl(self.name, self.form.type, self.default)


@dataclass(frozen=True)
class _Signature:
    scalars: tuple[_ScalarParameter, ...]
    tensors: Mapping[str, forms.TensorForm]
    place: FunctionPlace | None

    def annotation_span(self, name: str) -> Span | None:
        return self.place.annotations.get(name) if self.place else None


def _declare(function: FunctionType, frame: FrameType) -> _Signature:
    place = function_place(function.__code__, function.__globals__)

    def fail(code: str, message: str, span: Span | None, expected: str, got: str, help: str) -> TracingError:
        where = span or (place.name if place else caller())
        return TracingError(code, message, span=where, expected=expected, got=got, help=help)

    def span_of(name: str) -> Span | None:
        return place.parameters.get(name) if place else None

    try:
        parameters = list(inspect.signature(function).parameters.values())
    except NameError as error:  # since Python 3.14 annotations are evaluated here
        raise fail(
            "A0608",
            "an annotation names what is not defined",
            None,
            "names that are known where the function stands",
            str(error),
            "import it outside of `if TYPE_CHECKING`",
        ) from None
    flags = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    if function.__code__.co_flags & flags or not function.__name__.isidentifier():
        raise fail(
            "A0607",
            "a variant is a plain named function",
            None,
            "def name(at: At, *, ...)",
            "a lambda" if function.__name__ == "<lambda>" else "a generator or coroutine",
            "write it with `def` and `return hooks(...)`",
        )
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional:
        raise fail(
            "A0607",
            f"`{function.__name__}` takes no `at`",
            None,
            "a first parameter `at: At`",
            str(inspect.signature(function)),
            "coordinates and inputs come with it: `at.q`, `at.score`",
        )
    scalars: list[_ScalarParameter] = []
    tensors: dict[str, forms.TensorForm] = {}
    for parameter in parameters[1:]:
        name, span = parameter.name, span_of(parameter.name)
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            raise fail(
                "A0607",
                f"`{name}` is not keyword-only",
                span,
                "parameters after `*`",
                f"`{parameter}`",
                f"write `def {function.__name__}(at: At, *, {name.lstrip('*')}: ...)`",
            )
        form = _form(function, parameter, frame, place)
        if isinstance(form, forms.TensorForm):
            if parameter.default is not inspect.Parameter.empty:
                default = place.defaults.get(name) if place else None
                raise fail(
                    "A0610",
                    f"tensor `{name}` has a default",
                    default or span,
                    "no default",
                    f"{parameter.default!r:.60}",
                    "tensors are given when the variant is called",
                )
            tensors[name] = form
            continue
        default_value: Value | None = None
        if parameter.default is not inspect.Parameter.empty:
            try:
                default_value = check_value(name, parameter.default, form.type)
            except LanguageError as error:
                default = place.defaults.get(name) if place else None
                raise error.with_span(default or span or caller()) from None
        scalars.append(_ScalarParameter(name, form, default_value))
    return _Signature(tuple(scalars), tensors, place)


def _form(
    function: FunctionType, parameter: inspect.Parameter, frame: FrameType, place: FunctionPlace | None
) -> forms.Scalar | forms.TensorForm:
    """What a parameter's annotation declares, evaluated if it is a string (``from __future__ import annotations``)."""
    name, annotation = parameter.name, parameter.annotation
    at = place.annotations.get(name) or place.parameters.get(name) if place else None
    got = "no annotation" if annotation is inspect.Parameter.empty else f"{annotation!r:.80}"
    if isinstance(annotation, str):
        got = annotation
        try:
            annotation = eval(annotation, function.__globals__, {**frame.f_locals, **_closure(function)})
        except AttnccError as error:
            error.span = at
            raise
        except Exception as error:
            got = f"{annotation}, which raises {type(error).__name__}: {error}"
    form = forms.read(annotation)
    if form is None:
        raise TracingError(
            "A0608",
            f"the annotation of `{name}` declares no parameter",
            span=at or caller(),
            expected='float, int, bool, UInt32, Const[...], F32[Tensor, "..."] and the like',
            got=got,
            help=f'write `{name}: float` for a number, `{name}: F32[Tensor, "num_heads"]` for a tensor',
        )
    return form


def _closure(function: FunctionType) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _trace(function: FunctionType, declared: _Signature, constants: Mapping[str, Value]) -> Variant:
    """Run the function once on symbolic values and collect what it states. Raises TracingError, LanguageError."""
    known = dict(constants)
    runtime = [item for item in declared.scalars if not item.form.const]
    tensors, operands = _tensors(declared, known)
    arguments: dict[str, Any] = dict(known)
    arguments.update((item.name, Symbol(Param(item.name, item.form.type))) for item in runtime)
    arguments.update((tensor.name, TensorValue(tensor)) for tensor in tensors)
    arguments.update((operand.name, Symbol(Input(operand.name))) for operand in operands)
    with tracing(Trace({operand.name: operand.dim for operand in operands})) as trace:
        stated = function(At(), **arguments)
    name_span = declared.place.name if declared.place else None
    if not isinstance(stated, Hooks):
        raise TracingError(
            "A0616",
            f"`{function.__name__}` returned no hooks",
            span=name_span,
            expected="return hooks(...)",
            got="None" if stated is None else f"{type(stated).__name__}",
            help="end the function with `return hooks(logits=..., mask=...)`",
        )
    params = tuple(item.constant() for item in runtime)
    result, statements = assemble(function.__name__, params, tensors, operands, trace.requires, stated)
    result = replace(result, spans=statements.spans())
    try:
        verify(result)
    except LanguageError as error:
        place(error, result, statements.records)
        raise error.with_span(name_span) from None
    return result


def _tensors(declared: _Signature, constants: dict[str, Value]) -> tuple[tuple[Tensor, ...], tuple[Operand, ...]]:
    parameters = {item.name for item in declared.scalars} | set(declared.tensors)
    tensors: list[Tensor] = []
    operands: list[Operand] = []
    for name, form in declared.tensors.items():
        span = declared.annotation_span(name)
        try:
            dims = forms.dims(form.dims, constants, parameters)
        except AttnccError as error:
            raise error.with_span(span) from None
        if form.storage is not None:
            tensors.append(Tensor(name, form.storage, dims))
        elif len(dims) == 2:
            operands.append(Operand(name, form.role, *dims))
        else:
            raise TracingError(
                "A0609",
                f"operand `{name}` has {len(dims)} dims",
                span=span,
                expected="heads and channels",
                got=form.dims,
                help='write `Query[Tensor, "num_heads, 64"]`; rows or keys are the tensor\'s own leading axis',
            )
    return tuple(tensors), tuple(operands)
