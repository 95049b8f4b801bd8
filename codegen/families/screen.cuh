// Screening: the entry that finds out, before `main`, which chunks of columns a row tile has to visit, where the mask
// depends on captured tensors. Owns who reads which column; what bits mean and where they lie is device/screen.cuh.
//
// One CTA makes the bitmap of one row tile, which the KV heads share unless the mask differs from one to the next.
#pragma once
#include "device/screen.cuh"

#ifdef ATTNCC_KERNELS
#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#endif

namespace attncc {
namespace screening {

constexpr int kThreads = 512;  // codegen/families/screen.py launches as many
static_assert(sizeof(ScreenBitmap) == 1044, "codegen/families/screen.py asks for as much memory a bitmap");

struct FromLane {  // the bounds of the lane at a distance
  int distance;

  template <class T>
  __device__ __forceinline__ void operator()(Interval<T>& x) const {
    x = {T(__shfl_xor_sync(0xffffffffu, x.lo, distance)), T(__shfl_xor_sync(0xffffffffu, x.hi, distance))};
  }
};

// The bounds of a tile's rows, a thread's by itself and then all together; every thread gets them.
template <class Config, class Variant>
__device__ __forceinline__ typename Variant::RowBounds bounds_of_rows(const typename Variant::Params& params,
                                                                      const typename Variant::Item& item,
                                                                      const Work& work, int lane) {
  using Bounds = typename Variant::RowBounds;
  constexpr int warps = (Config::block_m < kThreads ? Config::block_m + 31 : kThreads) / 32;  // that have a row
  alignas(16) __shared__ char found[warps * sizeof(Bounds)];
  Bounds bounds;
  bounds.each(Forget());
#pragma unroll 1
  for (int i = int(threadIdx.x); i < Config::block_m; i += kThreads) {
    const RowAt at = unpack_row(work, i);
    bounds.merge(Variant::row_bounds(params, item, Variant::row(params, item, at.row, at.h), at.row, at.h));
  }
#pragma unroll 1
  for (int distance = 16; distance > 0; distance /= 2) {
    auto other = bounds;
    other.each(FromLane{distance});
    bounds.merge(other);
  }
  Bounds* of_warps = reinterpret_cast<Bounds*>(found);
  const int warp = int(threadIdx.x) >> 5;
  if (lane == 0 && warp < warps) of_warps[warp] = bounds;
  __syncthreads();
#pragma unroll 1
  for (int other = 0; other < warps; ++other) bounds.merge(of_warps[other]);
  return bounds;
}

// The grid: (row tiles of the longest request, KV heads or 1, requests).
template <class Config, class Variant>
__device__ __forceinline__ void run_block(const typename Variant::Params& params) {
  const Launch& launch = params.launch;
  const Screens<Config, Variant> screens(launch);
  int tile = blockIdx.x, heads = launch.group;
  const int hk = blockIdx.y, b = blockIdx.z;
  int h0 = hk * launch.group;
  if (!screens.packed) {
    const int head = tile / screens.head_tiles();
    tile -= head * screens.head_tiles();
    h0 += head;
    heads = 1;
  }
  const Work work = row_tile(launch, Config::block_m, tile, hk, b, h0, heads);
  if (work.nrows <= 0) return;

  __shared__ int begin, end;
  if (threadIdx.x == 0) begin = kBitmapWords, end = 0;
  const int lane = int(threadIdx.x) & 31, col_end = work.geometry.kv_len;
  const int row_lo = packed_row(work.row0, work.pack), row_hi = packed_row(work.row0 + work.nrows - 1, work.pack) + 1;
  const typename Variant::Item item = Variant::item(params, work);
  Range ranges[Variant::facts.num_ranges];
  int found_ranges = Variant::ranges(params, work, row_lo, row_hi, ranges);
#pragma unroll
  for (int i = 0; i < Variant::facts.num_ranges; ++i)
    if (i >= found_ranges) ranges[i] = Range{0, 0, 1};
  const auto rows = bounds_of_rows<Config, Variant>(params, item, work, lane);
  ScreenBitmap& bitmap = *screens.at(work);
  const BitmapPlace place = cover_ranges<kBitmapWords>(ranges, 0, col_end);
  // A warp to a word. Four lanes share a chunk's columns, so that what they read together lies together: eight chunks a
  // turn, and of the four lanes with a chunk of turn t the t-th keeps what they found.
  const int mine = (lane & 3) * 8 + (lane >> 2), share = 1 << (place.shift - 2);
#pragma unroll 1
  for (int word = int(threadIdx.x) >> 5; word < place.words; word += kThreads / 32) {
    Box box{row_lo, row_hi, place.col(word * 32 + mine), place.col(word * 32 + mine + 1)};
    if (box.col_hi > col_end) box.col_hi = col_end;
    Interval<bool> found = ranged(ranges, box);
    const bool open = found.hi && !found.lo;
    typename Variant::KeyBounds keys;
    keys.each(Forget());
    if (__ballot_sync(0xffffffffu, open)) {
      typename Variant::KeyBounds part[4];
#pragma unroll
      for (int turn = 0; turn < 4; ++turn) part[turn].each(Forget());
#pragma unroll 1
      for (int j = 0; j < share; j += 4) {
#pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
          const int col = place.col(word * 32 + turn * 8 + (lane >> 2)) + (lane & 3) * share + j;
          part[turn].merge(Variant::key_bounds(params, item, col, col_end - 1));
        }
      }
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
#pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
          auto other = part[turn];
          other.each(FromLane{distance});
          part[turn].merge(other);
        }
      }
#pragma unroll
      for (int turn = 0; turn < 4; ++turn)
        if ((lane & 3) == turn) keys = part[turn];
    }
    if (open) found = Variant::screen(params, item, rows, keys, box);
    const int bits = __shfl_sync(0xffffffffu, int(found.lo) * 2 + int(found.hi), (lane & 7) * 4 + (lane >> 3));
    const unsigned may = __ballot_sync(0xffffffffu, bits & 1), all = __ballot_sync(0xffffffffu, bits & 2);
    if (lane == 0) {
      bitmap.may[word] = may;
      bitmap.all[word] = all;
      if (may != 0) {
        atomicMin(&begin, word);
        atomicMax(&end, word + 1);
      }
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    static_cast<BitmapPlace&>(bitmap) = place;
    bitmap.begin = begin;
    bitmap.end = end;
  }
}

}  // namespace screening
}  // namespace attncc
#endif  // ATTNCC_KERNELS
