// Online softmax over a fragment's rows, in the log2 domain (Milakov and Gimelshein, arXiv 1805.02867). Owns the state
// (m, l) of each row slot. It may not know where in the tile a value lies: the Fragment says.
#pragma once
#include "device/math.cuh"

namespace attncc {

template <class Fragment, Accuracy accuracy>
struct Softmax {
  float m[Fragment::rows];  // largest logit so far; -inf before the first attended pair
  float l[Fragment::rows];  // this thread's share of Σ 2^(logit - m); the lanes of a row are summed once, in finish

  __device__ __forceinline__ Softmax() {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) {
      m[slot] = -infinity();
      l[slot] = 0.0f;
    }
  }

  // Replaces logits by weights in [0, 1] and gives the factor by which each row's accumulator shrinks. -inf weighs 0, in
  // a row that has seen nothing else too: the reference is then 0, so that no -inf meets another.
  __device__ __forceinline__ void update(float (&s)[Fragment::values], float (&factor)[Fragment::rows]) {
    float reference[Fragment::rows];
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) {
      float top = m[slot];
#pragma unroll
      for (int i = 0; i < Fragment::values; ++i)
        if (Fragment::slot(i) == slot) top = ::fmaxf(top, s[i]);
      top = Fragment::row_reduce(top, [](float a, float b) { return ::fmaxf(a, b); });
      reference[slot] = top == -infinity() ? 0.0f : top;
      factor[slot] = Fn<accuracy>::exp2(m[slot] - reference[slot]);
      m[slot] = top;
      l[slot] *= factor[slot];
    }
#pragma unroll
    for (int i = 0; i < Fragment::values; ++i) {
      const int slot = Fragment::slot(i);
      s[i] = Fn<accuracy>::exp2(s[i] - reference[slot]);
      l[slot] += s[i];
    }
  }

  // Adds the sink (log2 domain; -inf: none). Gives what the accumulator is multiplied by, 0 for a row without a pair,
  // and the natural logarithm of the denominator.
  __device__ __forceinline__ void finish(int slot, float sink, float& scale, float& lse) const {
    const float top = ::fmaxf(m[slot], sink);
    const float reference = top == -infinity() ? 0.0f : top;
    const float shrink = Fn<accuracy>::exp2(m[slot] - reference);
    const float sum = Fragment::row_reduce(l[slot], [](float a, float b) { return a + b; });
    const float total = sum * shrink + Fn<accuracy>::exp2(sink - reference);
    scale = Fn<accuracy>::div(shrink, total);  // 0 / 0 gives 0
    lse = total > 0.0f ? (reference + Fn<accuracy>::log2(total)) * Fn<accuracy>::ln2 : -infinity();
  }
};

}  // namespace attncc
