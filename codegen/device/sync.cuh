// What orders threads and proxies besides mbarriers: named barriers of a few warps, the proxy fence, registers that move
// between warpgroups, and the disorder that tests want. sm_90a. It may not know any kernel's roles.
#pragma once
#include "device/smem.cuh"

#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#elif defined(ATTNCC_KERNELS)
namespace attncc {

// PTX ISA 9.7.13.1 barrier. The CTA has 16, of which __syncthreads is number 0. `Threads` counts all that arrive and sync.
template <int Threads>
__device__ __forceinline__ void sync_named(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(Threads) : "memory");
}

template <int Threads>
__device__ __forceinline__ void arrive_named(int barrier) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(Threads) : "memory");
}

// PTX ISA 9.7.13.4 fence.proxy.async: this thread's ordinary accesses of shared memory (cp.async too, once waited for) come
// before what wgmma and the copy engine do after a barrier that follows.
__device__ __forceinline__ void fence_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// PTX ISA 9.7.19.5 setmaxnreg, by every warp of a warpgroup. Count is a multiple of 8. Taking more waits until others gave
// theirs back.
template <int Count>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}

template <int Count>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

// Nothing unless Wanted. Then a warp sleeps now and then, for up to four microseconds, as its clock says (PTX ISA 10.24
// clock, 9.7.19.2 nanosleep): a protocol may not depend on who is early.
template <bool Wanted>
__device__ __forceinline__ void jitter() {
  if constexpr (Wanted) {
    unsigned cycles;
    asm volatile("mov.u32 %0, %%clock;" : "=r"(cycles));
    const unsigned chance = (cycles + threadIdx.x / 32) * 2654435761u;
    if (chance >> 30 == 0) asm volatile("nanosleep.u32 %0;" ::"r"(chance >> 16 & 4095u));
  }
}

}  // namespace attncc
#endif  // ATTNCC_KERNELS
