// The joint between a variant (generated) and a kernel family (hand-written). Owns the parameter block's types, the
// geometry of a request and the contract of `struct Variant`. It may not know any family, tile shape or fragment.
//
// A generated translation unit reads, in this order:
//
//   #include "device/joint.cuh"
//   #include "device/math.cuh"
//   #include "families/mma_sm80.cuh"
//   struct Config { ... };                                  // rendered by the family's .py
//   using fast = attncc::Fn<Config::accuracy>;              // for expressions that depend on the score
//   using exact = attncc::Fn<attncc::Accuracy::exact>;      // for positions, indices and every score-free expression
//   struct Params { attncc::Launch launch; attncc::Scalar<float> softcap; attncc::TensorRef<float, 1> slopes; ... };
//   struct Variant { using Params = ::Params; ... };        // the contract below
//   extern "C" __global__ void ... attncc_main(const Params* __restrict__ params) { ... }   // rendered by the .py
//
// THE CONTRACT of Variant. Every function is static, __device__ __forceinline__, free of CUDA-only constructs (it also
// compiles as C++ through device/host.cuh) and pure: a family calls it as often, and from whichever thread, as it likes.
//
//   using Params;                                     // Params::launch is the first member
//   static constexpr attncc::Facts facts = {...};
//   struct Item {}; struct Row {}; struct Key {}; struct Tile {};   // trivially copyable, ≤ 16-byte alignment
//
//   static Item  item  (const Params&, const Work&);
//       What is uniform over the work item (b, hk, geometry). May hold `const Params*` for per-element tensor loads.
//   static Row   row   (const Params&, const Item&, int row, int h);
//       What depends on row, on the query head h, or on both. h differs from row to row: a GQA group is packed into the
//       tile's rows. Called with 0 <= row < qo_len and hk*group <= h < (hk+1)*group only.
//   static Key   key   (const Params&, const Item&, int col);
//       What depends on the column. Staged in shared memory beside K; skipped when !facts.has_key.
//       Called with 0 <= col < kv_len only; columns past the end get a copy of the last one's.
//   static Tile  tile  (const Params&, const Item&, const Box&);
//       What is uniform over a tile. Skipped (value-initialised) when !facts.has_tile.
//   static int   ranges(const Params&, const Work&, int row_lo, int row_hi, Range* out);
//       Writes at most facts.num_ranges ranges and returns how many. Together they cover every pair that mask() allows,
//       for rows [row_lo, row_hi) and *every* head of hk's group. They may come in any order, overlap, be empty
//       (lo >= hi), be unaligned and reach outside [0, kv_len): the tile iterator clamps and merges. partial == 0 proves
//       that mask() is true for every (row, h, col) of the range inside [0, kv_len); 1 says nothing. Without a mask: one
//       range {0, kv_len, 0}. Called by one thread, or on the host, on the same Params.
//   static float logits(float score, const Item&, const Row&, const Tile&, const Key&, int row, int col);
//       score is the RAW dot product q·k. Returns the logit times log2(e), sm_scale folded in. -inf equals masked.
//       May be called for masked pairs, and for columns past kv_len (inside the last tile); the value is discarded there.
//   static bool  mask  (const Item&, const Row&, const Key&, int row, int col);
//       The truth about a pair, in every tile; called in partial tiles only, and only when facts.has_mask.
//       It need not test col < kv_len.
//   static float sink  (const Item&, const Row&);
//       log2(e) times the sink logit; called once a row, only when facts.has_sink. -inf means no sink.
//
// INVARIANTS a family keeps: it never multiplies a masked pair by 0 (it selects); it reads no storage outside the
// request's rows and columns into a result; it writes no output row outside the request; a row without a pair gives
// out = 0 and lse = -inf (or the sink); row and col are storage indices, and `Work` says nothing about positions.
//
// SEATS (not served yet, names reserved): query, key_vector, value_vector, output on channel pairs; weight and
// Reduction {State, init, update, combine, finish}; Work::slot, kind, segment for split, mixed and cascaded launches.
#pragma once
#include "device/types.cuh"

