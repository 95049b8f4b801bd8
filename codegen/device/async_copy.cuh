// cp.async: global to shared memory without registers, sm_80 and later. Copies of one thread form groups in commit order.
// And stores the other way.
#pragma once
#include "device/smem.cuh"

#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#else
namespace attncc {

// PTX ISA 9.7.9.17 prefetch: asks for the line of global memory that holds `address`; waits for nothing.
__device__ __forceinline__ void prefetch(const void* address) { asm volatile("prefetch.global.L1 [%0];" ::"l"(address)); }

// The same into L2, for what cp.async or the copy engine will read.
__device__ __forceinline__ void prefetch_l2(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

// PTX ISA 9.7.9.25.3 cp.async. Reads 16 bytes at `source` when `valid`, none otherwise; writes 16 bytes at shared address
// `target`, zeros when not valid. Both 16-byte aligned. L2 is asked for the whole 128-byte line.
__device__ __forceinline__ void copy_async(unsigned target, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}

// PTX ISA 9.7.9.25.3 cp.async.commit_group: the copies since the last commit become one group (possibly empty).
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// PTX ISA 9.7.9.25.3 cp.async.wait_group: all but this thread's newest `Pending` groups have landed. Other threads see
// them after a barrier.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// PTX ISA 9.7.9.12 st: writes `value` at `target` when `valid`. Predicated: a branch around each store takes longer.
__device__ __forceinline__ void store_global(void* target, uint2 value, bool valid) {
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %3, 0;\n @p st.global.v2.b32 [%0], {%1, %2};\n}" ::"l"(target),
               "r"(value.x), "r"(value.y), "r"(int(valid))
               : "memory");
}

__device__ __forceinline__ void store_global(void* target, uint4 value, bool valid) {
  asm volatile(
      "{\n .reg .pred p;\n setp.ne.b32 p, %5, 0;\n @p st.global.v4.b32 [%0], {%1, %2, %3, %4};\n}" ::"l"(target),
      "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(int(valid))
      : "memory");
}

__device__ __forceinline__ void store_global(void* target, float4 value, bool valid) {
  const uint4 bits{float_to_bits(value.x), float_to_bits(value.y), float_to_bits(value.z), float_to_bits(value.w)};
  store_global(target, bits, valid);
}

}  // namespace attncc
#endif  // ATTNCC_EMULATOR
