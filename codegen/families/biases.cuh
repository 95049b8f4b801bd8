// Biasing: the entry that makes the channels of K that add a bias by key, before `main`, once for every key, where a family's
// products add them. Owns who makes which; what they hold and where they lie is device/biases.cuh.
#pragma once
#include "device/biases.cuh"
#include "device/pairs.cuh"

#ifdef ATTNCC_KERNELS
#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#endif

namespace attncc {
namespace biasing {

constexpr int kThreads = 128;  // codegen/families/biases.py launches as many

// The grid: (a thread for every column of the longest request, KV heads or 1, requests).
template <class Config, class Variant>
__device__ __forceinline__ void run_block(const typename Variant::Params& params) {
  const Launch& launch = params.launch;
  const int col = int(blockIdx.x * kThreads + threadIdx.x), hk = blockIdx.y, b = blockIdx.z;
  const Geometry g = geometry(launch, b);
  if (col >= g.kv_len) return;
  const i64 place = token_index(launch.kv_indptr, g.kv_base, launch.max_kv_len, b, col);
  if (place < 0 || place >= launch.kv_tokens) return;  // an indptr on the device may say anything
  const typename Variant::Item item = Variant::item(params, group_row(launch, g, b, hk, 0));
  typename Variant::Key key;
  if constexpr (Variant::facts.key_reads)
    key = Variant::key(params, item, Variant::read_key(params, item, col), col);
  else
    key = Variant::key(params, item, col);
  const float scale = bias_scale(Variant::scaled(1.0f, item));
  const Pieces bias = bias_pieces(Variant::key_added(key), scale, Fn<Accuracy::exact>::div(1.0f, scale));
  key_channels<Variant>(launch, hk)[place] = KeyChannels{bias, {0u, 0u}};
}

}  // namespace biasing
}  // namespace attncc
#endif  // ATTNCC_KERNELS
