"""Every variant of the repository that a family serves, through NVRTC: no spills."""

from __future__ import annotations

from pathlib import Path

import pytest

from attncc import grammar
from attncc.cache import Cache
from attncc.codegen.compile import compile_kernel, stages
from attncc.codegen.emit.source import emit_kernel
from attncc.codegen.families import mma_sm80
from attncc.codegen.families.entries import SYMBOLS
from attncc.codegen.nvrtc import compile_cuda
from attncc.codegen.select import KernelSpec, choose, features
from attncc.ir.nodes import Variant
from attncc.passes.canonicalize import canonicalize

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("examples/*.attn"), *ROOT.glob("tests/variants/v*.attn")])


def served() -> list[tuple[str, Variant]]:
    """(place, canonical variant) of every variant in FILES that the family does not refuse."""
    found = []
    for path in FILES:
        for name, definition in grammar.read(path).definitions.items():
            variant = canonicalize(definition.instantiate())
            if not mma_sm80.refuse(features(variant)):
                found.append((f"{path.stem}-{name}", variant))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100"])
def test_everything_served_compiles_without_spills(arch: str) -> None:
    variants = served()
    assert len(variants) > 40, "the examples and the acceptance set of masks and scores"
    wrong = {}
    for place, variant in variants:
        config = choose(variant, KernelSpec(arch=arch, dtype="bf16", head_dim=128, family="mma_sm80")).config
        source = emit_kernel(variant, mma_sm80, config)
        compiled = compile_kernel(source, config, arch)["main"]
        used = compiled.resources[SYMBOLS["main"]]
        # A stack alone is the math library's: sine and cosine of arguments beyond 1e5 keep 32 bytes there.
        if used.spill_loads or used.spill_stores or compiled.warnings:
            wrong[place] = (used, compiled.warnings)
    assert not wrong


@pytest.mark.slow
def test_what_is_taken_on_hopper_compiles_without_spills(tmp_path: Path) -> None:
    wrong, families = {}, []
    for place, variant in served():
        made = stages(variant, KernelSpec(arch="sm_90a", dtype="bf16", head_dim=128), cache=Cache(tmp_path))
        main = made.artifact.main
        families.append(made.artifact.manifest.family)
        if main.spill_loads or main.spill_stores or made.artifact.manifest.warnings:
            wrong[place] = main
    assert not wrong
    assert families.count("wgmma_sm90") > 30


def test_what_decides_is_not_fused() -> None:
    """exact:: arithmetic rounds each operation on the GPU, as the reference does; other arithmetic may fuse."""
    text = """#include "device/joint.cuh"
#include "device/math.cuh"
using exact = attncc::Fn<attncc::Accuracy::exact>;
extern "C" __global__ void k(float* x) {
  x[0] = exact::floor(exact::add(exact::mul(x[1], x[2]), x[3]));
  x[4] = x[5] * x[6] + x[7];
}
"""
    ptx = compile_cuda(text, arch="sm_90a").ptx.decode()
    assert ptx.count("fma.rn.f32") == 1
    assert ptx.count("mul.rn.f32") == ptx.count("add.rn.f32") == 1
