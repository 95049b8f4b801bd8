"""What the portable family compiles to, without a GPU: no spills, instruction counts as predicted, limits respected."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from attncc.codegen.families import merge, mma_sm80
from attncc.codegen.families.entries import SYMBOLS
from attncc.codegen.nvrtc import Compiled, compile_cuda
from attncc.codegen.sass import disassemble, histogram
from tests.unit import mma_sm80_variants as variants

ENTRY, MERGE = SYMBOLS["main"], SYMBOLS["merge"]
# What the family calls heavy, of the hand-written variants.
HEAVY = {"rope": "key", "sigmoid": "weight", "retention": "weight", "normed": "output", "distance": "gather"}


def config_of(name: str, dtype: mma_sm80.Dtype, head_dim: int, head_dim_v: int, arch: str) -> mma_sm80.Config:
    return mma_sm80.choose(dtype, head_dim, head_dim_v, arch, hooks=frozenset({HEAVY.get(name, "mask")}))


@functools.cache
def compiled(name: str, config: mma_sm80.Config, arch: str) -> Compiled:
    return compile_cuda(variants.source(name, config), arch=arch, flags=config.flags)


def check_budget(name: str, config: mma_sm80.Config, arch: str) -> None:
    made = compiled(name, config, arch)
    used = made.resources[ENTRY]
    print(f"{name} {config.dtype} D{config.head_dim} {arch}: {used.registers} registers, {made.seconds:.2f} s")
    assert made.warnings == ()
    for entry in (used, made.resources[MERGE]):
        assert (entry.spill_stores, entry.spill_loads, entry.stack) == (0, 0, 0)
    assert used.registers * config.threads * config.min_blocks <= 65536
    assert used.static_smem % 128 == 0, "dynamic shared memory begins where it ends, and tiles want that alignment"
    assert config.smem_bytes + used.static_smem <= mma_sm80.SHARED_BYTES[arch]
    counts = histogram(disassemble(made.cubin), ENTRY)
    assert counts["LDL"] == counts["STL"] == 0
    # One copy of the loop body: hooks on full and partial tiles differ, the matrix products do not.
    assert counts["HMMA"] == config.mma_per_tile
    assert counts["LDSM"] == config.ldmatrix_per_tile


def test_every_row_of_the_tile_table() -> None:
    """Each row with a shape and a target that takes it."""
    shapes = [(64, 64), (128, 128), (192, 128), (192, 192), (256, 256)]
    rows: dict[mma_sm80.Config, tuple[str, str]] = {}
    for head_dim, head_dim_v in shapes:
        for arch in ("sm_90a", "sm_80", "sm_86"):
            for name in ("causal", "distance"):
                config = config_of(name, "bf16", head_dim, head_dim_v, arch)
                rows.setdefault(config, (name, arch))
    taken = {(c.block_m, c.block_n, c.warps) for c in rows}
    assert {(t.block_m, t.block_n, t.warps) for *_, t in mma_sm80._TILES} == taken
    for config, (name, arch) in rows.items():
        check_budget(name, config, arch)


@pytest.mark.parametrize("name", [name for name in variants.NAMES if name not in ("causal", "distance")])
def test_every_hook_at_head_dim_128(name: str) -> None:
    check_budget(name, config_of(name, "f16", 128, 128, "sm_90a"), "sm_90a")


@pytest.mark.parametrize("arch", sorted(set(mma_sm80.SHARED_BYTES) - {"sm_90a", "sm_86"}))
def test_every_target(arch: str) -> None:
    check_budget("documents", config_of("documents", "bf16", 128, 128, arch), arch)


def test_odd_head_dims_and_precise() -> None:
    check_budget("gemma2", mma_sm80.choose("f16", 128, 128, "sm_90a", precise=True), "sm_90a")
    check_budget("rope", config_of("rope", "bf16", 80, 96, "sm_90a"), "sm_90a")


@pytest.mark.parametrize("arch", mma_sm80.SHARED_BYTES)
def test_every_head_dim_fits(arch: str) -> None:
    """Dynamic shared memory leaves room for what hooks stage; a thread's accumulators leave room for the rest."""
    for hooks in (frozenset[str](), frozenset({"output"})):
        for head_dim in mma_sm80.HEAD_DIMS:
            for head_dim_v in mma_sm80.HEAD_DIMS:
                config = mma_sm80.choose("bf16", head_dim, head_dim_v, arch, hooks=hooks)
                assert config.smem_bytes + 5 * 1024 <= mma_sm80.SHARED_BYTES[arch]
                rows = config.block_m // config.warps
                assert rows % 16 == 0
                assert config.block_n % 16 == 0
                assert rows * (config.head_dim_v + config.block_n) // 32 <= 192


def test_refuses_by_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Features:
        hooks: frozenset[str]

    assert mma_sm80.refuse(Features(frozenset({"logits", "mask", "sink"}))) == []
    assert mma_sm80.refuse(Features(frozenset({"mask", "after", "branch"}))) == ["after", "branch"]
    for head_dim, head_dim_v in ((128, 128), (80, 80), (192, 128), (32, 256)):
        assert mma_sm80.refuse_shape("bf16", head_dim, head_dim_v, "sm_90a") == []
    assert len(mma_sm80.refuse_shape("f32", 72, 16, "sm_75")) == 4
    with pytest.raises(ValueError, match="head_dim 72"):
        mma_sm80.choose("bf16", 72, 72, "sm_90a")


def test_the_grid_has_a_block_for_every_row_tile_of_every_head() -> None:
    config = mma_sm80.choose("bf16", 64, 64, "sm_90a")
    rule = config.launch_rule()
    assert (rule["block"], rule["smem"]) == (config.threads, config.smem_bytes)
    assert merge.launch_rule()["grid"] == ["ceil_div(max_qo_len * num_heads, 4)", "1", "batch"]
    most = 2**31 - 4096  # packed rows, or columns: what a call may have
    for rows in (1, 128, 129, 8192, 65535 * 128, 65535 * 128 + 1, most):
        for heads in (1, 8, 64, 65, 2**17, 2**25):
            for cols in (0, 1, 8192, most):
                sizes = {"max_qo_len": rows, "group": 1, "num_kv_heads": heads, "batch": 1, "max_kv_len": cols}
                x, y, z = variants.main_grid(config, sizes)
                tiles = -(-rows // config.block_m)
                if tiles * heads > 2**31:  # no kernel is started for so many
                    continue
                assert x < 2**31
                assert z <= 65535
                sections = z if tiles <= 65535 else 1
                assert x * sections >= heads > x * (sections - 1)
                assert y * (1 if tiles <= 65535 else z) >= tiles
    sizes = {"max_qo_len": 0, "group": 1, "num_kv_heads": 8, "batch": 0, "max_kv_len": 0}
    assert 0 in variants.main_grid(config, sizes)


def test_heads_alternate_within_the_cache() -> None:
    """Of 256 heads at head dim 128, as many at a time as have keys and values of 32 MiB, or as several blocks read."""
    config = mma_sm80.choose("bf16", 128, 128, "sm_90a")
    sizes = {"max_qo_len": 512, "group": 2, "num_kv_heads": 8, "batch": 32}
    sections = {cols: variants.main_grid(config, sizes | {"max_kv_len": cols}) for cols in (256, 700, 8192)}
    assert sections == {256: (256, 8, 1), 700: (86, 8, 3), 8192: (64, 8, 4)}
