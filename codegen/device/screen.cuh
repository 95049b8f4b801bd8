// Which tiles of one work item hold no pair, and which hold every pair, where the mask depends on captured tensors and
// `ranges` cannot know: bounds of the item's rows against bounds of every chunk of columns (Variant::screen), a bit each.
// Owns the bitmaps, where they lie and the walk over them; who makes them is families/screen.cuh. It may not know any
// family's fragment. Plain C++: tested on the host against brute force.
#pragma once
#include "device/interval.cuh"
#include "device/pairs.cuh"
#include "device/tiles.cuh"
#include "device/views.cuh"

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

__device__ __forceinline__ int highest_bit(unsigned x) {  // x != 0
#ifdef __CUDACC__
  return 31 - __clz(int(x));
#else
  return 31 - __builtin_clz(x);
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
  int begin, end;  // of the words where `may` has a bit
  unsigned may[Words], all[Words];

  __device__ __forceinline__ void clear() { begin = Words, end = 0; }

  // Behind the last column of word `word` whose bit in `may` is set; 0 if there is none.
  __device__ __forceinline__ int reach(int word) const {
    const unsigned set = may[word];
    return set != 0 ? col(word * 32 + highest_bit(set) + 1) : 0;
  }

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
struct ScreenedTiles : TileWalk<ScreenedTiles<TileCols, Words>, TileCols> {
  using Base = TileWalk<ScreenedTiles<TileCols, Words>, TileCols>;
  using Base::col_end;
  using Base::cursor;
  using Base::full_end;
  const TileBitmap<Words>* bitmap;

  __device__ __forceinline__ ScreenedTiles(const TileBitmap<Words>* bitmap, int begin, int col_end)
      : Base(begin < bitmap->first ? bitmap->first : begin, col_end), bitmap(bitmap) {}

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

using ScreenBitmap = TileBitmap<kBitmapWords>;

// Where the bitmap of a row tile lies in launch.screens: [batch, num_kv_heads or 1, row tiles]. The splits of a tile's
// columns share it, and so do the KV heads where the mask is the same for all of them.
template <class Config, class Variant>
struct Screens {
  const Launch& launch;
  bool packed;  // a tile packs the group's heads; else one, and a head's tiles follow those of the head before

  __device__ __forceinline__ explicit Screens(const Launch& launch)
      : launch(launch), packed(packs_group<Variant>(launch)) {}

  __device__ __forceinline__ int head_tiles() const {
    return (launch.max_qo_len * (packed ? launch.group : 1) + Config::block_m - 1) / Config::block_m;
  }
  __device__ __forceinline__ int tiles() const { return head_tiles() * (packed ? 1 : launch.group); }
  __device__ __forceinline__ ScreenBitmap* at(const Work& work) const {
    const int head = packed ? 0 : work.h0 - work.hk * launch.group;
    const int heads = Variant::facts.screen_per_head ? launch.num_kv_heads : 1;
    const i64 of_head = i64(work.b) * heads + (Variant::facts.screen_per_head ? work.hk : 0);
    return static_cast<ScreenBitmap*>(launch.screens) +
           (of_head * tiles() + head * head_tiles() + unsigned(work.row0) / unsigned(Config::block_m));
  }
};

template <>
struct TilesOf<true> {
  template <int TileCols, int NumRanges, int Words>
  __device__ __forceinline__ static ScreenedTiles<TileCols, Words> walk(const Range (&)[NumRanges],
                                                                        const TileBitmap<Words>* bitmap, int begin,
                                                                        int end) {
    return ScreenedTiles<TileCols, Words>(bitmap, begin, end);
  }
};

}  // namespace attncc
