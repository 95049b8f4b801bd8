"""The order of the passes from a verified variant to the one a kernel is made of. Knows no pass from inside.

The cache key and the twin test use the form after the first ``canonicalize`` alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from attncc.diagnostics import LanguageError
from attncc.ir.nodes import Variant
from attncc.ir.verify import verify
from attncc.passes.canonicalize import Canonicalize
from attncc.passes.strength import ReduceStrength
from attncc.passes.unroll import Unroll


class Pass(Protocol):
    """A named function from a verified variant to one of the same meaning."""

    @property
    def name(self) -> str: ...

    def apply(self, variant: Variant) -> Variant: ...


@dataclass(frozen=True)
class Step:
    """What an observer sees: a pass that ran, its result, and how long it took (without the verifier)."""

    name: str
    variant: Variant
    seconds: float


PIPELINE: tuple[Pass, ...] = (
    Canonicalize(),
    Unroll(),
    ReduceStrength(),
    Canonicalize("settle"),
)


def run(variant: Variant, passes: Sequence[Pass] = PIPELINE, observer: Callable[[Step], None] | None = None) -> Variant:
    """Apply ``passes`` in order, verifying the variant before the first and after each.

    Raises LanguageError if the given variant is not well formed, RuntimeError naming the pass if one broke it.
    """
    verify(variant)
    for item in passes:
        start = time.perf_counter()
        variant = item.apply(variant)
        seconds = time.perf_counter() - start
        try:
            verify(variant)
        except LanguageError as error:
            raise RuntimeError(f"pass `{item.name}` made an ill-formed variant: {error}") from error
        if observer is not None:
            observer(Step(item.name, variant, seconds))
    return variant
