// Rows of global memory into a SharedTile by cp.async, every thread of the CTA its share. It may not know what the rows are.
#pragma once
#include "device/async_copy.cuh"
#include "device/opaque.cuh"
#include "device/pairs.cuh"

#ifdef ATTNCC_KERNELS
namespace attncc {

// Copies Rows rows of Cols elements to shared memory at `target`. source(row, valid) gives a row's address and whether
// it is read; zeros are written where it is not. Addresses are computed a few at a time: between two copies nothing else
// is reordered, and each would wait for its own.
template <class Config, int Rows, int Cols, class Source>
__device__ __forceinline__ void load_rows(unsigned target, Source source) {
  using Layout = SharedTile<Cols>;
  constexpr int total = Rows * Layout::chunks, batch = 4;
#pragma unroll 1
  for (int base = int(threadIdx.x); base < total; base += batch * Config::threads) {
    const char* address[batch];
    bool valid[batch];
    unsigned place[batch];
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      const int i = base + j * Config::threads < total ? base + j * Config::threads : base;
      const int row = quotient<Layout::chunks>(i), chunk = i - row * Layout::chunks;
      address[j] = source(row, valid[j]) + chunk * 16;
      place[j] = target + Layout::offset(row, chunk);
    }
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      if (total % (batch * Config::threads) == 0 || base + j * Config::threads < total)
        copy_async(place[j], address[j], valid[j]);
    }
  }
}

// The same for a tile's packed rows, from packed row `row0` of heads whose first lies at `base`: one query row is
// `row_stride` bytes from the next, one of its `pack` heads `head_stride`. The first `count` are read. A thread goes down
// one column of chunks; where the next of its rows lies follows from the last, without a division.
template <class Config, int Rows, int Cols>
__device__ __forceinline__ void load_packed(unsigned target, const char* base, i64 row_stride, i64 head_stride, int row0,
                                            int pack, int count) {
  using Layout = SharedTile<Cols>;
  constexpr int pass = Config::threads / Layout::chunks;
  const int first = quotient<Layout::chunks>(int(threadIdx.x)), chunk = int(threadIdx.x) - first * Layout::chunks;
  if (Config::threads % Layout::chunks != 0 && first >= pass) return;
  const int row = packed_row(row0 + first, pack), rows_on = packed_row(pass, pack), heads_on = pass - rows_on * pack;
  int head = row0 + first - row * pack;
  const char* address = base + (row * row_stride + head * head_stride + chunk * 16);
  const i64 on = rows_on * row_stride + heads_on * head_stride, over = on + row_stride - pack * head_stride;
#pragma unroll 4
  for (int done = 0; done < Rows; done += pass) {
    if (Rows % pass != 0 && first + done >= Rows) break;
    const int place = pass % 8 == 0 ? Layout::offset(first, chunk) + done * Layout::row_bytes
                                    : Layout::offset(first + done, chunk);
    copy_async(target + place, address, first + done < count);
    head += heads_on;
    const bool wraps = head >= pack;
    address += wraps ? over : on;
    head -= wraps ? pack : 0;
  }
}

// The same for rows `stride` bytes apart, from row `first` of `base` on, the first `count` of them valid. It runs inside
// the loop over tiles, where registers are short: if a pass of the CTA covers whole groups of 8 rows, a thread walks one
// pointer down one column of chunks.
template <class Config, int Rows, int Cols>
__device__ __forceinline__ void load_block(unsigned target, const char* base, int first, i64 stride, int count) {
  using Layout = SharedTile<Cols>;
  constexpr int pass = Config::threads / Layout::chunks;
  if constexpr (Config::threads % Layout::chunks == 0 && pass % 8 == 0 && Rows % pass == 0) {
    const int thread = opaque_thread();
    const int row = quotient<Layout::chunks>(thread), chunk = thread - row * Layout::chunks;
    const char* address = base + i64(unsigned(first + row)) * stride + chunk * 16;
    target += Layout::offset(row, chunk);
#pragma unroll
    for (int done = 0; done < Rows; done += pass) {
      copy_async(target + done * Layout::row_bytes, address, row + done < count);
      // Opaque, or every pass's offset would be kept in registers across the loop over tiles, and spill.
      address = opaque(address + pass * stride);
    }
  } else {
    load_rows<Config, Rows, Cols>(target, [&](int row, bool& valid) {
      valid = row < count;
      return base + i64(unsigned(first + row)) * stride;
    });
  }
}

}  // namespace attncc
#endif  // ATTNCC_KERNELS
