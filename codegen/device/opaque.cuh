// Values of which the compiler knows nothing, to steer what it keeps in registers. Each says what for.
#pragma once
#include "device/host.cuh"

#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#endif

namespace attncc {

// The same pointer: what is computed from it is not folded into what came before.
__device__ __forceinline__ const char* opaque(const char* pointer) {
#ifdef __CUDACC__
  asm volatile("" : "+l"(pointer));
#endif
  return pointer;
}

__device__ __forceinline__ unsigned opaque(unsigned value) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(value));
#endif
  return value;
}

__device__ __forceinline__ int opaque(int value) { return int(opaque(unsigned(value))); }

// The same object, of which the compiler knows no value: what follows from it is found where it is needed.
template <class T>
__device__ __forceinline__ const T& hidden(const T& object) {
  return *reinterpret_cast<const T*>(opaque(reinterpret_cast<const char*>(&object)));
}

// 0. A loop that goes on until it has been seen runs once, and values that it changes stay where they are: a branch would
// have the compiler copy them for the side that does not.
__device__ __forceinline__ int opaque_zero() {
  int zero = 0;
#ifdef __CUDACC__
  asm volatile("" : "+r"(zero));
#endif
  return zero;
}

// Of memory, too: what was written is read again.
__device__ __forceinline__ void forget_memory() {
#ifdef __CUDACC__
  asm volatile("" ::: "memory");
#endif
}

#ifdef ATTNCC_KERNELS
// threadIdx.x, read anew: what is computed from it inside a loop is not kept in registers across the loop. PTX ISA 10.1.
__device__ __forceinline__ int opaque_thread() {
#ifdef __CUDACC__
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return int(threadIdx.x);
#endif
}
#endif

}  // namespace attncc
