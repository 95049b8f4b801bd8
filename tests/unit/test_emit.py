"""Generated Variants, compiled as plain C++, against the reference: the formulas people use, over random calls."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from attncc import grammar
from attncc.codegen.emit.params import over_tokens
from attncc.codegen.emit.variant import emit_variant
from attncc.diagnostics import Source
from attncc.ir import build
from attncc.passes.canonicalize import canonicalize
from tests.unit import emit_cases, emitted

EXAMPLES = emit_cases.examples() | emit_cases.acceptance()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, emitted.Emitted]:
    variants = [canonicalize(variant) for variant in EXAMPLES.values()]
    made = emitted.compile_variants(variants, tmp_path_factory.mktemp("emit"))
    return dict(zip(EXAMPLES, made, strict=True))


def scores_for(case: emitted.Case, b: int, seed: int) -> emitted.Array:
    call = case.call
    shape = (call.sizes.num_heads, int(call.qo_lens[b]), int(call.kv_lens[b]))
    return np.random.default_rng(seed).normal(scale=20.0, size=shape).astype(np.float32)


@pytest.mark.parametrize("name", EXAMPLES)
def test_values_equal_the_reference(name: str, compiled: dict[str, emitted.Emitted]) -> None:
    for seed in range(6):
        case = emit_cases.random_case(compiled[name].variant, seed)
        for b in range(case.call.sizes.batch):
            scores = scores_for(case, b, seed)
            logits, masks = compiled[name].pairs(case, b, scores)
            want = emit_cases.expected(case, b, scores)
            np.testing.assert_array_equal(masks, want["mask"], err_msg=f"seed {seed}, request {b}")
            np.testing.assert_allclose(logits, want["logits"], rtol=2e-5, atol=2e-5)
            np.testing.assert_allclose(
                compiled[name].rows(case, b, emit_cases.totals_of(scores)), want["row"], rtol=1e-6
            )


# Masks of comparisons with the column and of what holds of a row, and whether they stay so.
IN_COLUMNS = {
    "not (q < k) and (flags[b] > 0 or k < 5)": True,
    "not (k < q - 7 and q - k != 9) or (flags[b] == 1 and q % 3 == 0)": True,
    "k == 2 * w or q - k == w or abs(q - k) > 40": True,
    "abs(q - k) == w": False,
    " or ".join(f"k == q * {i} % 64" for i in range(40)): True,  # however long
    "q >= k and k % 3 != 1": False,
    "q >= k and marks[k % kv_len] > 0": False,
}


def test_a_mask_of_comparisons_is_one_for_all_columns_of_a_thread(tmp_path: Path) -> None:
    head = "variant v(w: i32, flags: i32[batch], marks: i32[kv_len]) {{ mask = {} }}"
    found = [
        canonicalize(grammar.read(Source("columns.attn", head.format(mask))).definitions["v"].instantiate({}))
        for mask in IN_COLUMNS
    ]
    stays = ["/* mask_in_columns */ true" in emit_variant(variant).text.render() for variant in found]
    assert stays == list(IN_COLUMNS.values())
    for made in emitted.compile_variants(found, tmp_path):
        for seed in range(3):
            case = emit_cases.random_case(made.variant, seed)
            for b in range(case.call.sizes.batch):
                scores = scores_for(case, b, seed)
                _, masks = made.pairs(case, b, scores)
                np.testing.assert_array_equal(masks, emit_cases.expected(case, b, scores)["mask"])


OVER_TOKENS = [name for name, variant in EXAMPLES.items() if any(over_tokens(tensor) for tensor in variant.tensors)]


@pytest.mark.parametrize("name", OVER_TOKENS)
def test_ragged_tensors_are_read_within_their_request(name: str, compiled: dict[str, emitted.Emitted]) -> None:
    """The same kernel serves padded and ragged storage; an index past a request is clamped to its last token."""
    for seed in range(4):
        case = emit_cases.ragged(emit_cases.random_case(compiled[name].variant, seed))
        for b in range(case.call.sizes.batch):
            scores = scores_for(case, b, seed)
            logits, masks = compiled[name].pairs(case, b, scores)
            want = emit_cases.expected(case, b, scores)
            np.testing.assert_array_equal(masks, want["mask"], err_msg=f"seed {seed}, request {b}")
            np.testing.assert_allclose(logits, want["logits"], rtol=2e-5, atol=2e-5)
            rows = masks.shape[1]
            for hk in range(case.call.sizes.num_kv_heads):
                group = masks[hk * case.call.sizes.group : (hk + 1) * case.call.sizes.group]
                check_ranges(compiled[name].ranges(case, b, hk, 0, rows), group)


DIAGONAL = {
    "dilated", "relative", "t5_bias-t5_bias", "v04_dilated-dilated", "v27_t5_bias-t5_encoder", "v27_t5_bias-t5_decoder",
    "v28_relative_table-relative_table", "v38_retention-retention",
}  # fmt: skip


def test_dear_values_of_a_diagonal_are_computed_once(compiled: dict[str, emitted.Emitted]) -> None:
    """Tables, logarithms, powers and remainders of row - col; ALiBi's product costs less than a look-up."""
    texts = {name: variant.source.text.render() for name, variant in compiled.items()}
    assert {name for name, text in texts.items() if "has_diagonal */ true" in text} == DIAGONAL
    pairs = texts["t5_bias-t5_bias"].partition("float logits(")[2]
    assert not any(call in pairs for call in ("log(", "load(", "element("))


