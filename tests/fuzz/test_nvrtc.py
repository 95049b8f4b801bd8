"""Random variants through the emitter, NVRTC and ptxas: what the verifier accepts and the family serves compiles."""

from __future__ import annotations

import hypothesis
import pytest

from attncc.codegen.emit.source import emit_kernel
from attncc.codegen.families import mma_sm80
from attncc.codegen.families.entries import SYMBOLS
from attncc.codegen.nvrtc import compile_cuda
from attncc.ir.nodes import Variant
from attncc.ir.verify import verify
from attncc.passes.pipeline import run
from tests.strategies import variants

ARCHES = ("sm_80", "sm_90a")
# What a random formula may well deserve: pointless comparison of an unsigned value with zero.
TRUE_OF_THE_FORMULA = ("#186-D",)


def served_variants(count: int) -> list[Variant]:
    """The first ``count`` different variants of the strategy, the same in every run."""
    found: dict[Variant, None] = {}

    @hypothesis.settings(
        max_examples=4 * count,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(variants(served=True))
    def collect(variant: Variant) -> None:
        if len(found) < count:
            found.setdefault(variant)

    collect()
    return list(found)


@pytest.mark.timeout(3600)
def test_random_variants_compile(fuzz_full: bool) -> None:
    """No error, no warning of our making; the smallest tiles, because the text under test is the Variant's."""
    count = 200 if fuzz_full else 10
    made = served_variants(count)
    assert len(made) == count
    warned: dict[int, list[str]] = {}
    for index, variant in enumerate(made):
        verify(variant)
        arch = ARCHES[index % 2]
        config = mma_sm80.choose("bf16", 64, 64, arch)
        source = emit_kernel(run(variant), mma_sm80, config)
        compiled = compile_cuda(source.text, arch=arch, name=source.name, flags=config.flags)
        unexpected = [text for text in compiled.warnings if not any(code in text for code in TRUE_OF_THE_FORMULA)]
        if unexpected:
            warned[index] = unexpected
        assert SYMBOLS["main"] in compiled.resources
    assert not warned
