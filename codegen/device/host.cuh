// Lets the joint, a generated Variant and a family's Fragment compile as plain C++ (g++ -x c++), so that tests call them
// without a GPU. Owns the CUDA spellings that a host compiler lacks. It may not know any attncc type.
#pragma once

#ifndef __CUDACC__
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstring>

#define __device__
#define __host__
#define __forceinline__ inline
#endif
