// A float as three bf16 whose sum it is: what a product adds of it, with ones on the other side, is exact. It may not know
// where they lie.
#pragma once
#include "device/types.cuh"

namespace attncc {

// Neighbouring elements: the first two, and the third below a 0.
struct Pieces {
  unsigned first, last;
};

// Of a finite float, 8 of its 24 bits each.
__device__ __forceinline__ Pieces pieces(float x) {
  const unsigned high = float_to_bits(x) & 0xffff0000u;
  const float rest = x - bits_to_float(high);
  const unsigned middle = float_to_bits(rest) & 0xffff0000u;
  return {high >> 16 | middle, float_to_bits(rest - bits_to_float(middle)) >> 16};
}

}  // namespace attncc
