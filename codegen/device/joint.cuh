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
//   extern "C" __global__ void ... attncc_main(const __grid_constant__ Params params) { ... }   // rendered by the .py
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
//   struct KeyRead {};                                           // when facts.key_reads, and then
//   static KeyRead read_key(const Params&, const Item&, int col);
//   static Key   key   (const Params&, const Item&, const KeyRead&, int col);
//       What a key reads from captured tensors, as it is stored: a family asks for it early and for the key late, with
//       work in between that hides the latency.
//   static Tile  tile  (const Params&, const Item&, const Box&);
//       What is uniform over a tile. Skipped (value-initialised) when !facts.has_tile.
//   static int   ranges(const Params&, const Work&, int row_lo, int row_hi, Range* out);
//       Writes at most facts.num_ranges ranges and returns how many. Together they cover every pair that mask() allows,
//       for rows [row_lo, row_hi) and *every* head of hk's group. They may come in any order, overlap, be empty
//       (lo >= hi), be unaligned and reach outside [0, kv_len): the tile iterator clamps and merges. partial == 0 proves
//       that mask() is true for every (row, h, col) of the range inside [0, kv_len); 1 says nothing. Without a mask: one
//       range {0, kv_len, 0}. Called by one thread, or on the host, on the same Params.
//   static float logits(float score, const Item&, const Row&, const Tile&, const Key&, int row, Column col,
//                       float reference = 0.0f);
//       score is the RAW dot product q·k. Returns the logit times log2(e), sm_scale folded in, minus the reference, which is
//       a row's; without has_logits a family gives none. -inf equals masked.
//       May be called for masked pairs, and for columns past kv_len (inside the last tile); the value is discarded there.
//   static float scaled(float score, const Item&);
//   static float key_added(const Key&);
//       When facts.key_adds: logits() is their sum, up to rounding, the first one the score times an item's factor.
//   static bool  mask  (const Item&, const Row&, const Key&, int row, Column col);
//       The truth about a pair, in every tile; called in partial tiles only, and only when facts.has_mask.
//       It need not test col < kv_len. When facts.mask_in_columns, it is made of comparisons with the column and of what holds
//       of a row: then it takes Columns as well, and gives a ColumnBits.
//   static float sink  (const Item&, const Row&);
//       log2(e) times the sink logit; called once a row, only when facts.has_sink. -inf means no sink.
//
// A value that varies with row - col only (and the head), when facts.has_diagonal: a tile has few of them.
//
//   struct Diagonal {...};
//   static Diagonal diagonal(const Params&, const Item&, int h, int delta);
//       delta = row - col in storage indices, of a pair the kernel visits. Staged in shared memory. h is the pair's head
//       when facts.diagonal_per_head, else any head of the group. logits(), weight() and mask() then take one more
//       argument, `const Diagonal&`, after Key.
//   static bool settled(const Params&, const Item&, int lo, int hi);
//       When facts.settles: true only if diagonal() is the same for every delta of lo to hi, of each head.
//
// Weights instead of softmax, when facts.has_weight; logits() and sink() are never called:
//
//   static float weight(float score, const Item&, const Row&, const Tile&, const Key&, int row, Column col);
//       The weight itself, not in the log2 domain; score is the RAW dot product. A masked pair's is discarded.
//   static float normalize(const Item&, const Row&, float total);
//       The denominator, from the sum of the row's weights. out is 0 where it is 0.
//
// Vector hooks: query, key, value and output, each when facts.<hook>.present. A family calls them for every channel d of
// a vector and stores the result as the vector's channel d; `x` gives the vector before the hook, x(d) as a float, at any
// channel in [0, head_dim) (value and output: head_dim_v): a rotation reads x(d ± half). What needs the whole vector
// first, the dot products over channels, are facts.<hook>.sums numbers: sums[i] = Σ_d ..._term(i, ..., d), computed in
// order, so that term i may read sums[0 .. i - 1]. i is a constant wherever it is called.
//
//   struct QueryChannel; static QueryChannel query_channel(const Params&, const Item&, int row, int d);
//   struct KeyChannel;   static KeyChannel key_channel(const Params&, const Item&, int col, int d);
//   struct ValueChannel; static ValueChannel value_channel(const Params&, const Item&, int col, int d);
//       What a hook computes of its token and channel, whichever the head and the vector; the Item may be any head's.
//   template <class X> static float query(const Params&, const Item&, const X& x, const float* sums, int row, int h, int d,
//                                         const QueryChannel&);
//   template <class X> static float key_vector(const Params&, const Item&, const X& x, const float* sums, int col, int d,
//                                              const KeyChannel&);
//   template <class X> static float value_vector(const Params&, const Item&, const X& x, const float* sums, int col, int d,
//                                                const ValueChannel&);
//       Computed in f32, rounded to the element type, for the request's own rows and columns only.
//   template <class X> static float query_term(int i, <query's, but for the QueryChannel>);
//   template <class X> static float key_vector_term(int i, <likewise>), value_vector_term(int i, <likewise>);
//   struct OutputRow; static OutputRow output_row(const Params&, const Item&, float total, float lse, int row, int h);
//       What the hook computes of a row, whichever the channel.
//   struct OutputRead; static OutputRead output_read(const Params&, const Item&, const OutputRow&, int row, int h, int d);
//       What it reads for a channel: of several channels before any is waited for.
//   template <class X> static float output(const Params&, const Item&, const X& x, const float* sums, float total,
//                                          float lse, int row, int h, int d, const OutputRow&, const OutputRead&);
//   template <class X> static float output_term(int i, <likewise>);
//       After normalisation (and after the splits are merged), before rounding. total is Σ weight, for a softmax e^lse;
//       lse is the natural logarithm of the denominator, -inf with weights.
//
// What captured values say of whole tiles, when facts.has_screen (device/interval.cuh, device/screen.cuh):
//
//   struct RowBounds; struct KeyBounds;               // intervals; merge(other), each(op) on every interval
//   static RowBounds row_bounds(const Params&, const Item&, const Row&, int row, int h);
//   static KeyBounds key_bounds(const Params&, const Item&, int col, int last);
//       Of one row; of columns col to col + 3, `last` < kv_len in place of what lies past it. Merged over the rows of a
//       tile and a chunk of columns.
//   static Interval<bool> screen(const Params&, const Item&, const RowBounds&, const KeyBounds&, const Box&);
//       hi is false only if mask() is false, lo is true only if it is true, for every pair of the box that is merged.
//
// A function that a fact excludes need not exist; `Diagonal` neither.
//
// INVARIANTS a family keeps: it never multiplies a masked pair by 0 (it selects); it reads no storage outside the
// request's rows and columns into a result; it writes no output row outside the request; a row without a pair gives
// out = 0 and lse = -inf (or the sink), then the output hook; row and col are storage indices, and positions
// come from Work::geometry.
//
// SPLITS. With launch.num_splits > 1 an item covers columns [slot * split_cols, (slot + 1) * split_cols) and stores its
// state instead of an output: the unnormalised f32 accumulator and two floats (softmax: m in the log2 domain and l;
// weights: total and 0). The `merge` entry combines slots 0, 1, ... in that order, then finishes: sink, normalize, output.
// A state excludes all three, so that states of different launches combine too.
//
// SEATS (not served yet, names reserved): several branches, emits, ordered reductions, extra operands; Work::kind and
// segment for mixed and cascaded launches.
#pragma once
#include "device/types.cuh"

