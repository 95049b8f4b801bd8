// A captured tensor read for every pair: the indices that a row or an item knows are folded into a pointer once, the
// others are clamped and strided at each read. Owns that split; it may not know any variant or kernel.
#pragma once
#include "device/joint.cuh"

namespace attncc {

// The axes that are indexed at each read: the last index and the stride of each.
template <int Rank>
struct Axes {
  int last[Rank];
  i64 stride[Rank];
};

__device__ __forceinline__ i64 clamp_index(i64 index, i64 last) {
  const i64 high = index < last ? index : last;
  return high < 0 ? 0 : high;
}

__device__ __forceinline__ int clamp_index(int index, int last) {
  const int high = index < last ? index : last;
  return high < 0 ? 0 : high;
}

template <int... Axis, class T, int Rank>
__device__ __forceinline__ Axes<int(sizeof...(Axis))> axes(const TensorRef<T, Rank>& tensor) {
  return {{int(clamp_index(tensor.extent[Axis] - 1, 0x7fffffffll))...}, {tensor.stride[Axis]...}};
}

// A tensor over tokens: of request `b`, Axis... counting from [batch, tokens, ...] on.
template <int... Axis, class T, int Rank>
__device__ __forceinline__ Axes<int(sizeof...(Axis))> axes(const TokenTensorRef<T, Rank>& tensor, i64 b) {
  return axes<(Axis - 1)...>(tensor.request(b));
}

// Where the elements lie once the indices of the axes Axis... are given, each clamped; null when any axis is empty.
template <int... Axis, class T, int Rank, class... Index>
__device__ __forceinline__ const T* pointer(const TensorRef<T, Rank>& tensor, Index... index) {
  static_assert(sizeof...(Axis) == sizeof...(Index), "one index per axis");
  bool empty = false;
#pragma unroll
  for (int axis = 0; axis < Rank; ++axis) empty = empty || tensor.extent[axis] < 1;
  i64 offset = 0;
  ((offset += clamp_index(i64(index), tensor.extent[Axis] - 1) * tensor.stride[Axis]), ...);
  return empty ? nullptr : tensor.data + offset;
}

// The first of the indices is the batch's.
template <int Batch, int... Axis, class T, int Rank, class... Index>
__device__ __forceinline__ const T* pointer(const TokenTensorRef<T, Rank>& tensor, i64 b, Index... index) {
  static_assert(Batch == 0, "the request comes first");
  return pointer<(Axis - 1)...>(tensor.request(b), index...);
}

// TensorRef::load, its other indices already in `base`; the element as it is stored, so that nothing waits for it here.
template <class T, int Rank, class... Index>
__device__ __forceinline__ T stored(const T* base, const Axes<Rank>& axes, Index... index) {
  static_assert(sizeof...(Index) == Rank, "one index per axis");
  i64 offset = 0;
  int axis = 0;
  ((offset += i64(clamp_index(index, axes.last[axis])) * axes.stride[axis], ++axis), ...);
  return base ? base[offset] : T();
}

template <class T, int Rank, class... Index>
__device__ __forceinline__ auto element(const T* base, const Axes<Rank>& axes, Index... index)
    -> decltype(to_value(T())) {
  return to_value(stored(base, axes, index...));
}

}  // namespace attncc
