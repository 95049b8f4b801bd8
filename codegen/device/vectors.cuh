// Vector hooks: a Variant's functions of whole query, key, value and output vectors, a warp to a vector. Owns which lane
// computes which channel: lane l has channels 2 l and 2 l + 1 of every 64. It may not know a kernel's loop.
#pragma once
#include "device/joint.cuh"
#include "device/smem.cuh"

#ifdef ATTNCC_KERNELS
#include "device/mma.cuh"

namespace attncc {

// x(d) of a row of 16-bit elements in a SharedTile.
template <class Element, int Cols>
struct SharedVector {
  const char* tile;
  int row;

  __device__ __forceinline__ float operator()(int d) const {
    return to_value(*reinterpret_cast<const Element*>(tile + SharedTile<Cols>::offset(row, d >> 3) + (d & 7) * 2));
  }
};

// A lane's channels of a vector of Cols: values [2 j] and [2 j + 1] are channels 64 j + 2 lane and the next.
template <int Cols>
struct Channels {
  static constexpr int pairs = (Cols + 63) / 64;
  float value[2 * pairs];

  __device__ __forceinline__ static int channel(int lane, int pair) { return 64 * pair + 2 * lane; }
};

// x(d) of floats in shared memory, scaled.
struct FloatVector {
  const float* data;
  float scale;

  __device__ __forceinline__ float operator()(int d) const { return data[d] * scale; }

  // The lane's channels; data is 8-byte aligned.
  template <int Cols>
  __device__ __forceinline__ Channels<Cols> channels(int lane) const {
    Channels<Cols> result;
#pragma unroll
    for (int pair = 0; pair < Channels<Cols>::pairs; ++pair) {
      const int d = Channels<Cols>::channel(lane, pair);
      if (Cols % 64 != 0 && d >= Cols) continue;
      const float2 values = *reinterpret_cast<const float2*>(data + d);
      result.value[2 * pair] = values.x * scale;
      result.value[2 * pair + 1] = values.y * scale;
    }
    return result;
  }
};

// value(sums, d, n) for the lane's channels, the n-th being d, after the sums over d of term(i, sums, d). Every lane of the warp
// calls it.
template <int Cols, int Sums, class Term, class Value>
__device__ __forceinline__ Channels<Cols> evaluate_vector(int lane, Term term, Value value) {
  Channels<Cols> result;
  float sums[Sums > 0 ? Sums : 1] = {};
#pragma unroll
  for (int i = 0; i < Sums; ++i) {
    float part = 0.0f;
#pragma unroll
    for (int pair = 0; pair < Channels<Cols>::pairs; ++pair) {
      const int d = Channels<Cols>::channel(lane, pair);
      if (Cols % 64 == 0 || d < Cols) part += term(i, sums, d) + term(i, sums, d + 1);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) part += __shfl_xor_sync(0xffffffffu, part, distance);
    sums[i] = part;
  }
#pragma unroll
  for (int pair = 0; pair < Channels<Cols>::pairs; ++pair) {
    const int d = Channels<Cols>::channel(lane, pair);
    const bool inside = Cols % 64 == 0 || d < Cols;
    result.value[2 * pair] = inside ? value(sums, d, 2 * pair) : 0.0f;
    result.value[2 * pair + 1] = inside ? value(sums, d + 1, 2 * pair + 1) : 0.0f;
  }
  return result;
}

// The vector hooks on a tile's rows: packed query rows, and columns from col0 on; what lies past col_end stays.
template <class Variant>
struct QueryHook {
  using Channel = typename Variant::QueryChannel;
  static constexpr int sums = Variant::facts.query.sums;
  const typename Variant::Params& params;
  const typename Variant::Item& item;
  const RowAt* rows;
  int nrows;

  __device__ __forceinline__ bool valid(int i) const { return i < nrows; }
  template <class X>
  __device__ __forceinline__ float term(int which, const X& x, const float* so_far, int i, int d) const {
    if constexpr (sums > 0) return Variant::query_term(which, params, item, x, so_far, rows[i].row, rows[i].h, d);
    return 0.0f;
  }
  __device__ __forceinline__ Channel channel(int i, int d, int) const {
    return Variant::query_channel(params, item, rows[i].row, d);
  }
  template <class X>
  __device__ __forceinline__ float value(const X& x, const float* all, int i, int d, const Channel& channel) const {
    return Variant::query(params, item, x, all, rows[i].row, rows[i].h, d, channel);
  }
};

template <class Variant, bool OfKeys>
struct ChannelOf {
  using Type = typename Variant::KeyChannel;
};
template <class Variant>
struct ChannelOf<Variant, false> {
  using Type = typename Variant::ValueChannel;
};

template <class Variant, bool OfKeys>
struct ColumnHook {
  using Channel = typename ChannelOf<Variant, OfKeys>::Type;
  static constexpr int sums = (OfKeys ? Variant::facts.key : Variant::facts.value).sums;
  const typename Variant::Params& params;
  const typename Variant::Item& item;
  int col0, col_end;