namespace attncc {

// Where a request's rows and columns are, in storage and in position.
struct Geometry {
  int qo_len, kv_len;    // rows [0, qo_len), columns [0, kv_len)
  int q_start, k_start;  // positions: q = q_start + row, k = k_start + col
  int qo_base, kv_base;  // first token in ragged storage; 0 when padded
};

// One work item: packed query rows [row0, row0 + nrows) of KV head hk against KV columns [col0, col0 + ncols).
// Packed row i is query row i / pack of query head h0 + i % pack; pack is group and h0 is hk * group, unless a family
// packs fewer heads. col0 is a multiple of the tile width. slot: which split of the columns.
struct Work {
  int b, hk, row0, nrows, col0, ncols, slot;
  unsigned kind, segment;
  int h0, pack;
  Geometry geometry;  // of request b
};

// KV columns [lo, hi). partial == 0: proven to be attended by every row asked about.
struct Range {
  int lo, hi, partial;
};

// A pair's column, base + step, wherever a Variant takes one; it reads as an int. A family makes step a constant after
// unrolling, in [0, 1024), and base one value for all columns of a thread's tile: what a Variant computes from the base
// and the row is then shared by the pairs of a row. A plain index is a base.
struct Column {
  int base, step;
  __device__ __forceinline__ constexpr Column(int base, int step = 0) : base(base), step(step) {}
  __device__ __forceinline__ constexpr operator int() const { return base + step; }
};

// Half-open, in storage indices.
struct Box {
  int row_lo, row_hi, col_lo, col_hi;
};

// A hook on vectors: whether it is there, how many sums over channels it needs, and whether it, or a sum's term, reads
// other channels than its own.
struct VectorHook {
  bool present;
  int sums;
  bool across;
};

struct Facts {
  bool has_logits;    // false: logits() is score * (sm_scale * log2 e) and nothing else
  bool has_mask;      // false: mask() is never called
  bool has_sink;      // false: sink() is never called
  bool has_key;       // Key holds something
  bool has_tile;      // Tile holds something
  int num_ranges;     // how many ranges ranges() may write, >= 1
  float logit_bound;  // |logits()| <= logit_bound in the log2 domain; 0: unknown
  bool has_weight;         // weight() and normalize() replace logits() and sink()
  bool has_diagonal;       // Diagonal holds something
  bool diagonal_per_head;  // ... that depends on the head too
  VectorHook query, key, value, output;
  bool key_reads;  // read_key() exists, and key() takes what it read
  bool has_screen;  // screen() and what it takes exist
  bool screen_per_head;  // ... and differ from one KV head to the next
  bool key_in_mask_only;  // logits() and weight() do not read Key: a full tile needs none
  bool settles;  // settled() exists
  bool has_special;  // in logits() the score goes through a special function
  bool key_adds;  // scaled() and key_added() exist
  bool key_in_mask;  // ... and mask() reads Key, too
  bool key_adds_per_head;  // ... and their factor or their bias differs from one KV head to the next
  bool mask_in_columns;  // mask() takes Columns, too
};

// One value, or one per request. T is a 4-byte value type (a bool travels as int).
template <class T>
struct Scalar {
  static_assert(sizeof(T) == 4, "a scalar parameter is f32, i32 or u32");
  const T* data;  // null, or [batch]
  T value;
  unsigned reserved;

