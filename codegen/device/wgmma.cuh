// wgmma: products of a warpgroup (four warps) with operands in shared memory, sm_90a. Owns the layout of 128-byte swizzled
// operand tiles, their descriptors, and the order of the asynchronous instructions. It may not know what is multiplied.
//
// ORDER (PTX ISA 9.7.15.2, 9.7.15.7). An issued product runs on. Registers of its accumulator and of A may be touched again
// after wait_products; a product may read or add to registers that ordinary code wrote after fence_products only. Products
// on one accumulator of one shape need no fence between them. Shared memory that the copy engine wrote is seen after its
// mbarrier's wait; what threads wrote, after fence_proxy in each of them and a barrier.
#pragma once
#include "device/smem.cuh"

namespace attncc {

using u64 = unsigned long long;

// A tile of Rows x Cols 16-bit elements for wgmma and TMA: panels of 64 columns, each Rows rows of 128 bytes; chunk c (16
// bytes) of row r lies at c ^ (r % 8). PTX ISA 5.5.7 (TMA) and 9.7.15.5.1 (wgmma): the pattern of the 128-byte swizzle,
// given that a panel begins at a multiple of 1024 bytes.
template <int Rows, int Cols>
struct SwizzledTile {
  static_assert(Rows % 8 == 0 && Cols % 16 == 0, "whole atoms of 8 rows; a product takes 16 columns");
  static constexpr int panels = (Cols + 63) / 64, chunks = Cols / 8;
  static constexpr int row_bytes = 128;  // from a row to the next of its panel
  static constexpr int panel_bytes = Rows * row_bytes, bytes = panels * panel_bytes;

  // Of 16 bytes of elements, from the tile's begin.
  __device__ __forceinline__ static constexpr int offset(int row, int chunk) {
    return (chunk >> 3) * panel_bytes + row * 128 + (((chunk & 7) ^ (row & 7)) << 4);
  }
};

// PTX ISA 9.7.15.5.1.2.2, matrix descriptor: address, leading and stride byte offset, each divided by 16; swizzle 1 is 128
// bytes. K-major (rows are M or N, columns K): the stride is from 8 rows to the next 8; the leading offset is not used.
// MN-major (rows are K, columns M or N): the stride is from 8 rows to the next 8, the leading offset from 64 columns to the
// next 64, a panel.
__device__ __forceinline__ constexpr u64 descriptor(unsigned address, int leading_bytes, int stride_bytes) {
  return u64((address & 0x3ffffu) >> 4) | u64(leading_bytes >> 4) << 16 | u64(stride_bytes >> 4) << 32 | u64(1) << 62;
}

// A tile of Rows x 16 16-bit elements, K-major, without a swizzle: the first eight columns of all rows, then the others.
template <int Rows>
struct PlainTile {
  static_assert(Rows % 8 == 0, "whole core matrices of 8 rows");
  static constexpr int plane_bytes = Rows * 16, bytes = 2 * plane_bytes;

  __device__ __forceinline__ static constexpr int offset(int row, int chunk) { return chunk * plane_bytes + row * 16; }
};

// Its descriptor. PTX ISA 9.7.15.5.1.2.2: without a swizzle the leading offset is from 8 columns to the next 8.
template <class Tile>
__device__ __forceinline__ constexpr u64 plain_descriptor(unsigned address) {
  return u64((address & 0x3ffffu) >> 4) | u64(Tile::plane_bytes >> 4) << 16 | u64(128 >> 4) << 32;
}

// How far the address goes, in the descriptor's units of 16 bytes, from columns [0, 16) of a K-major tile to its step-th 16.
template <class Tile>
__device__ __forceinline__ constexpr u64 column_step(int step) {
  return u64(((step >> 2) * Tile::panel_bytes + (step & 3) * 32) >> 4);
}

// The same from rows [0, 16) of an MN-major tile to its step-th 16.
__device__ __forceinline__ constexpr u64 row_step(int step) { return u64(step * 2048 >> 4); }

}  // namespace attncc

#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#elif defined(ATTNCC_KERNELS)
namespace attncc {

// A warpgroup's products of m64, k16; generated for the shapes in use (codegen/families/wgmma_products.py).
//   scores(c, q, k)        c = q k^T; descriptors of K-major tiles, k's rows being the product's columns.
//   scores_added(c, q, k, ones, added)   plus one step more, of plain tiles; where a Config adds.
//   outputs(c, p, v, add)  c = p v, or c += p v with `add`; p as fragments of 16-bit pairs, laid out as mma.m16n8k16's A, v
//                          of an MN-major tile. Without `add`, c may hold anything.
// PTX ISA 9.7.15.5.2 wgmma.mma_async; reads and writes c, reads the operands, all later.
template <class Config>
struct Products;

// PTX ISA 9.7.15.7.1 wgmma.fence.
__device__ __forceinline__ void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// PTX ISA 9.7.15.7.2 wgmma.commit_group: the products issued since the last commit become one group.
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// PTX ISA 9.7.15.7.3 wgmma.wait_group: all but this warp's newest Pending groups are done.
template <int Pending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// The compiler believes that a product is done once issued: nothing that reads c may move above this, nor below it.
template <int Count>
__device__ __forceinline__ void pin(float (&c)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(c[i]));
}
template <int Count>
__device__ __forceinline__ void pin(unsigned (&c)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+r"(c[i]));
}

}  // namespace attncc
#endif  // ATTNCC_KERNELS