def test_settled_diagonals_have_one_value(compiled: dict[str, emitted.Emitted]) -> None:
    """Whatever is said to be settled is, and what lies behind a table's end, or in the last bucket, is said to be."""
    settling = {name: variant for name, variant in compiled.items() if variant.source.settles}
    assert {"relative", "t5_bias-t5_bias", "v27_t5_bias-t5_encoder"} <= settling.keys() <= DIAGONAL
    for name, variant in settling.items():
        rng = np.random.default_rng(5)
        for seed in range(4):
            case = emit_cases.random_case(variant.variant, seed)
            for _ in range(30):
                lo = int(rng.integers(-300, 300))
                said, same = variant.settled(case, 0, 0, lo, lo + int(rng.integers(0, 200)))
                assert same or not said, name
    relative = settling["relative"]
    case = emit_cases.random_case(relative.variant, 1)
    assert relative.settled(case, 0, 0, 1 << 16, (1 << 16) + 300) == (True, True)
    buckets = settling["t5_bias-t5_bias"]
    case = emit_cases.random_case(buckets.variant, 1)
    heads, rng = case.call.sizes.num_heads, np.random.default_rng(6)
    call = dataclasses.replace(case.call, params={"max_distance": 128})
    case = emitted.Case(call, {"bias": rng.normal(size=(heads, 32)).astype(np.float32)}, case.sm_scale)
    ahead = int(call.q_starts[0]) - int(call.k_starts[0])
    assert buckets.settled(case, 0, 0, 128 - ahead, 10_000) == (True, True)
    assert buckets.settled(case, 0, 0, 100 - ahead, 10_000) == (False, False)


TRANSFORMED = [name for name, variant in EXAMPLES.items() if emitted.kernel_hooks(canonicalize(variant)).vectors]


@pytest.mark.parametrize("name", TRANSFORMED)
def test_vectors_equal_the_reference(name: str, compiled: dict[str, emitted.Emitted]) -> None:
    variant = compiled[name]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        case = emit_cases.random_case(variant.variant, seed)
        sizes = case.call.sizes
        for b in range(sizes.batch):
            for vector in emitted.kernel_hooks(variant.variant).vectors:
                tokens = int((case.call.kv_lens if vector in ("key", "value") else case.call.qo_lens)[b])
                heads = sizes.num_kv_heads if vector in ("key", "value") else sizes.num_heads
                before = rng.normal(size=(heads, tokens, sizes.head_dim)).astype(np.float32)
                state = rng.normal(size=(heads, tokens, 2)).astype(np.float32)
                got = variant.vectors(case, b, vector, before, state)
                want = emit_cases.expected_vectors(case, b, vector, before, state)
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=f"{vector}, seed {seed}, {b}")


def test_the_block_lies_as_the_host_fills_it(compiled: dict[str, emitted.Emitted]) -> None:
    for variant in compiled.values():
        block = variant.source.block
        assert variant.offsets() == [block.size, *(field.offset for field in block.fields)]


