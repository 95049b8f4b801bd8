// 64-bit integer arithmetic of a variant's loop bounds (attncc/passes/tile_program.py): total, and the same on host and
// device. It may not know any variant or kernel.
#pragma once
#include "device/types.cuh"

namespace attncc {
namespace bounds {

__device__ __forceinline__ i64 min(i64 a, i64 b) { return a < b ? a : b; }
__device__ __forceinline__ i64 max(i64 a, i64 b) { return a > b ? a : b; }

__device__ __forceinline__ i64 mod(i64 a, i64 b) {
  if (b == 0) return 0;
  const i64 remainder = a % b;
  return remainder != 0 && ((remainder < 0) != (b < 0)) ? remainder + b : remainder;
}

__device__ __forceinline__ i64 floordiv(i64 a, i64 b) { return b == 0 ? 0 : (a - mod(a, b)) / b; }

// A range end as an int: columns lie in [0, 2^28), so ends outside ±2^30 mean the same as ±2^30.
__device__ __forceinline__ int end(i64 x) { return int(max(-(i64(1) << 30), min(x, i64(1) << 30))); }

}  // namespace bounds
}  // namespace attncc
