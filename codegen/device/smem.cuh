// How a tile of 16-bit elements lies in shared memory so that ldmatrix meets no bank conflict. May not know what the
// elements mean. Plain arithmetic: tests walk it on the host.
#pragma once
#include "device/types.cuh"

namespace attncc {

// Rows of Cols elements, in chunks of 16 bytes. ldmatrix reads one chunk from each of 8 consecutive rows; those 8 chunks
// must fall in 8 different 16-byte columns of the 128-byte bank line:
//   Cols a multiple of 64: chunk c of row r goes to c ^ (r % 8), no padding;
//   otherwise: rows are padded to an odd number of chunks.
template <int Cols>
struct SharedTile {
  static_assert(Cols % 16 == 0, "an mma step reads 16 columns");
  static constexpr int chunks = Cols / 8;
  static constexpr bool swizzled = chunks % 8 == 0;
  static constexpr int row_bytes = (swizzled ? chunks : chunks + 1) * 16;

  __device__ __forceinline__ static constexpr int offset(int row, int chunk) {
    return row * row_bytes + ((swizzled ? chunk ^ (row & 7) : chunk) << 4);
  }

  // From the address of chunk 0 or 1 of a row (in a tile aligned to 128 bytes) to the one `chunks_on`, an even number,
  // further: one xor with a constant, so that a lane keeps one address and not one per chunk.
  __device__ __forceinline__ static constexpr unsigned advance(unsigned address, int chunks_on) {
    return swizzled ? (address ^ unsigned((chunks_on & 7) << 4)) + unsigned(chunks_on >> 3) * 128u
                    : address + unsigned(chunks_on) * 16u;
  }
};

#ifdef __CUDACC__
// The 32-bit address that ld.shared, cp.async and ldmatrix take.
__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
#endif

}  // namespace attncc
