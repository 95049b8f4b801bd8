// The columns of a thread's row in a tile all at once: a bit for each, in the order in which a Fragment has them. A mask that
// is made of comparisons with the column alone has so many bits instead of as many comparisons. It may not know what
// is masked. Plain C++: tested on the host against one column after another.
#pragma once
#include "device/host.cuh"

namespace attncc {

// The lowest `count` >= 0 of 32 bits; all from 32 on. PTX ISA 9.7.1: bmsk.
__device__ __forceinline__ unsigned low_bits(int count) {
#ifdef __CUDACC__
  unsigned bits;
  asm("bmsk.clamp.b32 %0, 0, %1;" : "=r"(bits) : "r"(count));
  return bits;
#else
  return count < 32 ? (1u << count) - 1u : ~0u;
#endif
}

// Which of a row's columns are meant: bit n of word w is the (32 w + n)-th.
template <class Fragment>
struct ColumnBits {
  static constexpr int count = (Fragment::row_values + 31) / 32;
  unsigned words[count];

  __device__ __forceinline__ explicit constexpr ColumnBits(bool all = false) : words{} {
    for (int i = 0; i < count; ++i) words[i] = all ? ~0u : 0u;
  }
  __device__ __forceinline__ bool has(int n) const { return (words[n / 32] & (1u << (n % 32))) != 0u; }

  __device__ __forceinline__ ColumnBits operator!() const {
    ColumnBits made;
    for (int i = 0; i < count; ++i) made.words[i] = ~words[i];
    return made;
  }
  __device__ __forceinline__ friend ColumnBits operator&(ColumnBits a, const ColumnBits& b) {
    for (int i = 0; i < count; ++i) a.words[i] &= b.words[i];
    return a;
  }
  __device__ __forceinline__ friend ColumnBits operator|(ColumnBits a, const ColumnBits& b) {
    for (int i = 0; i < count; ++i) a.words[i] |= b.words[i];
    return a;
  }
  // With what is true of a whole row.
  __device__ __forceinline__ friend ColumnBits operator&(ColumnBits a, bool b) { return a & ColumnBits(b); }
  __device__ __forceinline__ friend ColumnBits operator&(bool a, ColumnBits b) { return b & ColumnBits(a); }
  __device__ __forceinline__ friend ColumnBits operator|(ColumnBits a, bool b) { return a | ColumnBits(b); }
  __device__ __forceinline__ friend ColumnBits operator|(bool a, ColumnBits b) { return b | ColumnBits(a); }
};

// The steps of a thread's columns, as Column::step is one of them: compared with a number, which columns of the row satisfy it.
template <class Fragment>
struct ColumnSteps {
  using Bits = ColumnBits<Fragment>;

  // Those whose step is less than `end`, |end| < 2^31 - 1.
  __device__ __forceinline__ static Bits below(int end) {
    const int count = Fragment::count_below(end);
    Bits bits;
    for (int i = 0; i < Bits::count; ++i) bits.words[i] = low_bits(count > 32 * i ? count - 32 * i : 0);
    return bits;
  }
  __device__ __forceinline__ friend Bits operator<(ColumnSteps, int x) { return below(x); }
  __device__ __forceinline__ friend Bits operator<=(ColumnSteps, int x) { return below(x + 1); }
  __device__ __forceinline__ friend Bits operator<(int x, ColumnSteps) { return !below(x + 1); }
  __device__ __forceinline__ friend Bits operator<=(int x, ColumnSteps) { return !below(x); }
  __device__ __forceinline__ friend Bits operator==(ColumnSteps, int x) { return below(x + 1) & !below(x); }
  __device__ __forceinline__ friend Bits operator==(int x, ColumnSteps steps) { return steps == x; }
};

// In the place of a Column: all of a thread's in a row of a tile.
template <class Fragment>
struct Columns {
  int base;
  ColumnSteps<Fragment> step;
};

}  // namespace attncc
