// The tensor memory accelerator: boxes of a tensor, and plain bytes, from global to shared memory by one thread's order, sm_90 and
// later. Owns the copies and the visibility of their descriptors. It may not know what is copied.
#pragma once
#include "device/mbarrier.cuh"

namespace attncc {

// What cuTensorMapEncodeTiled writes; opaque. Kernels get it as a part of their parameter, the block.
struct alignas(64) TensorMap {
  unsigned long long words[16];
};

}  // namespace attncc

#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#elif defined(ATTNCC_KERNELS)
namespace attncc {

// PTX ISA 9.7.9.25.5.2 cp.async.bulk.tensor, tiled, 4-D. Orders the map's box at coordinates (c0, c1, c2, c3), c0 of the
// contiguous axis, into shared memory at `target`; elements outside the tensor become zeros. The box's bytes, those zeros
// included, count against `barrier`. With a 128-byte swizzle `target` is a multiple of 1024. What was written to or read
// from `target` before through the generic proxy must be ordered by fence_proxy of those threads and an arrival.
__device__ __forceinline__ void load_box(unsigned target, const TensorMap* map, unsigned barrier, int c0, int c1, int c2,
                                         int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
      ::"r"(target), "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// PTX ISA 9.7.9.25.4.1 cp.async.bulk. Orders `bytes` from `source` on into shared memory at `target`, all three multiples of 16; they
// count against `barrier`. What was written to or read from `target` before: as above.
__device__ __forceinline__ void load_bytes(unsigned target, const void* source, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
               "l"(source), "r"(bytes), "r"(barrier)
               : "memory");
}

}  // namespace attncc
#endif  // ATTNCC_KERNELS
