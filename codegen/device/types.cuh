// Storage types and what a load of each yields. Our own 16-bit types, so that NVRTC parses no CUDA header and a host
// compiler sees the same bits.
#pragma once
#include "device/host.cuh"

namespace attncc {

using i64 = long long;  // 64 bits on every target; NVRTC has no <stdint.h>

// x / Divisor for 0 <= x < 2^28 and a divisor whose odd factor is below 16. Written out, as a fast compilation does not
// turn divisions by constants into shifts and products.
template <int Divisor>
__device__ __forceinline__ constexpr int quotient(int x) {
  constexpr int power = Divisor & -Divisor;  // the even factor
  constexpr unsigned odd = unsigned(Divisor / power);
  static_assert(odd < 16u, "the product below would be inexact");
  constexpr int shift = power >= 128 ? 7 : power == 64 ? 6 : power == 32 ? 5 : power == 16 ? 4
                        : power == 8 ? 3 : power == 4 ? 2 : power == 2 ? 1 : 0;
  static_assert(1 << shift == power, "an even factor of at most 128");
  const unsigned y = unsigned(x) >> shift;
  if constexpr (odd == 1u) return int(y);
  return int((unsigned long long)(y) * (0xffffffffu / odd + 1u) >> 32);
}

struct f16 {
  unsigned short bits;
};

struct bf16 {
  unsigned short bits;
};

#ifdef __CUDACC__
__device__ __forceinline__ float bits_to_float(unsigned bits) { return __uint_as_float(bits); }
__device__ __forceinline__ unsigned float_to_bits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }
#else
inline float bits_to_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned float_to_bits(float x) {
  unsigned bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float infinity() { return bits_to_float(0x7f800000u); }
#endif

__device__ __forceinline__ float to_value(bf16 x) { return bits_to_float(unsigned(x.bits) << 16); }

__device__ __forceinline__ float to_value(f16 x) {
#ifdef __CUDACC__
  float value;  // PTX ISA 9.7.9.21 cvt: reads x, writes value
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  const unsigned sign = (x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31u, fraction = x.bits & 0x3ffu;
  if (exponent == 31u) return bits_to_float(sign | 0x7f800000u | (fraction << 13));
  const float magnitude = exponent ? bits_to_float(((exponent + 112u) << 23) | (fraction << 13))
                                   : float(fraction) * 5.9604644775390625e-8f;  // 2^-24
  return sign ? -magnitude : magnitude;
#endif
}

// Values are f32, i32, u32 and bool; the narrow integers widen, i64 keeps its low half (range-checked on request).
__device__ __forceinline__ float to_value(float x) { return x; }
__device__ __forceinline__ bool to_value(bool x) { return x; }
__device__ __forceinline__ unsigned to_value(unsigned x) { return x; }
__device__ __forceinline__ int to_value(int x) { return x; }
__device__ __forceinline__ int to_value(signed char x) { return x; }
__device__ __forceinline__ int to_value(unsigned char x) { return x; }
__device__ __forceinline__ int to_value(short x) { return x; }
__device__ __forceinline__ int to_value(i64 x) { return int(x); }

}  // namespace attncc
