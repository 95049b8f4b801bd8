"""The device library's plain parts, compiled as C++: layouts, fragments, tile iteration, clamped loads, total math."""

from __future__ import annotations

import ctypes
import math
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest

from attncc.codegen.launch_block import LAUNCH_BYTES, LAUNCH_FIELDS, place, scalar_fields, tensor_fields

ROOT = Path(__file__).resolve().parents[2]
TENSOR = place(tensor_fields("tensor", 3))
SCALAR = place(scalar_fields("scalar", "i32"))


def cpp(folder: Path, text: str) -> Path:
    """A shared library of C++ text; warnings are errors."""
    source, library = folder / "probe.cc", folder / "probe.so"
    source.write_text(text)
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    # Host arithmetic contracted into FMA would differ from numpy's.
    command = ["g++", *flags, "-ffp-contract=off", f"-I{ROOT / 'codegen'}", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


PROBE = """
#include "device/columns.cuh"
#include "device/fragment.cuh"
#include "device/joint.cuh"
#include "device/math.cuh"
#include "device/pieces.cuh"
#include "device/smem.cuh"
#include "device/tiles.cuh"
#include "families/mma_sm80.cuh"
using namespace attncc;
using Exact = Fn<Accuracy::exact>;
template <int M, int N, int W> struct Shape { static constexpr int block_m = M, block_n = N, warps = W; };

template <class Iterator>
static int walk(Iterator iterator, int* out) {
  TileSpan tile;
  int count = 0;
  for (; iterator.next(tile); ++count) { *out++ = tile.col; *out++ = tile.partial; }
  return count;
}
extern "C" {
void offsets(long* out) { %(offsets)s }
void split(float x, unsigned* out) {
  const Pieces made = pieces(x);
  out[0] = made.first, out[1] = made.last;
}
int sizes(int i) {
  const int all[] = {sizeof(Launch), sizeof(TensorRef<float, 3>), sizeof(Scalar<int>)};
  return all[i];
}

// For every thread and value: row * Cols + col.
void fragment(int which, int* out) {
  const auto walk = [&](auto shape) {
    using S = decltype(shape);
    using F = mma_sm80::Fragment<S>;
    for (int thread = 0; thread < S::warps * 32; ++thread)
      for (int i = 0; i < F::values; ++i) {
        const F f(thread);
        *out++ = f.row(F::slot(i)) * S::block_n + f.col(i);
      }
  };
  if (which == 0) walk(Shape<128, 64, 4>());
  if (which == 1) walk(Shape<128, 64, 8>());
  if (which == 2) walk(Shape<64, 80, 2>());
}
int fragment_slot_rows(int thread, int* out) {
  using F = mma_sm80::Fragment<Shape<128, 64, 4>>;
  for (int slot = 0; slot < F::rows; ++slot) out[slot] = F(thread).row(slot);
  return F::rows;
}
// For each of a row's columns, in order: its step, and a bit for each comparison with x, and with y joined to it.
int columns(int cols, int x, int y, int* out) {
  const auto walk = [&](auto fragment) {
    using F = decltype(fragment);
    const ColumnSteps<F> step;
    const ColumnBits<F> all[] = {step < x, step <= x, x < step, x <= step, step == x, x == step,
                                 (step < x) & (y < step), (step < x) | (y < step), !(step < x),
                                 (step < x) & true, false & (step < x), (step < x) | false, true | (step < x)};
    for (int n = 0; n < F::row_values; ++n) {
      *out++ = F::step(F::value(0, n));
      int bits = 0;
      for (int i = 0; i < 13; ++i) bits |= int(all[i].has(n)) << i;
      *out++ = bits;
    }
    return F::row_values;
  };
  return cols == 48 ? walk(MmaFragment<64, 4, 48>(0)) : walk(MmaFragment<64, 4, 176>(0));
}
void shared_tile(int cols, int rows, int* out) {
  const auto walk = [&](auto tile) {
    using T = decltype(tile);
    for (int row = 0; row < rows; ++row)
      for (int chunk = 0; chunk < T::chunks; ++chunk) {
        *out++ = T::offset(row, chunk);
        *out++ = int(T::advance(unsigned(T::offset(row, chunk & 1)), chunk & ~1));
      }
  };
  if (cols == 48) walk(SharedTile<48>());
  if (cols == 64) walk(SharedTile<64>());
  if (cols == 80) walk(SharedTile<80>());
  if (cols == 128) walk(SharedTile<128>());
  if (cols == 192) walk(SharedTile<192>());
}
int tiles(const Range* ranges, int begin, int end, int align, int* out) {
  return align == 16 ? walk(TileIterator<16, 3>(ranges, begin, end), out)
                     : walk(TileIterator<16, 3, 1>(ranges, begin, end), out);
}
int descending_tiles(const Range* ranges, int begin, int end, int* out) {
  DescendingTiles<16, 3> tiles(ranges, begin, end);
  TileSpan tile;
  int count = 0;
  for (; tiles.next(tile); ++count) { *out++ = tile.col; *out++ = tile.end; *out++ = tile.partial; }
  return count;
}
int is_proven(const Range* ranges, int col, int end) { return proven<16, 3>(ranges, col, end); }
float load2(const TensorRef<float, 2>* tensor, int i, int j) { return tensor->load(i, j); }
int load_i64(const TensorRef<i64, 1>* tensor, int i) { return tensor->load(i); }
float load_f16(unsigned short bits) { return to_value(f16{bits}); }
float load_bf16(unsigned short bits) { return to_value(bf16{bits}); }
void place_of(const Launch* launch, int b, int* out) {
  const Geometry g = geometry(*launch, b);
  const int all[] = {g.qo_len, g.kv_len, g.q_start, g.k_start, g.qo_base, g.kv_base};
  for (int i = 0; i < 6; ++i) out[i] = all[i];
}
int integer(int op, int a, int b) {
  switch (op) {
    case 0: return Exact::add(a, b);
    case 1: return Exact::mul(a, b);
    case 2: return Exact::floordiv(a, b);
    case 3: return Exact::mod(a, b);
    case 4: return Exact::shl(a, b);
    case 5: return Exact::shr(a, b);
    case 6: return Exact::neg(a);
    case 7: return Exact::pow(a, b);
    default: return Exact::abs(a);
  }
}
float real(int op, float a, float b) {
  switch (op) {
    case 0: return Exact::div(a, b);
    case 1: return Exact::floordiv(a, b);
    case 2: return Exact::mod(a, b);
    case 3: return Exact::round(a);
    case 4: return Exact::softplus(a);
    case 5: return Fn<Accuracy::close>::tanh(a);
    case 6: return Fn<Accuracy::close>::sin(a);
    default: return Exact::sigmoid(a);
  }
}
int to_int(float a) { return Exact::to_i32(a); }
unsigned to_unsigned(float a) { return Exact::to_u32(a); }
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    paths = [f"offsetof(Launch, {field.name})" for field in LAUNCH_FIELDS]
    paths += [f"offsetof(S3, {field.name})" for field in TENSOR]
    text = "struct S3 { TensorRef<float, 3> tensor; }; struct S1 { Scalar<int> scalar; };\n"
    paths += [f"offsetof(S1, {field.name})" for field in SCALAR]
    text += f"const long all[] = {{{', '.join(paths)}}};\nfor (long x : all) *out++ = x;"
    library = ctypes.CDLL(str(cpp(tmp_path_factory.mktemp("probe"), PROBE % {"offsets": text})))
    for name in ("load2", "load_f16", "load_bf16", "real"):
        getattr(library, name).restype = ctypes.c_float
    library.real.argtypes = [ctypes.c_int, ctypes.c_float, ctypes.c_float]
    library.to_int.argtypes = library.to_unsigned.argtypes = [ctypes.c_float]
    library.to_unsigned.restype = ctypes.c_uint
    return library


def test_launch_block_mirrors_the_header(probe: ctypes.CDLL) -> None:
    fields = [*LAUNCH_FIELDS, *TENSOR, *SCALAR]
    offsets = (ctypes.c_long * len(fields))()
    probe.offsets(offsets)
    assert {f.name: f.offset for f in fields} == dict(zip([f.name for f in fields], offsets, strict=True))
    ends = [LAUNCH_BYTES, TENSOR[-1].offset + TENSOR[-1].size, SCALAR[-1].offset + SCALAR[-1].size]
    assert [probe.sizes(i) for i in range(3)] == ends


def test_a_word_that_would_be_padded_is_refused() -> None:
    with pytest.raises(ValueError, match="padded"):
        place([("a", "i32"), ("b", "ptr")])


@pytest.mark.parametrize(("which", "rows", "cols"), [(0, 128, 64), (1, 128, 64), (2, 64, 80)])
def test_a_fragment_holds_every_element_once(probe: ctypes.CDLL, which: int, rows: int, cols: int) -> None:
    held = (ctypes.c_int * (rows * cols))()
    probe.fragment(which, held)
    assert sorted(held) == list(range(rows * cols))


@pytest.mark.parametrize("cols", [48, 176])  # bits of one word, and of two
def test_comparisons_with_all_columns_of_a_row_are_those_with_each(probe: ctypes.CDLL, cols: int) -> None:
    out = (ctypes.c_int * (cols // 2))()
    ends = [-(2**30), -9, *range(-1, cols + 9), 2**30]
    for x in ends:
        for y in random.Random(x).sample(ends, 3):
            assert probe.columns(cols, x, y, out) == cols // 4
            for step, bits in zip(out[::2], out[1::2], strict=True):
                below, above = step < x, y < step
                compared = [below, step <= x, x < step, x <= step, step == x, step == x]
                joined = [below and above, below or above, not below, below, False, below, True]
                assert [bool(bits >> i & 1) for i in range(13)] == compared + joined, (step, x, y)


def test_four_lanes_share_a_row_and_no_row_crosses_a_warp(probe: ctypes.CDLL) -> None:
    owners: dict[int, set[int]] = {}
    for thread in range(128):
        rows = (ctypes.c_int * 8)()
        for row in rows[: probe.fragment_slot_rows(thread, rows)]:
            owners.setdefault(row, set()).add(thread)
    assert sorted(owners) == list(range(128))
    assert all(len(threads) == 4 and len({t // 4 for t in threads}) == 1 for threads in owners.values())


@pytest.mark.parametrize("cols", [48, 64, 80, 128, 192])
def test_shared_tiles_overlap_nowhere_and_ldmatrix_meets_no_conflict(probe: ctypes.CDLL, cols: int) -> None:
    rows, chunks = 32, cols // 8
    out = (ctypes.c_int * (rows * chunks * 2))()
    probe.shared_tile(cols, rows, out)
    offsets = np.array(out).reshape(rows, chunks, 2)
    assert (offsets[..., 0] == offsets[..., 1]).all()  # walking from chunk 0 or 1 reaches the same place
    offsets = offsets[..., 0]
    assert (offsets % 16 == 0).all()
    assert len(np.unique(offsets)) == rows * chunks
    banks = offsets // 16 % 8
    for first in range(0, rows, 8):
        for chunk in range(chunks):
            assert len(set(banks[first : first + 8, chunk])) == 8


@pytest.mark.parametrize("align", [16, 1])
def test_tiles_are_the_union_of_the_ranges(probe: ctypes.CDLL, align: int) -> None:
    """Each column of a range in one tile, ascending, a tile from the first one left on; full only when one range proves
    it, and `proven` says so of any place."""
    rng = random.Random(7)
    for _ in range(3000):
        begin = 16 * rng.randrange(4)
        end = rng.randrange(0, 200)
        ranges = [(rng.randrange(-50, 220), rng.randrange(-50, 220), rng.randrange(2)) for _ in range(3)]
        out = (ctypes.c_int * 64)()
        flat = (ctypes.c_int * 9)(*[x for r in ranges for x in r])
        count = probe.tiles(flat, begin, end, align, out)
        got = [(out[2 * i], out[2 * i + 1]) for i in range(count)]
        columns = {c for lo, hi, _ in ranges for c in range(max(lo, begin), min(hi, end))}
        left, starts = set(columns), []
        while left:
            starts.append(min(left) // align * align)
            left -= set(range(starts[-1] + 16))
        full = [any(not p and lo <= s and s + 16 <= min(hi, end) for lo, hi, p in ranges) for s in starts]
        assert got == [(s, int(not f)) for s, f in zip(starts, full, strict=True)], (ranges, begin, end)
        place = rng.randrange(begin, 200)
        proven = any(not p and lo <= place and place + 16 <= min(hi, end) for lo, hi, p in ranges)
        assert probe.is_proven(flat, place, end) == proven, (ranges, place, end)


def test_descending_tiles_are_the_union_of_the_ranges(probe: ctypes.CDLL) -> None:
    """Each column of a range in one tile's own part, from the last; a tile ends at the last one left and does not begin
    before the first of all; full only when one range proves all of it, and all of it is its own."""
    rng = random.Random(11)
    for _ in range(3000):
        begin = 16 * rng.randrange(4)
        end = rng.randrange(0, 200)
        ranges = [(rng.randrange(-50, 220), rng.randrange(-50, 220), rng.randrange(2)) for _ in range(3)]
        out = (ctypes.c_int * 96)()
        flat = (ctypes.c_int * 9)(*[x for r in ranges for x in r])
        count = probe.descending_tiles(flat, begin, end, out)
        got = [tuple(out[3 * i : 3 * i + 3]) for i in range(count)]
        left = {c for lo, hi, _ in ranges for c in range(max(lo, begin), min(hi, end))}
        wanted = []
        while left:
            last = max(left) + 1
            col = max(last - 16, begin)
            full = any(not p and lo <= col and col + 16 <= last <= min(hi, end) for lo, hi, p in ranges)
            wanted.append((col, last, int(not full)))
            left -= set(range(col, last))
        assert got == wanted, (ranges, begin, end)


class Tensor2(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("extent", ctypes.c_longlong * 2), ("stride", ctypes.c_longlong * 2)]


class Tensor1(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("extent", ctypes.c_longlong * 1), ("stride", ctypes.c_longlong * 1)]


def test_loads_clamp_each_index_and_an_empty_axis_reads_zero(probe: ctypes.CDLL) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[::-1]
    tensor = Tensor2(array.ctypes.data, (3, 4), (-4, 1))
    for i in (-(2**31), -1, 0, 2, 3, 2**31 - 1):
        for j in (-5, 0, 3, 4, 1000):
            assert probe.load2(ctypes.byref(tensor), i, j) == array[min(max(i, 0), 2), min(max(j, 0), 3)]
    empty = Tensor2(None, (0, 4), (4, 1))
    assert probe.load2(ctypes.byref(empty), 1, 1) == 0
    wide = np.array([2**32 + 5, -7], np.int64)
    assert probe.load_i64(ctypes.byref(Tensor1(wide.ctypes.data, (2,), (1,))), 0) == 5
    assert probe.load_i64(ctypes.byref(Tensor1(wide.ctypes.data, (2,), (1,))), 9) == -7


def test_every_f16_and_bf16_reads_as_numpy_reads_it(probe: ctypes.CDLL) -> None:
    for bits in range(0, 65536, 7):
        half = float(np.array(bits, np.uint16).view(np.float16))
        brain = float(np.array(bits << 16, np.uint32).view(np.float32))
        for got, want in ((probe.load_f16(bits), half), (probe.load_bf16(bits), brain)):
            assert got == want or (math.isnan(got) and math.isnan(want))


def test_three_bf16_add_up_to_a_float(probe: ctypes.CDLL) -> None:
    probe.split.argtypes = [ctypes.c_float, ctypes.c_void_p]
    dice = np.random.default_rng(0)
    values = np.concatenate(
        [dice.normal(0, 10.0 ** dice.uniform(-30, 30, 4000)), [0.0, 1.0, -1e9, 3.4028235e38, 2**31]]
    )
    out = np.zeros(2, np.uint32)
    for value in values.astype(np.float32):
        probe.split(value, out.ctypes.data)
        parts = np.array([out[0] << np.uint32(16), out[0] & 0xFFFF0000, out[1] << np.uint32(16)], np.uint32)
        assert parts.view(np.float32).astype(np.float64).sum() == np.float64(value)
        assert out[1] >> 16 == 0


def test_starts_default_to_the_newest_tokens_and_indptr_gives_lengths(probe: ctypes.CDLL) -> None:
    def at(b: int, **given: int | np.ndarray) -> list[int]:
        block = ctypes.create_string_buffer(LAUNCH_BYTES)
        for field in LAUNCH_FIELDS:
            value = given.get(field.name, 99 if field.name.startswith("max_") else 0)
            word = value.ctypes.data if isinstance(value, np.ndarray) else value
            block[field.offset : field.offset + field.size] = word.to_bytes(
                field.size, "little", signed=field.size == 4
            )
        out = (ctypes.c_int * 6)()
        probe.place_of(block, b, out)
        return list(out)

    lengths = np.array([3, 9], np.int32)
    assert at(1, max_qo_len=5, max_kv_len=12) == [5, 12, 7, 0, 0, 0]
    assert at(1, qo_lens=lengths, max_kv_len=12, k_start=100) == [9, 12, 103, 100, 0, 0]
    assert at(0, max_qo_len=5, kv_lens=lengths, q_start=-4, explicit_q_start=1) == [5, 3, -4, 0, 0, 0]
    assert at(1, max_qo_len=5, max_kv_len=12, q_starts=lengths, k_starts=lengths) == [5, 12, 9, 9, 0, 0]
    indptr, kv_indptr = np.array([0, 4, 4, 10], np.int32), np.array([0, 8, 20, 21], np.int32)
    assert at(2, qo_indptr=indptr, kv_indptr=kv_indptr) == [6, 1, -5, 0, 4, 20]
    # A wrong length stays within the bounds of the call.
    wrong = np.array([-4, 1000], np.int32)
    assert at(0, qo_lens=wrong, kv_lens=wrong)[:2] == [0, 0]
    assert at(1, qo_lens=wrong, kv_lens=wrong, max_qo_len=7, max_kv_len=8)[:2] == [7, 8]


def wrap(x: int) -> int:
    return (x + 2**31) % 2**32 - 2**31


def test_integer_operations_are_total(probe: ctypes.CDLL) -> None:
    low, high = -(2**31), 2**31 - 1
    values = [low, low + 1, -33, -7, -2, -1, 0, 1, 2, 3, 31, 32, 33, high]
    for a in values:
        for b in values:
            assert probe.integer(0, a, b) == wrap(a + b)
            assert probe.integer(1, a, b) == wrap(a * b)
            assert probe.integer(2, a, b) == (wrap(a // b) if b else 0)
            assert probe.integer(3, a, b) == (a % b if b else 0)
            assert probe.integer(4, a, b) == wrap(a << (b & 31))
            assert probe.integer(5, a, b) == a >> (b & 31)
            if 0 <= b <= 33:
                assert probe.integer(7, a, b) == wrap(a**b)
        assert probe.integer(6, a, 0) == wrap(-a)
        assert probe.integer(8, a, 0) == wrap(abs(a))


def test_float_operations_are_total(probe: ctypes.CDLL) -> None:
    values = np.array([-7.5, -2.0, -1.0, -0.3, 0.0, 0.3, 1.0, 2.5, 3.5, 1e30], np.float32)
    for a in values:
        for b in values:
            if b == 0:
                assert [probe.real(op, a, b) for op in (0, 1, 2)] == [0, 0, 0]
                continue
            assert probe.real(0, a, b) == np.float32(a / b)
            assert probe.real(1, a, b) == np.floor_divide(a, b)
            assert probe.real(2, a, b) == np.remainder(a, b)
    assert [probe.real(3, x, 0) for x in (0.5, 1.5, 2.5, -0.5)] == [0, 2, 2, 0]
    assert probe.real(4, 200.0, 0) == 200
    assert probe.real(4, -20.0, 0) == pytest.approx(math.exp(-20), rel=1e-6)
    assert [probe.real(5, x, 0) for x in (-100.0, 0.0, 100.0)] == [-1, 0, 1]
    assert probe.real(7, -200.0, 0) == pytest.approx(0, abs=1e-38)
    for angle in (0.1, 3.0, 1000.5, 99999.0):
        assert probe.real(6, angle, 0) == pytest.approx(math.sin(np.float32(angle)), abs=2e-5)


def test_float_to_int_saturates_and_nan_is_zero(probe: ctypes.CDLL) -> None:
    cases = {1.9: 1, -1.9: -1, 3e9: 2**31 - 1, -3e9: -(2**31), math.inf: 2**31 - 1, -math.inf: -(2**31), math.nan: 0}
    assert {x: probe.to_int(x) for x in cases if x == x} == {x: y for x, y in cases.items() if x == x}
    assert probe.to_int(math.nan) == 0
    assert [probe.to_unsigned(x) for x in (-1.0, 3e9, 5e9, math.nan)] == [0, 3_000_000_000, 2**32 - 1, 0]
