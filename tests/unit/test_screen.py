"""Tiles by captured data: a screen loses no pair, calls no partial tile full, and finds what the data shows."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attncc import grammar
from attncc.codegen.emit.hooks import SERVES, kernel_hooks
from attncc.codegen.select import features
from attncc.diagnostics import Source
from attncc.ir.nodes import Variant
from attncc.passes.pipeline import run
from attncc.reference import Sizes
from tests.unit import emit_cases, emitted
from tests.unit.random_variants import random_variant
from tests.unit.test_device_headers import cpp

CHUNK = 16  # kChunkCols
SIZES = Sizes(batch=3, num_heads=4, num_kv_heads=2, head_dim=64, head_dim_v=64, qo_len=60, kv_len=700)

MASKS = """\
mask causal = q >= k
variant documents(doc: i32[batch, kv_len]) { mask = doc[b, own] == doc[b, col] and causal }
variant segments(segment: i16[batch, kv_len], mine: i16[batch, qo_len]) { mask = mine[b, row] == segment[b, col] }
variant transfusion(image: i8[batch, kv_len]) {
    mask = causal or image[b, own] == image[b, col] and image[b, col] >= 0
}
variant longformer(marked: bool[batch, kv_len], w: i32) { mask = abs(q - k) <= w or marked[b, own] or marked[b, col] }
variant keep(keep: bool[batch, kv_len]) { mask = keep[b, col] and causal }
variant drop(drop: bool[batch, num_kv_heads, kv_len]) { mask = not drop[b, hk, col] }
variant clocks(t: f32[batch, kv_len], far: f32) { mask = t[b, col] <= t[b, own] and t[b, own] - t[b, col] < far }
variant unequal(t: f32[batch, kv_len], s: f32[batch, qo_len]) { mask = not (t[b, col] <= max(s[b, row], 0.5)) }
variant head_windows(w: i32[num_heads]) { mask = causal and q - k < w[h] }
variant wraps(t: i32[batch, kv_len]) { mask = t[b, col] * 1000003 + q < t[b, own] * 1000003 - k }
variant rounds(t: i32[batch, kv_len]) { mask = abs(t[b, own] // 2 - t[b, col] // 2) <= 1 and (t[b, col] & 3) != 1 }
variant unsigned_words(word: u32[batch, kv_len]) { mask = word[b, col] < word[b, own] }
variant nested(slot: i32[batch, kv_len], end: i32[slots]) {
    mask = (row < end[slot[b, col]]) != (slot[b, own] == slot[b, col])
}
variant chosen(limit: i32[batch, qo_len], doc: i32[batch, kv_len]) {
    mask = (k < limit[b, row] if doc[b, col] > 2 else k > limit[b, row]) and i32(doc[b, col] == 3) + doc[b, own] > 1
}
"""


def variants_of(text: str) -> dict[str, Variant]:
    definitions = grammar.read(Source("masks.attn", text)).definitions
    return {name: run(definition.instantiate()) for name, definition in definitions.items()}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, emitted.Emitted]:
    variants = variants_of(MASKS)
    for path in sorted(emitted.ROOT.glob("tests/variants/v*.attn")):
        for name, definition in grammar.read(path).definitions.items():
            variant = run(definition.instantiate())
            if features(variant).hooks <= SERVES and kernel_hooks(variant).screen is not None:
                variants[f"{path.stem}-{name}"] = variant
    made = emitted.compile_variants(list(variants.values()), tmp_path_factory.mktemp("screen"))
    return dict(zip(variants, made, strict=True))


def masks_of(variant: emitted.Emitted, case: emitted.Case, b: int) -> emitted.Array:
    shape = (case.call.sizes.num_heads, int(case.call.qo_lens[b]), int(case.call.kv_lens[b]))
    return variant.pairs(case, b, np.zeros(shape, np.float32))[1]


def check(tiles: list[tuple[int, bool]], masks: emitted.Array, cols: tuple[int, int], width: int) -> tuple[int, int]:
    """``masks`` [heads, rows, kv_len] of the tiles' rows. Returns how many tiles were visited, and proven full."""
    begin, end = cols
    starts = [start for start, _ in tiles]
    assert begin <= end or not starts, "a split past the last column"
    assert all(after - before >= width for before, after in pairwise(starts)), "ascending, no column twice"
    assert all(start % CHUNK == 0 and begin <= start < end for start in starts)
    seen = np.zeros(masks.shape[2], np.bool_)
    for start, partial in tiles:
        part = masks[:, :, start : start + width]
        seen[start : start + width] = True
        assert partial or (part.all() and start + width <= end), f"tile {start} is not full"
    assert not masks[:, :, begin:end][:, :, ~seen[begin:end]].any(), f"pairs outside {starts}"
    return len(tiles), sum(not partial for _, partial in tiles)


def sweep(variant: emitted.Emitted, case: emitted.Case, label: str) -> None:
    sizes = case.call.sizes
    for b in range(sizes.batch):
        masks, length = masks_of(variant, case, b), int(case.call.kv_lens[b])
        half = length // 96 * 48
        for hk in range(sizes.num_kv_heads):
            group = masks[hk * sizes.group : (hk + 1) * sizes.group]
            for lo, hi in ((0, 1), (0, 16), (16, 48), (0, masks.shape[1])):
                hi = min(hi, masks.shape[1])
                if lo >= hi:
                    continue
                past = (length // 48 * 48 + 96, length)  # of a split that begins behind a short request
                whole = (0, length)
                for cols, width, words in (
                    *((whole, 16, 128), (whole, 16, 1), (whole, 48, 128)),
                    *(((half, length), 48, 128), ((0, half), 48, 128), (past, 48, 128)),
                ):
                    tiles = variant.screened(case, b, hk, (lo, hi), cols, width, words)
                    try:
                        check(tiles, group[:, lo:hi], cols, width)
                    except AssertionError as error:
                        raise AssertionError(f"{label}, request {b}, rows [{lo}, {hi}), {cols}, {width}") from error


NAMES = [*variants_of(MASKS), "v22_flashmask-flashmask", "v23_permuted-permuted", "v12_shared_prefix-shared_prefix"]


@pytest.mark.parametrize("name", NAMES)
def test_screens_against_every_pair(name: str, compiled: dict[str, emitted.Emitted]) -> None:
    """Sorted and unsorted data, positions given and not, padded and ragged, splits, a bitmap that is too small."""
    variant = compiled[name]
    assert variant.has_screen
    for seed in range(4):
        case = tensors_changed(emit_cases.random_case(variant.variant, seed, SIZES), seed)
        sweep(variant, case, f"seed {seed}")
        sweep(variant, emit_cases.ragged(case), f"seed {seed}, ragged")


def tensors_changed(case: emitted.Case, seed: int) -> emitted.Case:
    """Data as people have it: sorted along its last axis in every second call; f32 with NaN and infinities at times."""
    rng = np.random.default_rng(seed)
    stored = {}
    for name, array in case.stored.items():
        values = np.sort(array, axis=-1) if seed % 2 else np.array(array)
        if values.dtype == np.float32 and seed >= 2:
            odd = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), values.shape)
            values = np.where(rng.random(values.shape) < 0.02, odd, values)
        if values.dtype == np.bool_:
            values = rng.random(values.shape) < (0.01, 0.5, 0.99)[seed % 3]
        if values.dtype == np.int32 and seed == 2:
            values = np.where(rng.random(values.shape) < 0.05, rng.choice([2**31 - 1, -(2**31)], values.shape), values)
        stored[name] = values.astype(array.dtype)
    return replace(case, call=replace(case.call, tensors=stored), stored=stored)


def test_random_masks(tmp_path: Path, fuzz_full: bool) -> None:
    found: list[Variant] = []
    seed = 0
    while len(found) < (200 if fuzz_full else 25):
        variant = run(random_variant(seed))
        if kernel_hooks(variant).screen is not None:
            found.append(variant)
        seed += 1
    sizes = replace(SIZES, kv_len=150, qo_len=40)
    for seed, made in enumerate(emitted.compile_variants(found, tmp_path)):
        for call in range(2):
            sweep(made, emit_cases.random_case(made.variant, 100 * seed + call, sizes), made.variant.name)


def packed(case: emitted.Case, name: str, lengths: int) -> emitted.Case:
    """Documents of ``lengths`` tokens each, all requests as long as their storage."""
    values = np.broadcast_to(np.arange(SIZES.kv_len) // lengths, (SIZES.batch, SIZES.kv_len))
    stored = {**case.stored, name: values.astype(case.stored[name].dtype)}
    full = np.full(SIZES.batch, SIZES.kv_len)
    call = replace(case.call, tensors=stored, qo_lens=np.full(SIZES.batch, SIZES.qo_len), kv_lens=full)
    return replace(case, call=replace(call, q_starts=full - SIZES.qo_len, k_starts=0 * full), stored=stored)


@pytest.mark.parametrize("lengths", [30, 100, 256])
def test_of_packed_documents_every_empty_tile_is_skipped(compiled: dict[str, emitted.Emitted], lengths: int) -> None:
    """... and every tile inside one document is proven full."""
    variant = compiled["documents"]
    case = packed(emit_cases.random_case(variant.variant, 1, SIZES, starts=False), "doc", lengths)
    masks = masks_of(variant, case, 0)[:2]
    fulls = 0
    for width in (16, 48):
        for lo in range(0, SIZES.qo_len, 20):
            part = masks[:, lo : lo + 20]
            tiles = variant.screened(case, 0, 0, (lo, lo + 20), (0, SIZES.kv_len), width)
            expected, end = [], 0
            for start in range(0, SIZES.kv_len, CHUNK):
                if start >= end and part[:, :, start : start + CHUNK].any():
                    tile, end = part[:, :, start : start + width], start + width
                    expected.append((start, not tile.all() or tile.shape[2] < width))
            assert tiles == expected
            fulls += sum(not partial for _, partial in tiles)
    assert fulls > 0 or lengths == 30


def test_a_small_bitmap_is_coarser_and_no_more(compiled: dict[str, emitted.Emitted]) -> None:
    """With a word for 700 columns a bit stands for 32 of them; the documents far away stay unvisited."""
    variant = compiled["documents"]
    case = packed(emit_cases.random_case(variant.variant, 1, SIZES, starts=False), "doc", 100)
    fine, coarse = (
        {start for start, _ in variant.screened(case, 0, 0, (0, 20), (0, SIZES.kv_len), 16, words)}
        for words in (128, 1)
    )
    assert fine <= coarse
    assert all(start - 16 in fine or start + 16 in fine for start in coarse - fine)


def test_data_that_is_all_alike_is_proven_full(compiled: dict[str, emitted.Emitted]) -> None:
    keep = compiled["drop"]
    case = emit_cases.random_case(keep.variant, 0, SIZES)
    stored = {"drop": np.zeros((SIZES.batch, SIZES.num_kv_heads, SIZES.kv_len), np.bool_)}
    case = replace(case, call=replace(case.call, tensors=stored), stored=stored)
    length = int(case.call.kv_lens[0])
    tiles = keep.screened(case, 0, 0, (0, 1), (0, length), 16)
    assert tiles == [(start, start + 16 > length) for start in range(0, length, 16)]
    stored["drop"][:] = True
    assert keep.screened(case, 0, 0, (0, 1), (0, length), 16) == []


PROBE = """
#include "device/screen.cuh"
#include <random>
using namespace attncc;
using Exact = Fn<Accuracy::exact>;

static std::mt19937 generator(11);
static int draw(int n) { return int(generator() % unsigned(n)); }

static int number(int) {
  const int near[] = {-2147483647 - 1, -2147483647, -65536, -7, -2, -1, 0, 1, 2, 3, 9, 65537, 2147483646, 2147483647};
  return draw(4) ? near[draw(14)] : int(generator());
}
static float number(float) {
  const float near[] = {-infinity(), -3e38f, -2.5f, -1.0f, -0.0f, 0.0f, 1e-40f, 0.75f, 1.0f, 3.0f, 3e38f, infinity()};
  return draw(4) ? near[draw(12)] : std::ldexp(float(draw(2001) - 1000), draw(60) - 30);
}
// Three values and the interval around them; an f32 may be NaN, which is then anywhere.
template <class T>
static Interval<T> around(T (&x)[3]) {
  Interval<T> found = Interval<T>::nothing();
  for (T& value : x) {
    value = number(T());
    if constexpr (T(0.5f) != T(0)) {
      if (!draw(12)) value = infinity() - infinity();
    }
    found.merge(interval::point(value));
  }
  return found;
}
template <class T>
static bool holds(Interval<T> x, T value) {
  return value == value ? x.lo <= value && value <= x.hi : x.lo == -infinity() || x.hi == infinity();
}
// How many results of an operation on values lie outside what it makes of their intervals.
template <class T, class Of, class On>
static int outside(On on, Of of) {
  int wrong = 0;
  for (int round = 0; round < 4000; ++round) {
    T x[3], y[3];
    const auto a = around(x), b = around(y);
    const auto found = on(a, b);
    for (T left : x)
      for (T right : y) wrong += !holds(found, of(left, right));
  }
  return wrong;
}
#define COUNT(T, op) outside<T>([](auto a, auto b) { return interval::op(a, b); }, \\
                                [](T a, T b) { return Exact::op(a, b); })
#define COUNT_ONE(T, op) outside<T>([](auto a, auto) { return interval::op(a); }, [](T a, T) { return Exact::op(a); })

extern "C" int violations(int i) {
  switch (i) {
    case 0: return COUNT(int, add);
    case 1: return COUNT(int, sub);
    case 2: return COUNT(int, mul);
    case 3: return COUNT(int, min);
    case 4: return COUNT(int, max);
    case 5: return COUNT(int, floordiv);
    case 6: return COUNT(int, shr);
    case 7: return COUNT(int, lt);
    case 8: return COUNT(int, le);
    case 9: return COUNT(int, eq);
    case 10: return COUNT_ONE(int, neg);
    case 11: return COUNT_ONE(int, abs);
    case 12: return COUNT_ONE(int, to_f32);
    case 13: return COUNT_ONE(int, to_u32);
    case 14: return COUNT_ONE(int, to_bool);
    case 15: return COUNT(float, add);
    case 16: return COUNT(float, sub);
    case 17: return COUNT(float, mul);
    case 18: return COUNT(float, min);
    case 19: return COUNT(float, max);
    case 20: return COUNT(float, lt);
    case 21: return COUNT(float, le);
    case 22: return COUNT(float, eq);
    case 23: return COUNT_ONE(float, neg);
    case 24: return COUNT_ONE(float, abs);
    case 25: return COUNT_ONE(float, to_i32);
    case 26: return COUNT_ONE(float, to_bool);
    case 27: return COUNT(float, div);
    case 28: return COUNT_ONE(float, log);
    default: return -1;
  }
}
extern "C" int walk(int first, int shift, int words, const unsigned* may, const unsigned* all, int end, int* out) {
  TileBitmap<4> bitmap;
  bitmap.first = first, bitmap.shift = shift, bitmap.words = words;
  bitmap.begin = 0, bitmap.end = words;
  for (int i = 0; i < words; ++i) bitmap.may[i] = may[i], bitmap.all[i] = all[i];
  const Range none[1] = {{0, 0, 1}};
  auto tiles = TilesOf<true>::walk<48>(none, &bitmap, first, end);
  TileSpan tile;
  int count = 0;
  for (; tiles.next(tile); ++count) *out++ = tile.col, *out++ = tile.partial;
  return count;
}
extern "C" void place(int first, int end, int* out) {
  BitmapPlace place;
  place.cover(first, end, kBitmapWords);
  out[0] = place.shift, out[1] = place.words;
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(cpp(tmp_path_factory.mktemp("probe"), PROBE)))


@pytest.mark.parametrize("operation", range(29))
def test_operations_on_intervals_hold_every_value(probe: ctypes.CDLL, operation: int) -> None:
    """Over wrapping integers, infinities and NaN."""
    assert probe.violations(operation) == 0


def test_tiles_of_a_bitmap(probe: ctypes.CDLL) -> None:
    """A tile from each set bit on that none before it covers; full only where every bit of it says so."""
    rng = np.random.default_rng(3)
    for round in range(2000):
        first, shift, words = 48 * int(rng.integers(5)), int(rng.integers(4, 7)), int(rng.integers(0, 5))
        density = rng.choice([0.02, 0.5, 1.0])
        may = rng.random(words * 32) < density
        all_ = may & (rng.random(words * 32) < rng.choice([0.3, 0.95, 1.0]))
        end = first + int(rng.integers(0, (words * 32 << shift) + 1))
        out: Any = (ctypes.c_int * 1000)()
        packed = [np.packbits(bits, bitorder="little").view("<u4") for bits in (may, all_)]
        pointers = [ctypes.c_void_p(bits.ctypes.data) for bits in packed]
        count = probe.walk(first, shift, words, *pointers, end, out)
        columns = np.repeat(may, 1 << shift)[: end - first]
        proven = np.repeat(all_, 1 << shift)
        expected, done = [], first
        for start in range(first, end, CHUNK):
            part = slice(start - first, start - first + 48)
            if start >= done and columns[start - first]:
                full = start + 48 <= end and len(proven[part]) == 48 and proven[part].all()
                expected.append((start, int(not full)))
                done = start + 48
        assert [(out[2 * i], out[2 * i + 1]) for i in range(count)] == expected, round


def test_any_length_has_a_bitmap(probe: ctypes.CDLL) -> None:
    out: Any = (ctypes.c_int * 2)()
    for cols in (0, 1, 16, 17, 512, 65536, 65537, 2**20, 2**28 - 1):
        probe.place(48, 48 + cols, out)
        shift, words = out
        assert words <= 128
        assert words * 32 << shift >= cols
        assert shift == 4 or (128 * 32 << (shift - 1)) < cols
