// Rows of the result that belong to no request, which are to be 0 and their LSE -inf: behind a request's rows up to the next
// request's, or to the end of its storage, and before the first one's. As a rule there are none: looking costs a read.
#pragma once
#include "device/joint.cuh"

#ifdef ATTNCC_KERNELS
namespace attncc {

// Tokens [begin, end): of all where the batch is ragged, else of a request's storage.
struct UnownedRows {
  int begin, end;
};

// Behind request b; -1: before the first. An indptr that is wrong leaves rows out, and reaches none beyond the tensor.
__device__ __forceinline__ UnownedRows rows_behind(const Launch& launch, int b) {
  if (launch.qo_indptr == nullptr) {
    if (b < 0) return {0, 0};
    return {geometry(launch, b).qo_len, launch.max_qo_len};
  }
  const int tokens = int(launch.qo_tokens);
  UnownedRows rows{0, b + 1 < launch.batch ? launch.qo_indptr[b + 1] : tokens};
  if (b >= 0) {
    const Geometry g = geometry(launch, b);
    rows.begin = g.qo_base + g.qo_len > 0 ? g.qo_base + g.qo_len : 0;
  }
  if (rows.end > tokens) rows.end = tokens;
  return rows;
}

// Heads [h0, h0 + heads) of every `step`-th of the rows from the `first`-th on, by `threads` threads.
template <class Config>
__device__ __forceinline__ void fill_rows(const Launch& launch, UnownedRows rows, int b, int h0, int heads, int first,
                                          int step, int thread, int threads) {
  constexpr int chunks = Config::head_dim_v / 8;
  if (launch.qo_indptr != nullptr) b = 0;
#pragma unroll 1
  for (int token = rows.begin + first; token < rows.end; token += step) {
#pragma unroll 1
    for (int i = thread; i < heads * chunks; i += threads) {
      const int head = i / chunks, chunk = i - head * chunks, h = h0 + head;
      char* target = static_cast<char*>(launch.out) + 2 * (b * launch.out_stride.batch + token * launch.out_stride.token +
                                                           h * launch.out_stride.head);
      *reinterpret_cast<uint4*>(target + 16 * chunk) = uint4{0u, 0u, 0u, 0u};
      if (chunk == 0 && launch.lse != nullptr)
        launch.lse[b * launch.lse_stride.batch + token * launch.lse_stride.token + h * launch.lse_stride.head] =
            -infinity();
    }
  }
}

// All of them, by a warp of many: the `first`-th of `step`.
template <class Config>
__device__ __forceinline__ void fill_unowned(const Launch& launch, int first, int step, int lane) {
#pragma unroll 1
  for (int b0 = -1; b0 < launch.batch; b0 += 32) {
    UnownedRows rows{0, 0};
    if (b0 + lane < launch.batch) rows = rows_behind(launch, b0 + lane);
    unsigned found = __ballot_sync(0xffffffffu, rows.begin < rows.end);
#pragma unroll 1
    for (; found != 0; found &= found - 1) {
      const int owner = __ffs(int(found)) - 1;
      const UnownedRows those{__shfl_sync(0xffffffffu, rows.begin, owner), __shfl_sync(0xffffffffu, rows.end, owner)};
      fill_rows<Config>(launch, those, b0 + owner, 0, launch.num_heads, first, step, lane, 32);
    }
  }
}

}  // namespace attncc
#endif  // ATTNCC_KERNELS
