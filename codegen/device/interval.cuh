// Bounds of a value over many rows or columns, and what the IR's operations make of them. Owns the arithmetic of
// `Variant::screen`; it may not know any variant or kernel. Always sound: what is not followed is everything() of its
// type. Plain C++.
//
// An end of an f32 interval is never NaN. A value that may be NaN has an interval that reaches an infinity, and nothing is
// proven true of those: every comparison with NaN is false. A condition is [false, false], [true, true] or [false, true].
#pragma once
#include "device/math.cuh"

namespace attncc {

template <class T>
struct Interval {
  T lo, hi;

  __device__ __forceinline__ static Interval everything();
  // Of no value yet: merging gives the other.
  __device__ __forceinline__ static Interval nothing() { return {everything().hi, everything().lo}; }

  __device__ __forceinline__ void merge(const Interval& other) {
    lo = other.lo < lo ? other.lo : lo;
    hi = hi < other.hi ? other.hi : hi;
  }
};
template <>
__device__ __forceinline__ Interval<bool> Interval<bool>::everything() {
  return {false, true};
}
template <>
__device__ __forceinline__ Interval<int> Interval<int>::everything() {
  return {-2147483647 - 1, 2147483647};
}
template <>
__device__ __forceinline__ Interval<unsigned> Interval<unsigned>::everything() {
  return {0u, 0xffffffffu};
}
template <>
__device__ __forceinline__ Interval<float> Interval<float>::everything() {
  return {-infinity(), infinity()};
}

namespace interval {

using exact = Fn<Accuracy::exact>;

template <class T>
__device__ __forceinline__ Interval<T> everything() {
  return Interval<T>::everything();
}

template <class T>
__device__ __forceinline__ Interval<T> point(T x) {
  return {x, x};
}
__device__ __forceinline__ Interval<float> point(float x) {
  return x == x ? Interval<float>{x, x} : everything<float>();
}

// i32 wraps: a result that might leave 32 bits could be anything.
__device__ __forceinline__ Interval<int> fit(i64 lo, i64 hi) {
  return lo < -2147483648ll || hi > 2147483647ll ? everything<int>() : Interval<int>{int(lo), int(hi)};
}
// Infinities that meet give NaN.
__device__ __forceinline__ Interval<float> fit(float lo, float hi) {
  return lo == lo && hi == hi ? Interval<float>{lo, hi} : everything<float>();
}

// ---- numbers. f32 rounds to nearest, which keeps order, so rounded ends are ends --------------------------------------
__device__ __forceinline__ Interval<int> add(Interval<int> x, Interval<int> y) {
  return fit(i64(x.lo) + y.lo, i64(x.hi) + y.hi);
}
__device__ __forceinline__ Interval<float> add(Interval<float> x, Interval<float> y) {
  return fit(exact::add(x.lo, y.lo), exact::add(x.hi, y.hi));
}
__device__ __forceinline__ Interval<int> sub(Interval<int> x, Interval<int> y) {
  return fit(i64(x.lo) - y.hi, i64(x.hi) - y.lo);
}
__device__ __forceinline__ Interval<float> sub(Interval<float> x, Interval<float> y) {
  return fit(exact::sub(x.lo, y.hi), exact::sub(x.hi, y.lo));
}
__device__ __forceinline__ Interval<int> neg(Interval<int> x) { return fit(-i64(x.hi), -i64(x.lo)); }
__device__ __forceinline__ Interval<float> neg(Interval<float> x) { return {-x.hi, -x.lo}; }

template <class T>
__device__ __forceinline__ Interval<T> min(Interval<T> x, Interval<T> y) {
  return {exact::min(x.lo, y.lo), exact::min(x.hi, y.hi)};
}
template <class T>
__device__ __forceinline__ Interval<T> max(Interval<T> x, Interval<T> y) {
  return {exact::max(x.lo, y.lo), exact::max(x.hi, y.hi)};
}
__device__ __forceinline__ Interval<float> abs(Interval<float> x) {
  const float least = x.lo > -x.hi ? x.lo : -x.hi;
  return {least > 0.0f ? least : 0.0f, -x.lo > x.hi ? -x.lo : x.hi};
}
// |INT_MIN| is INT_MIN.
__device__ __forceinline__ Interval<int> abs(Interval<int> x) {
  if (x.lo == everything<int>().lo) return everything<int>();
  const int least = x.lo > -x.hi ? x.lo : -x.hi;
  return {least > 0 ? least : 0, -x.lo > x.hi ? -x.lo : x.hi};
}

// The corners of a product, in the wider type where there is one.
template <class T, class Wide>
__device__ __forceinline__ Interval<T> corners(Wide a, Wide b, Wide c, Wide d) {
  if (!(a == a && b == b && c == c && d == d)) return everything<T>();
  const Wide low = a < b ? a : b, other_low = c < d ? c : d, high = a < b ? b : a, other_high = c < d ? d : c;
  return fit(low < other_low ? low : other_low, high < other_high ? other_high : high);
}
__device__ __forceinline__ Interval<int> mul(Interval<int> x, Interval<int> y) {
  return corners<int>(i64(x.lo) * y.lo, i64(x.lo) * y.hi, i64(x.hi) * y.lo, i64(x.hi) * y.hi);
}
__device__ __forceinline__ Interval<float> mul(Interval<float> x, Interval<float> y) {
  return corners<float>(exact::mul(x.lo, y.lo), exact::mul(x.lo, y.hi), exact::mul(x.hi, y.lo), exact::mul(x.hi, y.hi));
}

// By one positive number; rounding down keeps order.
__device__ __forceinline__ Interval<int> floordiv(Interval<int> x, Interval<int> y) {
  if (y.lo != y.hi || y.lo <= 0) return everything<int>();
  return {exact::floordiv(x.lo, y.lo), exact::floordiv(x.hi, y.lo)};
}
__device__ __forceinline__ Interval<int> shr(Interval<int> x, Interval<int> y) {
  if (y.lo != y.hi) return everything<int>();
  return {exact::shr(x.lo, y.lo), exact::shr(x.hi, y.lo)};
}

// Of what special functions give, whose code is short: right to 2^-22 of it (PTX ISA 9.7.3.13 rcp, 9.7.3.20 lg2; the latter
// absolutely, near 1), while nothing is subnormal.
using quick = Fn<Accuracy::fast>;
constexpr float kNormal = 0x1p-120f, kRelative = 0x1p-20f;

__device__ __forceinline__ Interval<float> widened(float lo, float hi, float absolute) {
  return fit(lo - (exact::abs(lo) * kRelative + absolute), hi + (exact::abs(hi) * kRelative + absolute));
}
// By one positive number.
__device__ __forceinline__ Interval<float> div(Interval<float> x, Interval<float> y) {
  if (y.lo != y.hi || !(y.lo >= kNormal) || !(y.hi <= 1.0f / kNormal)) return everything<float>();
  return widened(quick::div(x.lo, y.lo), quick::div(x.hi, y.lo), kNormal);
}
__device__ __forceinline__ Interval<float> log(Interval<float> x) {
  if (!(x.lo >= kNormal)) return everything<float>();
  return widened(quick::log(x.lo), quick::log(x.hi), kRelative);
}

__device__ __forceinline__ Interval<float> to_f32(Interval<int> x) { return {float(x.lo), float(x.hi)}; }
__device__ __forceinline__ Interval<float> to_f32(Interval<unsigned> x) { return {float(x.lo), float(x.hi)}; }
__device__ __forceinline__ Interval<float> to_f32(Interval<bool> x) { return {exact::to_f32(x.lo), exact::to_f32(x.hi)}; }
__device__ __forceinline__ Interval<int> to_i32(Interval<bool> x) { return {int(x.lo), int(x.hi)}; }
__device__ __forceinline__ Interval<int> to_i32(Interval<unsigned> x) { return fit(i64(x.lo), i64(x.hi)); }
__device__ __forceinline__ Interval<unsigned> to_u32(Interval<bool> x) { return {unsigned(x.lo), unsigned(x.hi)}; }
__device__ __forceinline__ Interval<unsigned> to_u32(Interval<int> x) {
  return x.lo < 0 ? everything<unsigned>() : Interval<unsigned>{unsigned(x.lo), unsigned(x.hi)};
}

// ---- conditions ------------------------------------------------------------------------------------------------------
template <class T>
__device__ __forceinline__ bool is_number(Interval<T>) {
  return true;
}
__device__ __forceinline__ bool is_number(Interval<float> x) { return -infinity() < x.lo && x.hi < infinity(); }
__device__ __forceinline__ Interval<int> to_i32(Interval<float> x) {  // NaN gives 0
  return is_number(x) ? Interval<int>{exact::to_i32(x.lo), exact::to_i32(x.hi)} : everything<int>();
}

template <class T>
__device__ __forceinline__ Interval<bool> lt(Interval<T> x, Interval<T> y) {
  return {is_number(x) && is_number(y) && x.hi < y.lo, x.lo < y.hi};
}
template <class T>
__device__ __forceinline__ Interval<bool> le(Interval<T> x, Interval<T> y) {
  return {is_number(x) && is_number(y) && x.hi <= y.lo, x.lo <= y.hi};
}
template <class T>
__device__ __forceinline__ Interval<bool> eq(Interval<T> x, Interval<T> y) {
  return {is_number(x) && is_number(y) && x.lo == x.hi && y.lo == y.hi && x.lo == y.lo, x.lo <= y.hi && y.lo <= x.hi};
}

__device__ __forceinline__ Interval<bool> logical_not(Interval<bool> x) { return {!x.hi, !x.lo}; }
__device__ __forceinline__ Interval<bool> logical_and(Interval<bool> x, Interval<bool> y) {
  return {x.lo && y.lo, x.hi && y.hi};
}
__device__ __forceinline__ Interval<bool> logical_or(Interval<bool> x, Interval<bool> y) {
  return {x.lo || y.lo, x.hi || y.hi};
}
__device__ __forceinline__ Interval<bool> logical_xor(Interval<bool> x, Interval<bool> y) {
  return logical_not(eq(x, y));
}
template <class T>
__device__ __forceinline__ Interval<bool> to_bool(Interval<T> x) {
  return logical_not(eq(x, point(T(0))));
}

template <class T>
__device__ __forceinline__ Interval<T> select(Interval<bool> cond, Interval<T> then, Interval<T> other) {
  if (cond.lo) return then;
  if (!cond.hi) return other;
  then.merge(other);
  return then;
}

}  // namespace interval
}  // namespace attncc
