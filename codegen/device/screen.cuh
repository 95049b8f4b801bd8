// Which tiles of one work item hold no pair, and which hold every pair, where the mask depends on captured tensors and
// `ranges` cannot know: bounds of the item's rows against bounds of every chunk of columns (Variant::screen), a bit each.
// Owns the bitmaps and the walk over them; it may not know any family's tile or fragment. The warp-wide part compiles
// where kernels do, the rest is plain C++: tested on the host against brute force.
#pragma once
#include "device/interval.cuh"
#include "device/tiles.cuh"

#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#endif

namespace attncc {

constexpr int kChunkCols = 16;    // a tile's width is a multiple of it
constexpr int kBitmapWords = 128;  // 65,536 columns a chunk at a time; beyond, a bit stands for 2, 4, ... chunks

__device__ __forceinline__ int lowest_bit(unsigned x) {  // x != 0
#ifdef __CUDACC__
  return __ffs(int(x)) - 1;
#else
  return __builtin_ctz(x);
#endif
}

// Bit i of a bitmap: columns [first + (i << shift), first + ((i + 1) << shift)).
struct BitmapPlace {
  int first, shift, words;

  // For columns [from, end) and no more than `capacity` words; from is a multiple of kChunkCols.
  __device__ __forceinline__ void cover(int from, int end, int capacity) {
    first = from;
    shift = 4;
    const int cols = end > from ? end - from : 0;
    while (((cols - 1) >> shift) >= capacity * 32) ++shift;
    words = ((cols - 1) >> (shift + 5)) + 1;
  }
  __device__ __forceinline__ int col(int bit) const { return first + (bit << shift); }
};

// may: a pair is possible; all: every pair is there.
template <int Words>
struct TileBitmap : BitmapPlace {
  unsigned may[Words], all[Words + 1];  // two words of `all` are read at once

  // The first column >= `from` whose bit in `may` is set, past every column if there is none. from >= first.
  __device__ __forceinline__ int next(int from) const {
    const int bit = (from - first) >> shift;
    unsigned mask = ~0u << (bit & 31);
    for (int word = bit >> 5; word < words; ++word) {
      if (const unsigned left = may[word] & mask) {
        const int found = col(word * 32 + lowest_bit(left));
        return found > from ? found : from;
      }
      mask = ~0u;
    }
    return 0x3fffffff;
  }

  // Whether `all` holds for Cols columns from `from` on. from >= first.
  template <int Cols>
  __device__ __forceinline__ bool full(int from) const {
    static_assert(Cols <= 32 * kChunkCols, "they lie in two words");
    const int bit = (from - first) >> shift, last = (from + Cols - 1 - first) >> shift;
    const int word = bit >> 5;
    if (word >= words) return false;
    const unsigned long long bits = (all[word] | (unsigned long long)(all[word + 1]) << 32) >> (bit & 31);
    const unsigned long long wanted = (2ull << (last - bit)) - 1;
    return (bits & wanted) == wanted;
  }
};

// TileIterator over a bitmap, which was made from the same ranges: a tile begins at the first chunk that may hold a pair
// and that no tile before it covers.
template <int TileCols, int Words>
struct ScreenedTiles {
  const TileBitmap<Words>* bitmap;
  int cursor, col_end;

  __device__ __forceinline__ bool next(TileSpan& tile) {
    const int found = bitmap->next(cursor);
    if (found >= col_end) return false;
    tile.col = found;
    tile.partial = tile.col + TileCols > col_end || !bitmap->template full<TileCols>(tile.col);
    cursor = tile.col + TileCols;
    return true;
  }
};

// Where the bitmap of columns [begin, end) lies: from the first chunk that a range reaches to the last column of any.
template <int Words, int NumRanges>
__device__ __forceinline__ BitmapPlace cover_ranges(const Range (&ranges)[NumRanges], int begin, int end) {
  int first = 0x3fffffff, last = 0;  // end may lie before begin
#pragma unroll
  for (int i = 0; i < NumRanges; ++i) {
    const int lo = ranges[i].lo > begin ? ranges[i].lo : begin, hi = ranges[i].hi < end ? ranges[i].hi : end;
    if (lo >= hi) continue;
    first = lo < first ? lo : first;
    last = hi > last ? hi : last;
  }
  BitmapPlace place;
  place.cover(first < last ? first & -kChunkCols : begin, last, Words);
  return place;
}

// Operations on every field of a RowBounds or a KeyBounds.
struct Forget {
  template <class T>
  __device__ __forceinline__ void operator()(Interval<T>& x) const {
    x = Interval<T>::nothing();
  }
};

// What is known of the pairs of `box`, which holds at least one column of [0, col_end) if a range reaches it. Columns are
// read in turns that begin at `turn`, so that neighbouring threads with neighbouring boxes read neighbouring columns.
template <class Variant, int NumRanges>
__device__ __forceinline__ Interval<bool> screen_box(const typename Variant::Params& params,
                                                     const typename Variant::Item& item,
                                                     const typename Variant::RowBounds& rows,
                                                     const Range (&ranges)[NumRanges], Box box, int col_end, int turn) {
  const int width = box.col_hi - box.col_lo;  // a power of two
  if (box.col_hi > col_end) box.col_hi = col_end;
  bool reached = false, proven = false;
#pragma unroll
  for (int i = 0; i < NumRanges; ++i) {
    reached = reached || (ranges[i].lo < box.col_hi && box.col_lo < ranges[i].hi && ranges[i].lo < ranges[i].hi);
    proven = proven || (ranges[i].partial == 0 && ranges[i].lo <= box.col_lo && box.col_hi <= ranges[i].hi);
  }
  reached = reached && box.col_lo < box.col_hi;
  if (!reached || proven) return {reached && proven, reached};
  const auto at = [&](int j) {
    const int col = box.col_lo + ((j + turn) & (width - 1));
    return Variant::key_bounds(params, item, col < col_end ? col : col_end - 1);
  };
  typename Variant::KeyBounds keys;
  keys.each(Forget());
#pragma unroll 1
  for (int j = 0; j < width; j += 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) keys.merge(at(j + i));
  }
  return Variant::screen(params, item, rows, keys, box);
}

