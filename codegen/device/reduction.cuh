// A row's reduction over its keys: the state, how two states combine, how one is finished, and the running form over a
// fragment. Softmax in the log2 domain (Milakov and Gimelshein, arXiv 1805.02867) and plain sums of weights. It may not
// know where in the tile a value lies: the Fragment says.
//
// A reduction has: RowState identity(); combine(a, b, fa, fb), the state of both parts and what each part's accumulator
// is multiplied by (identity with identity is identity, never NaN); and over a fragment update(s, factor), state(slot).
#pragma once
#include "device/joint.cuh"
#include "device/math.cuh"

namespace attncc {

// softmax: (m, l), the largest logit and Σ 2^(logit - m); weights: (total, 0).
struct RowState {
  float first, second;
};

// Of a finished row: what its accumulator is multiplied by, Σ weight (softmax: e^lse), and the denominator's logarithm.
struct Finished {
  float scale, total, lse;
};

template <Accuracy accuracy>
struct SoftmaxRule {
  __device__ __forceinline__ static RowState identity() { return {-infinity(), 0.0f}; }

  // The reference that logits are subtracted from: 0 in a row that has seen nothing, so that no -inf meets another.
  __device__ __forceinline__ static float reference(float top) { return top == -infinity() ? 0.0f : top; }

  __device__ __forceinline__ static RowState combine(RowState a, RowState b, float& fa, float& fb) {
    const float top = ::fmaxf(a.first, b.first);
    fa = Fn<accuracy>::exp2(a.first - reference(top));
    fb = Fn<accuracy>::exp2(b.first - reference(top));
    return {top, a.second * fa + b.second * fb};
  }

  // sink: log2 domain; -inf: none. A row without a pair is scaled by 0.
  __device__ __forceinline__ static Finished finish(RowState state, float sink) {
    const float base = reference(::fmaxf(state.first, sink));
    const float shrink = Fn<accuracy>::exp2(state.first - base);
    const float total = state.second * shrink + Fn<accuracy>::exp2(sink - base);
    const float lse = total > 0.0f ? (base + Fn<accuracy>::log2(total)) * Fn<accuracy>::ln2 : -infinity();
    return {Fn<accuracy>::div(shrink, total), Fn<accuracy>::exp(lse), lse};  // 0 / 0 gives 0
  }
};

template <Accuracy accuracy>
struct WeightRule {
  __device__ __forceinline__ static RowState identity() { return {0.0f, 0.0f}; }

  __device__ __forceinline__ static RowState combine(RowState a, RowState b, float& fa, float& fb) {
    fa = fb = 1.0f;
    return {a.first + b.first, 0.0f};
  }
};

// The largest of a row's values, for all of its lanes. Two chains, as one waits for itself.
template <class Fragment>
__device__ __forceinline__ float largest_of_row(const float (&s)[Fragment::values], int slot) {
  float even = s[Fragment::value(slot, 0)], odd = s[Fragment::value(slot, 1)];
#pragma unroll
  for (int n = 2; n < Fragment::row_values; n += 2) {
    even = ::fmaxf(even, s[Fragment::value(slot, n)]);
    odd = ::fmaxf(odd, s[Fragment::value(slot, n + 1)]);
  }
  return Fragment::row_reduce(::fmaxf(even, odd), [](float a, float b) { return ::fmaxf(a, b); });
}

template <class Fragment, Accuracy accuracy>
struct Softmax : SoftmaxRule<accuracy> {
  static constexpr bool rescales = true;
  float m[Fragment::rows];  // largest logit so far; -inf before the first attended pair
  float l[Fragment::rows];  // this thread's share of Σ 2^(logit - m); the lanes of a row are summed once, in state

  __device__ __forceinline__ Softmax() {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) {
      m[slot] = -infinity();
      l[slot] = 0.0f;
    }
  }

