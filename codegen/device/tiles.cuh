// The KV tiles of one work item, from the ranges that a Variant gives. Every thread, and on warp-specialised families
// producer and consumers, walk the same ranges with their own iterator, so they cannot disagree. Plain C++: tested on the
// host against brute force.
#pragma once
#include "device/joint.cuh"

namespace attncc {

struct TileSpan {
  int col;       // columns [col, col + TileCols), col a multiple of TileCols
  bool partial;  // mask() and the end of the columns must be tested
};

// Ascending, each tile once, whatever the order and overlap of the ranges. [col_begin, col_end) bounds them; col_begin is
// a multiple of TileCols. A tile is full only when one range proves the whole of it.
template <int TileCols, int NumRanges>
struct TileIterator {
  const Range* ranges;  // [NumRanges]; unused entries are empty
  int cursor, col_end;

  __device__ __forceinline__ TileIterator(const Range* ranges, int col_begin, int col_end)
      : ranges(ranges), cursor(col_begin), col_end(col_end) {}

  __device__ __forceinline__ bool next(TileSpan& tile) {
    int start = col_end;
#pragma unroll
    for (int i = 0; i < NumRanges; ++i) {
      const int lo = ranges[i].lo > cursor ? ranges[i].lo : cursor;
      const int hi = ranges[i].hi < col_end ? ranges[i].hi : col_end;
      if (lo < hi) {
        const int aligned = quotient<TileCols>(lo) * TileCols;
        start = aligned < start ? aligned : start;
      }
    }
    if (start >= col_end) return false;
    bool full = false;
#pragma unroll
    for (int i = 0; i < NumRanges; ++i) {
      const int hi = ranges[i].hi < col_end ? ranges[i].hi : col_end;
      full = full || (ranges[i].partial == 0 && ranges[i].lo <= start && start + TileCols <= hi);
    }
    tile.col = start;
    tile.partial = !full;
    cursor = start + TileCols;
    return true;
  }
};

}  // namespace attncc
