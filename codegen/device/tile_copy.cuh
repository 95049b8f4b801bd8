// Rows of global memory into a SharedTile by cp.async, every thread of the CTA its share. It may not know what the rows are.
#pragma once
#include "device/async_copy.cuh"
#include "device/opaque.cuh"

#ifdef ATTNCC_KERNELS
namespace attncc {

// Copies Rows rows of Cols elements to shared memory at `target`. source(row, valid) gives a row's address and whether
// it is read; zeros are written where it is not.
template <class Config, int Rows, int Cols, class Source>
__device__ __forceinline__ void load_rows(unsigned target, Source source) {
  using Layout = SharedTile<Cols>;
  constexpr int total = Rows * Layout::chunks;
#pragma unroll 4
  for (int base = 0; base < total; base += Config::threads) {
    const int i = base + int(threadIdx.x);
    if (total % Config::threads != 0 && i >= total) break;
    const int row = quotient<Layout::chunks>(i), chunk = i - row * Layout::chunks;
    bool valid;
    const char* address = source(row, valid);
    copy_async(target + Layout::offset(row, chunk), address + chunk * 16, valid);
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
