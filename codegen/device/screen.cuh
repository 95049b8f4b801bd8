// Which tiles of one work item hold no pair, and which hold every pair, where the mask depends on captured tensors and
// `ranges` cannot know: bounds of the item's rows against bounds of every chunk of columns (Variant::screen), a bit each.
// Owns the bitmaps and the walk over them; it may not know any family's tile or fragment. The warp-wide part compiles
// where kernels do, the rest is plain C++: tested on the host against brute force.
#pragma once
#include "device/interval.cuh"
#include "device/tiles.cuh"
#include "device/views.cuh"

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
  unsigned may[Words], all[Words];
  int begin, end;  // of the words where `may` has a bit

  __device__ __forceinline__ void clear() { begin = Words, end = 0; }

  // The first column >= `from` whose bit in `may` is set, past every column if there is none. from >= first.
  __device__ __forceinline__ int next(int from) const {
    const int bit = (from - first) >> shift;
    unsigned mask = ~0u << (bit & 31);
    int word = bit >> 5;
    if (word < begin) word = begin, mask = ~0u;
#pragma unroll 1
    for (; word < end; ++word) {
      if (const unsigned left = may[word] & mask) {
        const int found = col(word * 32 + lowest_bit(left));
        return found > from ? found : from;
      }
      mask = ~0u;
    }
    return 0x3fffffff;
  }

  // Where the columns from `from` on end that `all` holds for; `from` or before if it does not. from >= first.
  __device__ __forceinline__ int full_end(int from) const {
    const int bit = (from - first) >> shift;
    unsigned mask = ~0u << (bit & 31);
    int word = bit >> 5;
#pragma unroll 1
    for (; word < words; ++word) {
      if (const unsigned left = ~all[word] & mask) return col(word * 32 + lowest_bit(left));
      mask = ~0u;
    }
    return col(word * 32);
  }
};

// TileIterator over a bitmap, which was made from the same ranges: a tile begins at the first chunk that may hold a pair
// and that no tile before it covers.
template <int TileCols, int Words>
struct ScreenedTiles {
  const TileBitmap<Words>* bitmap;
  int cursor, col_end;
  int full_end = 0;  // tiles from the cursor on that end here or before are full: they are found without a look

  __device__ __forceinline__ ScreenedTiles(const TileBitmap<Words>* bitmap, int col_end)
      : bitmap(bitmap), cursor(bitmap->first), col_end(col_end) {}

  __device__ __forceinline__ bool next(TileSpan& tile) {
    if (cursor + TileCols > full_end && !seek()) return false;
    tile.col = cursor;
    cursor += TileCols;
    tile.partial = cursor > full_end;
    return true;
  }

  __device__ __forceinline__ bool seek() {
    cursor = bitmap->next(cursor);
    full_end = 0;
    if (cursor >= col_end) return false;
    const int end = bitmap->full_end(cursor);
    full_end = end < col_end ? end : col_end;
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

// The bounds of a tensor's elements col to col + 3 along the one axis that is left, as `element` reads them; of `last` in
// place of what lies past it. 0 <= last. No branch, and an address is one multiply-add: all that stands beside it is read at
// once. Anything at all of an empty tensor, and where a step is not in [0, 2^32) bytes; `params` is read in its place.
template <class Params, class T>
__device__ __forceinline__ auto bounds_of_four(const Params& params, const T* base, const Axes<1>& axes, int col, int last)
    -> Interval<decltype(to_value(T()))> {
  using Found = Interval<decltype(to_value(T()))>;
  using u64 = unsigned long long;
  const int top = last < axes.last[0] ? last : axes.last[0];
  const u64 bytes = axes.stride[0] * i64(sizeof(T));
  const bool followed = base != nullptr && bytes >> 32 == 0;
  const u64 from = followed ? reinterpret_cast<u64>(base) : reinterpret_cast<u64>(&params);
  const unsigned step = followed ? unsigned(bytes) : 0u;
  Found found = Found::nothing();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned index = col + i < top ? col + i : top;
    found.merge(interval::point(to_value(*reinterpret_cast<const T*>(from + u64(index) * step))));
  }
  return followed ? found : Found::everything();
}

// Operations on every field of a RowBounds or a KeyBounds.
struct Forget {
  template <class T>
  __device__ __forceinline__ void operator()(Interval<T>& x) const {
    x = Interval<T>::nothing();
  }
};

// What ranges say of the columns of a box: hi, whether one of them reaches a column; lo, whether one proves all.
template <int NumRanges>
__device__ __forceinline__ Interval<bool> ranged(const Range (&ranges)[NumRanges], const Box& box) {
  bool reached = false, proven = false;
#pragma unroll
  for (int i = 0; i < NumRanges; ++i) {
    reached = reached | ((ranges[i].lo < box.col_hi) & (box.col_lo < ranges[i].hi) & (ranges[i].lo < ranges[i].hi));
    proven = proven | ((ranges[i].partial == 0) & (ranges[i].lo <= box.col_lo) & (box.col_hi <= ranges[i].hi));
  }
  reached = reached && box.col_lo < box.col_hi;
  return {reached && proven, reached};
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
    return ScreenedTiles<TileCols, Words>(&bitmap, end);
  }

#ifdef ATTNCC_KERNELS
  // Fills the bitmap of an item: columns [begin, end) against rows [row_lo, row_hi), packed into NumRows. `Staged` is what
  // the family keeps in shared memory, a Bitmap with `item`, `rows`, `row_at` (row, h) and `ranges`. Every thread of the CTA
  // calls it; on entry all but the bitmap is there for all of them, that is clear, and the bitmap is after the next barrier. Out of line,
  // with few enough arguments for registers: it leaves those of a family's loop alone.
  template <class Variant, int NumRows, int Threads, class Staged>
  static __device__ __attribute__((noinline)) void fill(Staged& staged, const typename Variant::Params& params, int row_lo,
                                                        int row_hi, int begin, int end) {
    Bitmap& bitmap = staged;
    const typename Variant::Item item = reinterpret_cast<const typename Variant::Item&>(staged.item);
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
    if (threadIdx.x == 0) static_cast<BitmapPlace&>(bitmap) = place;
    // A warp to a word. Four lanes share a chunk's columns, so that what they read together lies together: eight chunks a
    // turn, and of the four lanes with a chunk of turn t the t-th keeps what they found.
    const int mine = (lane & 3) * 8 + (lane >> 2), share = 1 << (place.shift - 2);
#pragma unroll 1
    for (int word = int(threadIdx.x) >> 5; word < place.words; word += Threads / 32) {
      Box box{row_lo, row_hi, place.col(word * 32 + mine), place.col(word * 32 + mine + 1)};
      if (box.col_hi > end) box.col_hi = end;
      Interval<bool> found = ranged(staged.ranges, box);
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
            part[turn].merge(Variant::key_bounds(params, item, col, end - 1));
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
      if (open) found = Variant::screen(params, item, bounds, keys, box);
      const int bits = __shfl_sync(0xffffffffu, int(found.lo) * 2 + int(found.hi), (lane & 7) * 4 + (lane >> 3));
      const unsigned may = __ballot_sync(0xffffffffu, bits & 1), all = __ballot_sync(0xffffffffu, bits & 2);
      if (lane == 0) {
        bitmap.may[word] = may;
        bitmap.all[word] = all;
        if (may != 0) {
          atomicMin(&bitmap.begin, word);
          atomicMax(&bitmap.end, word + 1);
        }
      }
    }
  }
#endif  // ATTNCC_KERNELS
};

}  // namespace attncc