  // Replaces logits by weights in [0, 1] and gives the factor by which each row's accumulator shrinks. -inf weighs 0.
  __device__ __forceinline__ void update(float (&s)[Fragment::values], float (&factor)[Fragment::rows]) {
    float reference[Fragment::rows];
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) {
      float top = m[slot];
#pragma unroll
      for (int n = 0; n < Fragment::row_values; ++n) top = ::fmaxf(top, s[Fragment::value(slot, n)]);
      top = Fragment::row_reduce(top, [](float a, float b) { return ::fmaxf(a, b); });
      reference[slot] = SoftmaxRule<accuracy>::reference(top);
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

  // The same in steps, of logits that are still to be multiplied by `scale` > 0; m is then as it is before that. raise
  // moves m to the largest logit, but only where that is more than `slack` above it: weights of up to 2^(slack scale) are
  // as good as others, and an accumulator need not shrink. weigh makes of logits what exponentials are
  // taken of, against m, which `reference` has been made of, and takes the first ones; weigh_rest another one's. add takes
  // the weights' sums.
  __device__ __forceinline__ void raise(const float (&s)[Fragment::values], float (&factor)[Fragment::rows], float scale,
                                        float slack) {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) {
      float top = largest_of_row<Fragment>(s, slot);
      top = top > m[slot] + slack ? top : m[slot];
      factor[slot] = Fn<accuracy>::exp2((m[slot] - SoftmaxRule<accuracy>::reference(top)) * scale);
      m[slot] = top;
      l[slot] *= factor[slot];
    }
  }

  template <int First>
  __device__ __forceinline__ void weigh(float (&s)[Fragment::values], float scale,
                                        const float (&reference)[Fragment::rows]) const {
#pragma unroll
    for (int i = 0; i < Fragment::values; ++i) {
      const float x = ::fmaf(s[i], scale, -reference[Fragment::slot(i)]);
      s[i] = i < First ? Fn<accuracy>::exp2(x) : x;
    }
  }

  __device__ __forceinline__ void weigh_rest(float& s) const { s = Fn<accuracy>::exp2(s); }

  __device__ __forceinline__ void add(const float (&sums)[Fragment::rows][2]) {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) l[slot] += sums[slot][0] + sums[slot][1];
  }

  // What a row's logits are weighed against.
  __device__ __forceinline__ float reference(int slot, float scale) const {
    return SoftmaxRule<accuracy>::reference(m[slot]) * scale;
  }

  // Whether every row has met an attended pair.
  __device__ __forceinline__ bool settled() const {
    bool all = true;
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) all = all & (m[slot] > -infinity());
    return all;
  }

  __device__ __forceinline__ RowState state(int slot) const {
    return {m[slot], Fragment::row_reduce(l[slot], [](float a, float b) { return a + b; })};
  }
};

// The same of logits that are relative to the largest so far, `reference`, when they come: what adds to a score takes the
// difference with it. raise takes what they exceed it by from them, and no slack.
template <class Fragment, Accuracy accuracy>
struct RelativeSoftmax : Softmax<Fragment, accuracy> {
  using Softmax<Fragment, accuracy>::m;
  using Softmax<Fragment, accuracy>::l;

  __device__ __forceinline__ void raise(float (&s)[Fragment::values], float (&factor)[Fragment::rows], float,
                                        float) {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) {
      const float top = largest_of_row<Fragment>(s, slot);
      const bool first = m[slot] == -infinity();
      const float rise = first ? SoftmaxRule<accuracy>::reference(top) : ::fmaxf(top, 0.0f);
      factor[slot] = first ? 0.0f : Fn<accuracy>::exp2(-rise);
      m[slot] = first ? top : m[slot] + rise;
      l[slot] *= factor[slot];
#pragma unroll
      for (int n = 0; n < Fragment::row_values; ++n) s[Fragment::value(slot, n)] -= rise;
    }
  }

  template <int First>
  __device__ __forceinline__ void weigh(float (&s)[Fragment::values], float, const float (&)[Fragment::rows]) const {
#pragma unroll
    for (int i = 0; i < First; ++i) s[i] = Fn<accuracy>::exp2(s[i]);
  }
};

// Softmax of logits that are proven small, against a fixed reference of 0 in place of the running maximum: no maximum, no
// shuffle a tile, and nothing is ever rescaled. The state is an ordinary one with m = 0.
//
// With |logit| <= B in the log2 domain weights lie in [2^-B, 2^B], so that every attended pair counts and a row has seen
// one exactly if its sum is above 0. What limits B is the type that weights are rounded to before P V, whose relative
// precision must be the same over that range: f16 is normal from 2^-14 to 2^16; bf16 has f32's exponents, and there B = 60
// log2 e leaves the f32 sums over 2^17 keys room for values of V up to 2^24.
template <class Element>
struct FixedReference;
template <>
struct FixedReference<bf16> {
  static constexpr float most = 60.0f * kLog2E;
};
template <>
struct FixedReference<f16> {
  static constexpr float most = 14.0f;
};

