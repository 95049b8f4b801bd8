// Accumulators of the matrix instructions: which element of a tile each of a thread's registers holds. The layout of
// mma.sync and of wgmma. It may not know what the elements mean. Plain arithmetic: tests walk it on the host.
#pragma once
#include "device/host.cuh"

#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#endif

namespace attncc {

// Which (row, column) of a Rows x Cols tile a thread's i-th accumulator value is; Warps warps share the rows. PTX ISA
// 9.7.14.5.8: in m16n8, lane l holds columns 2 (l % 4) and + 1 of rows l / 4 and l / 4 + 8. wgmma's m64nN (PTX ISA
// 9.7.15.5.1) is the same with 16 rows to each of a warpgroup's four warps. A slot is one of a thread's rows.
template <int Rows, int Warps, int Cols>
struct MmaFragment {
  static constexpr int warp_rows = Rows / Warps;
  static constexpr int m_tiles = warp_rows / 16, n_tiles = Cols / 8;
  static constexpr int values = m_tiles * n_tiles * 4, rows = m_tiles * 2;
  static_assert(m_tiles * 16 * Warps == Rows && n_tiles * 8 == Cols, "whole mma tiles");

  int warp, lane;

  __device__ __forceinline__ explicit MmaFragment(int thread) : warp(thread >> 5), lane(thread & 31) {}

  // The first of the four values of mma tile (mt, nt).
  __device__ __forceinline__ static constexpr int index(int mt, int nt) { return (mt * n_tiles + nt) * 4; }
  __device__ __forceinline__ static constexpr int slot(int i) { return i / (4 * n_tiles) * 2 + ((i >> 1) & 1); }
  // The n-th of a slot's values, of row_values.
  static constexpr int row_values = n_tiles * 2;
  __device__ __forceinline__ static constexpr int value(int slot, int n) {
    return (slot >> 1) * n_tiles * 4 + (n >> 1) * 4 + (slot & 1) * 2 + (n & 1);
  }
  __device__ __forceinline__ int row(int slot) const {
    return warp * warp_rows + (slot >> 1) * 16 + (slot & 1) * 8 + (lane >> 2);
  }
  // Column col(i) is first_col() + step(i).
  __device__ __forceinline__ static constexpr int step(int i) { return i / 4 % n_tiles * 8 + (i & 1); }
  __device__ __forceinline__ int first_col() const { return (lane & 3) * 2; }
  __device__ __forceinline__ int col(int i) const { return first_col() + step(i); }
  // How many of a slot's values have a step below `end`; they are the first ones, as steps ascend.
  __device__ __forceinline__ static int count_below(int end) {
    end = end > 0 ? end : 0;
    const int rest = end & 7;
    return (end >> 2 & ~1) + (rest < 2 ? rest : 2);
  }

#ifdef ATTNCC_KERNELS
  // Combines x over the four lanes that share a row; every one of them gets the result.
  template <class Op>
  __device__ __forceinline__ static float row_reduce(float x, Op op) {
    x = op(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return op(x, __shfl_xor_sync(0xffffffffu, x, 2));
  }
#endif
};

}  // namespace attncc
