"""What the portable family compiles to, without a GPU: no spills, instruction counts as predicted, limits respected."""

from __future__ import annotations

import dataclasses

import pytest

from attncc.codegen.families import mma_sm80
from attncc.codegen.nvrtc import compile_cuda
from attncc.codegen.sass import disassemble, histogram
from tests.unit import mma_sm80_variants as variants

ENTRY = mma_sm80.ENTRIES["main"]


def check_budget(name: str, config: mma_sm80.Config, arch: str) -> None:
    compiled = compile_cuda(variants.source(name, config), arch=arch)
    used = compiled.resources[ENTRY]
    print(f"{name} {config.dtype} D{config.head_dim} {arch}: {used.registers} registers, {compiled.seconds:.2f} s")
    assert compiled.warnings == ()
    assert (used.spill_stores, used.spill_loads, used.stack) == (0, 0, 0)
    assert used.registers * config.threads * config.min_blocks <= 65536
    assert config.smem_bytes + used.static_smem <= mma_sm80.SHARED_BYTES[arch]
    counts = histogram(disassemble(compiled.cubin), ENTRY)
    assert counts["LDL"] == counts["STL"] == 0
    # One copy of the loop body: hooks on full and partial tiles differ, the matrix products do not.
    assert counts["HMMA"] == config.mma_per_tile
    assert counts["LDSM"] == config.ldmatrix_per_tile


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("dtype", mma_sm80.DTYPES)
@pytest.mark.parametrize("head_dim", mma_sm80.HEAD_DIMS)
@pytest.mark.parametrize("name", ["causal", "gemma2", "alibi", "sink"])
def test_no_spills_and_counts_as_predicted(name: str, head_dim: int, dtype: mma_sm80.Dtype, arch: str) -> None:
    check_budget(name, mma_sm80.choose(dtype, head_dim, head_dim, arch), arch)


@pytest.mark.parametrize("arch", sorted(set(mma_sm80.SHARED_BYTES) - {"sm_80", "sm_90a"}))
def test_every_target(arch: str) -> None:
    check_budget("documents", mma_sm80.choose("bf16", 128, 128, arch), arch)


def test_precise_compiles_without_spills() -> None:
    check_budget("gemma2", mma_sm80.choose("f16", 128, 128, "sm_90a", precise=True), "sm_90a")


def test_refuses_by_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Features:
        hooks: frozenset[str]

    assert mma_sm80.refuse(Features(frozenset({"logits", "mask", "sink"}))) == []
    assert mma_sm80.refuse(Features(frozenset({"mask", "weight", "branch"}))) == ["branch", "weight"]
    assert mma_sm80.refuse_shape("bf16", 128, 128, "sm_90a") == []
    reasons = mma_sm80.refuse_shape("f32", 72, 64, "sm_75")
    assert len(reasons) == 4
    with pytest.raises(ValueError, match="head_dim 72"):
        mma_sm80.choose("bf16", 72, 72, "sm_90a")


def test_a_lone_request_is_launched_over_its_packed_rows() -> None:
    config = mma_sm80.choose("bf16", 64, 64, "sm_90a")
    rule = config.launch_rule()
    assert rule["grid"] == [f"ceil_div(max_qo_len * group, {config.block_m})", "num_kv_heads", "batch"]
    assert (rule["block"], rule["smem"]) == (config.threads, config.smem_bytes)