namespace attncc {

// One work item: packed query rows [row0, row0 + nrows) of KV head hk against KV columns [col0, col0 + ncols).
// Packed row i is query row i / group of query head hk * group + i % group. col0 is a multiple of the tile width.
struct Work {
  int b, hk, row0, nrows, col0, ncols, slot;
  unsigned kind, segment;
};

// KV columns [lo, hi). partial == 0: proven to be attended by every row asked about.
struct Range {
  int lo, hi, partial;
};

// Half-open, in storage indices.
struct Box {
  int row_lo, row_hi, col_lo, col_hi;
};

struct Facts {
  bool has_logits;    // false: logits() is score * (sm_scale * log2 e) and nothing else
  bool has_mask;      // false: mask() is never called
  bool has_sink;      // false: sink() is never called
  bool has_key;       // Key holds something
  bool has_tile;      // Tile holds something
  int num_ranges;     // how many ranges ranges() may write, >= 1
  float logit_bound;  // |logits()| <= logit_bound in the log2 domain; 0: unknown
};

// One value, or one per request. T is a 4-byte value type (a bool travels as int).
template <class T>
struct Scalar {
  static_assert(sizeof(T) == 4, "a scalar parameter is f32, i32 or u32");
  const T* data;  // null, or [batch]
  T value;
  unsigned reserved;

  __device__ __forceinline__ T get(int b) const { return data ? data[b] : value; }
};

// A captured tensor. Extents and strides in elements; any stride, negative and zero included.
template <class T, int Rank>
struct TensorRef {
  const T* data;
  i64 extent[Rank], stride[Rank];

  // The element at (index...), each index clamped into its axis; 0 when any axis is empty.
  template <class... Index>
  __device__ __forceinline__ auto load(Index... index) const -> decltype(to_value(T())) {
    static_assert(sizeof...(Index) == Rank, "one index per axis");
    const i64 at[Rank] = {i64(index)...};
    i64 offset = 0;
    bool empty = false;
#pragma unroll
    for (int axis = 0; axis < Rank; ++axis) {
      const i64 last = extent[axis] - 1;
      empty = empty || last < 0;
      const i64 high = at[axis] < last ? at[axis] : last;
      offset += (high < 0 ? 0 : high) * stride[axis];
    }
    return empty ? to_value(T()) : to_value(data[offset]);
  }
};

template <class T>
struct TensorRef<T, 0> {
  const T* data;
  __device__ __forceinline__ auto load() const -> decltype(to_value(T())) { return to_value(*data); }
};

// Element strides of [batch, token, head, dim]; dim is contiguous.
struct Strides {
  i64 batch, head, token;
};

// The fixed head of the parameter block, in device memory. 8-byte fields first, then 4-byte ones: no implicit padding;
// codegen/launch_block.py mirrors it field by field.
struct Launch {
  const void* q;  // [batch, qo_len, num_heads, head_dim], or [tokens, num_heads, head_dim] with qo_indptr
  const void* k;  // [batch, kv_len, num_kv_heads, head_dim]
  const void* v;  // [batch, kv_len, num_kv_heads, head_dim_v]
  void* out;      // [batch, qo_len, num_heads, head_dim_v]
  float* lse;     // null, or f32 [batch, qo_len, num_heads]: natural log
  Strides q_stride, k_stride, v_stride, out_stride, lse_stride;
  const int* qo_indptr;  // null (padded), or [batch + 1]: the request's first token; lengths come from it
  const int* kv_indptr;
  const int* qo_lens;   // null: every request has max_qo_len rows; else [batch]
  const int* kv_lens;   // null: every request has max_kv_len columns
  const int* q_starts;  // null: q_start, if explicit_q_start, else k_start + kv_len - qo_len
  const int* k_starts;  // null: k_start
  Scalar<float> sm_scale;
  int batch, num_heads, num_kv_heads, group;  // group = num_heads / num_kv_heads
  int max_qo_len, max_kv_len;
  int q_start, k_start;
  int explicit_q_start;  // 1: q_start was given at the call
  int reserved;
};

// Where a request's rows and columns are, in storage and in position.
struct Geometry {
  int qo_len, kv_len;    // rows [0, qo_len), columns [0, kv_len)
  int q_start, k_start;  // positions: q = q_start + row, k = k_start + col
  int qo_base, kv_base;  // first token in ragged storage; 0 when padded
};

__device__ __forceinline__ Geometry geometry(const Launch& launch, int b) {
  Geometry g;
  g.qo_base = launch.qo_indptr ? launch.qo_indptr[b] : 0;
  g.kv_base = launch.kv_indptr ? launch.kv_indptr[b] : 0;
  g.qo_len = launch.qo_indptr ? launch.qo_indptr[b + 1] - g.qo_base
                              : (launch.qo_lens ? launch.qo_lens[b] : launch.max_qo_len);
  g.kv_len = launch.kv_indptr ? launch.kv_indptr[b + 1] - g.kv_base
                              : (launch.kv_lens ? launch.kv_lens[b] : launch.max_kv_len);
  g.k_start = launch.k_starts ? launch.k_starts[b] : launch.k_start;
  g.q_start = launch.q_starts         ? launch.q_starts[b]
              : launch.explicit_q_start ? launch.q_start
                                        : g.k_start + g.kv_len - g.qo_len;
  return g;
}

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

}  // namespace attncc
