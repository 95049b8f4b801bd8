"""What a hook adds to a kernel's loop over tiles, counted in machine code: per score at most what its formula says."""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attncc import grammar
from attncc.codegen.compile import stages
from attncc.codegen.emit.variant import emit_variant
from attncc.codegen.families import mma_sm80
from attncc.codegen.families.entries import SYMBOLS
from attncc.codegen.nvrtc import compile_cuda
from attncc.codegen.sass import disassemble, histogram
from attncc.codegen.select import KernelSpec
from attncc.diagnostics import Source
from attncc.ir.nodes import Variant
from attncc.passes.canonicalize import canonicalize
from tests.unit import emit_cases, emitted

TEXT = """
mask causal = q >= k
variant plain { mask = causal }
variant alibi(slopes: f32[num_heads]) {
    logits = score + slopes[h] * (k - q)
    mask = causal
}
variant dense { }
variant key_bias(bias: f32[batch, kv_len]) { logits = score + bias[b, col] }
variant window(w: i32) { mask = causal and q - k < w }
variant capped {
    logits = 50.0 * tanh(score / 50.0)
    mask = causal
}
variant documents(doc: i32[batch, kv_len]) { mask = causal and doc[b, own] == doc[b, col] }
"""


def variant(name: str) -> Variant:
    return canonicalize(grammar.read(Source("cost.attn", TEXT)).definitions[name].instantiate({}))


@functools.cache
def disassembled(name: str, head_dim: int) -> tuple[str, mma_sm80.Config]:
    made = stages(variant(name), KernelSpec("sm_90a", "bf16", head_dim, family="mma_sm80"))
    compiled = compile_cuda(made.source.text, arch="sm_90a", flags=made.choice.config.flags)
    used = compiled.resources[SYMBOLS["main"]]
    assert (used.spill_stores, used.spill_loads, used.stack) == (0, 0, 0)
    return disassemble(compiled.cubin), made.choice.config


def counted(name: str, head_dim: int) -> tuple[Counter[str], mma_sm80.Config]:
    sass, config = disassembled(name, head_dim)
    return histogram(sass, SYMBOLS["main"]), config


def main_lines(sass: str, config: mma_sm80.Config) -> tuple[list[str], list[int]]:
    """The entry's lines, and which of them are the tile's products."""
    lines = sass[sass.index(f".text.{SYMBOLS['main']}") :].splitlines()
    return lines, [i for i, line in enumerate(lines) if "HMMA" in line][: config.mma_per_tile]


def counted_in_loop(name: str, head_dim: int) -> Counter[str]:
    """From a tile's first product to its last."""
    lines, products = main_lines(*disassembled(name, head_dim))
    return histogram("\n".join(lines[products[0] : products[-1]]))


@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_bias_linear_in_the_distance_is_one_multiply_add_a_score(head_dim: int) -> None:
    """And one conversion a row of a thread, where float(k - q) itself would take two more for every score."""
    (with_bias, config), (without, _) = counted("alibi", head_dim), counted("plain", head_dim)
    scores, rows = config.block_m * config.block_n // config.threads, config.block_m // config.warps // 8
    conversions = sum(count - without[op] for op, count in with_bias.items() if op.startswith("I2F"))
    arithmetic = sum(with_bias[op] - without[op] for op in ("FFMA", "FMUL", "FADD"))
    assert conversions <= rows
    assert arithmetic <= scores + 4 * rows


@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_bias_of_keys_is_free_in_arithmetic_and_read_a_column_at_a_time(head_dim: int) -> None:
    (with_bias, config), (without, _) = counted("key_bias", head_dim), counted("dense", head_dim)
    in_loop, in_loop_without = counted_in_loop("key_bias", head_dim), counted_in_loop("dense", head_dim)
    arithmetic = sum(in_loop[op] - in_loop_without[op] for op in ("FFMA", "FMUL", "FADD"))
    assert arithmetic <= 8
    # Two neighbouring columns a read, for all rows of the thread, and what says where the bias lies.
    assert with_bias["LDS"] - without["LDS"] <= config.block_n // 8 + 16


@pytest.mark.parametrize("name", ["key_bias", "documents"])
def test_nobody_waits_for_keys(name: str) -> None:
    """What a tile's keys read is used long after it was asked for, most of another tile's softmax in between."""
    lines, products = main_lines(*disassembled(name, 128))
    loads = [i for i, line in enumerate(lines) if re.search(r"\bLDG?\.E", line) and i < products[-1]]
    (register,) = re.findall(r"LDG?\.E\S* (R\d+),", lines[loads[-1]])
    used = next(i for i in range(loads[-1] + 1, len(lines)) if re.search(rf"\b{register}\b", lines[i]))
    assert used - loads[-1] >= 200


