// The KV tiles of one work item, from the ranges that a Variant gives. Every thread, and on warp-specialised families
// producer and consumers, walk the same ranges with their own iterator, so they cannot disagree. Plain C++: tested on the
// host against brute force.
#pragma once
#include "device/joint.cuh"

namespace attncc {

struct TileSpan {
  int col;       // columns [col, col + TileCols)
  bool partial;  // mask() and the end of the columns must be tested
  int end;       // DescendingTiles: columns from here on belong to the tile before
};

// Whether one of some rows' ranges proves every pair of columns [col, col + TileCols).
template <int TileCols, int NumRanges>
__device__ __forceinline__ bool proven(const Range* ranges, int col, int col_end) {
  bool found = false;
#pragma unroll
  for (int i = 0; i < NumRanges; ++i) {
    const Range range = ranges[i];
    const int hi = range.hi < col_end ? range.hi : col_end;
    found = found | ((range.partial == 0) & (range.lo <= col) & (col + TileCols <= hi));
  }
  return found;
}

// Whether one of some rows' ranges reaches columns [lo, hi).
template <int NumRanges>
__device__ __forceinline__ bool meets(const Range (&ranges)[NumRanges], int lo, int hi) {
  bool found = false;
#pragma unroll
  for (int i = 0; i < NumRanges; ++i)
    found = found | ((ranges[i].lo < ranges[i].hi) & (ranges[i].lo < hi) & (lo < ranges[i].hi));
  return found;
}

// Where the last tile begins, of tiles that follow one another from column `first` on to the last that ranges reach.
template <int TileCols, int NumRanges>
__device__ __forceinline__ int last_tile(const Range (&ranges)[NumRanges], int first, int col_end) {
  int last = first;
#pragma unroll
  for (int i = 0; i < NumRanges; ++i) {
    const int hi = ranges[i].hi < col_end ? ranges[i].hi : col_end;
    if (ranges[i].lo < hi && last < hi - 1) last = hi - 1;
  }
  return first + quotient<TileCols>(last - first) * TileCols;
}

// A walk over tiles. Walk::seek() moves the cursor to the next tile and full_end to the end of what proves it; false: none
// is left.
template <class Walk, int TileCols>
struct TileWalk {
  int cursor, col_end;
  int full_end = 0;  // tiles from the cursor on that end here or before are full: they are found without a look

  __device__ __forceinline__ TileWalk(int cursor, int col_end) : cursor(cursor), col_end(col_end) {}

  // Leaves columns from `end` on out.
  __device__ __forceinline__ void end_at(int end) {
    col_end = end;
    full_end = full_end < end ? full_end : end;
  }

  __device__ __forceinline__ bool next(TileSpan& tile) {
    if (cursor + TileCols > full_end && !static_cast<Walk*>(this)->seek()) return false;
    tile.col = cursor;
    cursor += TileCols;
    tile.partial = cursor > full_end;
    return true;
  }
};

// Ascending, each column in one tile at most, whatever the order and overlap of the ranges. [col_begin, col_end) bounds
// them. A tile begins at the first column that a range holds and no tile before it, rounded down to a multiple of Align;
// col_begin and TileCols are multiples of it. A tile is full only when one range proves the whole of it.
template <int TileCols, int NumRanges, int Align = TileCols>
struct TileIterator : TileWalk<TileIterator<TileCols, NumRanges, Align>, TileCols> {
  using Base = TileWalk<TileIterator<TileCols, NumRanges, Align>, TileCols>;
  using Base::col_end;
  using Base::cursor;
  using Base::full_end;
  const Range* ranges;  // [NumRanges]; unused entries are empty

  __device__ __forceinline__ TileIterator(const Range* ranges, int col_begin, int col_end)
      : Base(col_begin, col_end), ranges(ranges) {}

  __device__ __forceinline__ bool seek() {
    int start = col_end;
#pragma unroll
    for (int i = 0; i < NumRanges; ++i) {
      const int lo = ranges[i].lo > cursor ? ranges[i].lo : cursor;
      const int hi = ranges[i].hi < col_end ? ranges[i].hi : col_end;
      if (lo < hi) {
        const int aligned = quotient<Align>(lo) * Align;
        start = aligned < start ? aligned : start;
      }
    }
    cursor = start;
    full_end = 0;
#pragma unroll
    for (int i = 0; i < NumRanges; ++i) {
      const int hi = ranges[i].hi < col_end ? ranges[i].hi : col_end;
      if (ranges[i].partial == 0 && ranges[i].lo <= start && hi > full_end) full_end = hi;
    }
    return start < col_end;
  }
};

// The same columns from the last to the first. A tile ends at the last column that a range holds and no tile before it; one
// that would begin before col_begin begins there, and has columns of the tile before it.
template <int TileCols, int NumRanges>
struct DescendingTiles {
  const Range* ranges;  // [NumRanges]; unused entries are empty
  int cursor, col_begin, col_end;
  int full_begin = 0x7fffffff;  // tiles that end at the cursor and begin here or behind are full

  __device__ __forceinline__ DescendingTiles(const Range* ranges, int col_begin, int col_end)
      : ranges(ranges), cursor(col_end), col_begin(col_begin), col_end(col_end) {}

  __device__ __forceinline__ bool next(TileSpan& tile) {
    if (cursor - TileCols < full_begin && !seek()) return false;
    const int col = cursor - TileCols;
    tile.end = cursor;
    tile.partial = col < full_begin;
    cursor = col > col_begin ? col : col_begin;
    tile.col = cursor;
    return true;
  }

  // Moves the cursor to the end of the next tile that a range meets, and full_begin to the begin of what proves it.
  __device__ __forceinline__ bool seek() {
    int end = col_begin;
#pragma unroll
    for (int i = 0; i < NumRanges; ++i) {
      const int lo = ranges[i].lo > col_begin ? ranges[i].lo : col_begin;
      const int hi = ranges[i].hi < cursor ? ranges[i].hi : cursor;
      if (lo < hi && hi > end) end = hi;
    }
    cursor = end;
    full_begin = 0x7fffffff;
#pragma unroll
    for (int i = 0; i < NumRanges; ++i) {
      const int lo = ranges[i].lo > col_begin ? ranges[i].lo : col_begin;
      if (ranges[i].partial == 0 && ranges[i].hi >= end && lo < full_begin) full_begin = lo;
    }
    return end > col_begin;
  }
};

// Where an item's tiles come from. Screened: from a bitmap in device memory, which device/screen.cuh specialises; a
// variant that has a screen includes it.
template <bool Screened>
struct TilesOf;

template <>
struct TilesOf<false> {
  template <int TileCols, int NumRanges>
  __device__ __forceinline__ static TileIterator<TileCols, NumRanges, 1> walk(const Range (&ranges)[NumRanges],
                                                                              const void*, int begin, int end) {
    return TileIterator<TileCols, NumRanges, 1>(ranges, begin, end);
  }
};

template <class Config, class Variant>
struct Screens;

// The bitmap of an item's row tile, where the variant has a screen.
template <class Config, class Variant>
__device__ __forceinline__ auto screen_of(const Launch& launch, const Work& work) {
  if constexpr (Variant::facts.has_screen)
    return Screens<Config, Variant>(launch).at(work);
  else
    return static_cast<const void*>(nullptr);
}

}  // namespace attncc
