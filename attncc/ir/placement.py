"""Which statement of a variant an error of the verifier is about. Knows variants and spans, no front end.

Equal expressions are one node, so the node alone does not tell the ``score`` that is wrong in ``mask`` from the one
that is right in ``logits``; a variant reduced to one statement does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from attncc.diagnostics import AttnccError, LanguageError, Span
from attncc.ir import build
from attncc.ir.nodes import Branch, Expr, Variant
from attncc.ir.verify import verify

Spans = Mapping[Expr, Sequence[Span]]


def place(error: AttnccError, variant: Variant, records: Mapping[str, Spans]) -> str | None:
    """Move ``error``, which ``verify(variant)`` raised, to the span its statement gives the node; return its name.

    None if no statement alone has that error. ``records`` holds the spans of each statement under the name that
    ``parts`` yields for it.
    """
    for where, alone in parts(variant):
        spans = {expr: tuple(found) for expr, found in records.get(where, {}).items()}
        try:
            verify(replace(alone, spans=spans))
        except LanguageError as found:
            if (found.code, found.message) == (error.code, error.message) and found.span is not None:
                error.span = found.span
                return where
    return None


def parts(variant: Variant) -> list[tuple[str, Variant]]:
    """For every statement its name and the variant reduced to it.

    The names: "declarations", "require 0", "logits", "x.query", "output", "emit e".
    """
    names = tuple(branch.name for branch in variant.branches)
    bare = replace(
        variant,
        requires=(),
        branches=tuple(Branch(name) for name in names),
        output=build.f32(0.0) if "" not in names else None,
        emits=(),
    )
    found = [("declarations", bare)]
    found.extend((f"require {i}", replace(bare, requires=(item,))) for i, item in enumerate(variant.requires))
    for branch in variant.branches:
        prefix = f"{branch.name}." if branch.name else ""
        for hook, expr in branch.hooks().items():
            with_hook = [Branch(branch.name, **{hook: expr})]
            if hook in ("normalize", "sink"):  # what is wrong with these may be that `weight` is there, or is not
                with_hook.append(Branch(branch.name, weight=branch.weight, **{hook: expr}))
            for one in with_hook:
                branches = tuple(one if name == branch.name else Branch(name) for name in names)
                found.append((prefix + hook, replace(bare, branches=branches)))
    if variant.output is not None:
        found.append(("output", replace(bare, output=variant.output)))
    found.extend((f"emit {emit.name}", replace(bare, emits=(emit,))) for emit in variant.emits)
    return found
