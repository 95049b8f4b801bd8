// The operations of the IR on values, with section 3's total semantics: i32 wraps, division by zero gives 0, `//` and `%`
// floor, shifts take 5 bits, float -> int truncates and saturates with NaN -> 0. May not know any variant or kernel.
//
// One name per IR operation, so that an emitter is a table. IR op -> Fn<...>::name:
//   unary   neg bitnot:bit_not not:logical_not abs exp exp2 log log2 log1p tanh sigmoid softplus sqrt rsqrt sin cos floor
//           round erf
//   binary  add sub mul div floordiv mod pow min max  and:logical_and or:logical_or xor:logical_xor
//           bitand:bit_and bitor:bit_or bitxor:bit_xor shl shr lt le eq
//   other   select(cond, a, b)   casts: to_f32 to_i32 to_u32 to_bool
// Operands of a binary operation have one type (the IR casts first): float, int, unsigned, or bool for the logical ones
// and eq. div takes floats. min and max drop a NaN, as fminf does. exp, log, ... take floats only.
//
// Accuracy: an expression without the score (positions, indices, tables) uses Accuracy::exact, so that it agrees with
// the reference; one that depends on the score uses the Config's.
#pragma once
#include "device/types.cuh"

namespace attncc {

enum class Accuracy {
  fast,   // one special-function instruction wherever there is one; tanh.approx: relative error 2^-11
  close,  // special functions combined so that the absolute error stays near 1e-7
  exact,  // the CUDA math library: within 2 ulp
};

// Special-function instructions (MUFU). Each reads x and writes y. ftz: subnormals count as 0, saving a rescale.
namespace mufu {
#ifdef __CUDACC__
__device__ __forceinline__ float exp2(float x) {  // PTX ISA 9.7.3.22 ex2
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2(float x) {  // PTX ISA 9.7.3.20 lg2
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float tanh(float x) {  // PTX ISA 9.7.3.23 tanh, sm_75 and later
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float rcp(float x) {  // PTX ISA 9.7.3.13 rcp
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float sqrt(float x) {  // PTX ISA 9.7.3.15 sqrt
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float rsqrt(float x) {  // PTX ISA 9.7.3.17 rsqrt
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float sin(float x) {  // PTX ISA 9.7.3.18 sin
  float y;
  asm("sin.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float cos(float x) {  // PTX ISA 9.7.3.19 cos
  float y;
  asm("cos.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
#else
inline float exp2(float x) { return ::exp2f(x); }
inline float log2(float x) { return ::log2f(x); }
inline float tanh(float x) { return ::tanhf(x); }
inline float rcp(float x) { return 1.0f / x; }
inline float sqrt(float x) { return ::sqrtf(x); }
inline float rsqrt(float x) { return 1.0f / ::sqrtf(x); }
inline float sin(float x) { return ::sinf(x); }
inline float cos(float x) { return ::cosf(x); }
#endif
}  // namespace mufu

// One rounding for each operation: a compiler may not fuse these into a multiply-add. What decides (a comparison, a
// rounding to an integer) then falls on the same side as the reference. A host compiler is told so by a flag.
namespace rounded {
#ifdef __CUDACC__
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
#else
inline float add(float a, float b) { return a + b; }
inline float sub(float a, float b) { return a - b; }
inline float mul(float a, float b) { return a * b; }
#endif
}  // namespace rounded

template <Accuracy accuracy>
struct Fn {
  static constexpr bool is_exact = accuracy == Accuracy::exact;
  static constexpr float log2e = 1.4426950408889634f, ln2 = 0.6931471805599453f;

  // ---- exact in every accuracy -------------------------------------------------------------------------------------
  __device__ __forceinline__ static float neg(float a) { return -a; }
  __device__ __forceinline__ static int neg(int a) { return int(0u - unsigned(a)); }
  __device__ __forceinline__ static unsigned neg(unsigned a) { return 0u - a; }

  __device__ __forceinline__ static float abs(float a) { return ::fabsf(a); }
  __device__ __forceinline__ static int abs(int a) { return a < 0 ? neg(a) : a; }
  __device__ __forceinline__ static unsigned abs(unsigned a) { return a; }

  __device__ __forceinline__ static float add(float a, float b) { return is_exact ? rounded::add(a, b) : a + b; }
  __device__ __forceinline__ static int add(int a, int b) { return int(unsigned(a) + unsigned(b)); }
  __device__ __forceinline__ static unsigned add(unsigned a, unsigned b) { return a + b; }

  __device__ __forceinline__ static float sub(float a, float b) { return is_exact ? rounded::sub(a, b) : a - b; }
  __device__ __forceinline__ static int sub(int a, int b) { return int(unsigned(a) - unsigned(b)); }
  __device__ __forceinline__ static unsigned sub(unsigned a, unsigned b) { return a - b; }

  __device__ __forceinline__ static float mul(float a, float b) { return is_exact ? rounded::mul(a, b) : a * b; }
  __device__ __forceinline__ static int mul(int a, int b) { return int(unsigned(a) * unsigned(b)); }
  __device__ __forceinline__ static unsigned mul(unsigned a, unsigned b) { return a * b; }

  __device__ __forceinline__ static int floordiv(int a, int b) {
    if (b == 0) return 0;
    if (b == -1) return neg(a);  // INT_MIN / -1 traps on a CPU
    const int quotient = a / b;
    return quotient - ((a % b != 0) && ((a < 0) != (b < 0)));
  }
  __device__ __forceinline__ static unsigned floordiv(unsigned a, unsigned b) { return b == 0u ? 0u : a / b; }

  __device__ __forceinline__ static int mod(int a, int b) {
    if (b == 0 || b == -1) return 0;
    const int remainder = a % b;
    return remainder != 0 && ((remainder < 0) != (b < 0)) ? remainder + b : remainder;
  }
  __device__ __forceinline__ static unsigned mod(unsigned a, unsigned b) { return b == 0u ? 0u : a % b; }

  // Python's and numpy's float divmod: the remainder takes the divisor's sign; the quotient is the exact one's floor.
  __device__ __forceinline__ static float mod(float a, float b) {
    if (b == 0.0f) return 0.0f;
    const float remainder = ::fmodf(a, b);
    return remainder != 0.0f && ((remainder < 0.0f) != (b < 0.0f)) ? remainder + b : remainder;
  }
  __device__ __forceinline__ static float floordiv(float a, float b) {
    if (b == 0.0f) return 0.0f;
    const float remainder = ::fmodf(a, b);
    float quotient = (a - remainder) / b;
    if (remainder != 0.0f && ((remainder < 0.0f) != (b < 0.0f))) quotient -= 1.0f;
    const float whole = ::floorf(quotient);
    return quotient - whole > 0.5f ? whole + 1.0f : whole;
  }

  __device__ __forceinline__ static float min(float a, float b) { return ::fminf(a, b); }
  __device__ __forceinline__ static int min(int a, int b) { return a < b ? a : b; }
  __device__ __forceinline__ static unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
  __device__ __forceinline__ static float max(float a, float b) { return ::fmaxf(a, b); }
  __device__ __forceinline__ static int max(int a, int b) { return a > b ? a : b; }
  __device__ __forceinline__ static unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

  __device__ __forceinline__ static bool logical_not(bool a) { return !a; }
  __device__ __forceinline__ static bool logical_and(bool a, bool b) { return a & b; }
  __device__ __forceinline__ static bool logical_or(bool a, bool b) { return a | b; }
  __device__ __forceinline__ static bool logical_xor(bool a, bool b) { return a != b; }

  __device__ __forceinline__ static int bit_not(int a) { return ~a; }
  __device__ __forceinline__ static unsigned bit_not(unsigned a) { return ~a; }
  __device__ __forceinline__ static int bit_and(int a, int b) { return a & b; }
  __device__ __forceinline__ static unsigned bit_and(unsigned a, unsigned b) { return a & b; }
  __device__ __forceinline__ static int bit_or(int a, int b) { return a | b; }
  __device__ __forceinline__ static unsigned bit_or(unsigned a, unsigned b) { return a | b; }
  __device__ __forceinline__ static int bit_xor(int a, int b) { return a ^ b; }
  __device__ __forceinline__ static unsigned bit_xor(unsigned a, unsigned b) { return a ^ b; }
  __device__ __forceinline__ static int shl(int a, int b) { return int(unsigned(a) << (unsigned(b) & 31u)); }
  __device__ __forceinline__ static unsigned shl(unsigned a, unsigned b) { return a << (b & 31u); }
  __device__ __forceinline__ static int shr(int a, int b) { return a >> (unsigned(b) & 31u); }  // arithmetic
  __device__ __forceinline__ static unsigned shr(unsigned a, unsigned b) { return a >> (b & 31u); }

  template <class T>
  __device__ __forceinline__ static bool lt(T a, T b) { return a < b; }
  template <class T>
  __device__ __forceinline__ static bool le(T a, T b) { return a <= b; }
  template <class T>
  __device__ __forceinline__ static bool eq(T a, T b) { return a == b; }
  template <class T>
  __device__ __forceinline__ static T select(bool cond, T a, T b) { return cond ? a : b; }

  __device__ __forceinline__ static float to_f32(float a) { return a; }
  __device__ __forceinline__ static float to_f32(int a) { return float(a); }
  __device__ __forceinline__ static float to_f32(unsigned a) { return float(a); }
  __device__ __forceinline__ static float to_f32(bool a) { return a ? 1.0f : 0.0f; }
  __device__ __forceinline__ static int to_i32(int a) { return a; }
  __device__ __forceinline__ static int to_i32(unsigned a) { return int(a); }
  __device__ __forceinline__ static int to_i32(bool a) { return a ? 1 : 0; }
  __device__ __forceinline__ static unsigned to_u32(unsigned a) { return a; }
  __device__ __forceinline__ static unsigned to_u32(int a) { return unsigned(a); }
  __device__ __forceinline__ static unsigned to_u32(bool a) { return a ? 1u : 0u; }
  template <class T>
  __device__ __forceinline__ static bool to_bool(T a) { return a != T(0); }
#ifdef __CUDACC__
  __device__ __forceinline__ static int to_i32(float a) {  // PTX ISA 9.7.9.21 cvt: saturates, NaN gives 0
    int y;
    asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(y) : "f"(a));
    return y;
  }
  __device__ __forceinline__ static unsigned to_u32(float a) {
    unsigned y;
    asm("cvt.rzi.u32.f32 %0, %1;" : "=r"(y) : "f"(a));
    return y;
  }
#else
  static int to_i32(float a) {
    if (a != a) return 0;
    if (a >= 2147483648.0f) return INT_MAX;
    return a < -2147483648.0f ? INT_MIN : int(a);
  }
  static unsigned to_u32(float a) {
    if (!(a > 0.0f)) return 0u;
    return a >= 4294967296.0f ? UINT_MAX : unsigned(a);
  }
#endif

  __device__ __forceinline__ static float floor(float a) { return ::floorf(a); }
  __device__ __forceinline__ static float round(float a) { return ::rintf(a); }  // half to even
  __device__ __forceinline__ static float erf(float a) { return ::erff(a); }
  __device__ __forceinline__ static float log1p(float a) { return ::log1pf(a); }

  // ---- by accuracy -------------------------------------------------------------------------------------------------
  __device__ __forceinline__ static float div(float a, float b) {
    return b == 0.0f ? 0.0f : (is_exact ? a / b : a * mufu::rcp(b));
  }
  __device__ __forceinline__ static float exp2(float a) { return is_exact ? ::exp2f(a) : mufu::exp2(a); }
  __device__ __forceinline__ static float exp(float a) { return is_exact ? ::expf(a) : mufu::exp2(a * log2e); }
  __device__ __forceinline__ static float log2(float a) { return is_exact ? ::log2f(a) : mufu::log2(a); }
  __device__ __forceinline__ static float log(float a) { return is_exact ? ::logf(a) : mufu::log2(a) * ln2; }
  __device__ __forceinline__ static float sqrt(float a) { return is_exact ? ::sqrtf(a) : mufu::sqrt(a); }
  __device__ __forceinline__ static float rsqrt(float a) { return is_exact ? 1.0f / ::sqrtf(a) : mufu::rsqrt(a); }

  __device__ __forceinline__ static float tanh(float a) {
    if (is_exact) return ::tanhf(a);
    if (accuracy == Accuracy::fast) return mufu::tanh(a);
    return 1.0f - 2.0f * mufu::rcp(1.0f + mufu::exp2(a * (2.0f * log2e)));  // rcp(inf) = 0: saturates by itself
  }

  // Not through tanh: sigmoid attention lives on relative accuracy near 0.
  __device__ __forceinline__ static float sigmoid(float a) {
    return is_exact ? 1.0f / (1.0f + ::expf(-a)) : mufu::rcp(1.0f + mufu::exp2(-a * log2e));
  }

  // max(a, 0) + log(1 + e^-|a|): no overflow for large a, no cancellation for small ones.
  __device__ __forceinline__ static float softplus(float a) {
    const float tail = is_exact ? ::log1pf(::expf(-::fabsf(a)))
                                : mufu::log2(1.0f + mufu::exp2(-::fabsf(a) * log2e)) * ln2;
    return ::fmaxf(a, 0.0f) + tail;
  }

  // sin.approx wants a small argument: subtract multiples of 2π in three parts (Cody and Waite). Positions times
  // frequencies reach 1e5. The library's own slow path for large arguments would use local memory.
  __device__ __forceinline__ static float reduce_angle(float a) {
    const float turns = ::rintf(a * 0.15915494309189535f);
    float r = ::fmaf(-turns, 6.28125f, a);
    r = ::fmaf(-turns, 1.93500518798828125e-3f, r);
    return ::fmaf(-turns, 3.01991597592e-7f, r);
  }
  __device__ __forceinline__ static float sin(float a) { return is_exact ? ::sinf(a) : mufu::sin(reduce_angle(a)); }
  __device__ __forceinline__ static float cos(float a) { return is_exact ? ::cosf(a) : mufu::cos(reduce_angle(a)); }

  __device__ __forceinline__ static float pow(float a, float b) {
    // log2f, not lg2.approx: for a base near 1 (retention) its error would be multiplied by a large exponent.
    return !is_exact && a > 0.0f ? mufu::exp2(b * ::log2f(a)) : ::powf(a, b);
  }
  __device__ __forceinline__ static unsigned pow(unsigned a, unsigned b) {
    unsigned result = 1u;
    for (; b != 0u; b >>= 1, a *= a)
      if (b & 1u) result *= a;
    return result;
  }
  __device__ __forceinline__ static int pow(int a, int b) {  // a negative exponent truncates: 0 but for a = 1 and -1
    if (b >= 0) return int(pow(unsigned(a), unsigned(b)));
    return a == 1 ? 1 : (a == -1 ? ((b & 1) ? -1 : 1) : 0);
  }
};

}  // namespace attncc