  __device__ __forceinline__ bool valid(int i) const { return col0 + i < col_end; }
  template <class X>
  __device__ __forceinline__ float term(int which, const X& x, const float* so_far, int i, int d) const {
    if constexpr (sums > 0 && OfKeys)
      return Variant::key_vector_term(which, params, item, x, so_far, col0 + i, d);
    else if constexpr (sums > 0)
      return Variant::value_vector_term(which, params, item, x, so_far, col0 + i, d);
    return 0.0f;
  }
  __device__ __forceinline__ Channel channel(int i, int d, int) const {
    if constexpr (OfKeys)
      return Variant::key_channel(params, item, col0 + i, d);
    else
      return Variant::value_channel(params, item, col0 + i, d);
  }
  template <class X>
  __device__ __forceinline__ float value(const X& x, const float* all, int i, int d, const Channel& channel) const {
    if constexpr (OfKeys)
      return Variant::key_vector(params, item, x, all, col0 + i, d, channel);
    else
      return Variant::value_vector(params, item, x, all, col0 + i, d, channel);
  }
};

// A hook that has what it computes of the lane's channels, the n-th at [n].
template <class Hook, int Count>
struct WithChannels : Hook {
  const typename Hook::Channel (&channels)[Count];

  __device__ __forceinline__ const typename Hook::Channel& channel(int, int, int n) const { return channels[n]; }
};

// The lane's channels of x, a tile's row `row`, after the hook. Every lane of the warp calls it.
template <int Cols, class Hook, class X>
__device__ __forceinline__ Channels<Cols> transformed(int lane, const Hook& hook, const X& x, int row) {
  return evaluate_vector<Cols, Hook::sums>(
      lane, [&](int which, const float* sums, int d) { return hook.term(which, x, sums, row, d); },
      [&](const float* sums, int d, int n) { return hook.value(x, sums, row, d, hook.channel(row, d, n)); });
}

// Rows of a SharedTile<Cols>, in place: hook.value(x, sums, row, d) becomes channel d of row `row` wherever
// hook.valid(row), which is the same for every lane. On entry all threads see the tile; the caller synchronises after it.
template <class Config, int Rows, int Cols, class Hook>
__device__ __forceinline__ void transform_rows(char* tile, const Hook& hook) {
  using Element = typename Config::Element;
  using X = SharedVector<Element, Cols>;
  // Several rows at once hide the latency of what the hook reads; every lane is done reading a row before it changes.
  constexpr int together = Cols >= 256 ? 1 : (Cols >= 128 ? 2 : 4);
  static_assert(Rows % together == 0, "whole groups of rows");
  const int warp = int(threadIdx.x) >> 5, lane = int(threadIdx.x) & 31;
#pragma unroll 1
  for (int base = warp * together; base < Rows; base += Config::warps * together) {
    Channels<Cols> result[together];
#pragma unroll
    for (int i = 0; i < together; ++i) {
      if (hook.valid(base + i))
        result[i] = transformed<Cols>(lane, hook, X{tile, base + i}, base + i);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < together; ++i) {
      if (!hook.valid(base + i)) continue;
#pragma unroll
      for (int pair = 0; pair < Channels<Cols>::pairs; ++pair) {
        const int d = Channels<Cols>::channel(lane, pair);
        if (Cols % 64 != 0 && d >= Cols) continue;
        *reinterpret_cast<unsigned*>(tile + SharedTile<Cols>::offset(base + i, d >> 3) + (d & 7) * 2) =
            pack(result[i].value[2 * pair], result[i].value[2 * pair + 1], Element());
      }
    }
  }
}

// The output hook on a vector of head_dim_v floats, normalised by x's scale.
template <class Config, class Variant>
__device__ __forceinline__ Channels<Config::head_dim_v> output_vector(const typename Variant::Params& params,
                                                                      const typename Variant::Item& item,
                                                                      const FloatVector& x, int lane, float total,
                                                                      float lse, int row, int h) {
  constexpr int sums_count = Variant::facts.output.sums;
  const typename Variant::OutputRow shared = Variant::output_row(params, item, total, lse, row, h);
  return evaluate_vector<Config::head_dim_v, sums_count>(
      lane,
      [&](int i, const float* sums, int d) {
        if constexpr (sums_count > 0) return Variant::output_term(i, params, item, x, sums, total, lse, row, h, d);
        return 0.0f;
      },
      [&](const float* sums, int d, int) {
        return Variant::output(params, item, x, sums, total, lse, row, h, d, shared,
                               Variant::output_read(params, item, shared, row, h, d));
      });
}

// The lane's channels as 16-bit elements at `row`, in global memory.
template <class Element, int Cols>
__device__ __forceinline__ void store_vector(char* row, int lane, const Channels<Cols>& from) {
#pragma unroll
  for (int pair = 0; pair < Channels<Cols>::pairs; ++pair) {
    const int d = Channels<Cols>::channel(lane, pair);
    if (Cols % 64 != 0 && d >= Cols) continue;
    *reinterpret_cast<unsigned*>(row + 2 * d) = pack(from.value[2 * pair], from.value[2 * pair + 1], Element());
  }
}

// The same as floats; `row` is 8-byte aligned.
template <int Cols>
__device__ __forceinline__ void store_floats(float* row, int lane, const Channels<Cols>& from) {
#pragma unroll
  for (int pair = 0; pair < Channels<Cols>::pairs; ++pair) {
    const int d = Channels<Cols>::channel(lane, pair);
    if (Cols % 64 != 0 && d >= Cols) continue;
    *reinterpret_cast<float2*>(row + d) = float2{from.value[2 * pair], from.value[2 * pair + 1]};
  }
}

}  // namespace attncc
#endif  // ATTNCC_KERNELS
