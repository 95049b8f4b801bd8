"""What the Hopper family compiles to, without a GPU: no spills, no serialised products, counts as predicted."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter

import pytest

from attncc.bench import cases
from attncc.codegen.compile import stages
from attncc.codegen.families import mma_sm80, transform, wgmma_products, wgmma_sm90
from attncc.codegen.families.entries import SYMBOLS
from attncc.codegen.nvrtc import Compiled, compile_cuda
from attncc.codegen.sass import disassemble, histogram
from attncc.codegen.select import KernelSpec
from tests.unit import mma_sm80_variants as variants

ENTRY = SYMBOLS["main"]

# What else than a mask or a sink acts on scores.
HOOKS = {
    "gemma2": {"logits"},
    "alibi": {"logits"},
    "sigmoid": {"weight"},
    "retention": {"weight"},
    "distance": {"logits", "diagonal"},
}


@functools.cache
def compiled(name: str, config: wgmma_sm90.Config) -> Compiled:
    return compile_cuda(variants.source(name, config, wgmma_sm90), arch="sm_90a")


def check_budget(name: str, config: wgmma_sm90.Config) -> None:
    made = compiled(name, config)
    used = made.resources[ENTRY]
    print(f"{name} {config.dtype} D{config.head_dim}: {used.registers} registers, {made.seconds:.2f} s")
    assert made.warnings == ()  # ptxas says C75xx where it serialises wgmma
    assert (used.spill_stores, used.spill_loads, used.stack) == (0, 0, 0)
    assert used.static_smem % 1024 == 0, "dynamic shared memory begins where it ends, and tiles want that alignment"
    assert config.smem_bytes + used.static_smem <= mma_sm80.SHARED_BYTES["sm_90a"]
    loader, multiplier = config.registers
    # What is taken must have been given back: nobody else has any.
    assert 128 * (loader + config.consumers * multiplier) <= used.registers * config.threads <= 65536
    counts = histogram(disassemble(made.cubin), ENTRY)
    assert counts["LDL"] == counts["STL"] == 0
    # A warp does a tile again where the first tile's largest logit does not serve; weights have none.
    steady = "weight" not in HOOKS.get(name, set())
    assert counts["HMMA"] == (config.block_n // 8 if steady else 0)
    assert counts["HGMMA"] == config.products


def check_uniform(sass: str) -> None:
    """Consumers count their rings in uniform registers, where products want what follows from them.

    Where ptxas is short of some, anywhere in the kernel, it gives up all of them, for some 60 instructions more a tile:
    in tiles of hooks that gather it does.
    """
    assert histogram(sass, ENTRY)["USEL"] >= 9
    lines = sass[sass.index(f".text.{ENTRY}") :].splitlines()
    products = [i for i, line in enumerate(lines) if "HGMMA" in line]
    moved = histogram("\n".join(lines[products[0] : products[-1]]))["R2UR"]
    assert moved <= 6, "what one lane reads for all moves to a uniform register; no place of a tile does"


@pytest.mark.parametrize("shape", wgmma_sm90.SHAPES, ids=lambda shape: "/".join(map(str, shape)))
def test_every_row_of_the_tile_table(shape: tuple[int, int]) -> None:
    for name, hooks in (
        ("dense", set[str]()),
        ("causal", {"mask"}),
        ("gemma2", {"mask", "logits"}),
        ("sink", {"mask", "sink", "gather"}),
    ):
        config = wgmma_sm90.choose("bf16", *shape, "sm_90a", hooks=frozenset(hooks))
        check_budget(name, config)
        if "gather" not in hooks:
            check_uniform(disassemble(compiled(name, config).cubin))


@pytest.mark.parametrize("name", variants.NAMES)
def test_every_hook_at_head_dim_128(name: str) -> None:
    hooks = frozenset({"logits"} if name in HOOKS or name == "documents" else {"output"} if name == "normed" else ())
    check_budget(name, wgmma_sm90.choose("f16", 128, 128, "sm_90a", hooks=hooks))


# Instructions and reads of shared memory up to the wait for P V, for a thread's 64 pairs of a full tile at head dim
# 128, where each takes one special function: without a hook 109 and none.
FULL = {
    "alibi": [(183, 5)],
    "relative": [(123, 5), (203, 35)],  # beyond the table's end, before it
    "t5_bias": [(123, 5), (203, 35)],
}


def before_the_wait(block_n: int) -> int:
    """A thread's exponentials of a tile before it waits for the product with V that is under way: five eighths."""
    return block_n // 16 * 5 // 8 * 8