  __device__ __forceinline__ T get(int b) const { return *(data ? data + b : &value); }
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
    i64 offset = 0;
    bool empty = false;
    locate<0>(offset, empty, i64(index)...);
    return empty ? to_value(T()) : to_value(data[offset]);
  }

  // Axis by axis without a loop: a fast compilation would leave an array of indices in local memory.
  template <int Axis, class... Rest>
  __device__ __forceinline__ void locate(i64& offset, bool& empty, i64 index, Rest... rest) const {
    const i64 last = extent[Axis] - 1;
    empty = empty || last < 0;
    const i64 high = index < last ? index : last;
    offset += (high < 0 ? 0 : high) * stride[Axis];
    if constexpr (sizeof...(Rest) > 0) locate<Axis + 1>(offset, empty, rest...);
  }
};

template <class T>
struct TensorRef<T, 0> {
  const T* data;
  __device__ __forceinline__ auto load() const -> decltype(to_value(T())) { return to_value(*data); }
};

// A captured tensor over [batch, tokens, ...], tokens being qo_len or kv_len. Padded: the axes as they are. Ragged
// (indptr is not null): [total tokens, ...], stride[0] unused, request b's tokens are [indptr[b], indptr[b + 1]).
template <class T, int Rank>
struct TokenTensorRef {
  static_assert(Rank >= 2, "batch and tokens come first");
  const T* data;
  i64 extent[Rank], stride[Rank];  // of [batch, tokens, ...]; ragged: extent[0] = batch, extent[1] unused
  const int* indptr;               // null, or [batch + 1]

  // Request b's part, b clamped. Uniform over a work item when b is the item's: worth computing there.
  __device__ __forceinline__ TensorRef<T, Rank - 1> request(i64 b) const {
    TensorRef<T, Rank - 1> part;
    const i64 last = extent[0] - 1;
    const i64 high = b < last ? b : last;
    const i64 at = high < 0 ? 0 : high;
#pragma unroll
    for (int axis = 1; axis < Rank; ++axis) {
      part.extent[axis - 1] = extent[axis];
      part.stride[axis - 1] = stride[axis];
    }
    if (last < 0) {
      part.data = data;
      part.extent[0] = 0;
    } else if (indptr != nullptr) {
      part.data = data + indptr[at] * stride[1];
      part.extent[0] = indptr[at + 1] - indptr[at];
    } else {
      part.data = data + at * stride[0];
    }
    return part;
  }

