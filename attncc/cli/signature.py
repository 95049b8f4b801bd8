"""A variant in one line, as ``attncc check`` lists it."""

from __future__ import annotations

from attncc.binding import shape_text
from attncc.ir.definition import Definition
from attncc.ir.nodes import Expr, ParamDecl, Variant


def signature(definition: Definition, variant: Variant) -> str:
    """``gemma2(softcap: f32 = 50.0, w: i32 = 4096): logits, mask``; constants first."""
    parts = [f"const {_parameter(decl)}" for decl in definition.constants]
    parts += [_parameter(decl) for decl in variant.params]
    parts += [f"{tensor.name}: {tensor.storage.value}[{_shape(tensor.dims)}]" for tensor in variant.tensors]
    parts += [f"{one.name}: {one.role}[{_shape((one.heads, one.dim))}]" for one in variant.operands]
    hooks = list(dict.fromkeys(name for branch in variant.branches for name in branch.hooks()))
    hooks = ["normalize" if name == "sink" else name for name in hooks]
    hooks += ["output"] if variant.output is not None else []
    hooks += [f"emit {emit.name}" for emit in variant.emits]
    return f"{variant.name}({', '.join(parts)}): {', '.join(hooks) or 'plain softmax attention'}"


def _parameter(decl: ParamDecl) -> str:
    if decl.default is None:
        return f"{decl.name}: {decl.type.value}"
    default = str(decl.default).lower() if isinstance(decl.default, bool) else repr(decl.default)
    return f"{decl.name}: {decl.type.value} = {default}"


def _shape(dims: tuple[Expr, ...]) -> str:
    return ", ".join(shape_text(dim) for dim in dims)
