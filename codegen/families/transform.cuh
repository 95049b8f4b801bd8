// Transforming: the entry that applies the hooks on query, key and value vectors, before `main`, once to every vector, where
// a family's `main` takes them as they come. Owns who computes which vector, and where it is left; it may not know who reads it.
#pragma once
#include "device/pairs.cuh"
#include "device/vectors.cuh"

#ifdef ATTNCC_KERNELS
#ifdef ATTNCC_EMULATOR
#include ATTNCC_EMULATOR
#endif

namespace attncc {
namespace transforming {

constexpr int kWarps = 8;  // codegen/families/transform.py launches as many
// The heads of a token that a warp has, as many rounds of so many at once: what is captured by position is the same for all.
constexpr int kRounds = 4, kHeads = 4;  // HEADS there

enum class Operand { q, k, v };

// Where an operand is read, and where what is made of it goes.
struct Storage {
  const char* from;
  char* to;
  Strides stride;  // of `from`
  const int* indptr;
  int heads, max_len;
  i64 tokens;
};

template <Operand operand>
__device__ __forceinline__ Storage storage_of(const Launch& launch) {
  if constexpr (operand == Operand::q)
    return {static_cast<const char*>(launch.q), static_cast<char*>(launch.made_q), launch.q_stride, launch.qo_indptr,
            launch.num_heads, launch.max_qo_len, launch.qo_tokens};
  else if constexpr (operand == Operand::k)
    return {static_cast<const char*>(launch.k), static_cast<char*>(launch.made_k), launch.k_stride, launch.kv_indptr,
            launch.num_kv_heads, launch.max_kv_len, launch.kv_tokens};
  else
    return {static_cast<const char*>(launch.v), static_cast<char*>(launch.made_v), launch.v_stride, launch.kv_indptr,
            launch.num_kv_heads, launch.max_kv_len, launch.kv_tokens};
}

// Four elements, two to a word.
template <class Element>
__device__ __forceinline__ float4 floats(unsigned x, unsigned y) {
  const auto value = [](unsigned bits) { return to_value(Element{static_cast<unsigned short>(bits)}); };
  return float4{value(x & 0xffffu), value(x >> 16), value(y & 0xffffu), value(y >> 16)};
}

// A warp: up to kRounds * kHeads heads of one token of request b. `staged` is the warp's, of kHeads * Cols floats.
template <class Config, class Variant, Operand operand, int Cols>
__device__ __forceinline__ void transform_heads(const typename Variant::Params& params, float* staged, unsigned unit,
                                                int b) {
  using Element = typename Config::Element;
  constexpr int chunks = Cols / 8;
  constexpr bool of_rows = operand == Operand::q;
  const Launch& launch = params.launch;
  const int lane = int(threadIdx.x) & 31;
  const Storage storage = storage_of<operand>(launch);
  const unsigned parts = unsigned(storage.heads + kRounds * kHeads - 1) / (kRounds * kHeads), row = unit / parts;
  const int token = int(row), first = int(unit - row * parts) * (kRounds * kHeads);
  const int end = first + kRounds * kHeads < storage.heads ? first + kRounds * kHeads : storage.heads;
  const Geometry g = geometry(launch, b);
  const int base = of_rows ? g.qo_base : g.kv_base;
  if (token >= (of_rows ? g.qo_len : g.kv_len)) return;
  const i64 place = token_index(storage.indptr, base, storage.max_len, b, token);
  if (place < 0 || place >= storage.tokens) return;  // an indptr on the device may say anything
  const char* from = storage.from + 2 * (b * storage.stride.batch + (i64(base) + token) * storage.stride.token);
  const auto item_of = [&](int h) {
    return Variant::item(params, group_row(launch, g, b, of_rows ? h / launch.group : h, of_rows ? token : 0));
  };
  const auto hook_of = [&](const typename Variant::Item& item, const RowAt& at) {
    if constexpr (of_rows)
      return QueryHook<Variant>{params, item, &at, 1};
    else
      return ColumnHook<Variant, operand == Operand::k>{params, item, token, g.kv_len};
  };
  // What the heads share, once.
  const typename Variant::Item item = item_of(first);
  const RowAt at{token, first};
  const auto hook = hook_of(item, at);
  using Hook = decltype(hook_of(item, at));
  constexpr int own = 2 * Channels<Cols>::pairs;
  typename Hook::Channel channels[own];
#pragma unroll
  for (int n = 0; n < own; ++n) channels[n] = hook.channel(0, Channels<Cols>::channel(lane, n / 2) + n % 2, n);
#pragma unroll 1
  for (int h0 = first; h0 < end; h0 += kHeads) {
    __syncwarp();
#pragma unroll
    for (int i = lane; i < kHeads * chunks; i += 32) {
      const int j = quotient<chunks>(i), chunk = i - j * chunks;
      if (h0 + j >= end) break;
      const uint4 part = *reinterpret_cast<const uint4*>(from + 2 * (h0 + j) * storage.stride.head + 16 * chunk);
      float4* target = reinterpret_cast<float4*>(staged + 8 * i);
      target[0] = floats<Element>(part.x, part.y);
      target[1] = floats<Element>(part.z, part.w);
    }
    __syncwarp();
    Channels<Cols> result[kHeads];
#pragma unroll
    for (int j = 0; j < kHeads; ++j) {
      const RowAt here{token, h0 + j < end ? h0 + j : end - 1};
      const typename Variant::Item its = item_of(here.h);
      const WithChannels<Hook, own> all{hook_of(its, here), channels};
      result[j] = transformed<Cols>(lane, all, FloatVector{staged + j * Cols, 1.0f}, 0);
    }
#pragma unroll
    for (int j = 0; j < kHeads; ++j)
      if (h0 + j < end)
        store_vector<Element>(storage.to + 2 * Cols * (place * storage.heads + h0 + j), lane, result[j]);
  }
}

// The grid: (a warp for every kRounds * kHeads heads of every token, operands that have a hook, requests).
template <class Config, class Variant>
__device__ __forceinline__ void run_block(const typename Variant::Params& params) {
  constexpr Facts facts = Variant::facts;
  constexpr int most = Config::head_dim > Config::head_dim_v ? Config::head_dim : Config::head_dim_v;
  alignas(16) __shared__ float staged[kWarps][kHeads * most];
  const int warp = int(threadIdx.x) >> 5, b = blockIdx.z;
  const unsigned unit = blockIdx.x * kWarps + warp;
  int which = blockIdx.y;
  if constexpr (facts.query.present) {
    if (which-- == 0) transform_heads<Config, Variant, Operand::q, Config::head_dim>(params, staged[warp], unit, b);
  }
  if constexpr (facts.key.present) {
    if (which-- == 0) transform_heads<Config, Variant, Operand::k, Config::head_dim>(params, staged[warp], unit, b);
  }
  if constexpr (facts.value.present) {
    if (which == 0) transform_heads<Config, Variant, Operand::v, Config::head_dim_v>(params, staged[warp], unit, b);
  }
}

}  // namespace transforming
}  // namespace attncc
#endif  // ATTNCC_KERNELS
