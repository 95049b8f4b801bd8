// mbarrier: a phase of arrivals and of bytes that the copy engine still owes; sm_90 and later. A barrier is 8 bytes of shared
// memory, named by its 32-bit shared address. It may not know who produces or consumes.
//
// A phase ends when every expected arrival has come and every expected byte has landed; the next begins at once. A waiter
// names the parity of the phase whose end it waits for: 0 for the first, 1 for the second, ... Waiting for parity 1 on a new
// barrier returns at once, which is how a producer finds its stages empty.
#pragma once
#include "device/smem.cuh"

#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#elif defined(ATTNCC_KERNELS)
namespace attncc {

// PTX ISA 9.7.13.15.9 mbarrier.init. Before anyone else uses the barrier: fence_barriers, then a barrier of the CTA.
__device__ __forceinline__ void init_barrier(unsigned barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// PTX ISA 9.7.13.4 fence.mbarrier_init, and the generic-to-async proxy fence: the copy engine sees initialised barriers.
__device__ __forceinline__ void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}

// PTX ISA 9.7.13.15.13 mbarrier.arrive: one arrival; what this thread did before is seen by who waits (release, CTA).
__device__ __forceinline__ void arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// PTX ISA 9.7.13.14 elect.sync: an arrival for a whole warp, after what its lanes did before; none where `counts` is 0. Which
// lane it is the hardware says sooner than a comparison with its index.
__device__ __forceinline__ void arrive_warp(unsigned barrier, unsigned counts = 1) {
  __syncwarp();
  asm volatile(
      "{\n\t.reg .pred p, q;\n\t"
      "setp.ne.u32 q, %1, 0;\n\t"
      "elect.sync _|p, 0xffffffff;\n\t"
      "and.pred p, p, q;\n\t"
      "@p mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];\n\t}" ::"r"(barrier),
      "r"(counts)
      : "memory");
}

// PTX ISA 9.7.13.15.13 mbarrier.arrive.expect_tx: one arrival, and the phase waits for `bytes` more of copies.
__device__ __forceinline__ void arrive_expecting(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// PTX ISA 9.7.13.15.16 mbarrier.try_wait: whether the phase of that parity has ended; may sleep for a while first. After
// true, this thread sees what was done before the arrivals and what the copies wrote (acquire, CTA).
__device__ __forceinline__ bool try_wait(unsigned barrier, unsigned parity) {
  unsigned done;
  asm volatile(
      "{\n\t.reg .pred p;\n\t"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n\t"
      "selp.u32 %0, 1, 0, p;\n\t}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0u;
}

// PTX ISA 9.7.19.4 trap: the launch ends with an error.
__device__ __forceinline__ void stop_kernel() { asm volatile("trap;"); }

// Until that phase has ended. Checked: millions of looks without it are an error of the protocol and stop the kernel.
template <bool Checked>
__device__ __forceinline__ void wait(unsigned barrier, unsigned parity) {
  if constexpr (Checked) {
#pragma unroll 1
    for (int looks = 0; !try_wait(barrier, parity); ++looks)
      if (looks == 1 << 22) stop_kernel();
  } else {
    while (!try_wait(barrier, parity)) {
    }
  }
}

}  // namespace attncc
#endif  // ATTNCC_KERNELS

namespace attncc {

// Where one side stands in a ring of Stages barriers. Both sides walk it alike, so they agree on stage and parity.
template <int Stages>
struct Ring {
  int stage = 0;
  unsigned parity = 0;

  __device__ __forceinline__ void advance() {
    const bool wraps = stage == Stages - 1;
    stage = wraps ? 0 : stage + 1;
    parity ^= wraps ? 1u : 0u;
  }
  // To where it stood before the last advance.
  __device__ __forceinline__ void retreat() {
    parity ^= stage == 0 ? 1u : 0u;
    stage = stage == 0 ? Stages - 1 : stage - 1;
  }
};

}  // namespace attncc