template <class Fragment, Accuracy accuracy>
struct BoundedSoftmax : SoftmaxRule<accuracy> {
  static constexpr bool rescales = false;
  float l[Fragment::rows];  // this thread's share of Σ 2^logit

  __device__ __forceinline__ BoundedSoftmax() {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) l[slot] = 0.0f;
  }

  __device__ __forceinline__ void update(float (&s)[Fragment::values], float (&)[Fragment::rows]) {
#pragma unroll
    for (int i = 0; i < Fragment::values; ++i) {
      s[i] = Fn<accuracy>::exp2(s[i]);
      l[Fragment::slot(i)] += s[i];
    }
  }

  __device__ __forceinline__ void raise(const float (&)[Fragment::values], float (&)[Fragment::rows], float, float) {}

  template <int First>
  __device__ __forceinline__ void weigh(float (&s)[Fragment::values], float, const float (&)[Fragment::rows]) const {
#pragma unroll
    for (int i = 0; i < First; ++i) s[i] = Fn<accuracy>::exp2(s[i]);
  }

  __device__ __forceinline__ void weigh_rest(float& s) const { s = Fn<accuracy>::exp2(s); }

  __device__ __forceinline__ void add(const float (&sums)[Fragment::rows][2]) {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) l[slot] += sums[slot][0] + sums[slot][1];
  }

  __device__ __forceinline__ RowState state(int slot) const {
    const float total = Fragment::row_reduce(l[slot], [](float a, float b) { return a + b; });
    return {total > 0.0f ? 0.0f : -infinity(), total};
  }
};

template <class Fragment, Accuracy accuracy>
struct Weighted : WeightRule<accuracy> {
  static constexpr bool rescales = false;
  float total[Fragment::rows];  // this thread's share

  __device__ __forceinline__ Weighted() {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) total[slot] = 0.0f;
  }

  __device__ __forceinline__ void update(const float (&s)[Fragment::values], float (&)[Fragment::rows]) {
#pragma unroll
    for (int i = 0; i < Fragment::values; ++i) total[Fragment::slot(i)] += s[i];
  }

  __device__ __forceinline__ void raise(const float (&)[Fragment::values], float (&)[Fragment::rows], float, float) {}

  template <int>
  __device__ __forceinline__ void weigh(float (&)[Fragment::values], float, const float (&)[Fragment::rows]) const {}

  __device__ __forceinline__ void weigh_rest(float&) const {}

  __device__ __forceinline__ void add(const float (&sums)[Fragment::rows][2]) {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) total[slot] += sums[slot][0] + sums[slot][1];
  }

  __device__ __forceinline__ RowState state(int slot) const {
    return {Fragment::row_reduce(total[slot], [](float a, float b) { return a + b; }), 0.0f};
  }
};

// What a Variant's facts choose.
template <bool HasWeight, Accuracy accuracy, bool Bounded = false, bool Relative = false>
struct ReductionOf {
  using Rule = SoftmaxRule<accuracy>;
  template <class Fragment>
  using Running = Softmax<Fragment, accuracy>;
};
template <Accuracy accuracy>
struct ReductionOf<false, accuracy, false, true> {
  using Rule = SoftmaxRule<accuracy>;
  template <class Fragment>
  using Running = RelativeSoftmax<Fragment, accuracy>;
};
template <Accuracy accuracy>
struct ReductionOf<false, accuracy, true> {
  using Rule = SoftmaxRule<accuracy>;
  template <class Fragment>
  using Running = BoundedSoftmax<Fragment, accuracy>;
};
template <Accuracy accuracy, bool Bounded>
struct ReductionOf<true, accuracy, Bounded> {
  using Rule = WeightRule<accuracy>;
  template <class Fragment>
  using Running = Weighted<Fragment, accuracy>;
};

// Ends a row, once, after every part of its columns is in `state`.
template <class Variant, Accuracy accuracy>
__device__ __forceinline__ Finished finish(const typename Variant::Item& item, const typename Variant::Row& row,
                                           RowState state) {
  if constexpr (Variant::facts.has_weight) {
    const float denominator = Variant::normalize(item, row, state.first);
    const float scale = Fn<accuracy>::div(1.0f, denominator);
    // A row without a pair is 0, whatever its denominator came to.
    return {scale != scale && state.first == 0.0f ? 0.0f : scale, state.first, -infinity()};
  } else {
    float sink = -infinity();
    if constexpr (Variant::facts.has_sink) sink = Variant::sink(item, row);
    return SoftmaxRule<accuracy>::finish(state, sink);
  }
}

}  // namespace attncc