def pair_text(text: str) -> str:
    """The body of logits() and mask() of a variant."""
    found = grammar.read(Source("cost.attn", text)).definitions["v"].instantiate({})
    rendered = emit_variant(canonicalize(found)).text.render()
    return rendered[rendered.index("float logits(") :]


def test_what_decides_or_may_wrap_keeps_its_column_whole() -> None:
    """A comparison must fall on the reference's side, and base + step is not the column where i32 wraps between."""
    assert "column.step" in pair_text("variant v(a: f32) { logits = score + a * (q - k) }")
    assert "column.step" not in pair_text("variant v(a: f32) { logits = score if a * (q - k) < 3.0 else 0.0 }")
    assert "column.step" not in pair_text("variant v(a: f32, n: i32) { logits = score + a * (q - k + n) }")


def test_logits_proven_small_have_no_maximum_and_no_rescale() -> None:
    counts, config = counted("capped", 128)
    outputs, scores = (config.block_m * cols // config.threads for cols in (config.head_dim_v, config.block_n))
    assert counts["FMNMX"] <= 8  # the epilogue's
    assert counts["FMUL"] <= counted("plain", 128)[0]["FMUL"] - outputs + scores  # a capped score takes one more


def mask_text(text: str) -> str:
    """The body of mask()."""
    rendered = pair_text(text)
    return rendered[rendered.index(" mask(const Item&") :]


def test_a_bound_of_a_mask_is_one_comparison_a_row() -> None:
    """All columns' steps, which are constants, with what is the same for all columns of a row of a thread."""
    mask = mask_text(TEXT.replace("variant window", "variant v"))
    compared = re.findall(r"column\.step <=? r\.\w+ - column\.base|r\.\w+ - column\.base <=? column\.step", mask)
    assert len(compared) == mask.count("column.step") == 2


@pytest.mark.parametrize("name", ["plain", "window"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_mask_of_comparisons_picks_a_score_by_a_bit(name: str, head_dim: int) -> None:
    """A selection a score, and an instruction for seven bits of a row: hardly any score is compared with anything."""
    sass, config = disassembled(name, head_dim)
    scores, rows = config.block_m * config.block_n // config.threads, config.block_m // config.warps // 8
    lines, _ = main_lines(sass, config)
    moves = [i for i, line in enumerate(lines) if "R2P" in line]
    masked = histogram("\n".join(lines[moves[0] : moves[-1] + 1]))
    assert len(moves) >= scores // 8
    assert masked["FSEL"] >= scores * 3 // 4  # the others stand behind
    assert masked["ISETP"] <= scores // 8
    bounds = 2 if name == "window" else 1
    assert histogram(sass, SYMBOLS["main"])["BMSK"] <= rows * bounds + 1  # and the end of the columns


@pytest.mark.parametrize(("text", "join"), [("abs(q - k) <= w", "&"), ("abs(q - k) > w", "|")])
def test_a_distance_is_one_comparison_a_side(text: str, join: str) -> None:
    mask = mask_text(f"variant v(w: i32) {{ mask = {text} }}")
    assert "abs" not in mask
    assert mask.count("column.step") == 2
    assert f") {join} (" in mask


def test_a_distance_that_may_wrap_stays_whole() -> None:
    """The negative of the least i32 is itself: it is no distance."""
    assert "exact::abs" in pair_text("variant v(n: i32, w: i32) { mask = abs(q - k + n) <= w }")


def test_a_comparison_with_the_column_is_exact_at_the_ends_of_i32(tmp_path: Path) -> None:
    """Thresholds are summed in 64 bits: a window or a shift at either end of i32 masks what the formula does."""
    text = """
variant v(w: i32, n: i32) { mask = (q - k < w and k - n <= q) or q - k == w }
"""
    found = canonicalize(grammar.read(Source("ends.attn", text)).definitions["v"].instantiate({}))
    (compiled,) = emitted.compile_variants([found], tmp_path)
    case = emit_cases.random_case(found, 3)
    ends = (-(2**31), -(2**31) + 1, -(2**30) - 7, -3, 0, 5, 2**30 + 9, 2**31 - 2, 2**31 - 1)
    for w in ends:
        for n in ends:
            call = replace(case.call, params={"w": np.int32(w), "n": np.int32(n)})
            there = replace(case, call=call)
            for b in range(call.sizes.batch):
                shape = (call.sizes.num_heads, int(call.qo_lens[b]), int(call.kv_lens[b]))
                _, masks = compiled.pairs(there, b, np.zeros(shape, np.float32))
                want = emit_cases.expected(there, b, np.zeros(shape, np.float32))["mask"]
                np.testing.assert_array_equal(masks, want, err_msg=f"w = {w}, n = {n}")