  template <class... Index>
  __device__ __forceinline__ auto load(i64 b, Index... index) const -> decltype(to_value(T())) {
    return request(b).load(index...);
  }
};

// Element strides of [batch, token, head, dim]; dim is contiguous.
struct Strides {
  i64 batch, head, token;
};

// The fixed head of the parameter block, the argument of a launch. 8-byte fields first, then 4-byte ones: no implicit padding;
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
  // Split KV and partial states. A token is the ragged index, or b * max_qo_len + row.
  float* split_out;     // null: `main` writes out; else [num_splits, split_tokens, num_heads, head_dim_v]
  float* split_state;   // [num_splits, split_tokens, num_heads, 2]
  float* merged_out;    // null: `merge` writes out; else it leaves a state: [split_tokens, num_heads, head_dim_v]
  float* merged_state;  // [split_tokens, num_heads, 2]
  unsigned* counters;  // of a family whose blocks take items as they get free: items taken, blocks ended; 0 between launches
  void* screens;  // where the entry `screen` leaves what `main` visits: device/screen.cuh
  // What the entry `transform` makes of q, k and v, each null where it makes nothing of it: contiguous, [tokens, heads, dim].
  void *made_q, *made_k, *made_v;
  void* biases;  // where the entry `biases` leaves the channels of K that add a bias by key: device/biases.cuh
  i64 split_tokens;
  i64 qo_tokens, kv_tokens;  // of the storage, all requests together
  int num_splits;  // 0 means 1; the grid of `main` is num_splits times as wide
  int split_cols;  // columns a split covers, a multiple of the tile width
  int fills_unowned;  // 1: `main` writes the rows that belong to no request, too: 0, and an LSE of -inf
};

// values[i], or `otherwise` where there are none: a read without a branch, so that it waits for nobody. PTX ISA 9.3, 9.7.9.8.
// Volatile: no earlier than follow_grids.
__device__ __forceinline__ int read_or(const int* values, int i, int otherwise) {
#ifdef __CUDACC__
  int value = otherwise;
  asm volatile("{\n .reg .pred given;\n setp.ne.u64 given, %1, 0;\n @given ld.global.b32 %0, [%2];\n}"
      : "+r"(value)
      : "l"(values), "l"(values + i));
  return value;
#else
  return values ? values[i] : otherwise;
#endif
}

__device__ __forceinline__ Geometry geometry(const Launch& launch, int b) {
  const int* const qo_indptr = launch.qo_indptr;
  const int* const kv_indptr = launch.kv_indptr;
  Geometry g;
  g.qo_base = read_or(qo_indptr, b, 0);
  g.kv_base = read_or(kv_indptr, b, 0);
  g.k_start = read_or(launch.k_starts, b, launch.k_start);
  const int q_start = read_or(launch.q_starts, b, launch.q_start);
  const int rows = read_or(qo_indptr, b + 1, read_or(launch.qo_lens, b, launch.max_qo_len)) - g.qo_base;
  const int cols = read_or(kv_indptr, b + 1, read_or(launch.kv_lens, b, launch.max_kv_len)) - g.kv_base;
  // The host does not read lengths that lie on the device: a wrong one stays within the bounds of the call.
  g.qo_len = rows < 0 ? 0 : (rows < launch.max_qo_len ? rows : launch.max_qo_len);
  g.kv_len = cols < 0 ? 0 : (cols < launch.max_kv_len ? cols : launch.max_kv_len);
  const bool given = launch.q_starts != nullptr || launch.explicit_q_start != 0;
  g.q_start = given ? q_start : g.k_start + g.kv_len - g.qo_len;
  return g;
}

// The index of a request's token in storage of all requests' tokens: the ragged one, or b * max_len + token.
__device__ __forceinline__ i64 token_index(const int* indptr, int base, int max_len, int b, int token) {
  return indptr ? i64(base) + token : i64(b) * max_len + token;
}

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

}  // namespace attncc
