// Combining partial states: the splits of one launch, or the states of several. Owns the order, slots 0, 1, ... always, so
// that the same states give the same bits. It may not know which kernel wrote the states.
#pragma once
#include "device/pairs.cuh"
#include "device/reduction.cuh"
#include "device/vectors.cuh"

#ifdef ATTNCC_KERNELS
namespace attncc {
namespace merge {

constexpr int kWarps = 4;  // codegen/families/merge.py launches as many

// The index of (token, head) in a state's tensors. A token is the ragged index, or b * max_qo_len + row.
__device__ __forceinline__ i64 state_index(const Launch& launch, int qo_base, int b, int row, int h) {
  return token_index(launch.qo_indptr, qo_base, launch.max_qo_len, b, row) * launch.num_heads + h;
}

// The same of a work item's row, its split's part of the states before it.
__device__ __forceinline__ i64 place(const Launch& launch, const Work& work, int row, int h) {
  return work.slot * launch.split_tokens * launch.num_heads +
         state_index(launch, work.geometry.qo_base, work.b, row, h);
}

// A warp to a (row, head). The grid: (ceil(max_qo_len * num_heads / kWarps), 1, batch).
template <class Config, class Variant>
__device__ __forceinline__ void run_block(const typename Variant::Params& params) {
  using Rule = typename ReductionOf<Variant::facts.has_weight, Config::accuracy>::Rule;
  using Lane = Channels<Config::head_dim_v>;
  constexpr int dim = Config::head_dim_v;
  constexpr bool has_output = Variant::facts.output.present;
  alignas(8) __shared__ float staged[has_output ? kWarps : 1][has_output ? dim : 1];

  const Launch& launch = params.launch;
  const int b = blockIdx.z, warp = int(threadIdx.x) >> 5, lane = int(threadIdx.x) & 31;
  const Geometry g = geometry(launch, b);
  const i64 packed = i64(blockIdx.x) * kWarps + warp;
  if (packed >= i64(g.qo_len) * launch.num_heads) return;  // the whole warp
  const int row = int(packed / launch.num_heads), h = int(packed % launch.num_heads);
  const i64 at = state_index(launch, g.qo_base, b, row, h), step = launch.split_tokens * launch.num_heads;

  Lane sum;
#pragma unroll
  for (int i = 0; i < 2 * Lane::pairs; ++i) sum.value[i] = 0.0f;
  RowState state = Rule::identity();
  const int splits = launch.num_splits > 1 ? launch.num_splits : 1;
#pragma unroll 2
  for (int split = 0; split < splits; ++split) {
    const i64 place = split * step + at;
    float keep, add;
    state = Rule::combine(state, RowState{launch.split_state[2 * place], launch.split_state[2 * place + 1]}, keep, add);
#pragma unroll
    for (int pair = 0; pair < Lane::pairs; ++pair) {
      const int d = Lane::channel(lane, pair);
      if (dim % 64 != 0 && d >= dim) continue;
      const float* part = launch.split_out + place * dim + d;
      sum.value[2 * pair] = sum.value[2 * pair] * keep + part[0] * add;
      sum.value[2 * pair + 1] = sum.value[2 * pair + 1] * keep + part[1] * add;
    }
  }

  if (launch.merged_out != nullptr) {
    store_floats(launch.merged_out + at * dim, lane, sum);
    if (lane == 0) {
      launch.merged_state[2 * at] = state.first;
      launch.merged_state[2 * at + 1] = state.second;
    }
    return;
  }

  const typename Variant::Item item = Variant::item(params, group_row(launch, g, b, h / launch.group, row));
  const Finished end = finish<Variant, Config::accuracy>(item, Variant::row(params, item, row, h), state);
  if constexpr (has_output) {
    store_floats(staged[warp], lane, sum);
    __syncwarp();
    sum = output_vector<Config, Variant>(params, item, FloatVector{staged[warp], end.scale}, lane, end.total, end.lse, row,
                                         h);
  } else {
#pragma unroll
    for (int i = 0; i < 2 * Lane::pairs; ++i) sum.value[i] *= end.scale;
  }
  store_vector<typename Config::Element>(static_cast<char*>(launch.out) +
                           2 * (b * launch.out_stride.batch + (g.qo_base + row) * launch.out_stride.token +
                                h * launch.out_stride.head),
                       lane, sum);
  if (launch.lse != nullptr && lane == 0)
    launch.lse[b * launch.lse_stride.batch + (g.qo_base + row) * launch.lse_stride.token + h * launch.lse_stride.head] =
        end.lse;
}

}  // namespace merge
}  // namespace attncc
#endif  // ATTNCC_KERNELS
