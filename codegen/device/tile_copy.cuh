// Rows of global memory into a SharedTile by cp.async, every thread of the CTA its share. It may not know what the rows are.
#pragma once
#include "device/async_copy.cuh"
#include "device/opaque.cuh"

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
