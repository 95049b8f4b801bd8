// Programmatic dependent launch: a grid may begin while what is before it in its stream ends, as far as to wait for it; sm_90
// and later. It may not know any kernel.
#pragma once
#include "device/host.cuh"

namespace attncc {

// PTX ISA 9.7.13.13 griddepcontrol. By every thread, before it or who waits for it reads or writes any memory of the
// launch's tensors: all grids before this one are done then, and what they wrote is there. Their grids have waited likewise, in
// every CTA, so that this one is behind all of the stream. Then the grid behind this one may begin to be launched.
__device__ __forceinline__ void follow_grids() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace attncc