#ifdef ATTNCC_KERNELS

struct FromLane {  // the bounds of the lane at a distance
  int distance;

  template <class T>
  __device__ __forceinline__ void operator()(Interval<T>& x) const {
    x = {T(__shfl_xor_sync(0xffffffffu, x.lo, distance)), T(__shfl_xor_sync(0xffffffffu, x.hi, distance))};
  }
};

#endif  // ATTNCC_KERNELS

template <>
struct TilesOf<true> {
  using Bitmap = TileBitmap<kBitmapWords>;

  template <int TileCols, int NumRanges, int Words>
  __device__ __forceinline__ static ScreenedTiles<TileCols, Words> walk(const Range (&)[NumRanges],
                                                                        const TileBitmap<Words>& bitmap, int, int end) {
    return {&bitmap, bitmap.first, end};
  }

#ifdef ATTNCC_KERNELS
  // Fills the bitmap of an item: columns [begin, end) against rows [row_lo, row_hi), packed into NumRows. `Staged` is what
  // the family keeps in shared memory, a Bitmap with `item`, `rows`, `row_at` (row, h) and `ranges`. Every thread of the CTA
  // calls it; on entry all but the bitmap is there for all of them, and the bitmap is after the next barrier. Out of line,
  // with few enough arguments for registers: it leaves those of a family's loop alone.
  template <class Variant, int NumRows, int Threads, class Staged>
  static __device__ __attribute__((noinline)) void fill(Staged& staged, const typename Variant::Params& params, int row_lo,
                                                        int row_hi, int begin, int end) {
    Bitmap& bitmap = staged;
    const auto& item = reinterpret_cast<const typename Variant::Item&>(staged.item);
    const auto* rows = reinterpret_cast<const typename Variant::Row*>(staged.rows);
    const int lane = int(threadIdx.x) & 31;
    // Each warp by itself: 32 rows at a time, then a butterfly.
    const auto at = [&](int i) {
      const int last = i < NumRows ? i : NumRows - 1;
      return Variant::row_bounds(params, item, rows[last], staged.row_at[last].row, staged.row_at[last].h);
    };
    auto bounds = at(lane);
#pragma unroll
    for (int i = 32; i < NumRows; i += 32) bounds.merge(at(i + lane));
#pragma unroll 1
    for (int distance = 16; distance > 0; distance /= 2) {
      auto other = bounds;
      other.each(FromLane{distance});
      bounds.merge(other);
    }
    const BitmapPlace place = cover_ranges<kBitmapWords>(staged.ranges, begin, end);
    if (threadIdx.x == 0) {
      static_cast<BitmapPlace&>(bitmap) = place;
      bitmap.all[place.words] = 0u;
    }
#pragma unroll 1
    for (int word = int(threadIdx.x) >> 5; word < place.words; word += Threads / 32) {
      const int bit = word * 32 + lane;
      const Box box{row_lo, row_hi, place.col(bit), place.col(bit + 1)};
      const Interval<bool> found = screen_box<Variant>(params, item, bounds, staged.ranges, box, end, lane);
      const unsigned may = __ballot_sync(0xffffffffu, found.hi), all = __ballot_sync(0xffffffffu, found.lo);
      if (lane == 0) {
        bitmap.may[word] = may;
        bitmap.all[word] = all;
      }
    }
  }
#endif  // ATTNCC_KERNELS
};

}  // namespace attncc