def test_sm_scale_of_a_call_replaces_the_hook(compiled: dict[str, emitted.Emitted]) -> None:
    variant = compiled["temperature"]
    case = emit_cases.random_case(variant.variant, 0)
    scores = scores_for(case, 0, 0)
    given, _ = variant.pairs(case, 0, scores)
    np.testing.assert_allclose(given, scores * np.float64(case.sm_scale) * np.log2(np.e), rtol=1e-5)
    by_hook = emitted.Case(case.call, case.stored, float("nan"))
    left, _ = variant.pairs(by_hook, 0, scores)
    np.testing.assert_allclose(left, emit_cases.expected(by_hook, 0, scores)["logits"], rtol=1e-5)
    assert not np.allclose(left[0], left[1])


def test_an_empty_axis_reads_zero(compiled: dict[str, emitted.Emitted]) -> None:
    variant = compiled["relative"]
    case = emit_cases.random_case(variant.variant, 1)
    empty = np.zeros((case.call.sizes.num_heads, 0), np.uint16)
    case = emitted.Case(case.call, {"table": empty}, case.sm_scale)
    scores = scores_for(case, 0, 0)
    logits, _ = variant.pairs(case, 0, scores)
    np.testing.assert_allclose(logits, scores * np.float64(case.sm_scale) * np.log2(np.e), rtol=1e-5)


@pytest.mark.parametrize("name", EXAMPLES)
def test_ranges_cover_the_mask(name: str, compiled: dict[str, emitted.Emitted]) -> None:
    """No allowed pair outside the ranges; every pair of a range that is not partial is allowed."""
    variant = compiled[name]
    for seed in range(8):
        case = emit_cases.random_case(variant.variant, seed)
        sizes = case.call.sizes
        for b in range(sizes.batch):
            rows, cols = int(case.call.qo_lens[b]), int(case.call.kv_lens[b])
            _, masks = variant.pairs(case, b, np.zeros((sizes.num_heads, rows, cols), np.float32))
            for hk in range(sizes.num_kv_heads):
                group = masks[hk * sizes.group : (hk + 1) * sizes.group]
                for tile in (1, 4, rows):
                    for lo in range(0, rows, tile):
                        hi = min(lo + tile, rows)
                        check_ranges(variant.ranges(case, b, hk, lo, hi), group[:, lo:hi])


def check_ranges(ranges: list[tuple[int, int, int]], masks: emitted.Array) -> None:
    cols = masks.shape[2]
    seen = np.zeros(cols, np.bool_)
    for lo, hi, partial in ranges:
        part = slice(max(lo, 0), max(min(hi, cols), 0))
        seen[part] = True
        assert partial or masks[:, :, part].all(), f"[{lo}, {hi}) is not full"
    assert not masks[:, :, ~seen].any(), f"pairs outside {ranges}"


@pytest.mark.parametrize("name", ["causal", "gemma2", "alibi", "gpt_oss"])
def test_ranges_are_worth_having(name: str, compiled: dict[str, emitted.Emitted]) -> None:
    """Of the columns that no row of a tile attends, none is visited: causal and windows have exact bounds."""
    variant = compiled[name]
    for seed in range(10):
        case = emit_cases.random_case(variant.variant, seed)
        sizes = case.call.sizes
        for b in range(sizes.batch):
            rows, cols = int(case.call.qo_lens[b]), int(case.call.kv_lens[b])
            _, masks = variant.pairs(case, b, np.zeros((sizes.num_heads, rows, cols), np.float32))
            for lo in range(0, rows, 4):
                hi = min(lo + 4, rows)
                seen = np.zeros(cols, np.bool_)
                for start, stop, _ in variant.ranges(case, b, 0, lo, hi):
                    seen[max(start, 0) : max(stop, 0)] = True
                np.testing.assert_array_equal(seen, masks[0, lo:hi].any(axis=0))


def test_a_constant_softcap_bounds_the_logits(tmp_path: Path) -> None:
    """facts.logit_bound holds in the log2 domain, rounding included, and is tight."""
    cap = emit_cases.op("*", build.f32(5.0), emit_cases.fn("tanh", emit_cases.score))
    free = emit_cases.make("free", logits=emit_cases.op("*", build.f32(5.0), emit_cases.score))
    capped, unbounded = emitted.compile_variants([emit_cases.make("capped", logits=cap), free], tmp_path)
    case = emit_cases.random_case(capped.variant, 0)
    logits, _ = capped.pairs(case, 0, 1e4 * np.sign(scores_for(case, 0, 0)))
    assert 0 < np.abs(logits).max() <= capped.logit_bound < 5.0 * np.log2(np.e) * 1.001
    assert unbounded.logit_bound == 0