def blocks(sass: str) -> list[Counter[str]]:
    """The instructions of every straight piece of code."""
    ends = r"^.*\b(?:BRA|BSYNC|EXIT)\b.*$|^\.L_\w+:$"
    return [histogram(text) for text in re.split(ends, sass, flags=re.MULTILINE)]


@pytest.mark.parametrize("name", FULL)
def test_what_hooks_add_stands_beside_the_exponentials(name: str) -> None:
    """In one block with them, a table's value read once for both of a thread's rows, and none where all are one."""
    variant = getattr(cases, name).definition.instantiate({})
    made = stages(variant, KernelSpec("sm_90a", "bf16", 128, family="wgmma_sm90"))
    sass = disassemble(made.compiled["main"].cubin)
    first = before_the_wait(128)
    found = sorted((sum(counts.values()), counts["LDS"]) for counts in blocks(sass) if counts["MUFU"] == first)
    found = [block for block in found if block[0] > 110]  # the others are those of tiles with a mask
    assert len(found) == len(FULL[name])
    for (count, reads), (most, most_reads) in zip(found, FULL[name], strict=True):
        assert count <= most
        assert reads <= most_reads
    check_uniform(sass)


@pytest.mark.parametrize("name", ["dense", "causal", "gemma2", "alibi"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_what_is_made_of_weights_stands_beside_exponentials(name: str, head_dim: int) -> None:
    """Behind the wait for P V, the sums and pairs of the weights before it beside the exponentials of the others."""
    hooks = {"dense": set[str](), "causal": {"mask"}}.get(name, {"mask", "logits"})
    config = wgmma_sm90.choose("bf16", head_dim, head_dim, "sm_90a", hooks=frozenset(hooks))
    first, scores = before_the_wait(config.block_n), config.block_n // 2
    found = [
        counts for counts in blocks(disassemble(compiled(name, config).cubin)) if counts["F2FP"] and counts["MUFU"]
    ]
    (beside,) = [counts for counts in found if counts["MUFU"] >= 8]
    assert beside["MUFU"] == scores - first
    assert beside["F2FP"] >= first // 2
    assert beside["FADD"] >= first * 3 // 4  # in twos, whose sums may stand behind


@pytest.mark.parametrize("shape", wgmma_sm90.SHAPES, ids=lambda shape: "/".join(map(str, shape)))
def test_products_add_a_bias_by_key(shape: tuple[int, int]) -> None:
    """By a step more for each tile, wherever shared memory holds what they add; no more is left of it in the loop."""
    variant = cases.causal_key_bias.definition.instantiate({})
    made = stages(variant, KernelSpec("sm_90a", "bf16", *shape, family="wgmma_sm90"))
    config, main = made.choice.config, made.compiled["main"]
    used = main.resources[ENTRY]
    assert config.adds
    assert main.warnings == ()
    assert (used.spill_stores, used.spill_loads, used.stack) == (0, 0, 0)
    assert used.static_smem % 1024 == 0
    assert config.smem_bytes + used.static_smem <= mma_sm80.SHARED_BYTES["sm_90a"]
    sass = disassemble(main.cubin)
    counts = histogram(sass, ENTRY)
    assert counts["HGMMA"] == config.products
    assert counts["HMMA"] == config.block_n // 8
    assert counts["UBLKCP"] == 1  # nobody stages: what is added is copied
    made_before = made.compiled["biases"].resources[SYMBOLS["biases"]]
    assert (made_before.spill_stores, made_before.spill_loads, made_before.stack) == (0, 0, 0)
    assert made_before.registers <= 32, "as many threads as a multiprocessor holds hide what they read"
    block = max(blocks(sass), key=lambda found: found["MUFU"])
    assert block["MUFU"] >= before_the_wait(config.block_n) - 2  # the first two may stand with what comes before
    assert block["LDS"] <= 1
    assert sum(block.values()) <= block["MUFU"] + config.block_n // 2 + 12
    check_uniform(sass)


def test_products_add_in_bf16_alone_and_beside_masks_and_sinks() -> None:
    """f16 does not hold the pieces of every bias; hooks that gather or output need their own tiles."""
    adds = {"logits", "key bias"}
    for hooks, dtype, expected in (
        (adds, "bf16", True),
        (adds | {"mask", "sink", "query", "key"}, "bf16", True),
        (adds | {"mask", "band"}, "bf16", True),
        (adds, "f16", False),
        (adds | {"mask", "gather"}, "bf16", False),
        ({"logits", "mask"}, "bf16", False),
    ):
        assert wgmma_sm90.choose(dtype, 128, 128, "sm_90a", hooks=frozenset(hooks)).adds == expected


@pytest.mark.parametrize("name", ["rope", "normed"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_vectors_are_transformed_in_registers(name: str, head_dim: int) -> None:
    config = wgmma_sm90.choose("bf16", head_dim, head_dim, "sm_90a", hooks=frozenset({"mask"}))
    wrapper = f'#include "{transform.HEADER}"\n' + transform.render_wrapper()
    made = compile_cuda(variants.definitions(name, config, wgmma_sm90) + wrapper, arch="sm_90a")
    used = made.resources[SYMBOLS["transform"]]
    assert (used.spill_stores, used.spill_loads, used.stack) == (0, 0, 0)
    assert used.registers <= 64, "four blocks of 256 threads an SM hide what they read"


def test_precise_and_checked() -> None:
    config = wgmma_sm90.choose("f16", 128, 128, "sm_90a", precise=True, hooks=frozenset({"logits"}))
    check_budget("gemma2", dataclasses.replace(config, checked=True))


def test_refuses_by_name() -> None:
    @dataclasses.dataclass(frozen=True)
    class Features:
        hooks: frozenset[str]

    assert wgmma_sm90.refuse(Features(frozenset({"logits", "mask", "sink"}))) == []
    assert wgmma_sm90.refuse(Features(frozenset({"mask", "query", "emit", "branch"}))) == ["branch", "emit"]
    assert wgmma_sm90.refuse_shape("bf16", 128, 128, "sm_90a") == []
    assert len(wgmma_sm90.refuse_shape("f32", 72, 16, "sm_90")) == 3
    with pytest.raises(ValueError, match="head dims 72"):
        wgmma_sm90.choose("bf16", 72, 72, "sm_90a")


def test_a_product_of_every_width() -> None:
    """Each register of an accumulator once, in order, and each of P's; a step for every 16 channels or columns."""
    base = wgmma_sm90.choose("bf16", 64, 64, "sm_90a")
    for n in range(16, 257, 16):
        text = wgmma_products.render(dataclasses.replace(base, head_dim=n, head_dim_v=n, block_n=n))
        assert text.count(f"m64n{n}k16") == 2 * (n // 16)
        for i in range(n // 2):
            assert text.count(f'"+f"(c[{i}])') == 2
        for i in range(n // 4):
            assert text.count(f'"r"(p[{i // 4}][{i % 4}])') == 1
    with pytest.raises(ValueError, match="12 columns"):
        wgmma_products.render(dataclasses.replace(base, block_n=12))
