// Lets the joint, a generated Variant and a family's Fragment compile as plain C++ (g++ -x c++), so that tests call them
// without a GPU. Owns the CUDA spellings that a host compiler lacks. It may not know any attncc type.
//
// Kernel bodies compile where ATTNCC_KERNELS is defined: under a CUDA compiler, and on the host where an emulator of the
// CTA (ATTNCC_EMULATOR, a header of the tests) brings the instructions that the device library wraps.
#pragma once

#ifdef __CUDACC__
#define ATTNCC_KERNELS
#else
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstring>

#define __device__
#define __host__
#define __forceinline__ inline
#ifdef ATTNCC_EMULATOR
#define ATTNCC_KERNELS
#endif
#endif
