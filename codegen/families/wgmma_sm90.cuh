// The Hopper family: TMA, wgmma, specialised warps, online softmax in registers; sm_90a. Owns the consumers, and the protocol
// between the roles of a CTA's warps. It may not know any variant: see device/joint.cuh.
//
// Warpgroup 0 loads (families/wgmma_loaders.cuh), the others (consumers) multiply, each 64 packed query rows of the CTA's
// tile. All walk the same items, and each item's tiles.
//   warp 0, one lane   K and V tiles by TMA into two rings of stages; says in `spans` which tile a stage holds.
//                      Beside K what products add of a bias by key (Added, in families/wgmma_items.cuh), as the entry
//                      `biases` made it.
//   warps 1 - 3        items into a ring of slots, their rows of Q by cp.async, whatever their strides and packing. Where
//                      hooks stage values beside K, warp 1 does so, and warps 2 and 3 stage them.
//   consumers          S = Q K^T, softmax, O += P V with P in registers; the output from registers.
// A consumer's tiles are one sequence over all items: behind an item's last tile comes the next one's first, whose Q K^T is
// issued before the last P V, so that the tensor cores go on while the output is stored, in the middle of that first tile.
//
// BARRIERS, by phase; a ring's phases count how often it came round (PTX ISA 9.7.13.15: a waiter names a parity, so no
// barrier may end two phases before everyone who waits has seen the first).
//   slot_full    one arrival: the slot's item is there, but for its rows; or its `stop`. The copying thread and stagers wait
//                for it.
//   slot_empty   an arrival a consumer warp, after the item's output. Waited for before the slot is filled again; a consumer
//                arrives only for a slot that was filled, and it is filled only after the phase before was seen.
//   q_full       of each consumer; an arrival of each who prepares items: its rows of Q are there, and all of the slot's rows.
//   q_empty      of each consumer; an arrival a warp, after the item's last product with Q, or once it is sure that none is
//                done again. Likewise seen before these rows are loaded again, and q_full's next phase ends only then: so no
//                consumer is left behind by two.
//   k_full       TMA's bytes (and an arrival of each warp that stages values): K tile, what is added, span, staged values.
//   k_empty      an arrival a consumer warp: done with them.
//   v_full, v_empty   likewise for V.
//   next_wanted  one arrival an item, when K is asked for a few tiles from its end. Before, no other item is taken from those
//                that all blocks share: it would wait here while others have nothing to do.
// Nobody waits in a circle: a consumer stores an item's output in the next one's first tile, before it waits for the Q of any
// item after that, whose slot is empty since the output of the item `slots` >= 2 before it, and whose Q since the last q_empty
// but q_stages - 1.
//
// Only loaders' waits are checked ones: with a trap among the consumers, ptxas does not give them their registers.
#pragma once
#include "families/wgmma_items.cuh"
#include "families/wgmma_loaders.cuh"

#ifdef ATTNCC_KERNELS
#include "device/dependents.cuh"
#include "device/mma.cuh"
#include "device/reduction.cuh"
#include "device/vectors.cuh"
#include "families/merge.cuh"

namespace attncc {
namespace wgmma_sm90 {

// Q's elements in the columns that add: 1, 1, 1, 0.
constexpr uint2 kOnes{0x3f803f80u, 0x00003f80u};

// Named barriers.
constexpr int kTurn = 1;     // + consumer: its turn to issue products
constexpr int kZeroing = 5;  // + consumer: its warpgroup

// Rows [valid, block_n) of a V tile become zeros: 0 times a neighbour's NaN would be NaN. Every consumer does it for itself;
// both write the same. The fence puts the zeros before this warpgroup's product, and before the copy that follows the
// stage's release.
template <class Config>
__device__ __forceinline__ void zero_rows(char* tile, int valid, int group, int thread) {
  using VTile = typename SharedLayout<Config>::VTile;
  constexpr int panels = VTile::panels;
#pragma unroll 1
  for (int i = valid * 8 + thread; i < Config::block_n * 8; i += 128) {
#pragma unroll
    for (int panel = 0; panel < panels; ++panel)
      *reinterpret_cast<uint4*>(tile + panel * VTile::panel_bytes + i * 16) = uint4{0u, 0u, 0u, 0u};
  }
  fence_proxy();
  sync_named<128>(kZeroing + group);
}

// Lane q of a quad has columns 2 q and 2 q + 1 of four neighbouring accumulator tiles, as pairs of elements; afterwards it
// has all eight columns of the q-th of them.
__device__ __forceinline__ void transpose_quad(unsigned (&r)[4], int q) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const unsigned got = __shfl_xor_sync(0xffffffffu, q & 1 ? r[i] : r[i + 1], 1);
    (q & 1 ? r[i] : r[i + 1]) = got;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const unsigned got = __shfl_xor_sync(0xffffffffu, q & 2 ? r[i] : r[i + 2], 2);
    (q & 2 ? r[i] : r[i + 2]) = got;
  }
}

// x(d) where d is the only channel that is asked for.
struct OwnChannel {
  float value;

  __device__ __forceinline__ float operator()(int) const { return value; }
};

// step(value, d, read(d)) for the values of a thread's first row, a few tiles at a time: they go round, past one copy of the
// code.
template <class Outputs, class Read, class Step>
__device__ __forceinline__ void for_channels(float (&output)[Outputs::values], int q, Read read, Step step) {
  constexpr int tiles = Outputs::n_tiles % 4 == 0 ? 4 : 2, some = 2 * tiles;
#pragma unroll 1
  for (int tile = 0; tile < Outputs::n_tiles; tile += tiles) {
    const int first = 8 * tile + 2 * q;
    decltype(read(0)) known[some];
#pragma unroll
    for (int n = 0; n < some; ++n) known[n] = read(first + Outputs::step(Outputs::value(0, n)));
    float done[some];
#pragma unroll
    for (int n = 0; n < some; ++n) {
      done[n] = output[Outputs::value(0, n)];
      step(done[n], first + Outputs::step(Outputs::value(0, n)), known[n]);
    }
#pragma unroll
    for (int n = 0; n < Outputs::row_values - some; ++n) output[Outputs::value(0, n)] = output[Outputs::value(0, n + some)];
#pragma unroll
    for (int n = 0; n < some; ++n) output[Outputs::value(0, Outputs::row_values - some + n)] = done[n];
  }
}

// The output hook on a row of this thread's quad, its first: `output` holds what it ends with, but for `end.scale`, and
// afterwards what the hook makes of it. Every lane calls it; `staged` is the warp's, of head_dim_v floats.
template <class Config, class Variant, class Outputs>
__device__ __forceinline__ void apply_output(const typename Variant::Params& params, const typename Variant::Item& item,
                                             const Finished& end, RowAt at, float (&output)[Outputs::values], int lane,
                                             float* staged) {
  constexpr VectorHook hook = Variant::facts.output;
  const int q = lane & 3;
  if constexpr (!hook.across) {
    const typename Variant::OutputRow shared = Variant::output_row(params, item, end.total, end.lse, at.row, at.h);
    float sums[hook.sums > 0 ? hook.sums : 1] = {};
#pragma unroll
    for (int i = 0; i < hook.sums; ++i) {
      float part = 0.0f;
      if constexpr (hook.sums > 0)
        for_channels<Outputs>(
            output, q, [](int) { return 0; },
            [&](float& value, int d, int) {
              part += Variant::output_term(i, params, item, OwnChannel{value * end.scale}, sums, end.total, end.lse,
                                           at.row, at.h, d);
            });
      sums[i] = Outputs::row_reduce(part, [](float a, float b) { return a + b; });
    }
    for_channels<Outputs>(
        output, q, [&](int d) { return Variant::output_read(params, item, shared, at.row, at.h, d); },
        [&](float& value, int d, const typename Variant::OutputRead& read) {
          value = Variant::output(params, item, OwnChannel{value * end.scale}, sums, end.total, end.lse, at.row, at.h, d,
                                  shared, read);
        });
  } else {
    // A row of the warp after another, by all its lanes.
    const auto of = [&](float x, int from) {
      return bits_to_float(unsigned(__shfl_sync(0xffffffffu, int(float_to_bits(x)), from)));
    };
#pragma unroll 1
    for (int from = 0; from < 32; from += 4) {
      const bool own = (lane & ~3) == from;
      float2* channels = reinterpret_cast<float2*>(staged) + q;
      if (own) {
#pragma unroll
        for (int n = 0; n < Outputs::n_tiles; ++n)
          channels[4 * n] = float2{output[Outputs::value(0, 2 * n)], output[Outputs::value(0, 2 * n + 1)]};
      }
      __syncwarp();
      const auto made = output_vector<Config, Variant>(params, item, FloatVector{staged, of(end.scale, from)}, lane,
                                                       of(end.total, from), of(end.lse, from),
                                                       __shfl_sync(0xffffffffu, at.row, from),
                                                       __shfl_sync(0xffffffffu, at.h, from));
      __syncwarp();
      store_floats(staged, lane, made);
      __syncwarp();
      if (own) {
#pragma unroll
        for (int n = 0; n < Outputs::n_tiles; ++n) {
          const float2 pair = channels[4 * n];
          output[Outputs::value(0, 2 * n)] = pair.x;
          output[Outputs::value(0, 2 * n + 1)] = pair.y;
        }
      }
      __syncwarp();
    }
  }
}

// A quad's row, whose n-th value of this lane is value(n); q is the lane in its quad.
template <class Element, class Outputs, class Value>
__device__ __forceinline__ void store_elements(char* target, int q, bool valid, const Value& value) {
#pragma unroll
  for (int n = 0; n < Outputs::n_tiles; n += 4) {
    unsigned r[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int tile = n + j < Outputs::n_tiles ? n + j : n;
      r[j] = pack(value(2 * tile), value(2 * tile + 1), Element());
    }
    transpose_quad(r, q);
    if (valid && n + q < Outputs::n_tiles)
      *reinterpret_cast<uint4*>(target + 16 * (n + q)) = uint4{r[0], r[1], r[2], r[3]};
  }
}

// What one warp stores of its rows, from registers, after the hook on outputs. A pass a row of a thread, the values of the
// next row moving to where those of this one were: two copies of the code would take half as long again to compile.
template <class Config, class Variant, class Outputs>
__device__ __forceinline__ void store_rows(const typename Variant::Params& params, Shared<Config, Variant>& shared,
                                           const ItemSlot<Config, Variant>& slot, const Outputs& fragment,
                                           float (&output)[Outputs::values]) {
  using Element = typename Config::Element;
  const Launch& launch = params.launch;
  static_assert(Outputs::n_tiles % 2 == 0 && Outputs::m_tiles == 1, "pairs of accumulator tiles, two rows a thread");
  const auto& item = *reinterpret_cast<const typename Variant::Item*>(slot.item);
  const int q = fragment.lane & 3;
#pragma unroll 1
  for (int s = 0; s < Outputs::rows; ++s) {
    const int i = fragment.row(0) + 8 * s;
    const bool valid = i < slot.work.nrows;
    const RowAt at = slot.row_at[i];
    const RowState state = shared.states[i];
    if (launch.split_out != nullptr) {
      const i64 place = merge::place(launch, slot.work, at.row, at.h);
      float* target = launch.split_out + place * Config::head_dim_v + 2 * q;
      if (valid) {
#pragma unroll
        for (int n = 0; n < Outputs::n_tiles; ++n)
          *reinterpret_cast<float2*>(target + 8 * n) =
              float2{output[Outputs::value(0, 2 * n)], output[Outputs::value(0, 2 * n + 1)]};
        if (q == 0) {
          launch.split_state[2 * place] = state.first;
          launch.split_state[2 * place + 1] = state.second;
        }
      }
    } else {
      const Finished end = finish<Variant, Config::accuracy>(
          item, reinterpret_cast<const typename Variant::Row*>(slot.rows)[i], state);
      apply_output<Config, Variant, Outputs>(params, item, end, at, output, fragment.lane,
                                             shared.vectors[Shared<Config, Variant>::staged_vectors > 1 ? fragment.warp : 0]);
      const i64 token = slot.work.geometry.qo_base + at.row;
      char* target = static_cast<char*>(launch.out) +
                     2 * (slot.work.b * launch.out_stride.batch + token * launch.out_stride.token +
                          at.h * launch.out_stride.head);
      store_elements<Element, Outputs>(target, q, valid, [&](int n) { return output[Outputs::value(0, n)]; });
      if (launch.lse != nullptr && valid && q == 0)
        launch.lse[slot.work.b * launch.lse_stride.batch + token * launch.lse_stride.token +
                   at.h * launch.lse_stride.head] = end.lse;
    }
#pragma unroll
    for (int n = 0; n < Outputs::row_values; ++n) output[Outputs::value(0, n)] = output[Outputs::value(1, n)];
  }
}

// Ends the tile's i-th row: what its output is to be multiplied by, and what else is stored of it.
template <class Config, class Variant>
__device__ __forceinline__ void end_row(const Launch& launch, const ItemSlot<Config, Variant>& slot, int i, RowState state,
                                        float* scales) {
  const Work& work = slot.work;
  const bool valid = i < work.nrows;
  const RowAt at = slot.row_at[i];
  if (slot.unfinished) {
    scales[i] = 1.0f;
    if (valid) {
      float* place = launch.split_state + 2 * merge::place(launch, work, at.row, at.h);
      place[0] = state.first;
      place[1] = state.second;
    }
  } else {
    const Finished end =
        finish<Variant, Config::accuracy>(*reinterpret_cast<const typename Variant::Item*>(slot.item),
                                          reinterpret_cast<const typename Variant::Row*>(slot.rows)[i], state);
    scales[i] = end.scale;
    if (launch.lse != nullptr && valid)
      launch.lse[work.b * launch.lse_stride.batch + (work.geometry.qo_base + at.row) * launch.lse_stride.token +
                 at.h * launch.lse_stride.head] = end.lse;
  }
}

// What one warp stores of its rows, from registers, where no hook changes outputs; `scales` are those of the CTA's rows. It
// leaves `output` alone: what it changed would be moved about behind it.
template <class Config, class Variant, class Outputs>
__device__ __forceinline__ void store_scaled(const ItemSlot<Config, Variant>& slot, const Outputs& fragment,
                                           const float (&output)[Outputs::values], const float* scales) {
  using Element = typename Config::Element;
  static_assert(Outputs::n_tiles % 2 == 0 && Outputs::m_tiles == 1, "pairs of accumulator tiles, two rows a thread");
  const int q = fragment.lane & 3;
#pragma unroll
  for (int s = 0; s < Outputs::rows; ++s) {
    const int i = fragment.row(0) + 8 * s;
    const float scale = scales[i];
    const bool valid = i < slot.work.nrows;
    const RowAt at = slot.row_at[i];
    char* const target = slot.target + (at.row * slot.target_row + at.h * slot.target_head);
    const auto value = [&](int n) { return output[Outputs::value(s, n)]; };
    if (slot.unfinished) {
      float* floats = reinterpret_cast<float*>(target) + 2 * q;
      if (valid) {
#pragma unroll
        for (int n = 0; n < Outputs::n_tiles; ++n)
          *reinterpret_cast<float2*>(floats + 8 * n) =
              float2{value(2 * n), value(2 * n + 1)};
      }
    } else {
      store_elements<Element, Outputs>(target, q, valid, [&](int n) { return value(n) * scale; });
    }
  }
}

// A warp's rows of Q K^T once more, with instructions of the warp alone. `q` and `k` are shared addresses of the tiles, `added`
// that of what is added to K's columns, where Added.
template <class Config, bool Added, class Scores>
__device__ __forceinline__ void multiply_again(float (&s)[Scores::values], const Scores& scores, unsigned q, unsigned k,
                                               unsigned added) {
  using QTile = typename SharedLayout<Config>::QTile;
  using KTile = typename SharedLayout<Config>::KTile;
  const int lane = scores.lane;
#pragma unroll
  for (int i = 0; i < Scores::values; ++i) s[i] = 0.0f;
  constexpr int steps = Config::head_dim / 16;
#pragma unroll 1
  for (int step = 0; step < (Added ? steps + 1 : steps); ++step) {
    unsigned a[4];
    const bool adds = Added && step == steps;
    if (adds) {
      a[0] = a[1] = (lane & 3) == 0 ? kOnes.x : (lane & 3) == 1 ? kOnes.y : 0u;
      a[2] = a[3] = 0u;
    } else {
      load_matrices(a, q + QTile::offset(scores.warp * 16 + (lane & 15), step * 2 + (lane >> 4)));
    }
    unsigned column = k + KTile::offset((lane & 7) + (lane >> 4) * 8, step * 2 + ((lane >> 3) & 1));
    if (adds) column = added + PlainTile<Config::block_n>::offset((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1);
    const unsigned rows_on = adds ? 16 * 16 : 16 * 128;
#pragma unroll
    for (int pair = 0; pair < Config::block_n / 16; ++pair) {
      unsigned b[4];
      load_matrices(b, column + pair * rows_on);
      mma(&s[Scores::index(0, pair * 2)], a, b[0], b[1], typename Config::Element());
      mma(&s[Scores::index(0, pair * 2 + 1)], a, b[2], b[3], typename Config::Element());
    }
  }
}

// What some of a thread's weights of a tile may sum up to, in place of 1 each. Beyond, one key may be all that a row comes to,
// and its weight should be 1: another is rounded, the sum that it is divided by is not.
constexpr unsigned kLargestSum = 0x43800000u;  // the bits of 256
// Added to the bits of a sum, which is not negative, the sign bit says that it is no less, or a NaN.
constexpr unsigned kFromLargest = (1u << 31) - kLargestSum;

// Where a consumer is: in an item's first tile; behind the first item; in the last tile of all; behind it; before all of the
// item's rows have met an attended pair.
constexpr unsigned kOpens = 1, kBegun = 2, kEnds = 4, kFinished = 8, kUnsettled = 16;
constexpr unsigned kUnpacked = 32;  // in all items: no heads are packed

template <class Config, class Variant>
__device__ __forceinline__ void multiply_items(const typename Variant::Params& params, Shared<Config, Variant>& shared,
                                               char* smem) {
  using Element = typename Config::Element;
  using Scores = Fragment<Config>;
  using Outputs = Fragment<Config, Config::head_dim_v>;
  using Layout = SharedLayout<Config>;
  using QTile = typename Layout::QTile;
  using KTile = typename Layout::KTile;
  using VTile = typename Layout::VTile;
  using Slot = ItemSlot<Config, Variant>;
  constexpr bool bounded = Softmaxes<Config, Variant>::bounded;
  using Diagonal = typename Shared<Config, Variant>::Diagonal;
  constexpr Facts facts = Variant::facts;
  constexpr int block_n = Config::block_n, consumers = Config::consumers;
  constexpr bool plain = !facts.has_logits && !facts.has_weight;
  // Logits hardly grow along a row, from the diagonal on at least: the largest of the first tile serves them all, unless
  // weights against it show otherwise. Then the tile is done again. An item's last tile is not where Q has one stage: it is
  // given back before, and the tile has a maximum of its own.
  constexpr bool relative = Softmaxes<Config, Variant>::relative;
  constexpr bool steady = relative || (Config::steady && plain);
  constexpr bool keeps_q = steady && Config::q_stages > 1;
  constexpr unsigned kEarly = keeps_q ? 0 : kLast;  // a tile before whose exponentials Q is given back
  constexpr bool late = Softmaxes<Config, Variant>::late;
  // Of a tile's values, those whose exponentials are taken while the product before may be running. Their sums and pairs of 16
  // bits are made beside the exponentials of the others.
  constexpr int first = facts.has_weight ? 0 : block_n / 16 * 5 / 8 * 8;
  using Reduction =
      typename ReductionOf<facts.has_weight, Config::accuracy, bounded, relative && !late>::template Running<Scores>;
  constexpr bool staged = Shared<Config, Variant>::staged;

  const int thread = int(threadIdx.x) - kLoaders;
  const int group = __shfl_sync(0xffffffffu, thread >> 7, 0);
  const int next_group = group == consumers - 1 ? 0 : group + 1;
  const unsigned base = shared_address(smem);
  const u64 q_tiles = descriptor(base + Layout::q + group * 64 * 128, 16, 1024);
  const u64 k_tiles = descriptor(base + Layout::k, 16, 1024);
  const u64 v_tiles = descriptor(base + Layout::v, VTile::panel_bytes, 1024);
  constexpr bool added = Shared<Config, Variant>::added;
  using BiasTile = typename Layout::BiasTile;
  const u64 ones = plain_descriptor<typename Layout::OnesTile>(base + Layout::ones);
  const u64 biases = plain_descriptor<BiasTile>(base + Layout::biases);
  // Which thread it is is asked again wherever it matters, but for the hooks: of the registers, products take 196 of 224.
  const Scores scores(late ? opaque(thread) : thread);

  float s[Scores::values], output[Outputs::values];
  unsigned p[block_n / 16][4];
#pragma unroll
  for (int i = 0; i < Outputs::values; ++i) output[i] = 0.0f;
  Ring<Config::stages> k_ring;  // V's is the same: a tile has one stage in both
  int v_stage = Config::stages;  // of the tile before: at first, that of none
  Ring<Shared<Config, Variant>::value_stages> values;
  Ring<Config::slots> slots;
  Ring<Config::q_stages> q_ring;

  // What one lane reads for all: ptxas keeps what follows from it in uniform registers, of which there are enough.
  const auto uniform_of = [](int x) { return __shfl_sync(0xffffffffu, x, 0); };
  const auto release = [&](unsigned long long& barrier, unsigned counts = 1) {
    arrive_warp(shared_address(&barrier), counts);
  };
  // Both are issued, not waited for.
  const auto multiply_k = [&]() {
    const u64 q = q_tiles + u64(q_ring.stage * (QTile::bytes >> 4)), k = k_tiles + u64(k_ring.stage * (KTile::bytes >> 4));
    if constexpr (added)
      Products<Config>::scores_added(s, q, k, ones, biases + u64(k_ring.stage * (BiasTile::bytes >> 4)));
    else
      Products<Config>::scores(s, q, k);
    commit_products();
  };
  const auto multiply_v = [&](u64 v, bool add) {
    Products<Config>::outputs(output, p, v, add);
    commit_products();
  };

  wait<false>(shared_address(&shared.q_full[0][group]), 0);
  if (shared.slots[0].stop) return;
  if (consumers > 1 && group == consumers - 1) arrive_named<256>(kTurn);  // the first turn is consumer 0's
  wait<false>(shared_address(&shared.k_full[0]), 0);
  // What a stage of K holds, and a stage of values.
  const auto word_of = [&](int stage, int of_values) {
    return shared.spans[stage].word | (facts.settles ? shared.settled[of_values] : 0);
  };
  StageSpan span{uniform_of(word_of(0, 0))};
  fence_products();
  multiply_k();
  wait_products<0>();
  pin(s);
  Reduction reduction;
  // What a row's scores, or logits, are weighed against, and what scores are multiplied by: both change seldom.
  float scale = plain ? shared.slots[0].scale : 1.0f, reference[Scores::rows];
  const auto refer = [&]() {
    if constexpr (Reduction::rescales) {
#pragma unroll
      for (int i = 0; i < Scores::rows; ++i) reference[i] = reduction.reference(i, scale);
    }
  };
  refer();
  unsigned status = kOpens | kUnsettled;
  if (late && facts.has_diagonal && uniform_of(shared.slots[0].work.pack) == 1) status |= kUnpacked;

  // What seldom happens before a tile's exponentials, and after, is asked for together, and found in the shadow of products: a
  // question whose answer is uniform takes thirty cycles.
  const auto seldom_of = [&]() {
    if (late && facts.has_diagonal && !(status & kUnpacked) && span.word >= 0) return 1u;
    return opaque(unsigned(span.word & (kPartial | kEarly)) | (status & kUnsettled));
  };
  unsigned seldom = seldom_of();
  Ring<Config::stages> k_next = k_ring;
  k_next.advance();
  // Which named barriers say that it is this consumer's turn, and the next one's.
  const int turn = opaque(kTurn + group), next_turn = opaque(kTurn + next_group);

  // On top of the loop S is done, and the product of the tile before it with V may be running. Behind the last tile it is
  // gone through once more with a tile that is none, for the output of the last item.
#pragma unroll 1
  while (true) {
    const Slot& slot = shared.slots[slots.stage];
    const auto& item = *reinterpret_cast<const typename Variant::Item*>(slot.item);
    const bool last = (span.word & kLast) != 0;
    jitter<Config::jittered>();
    if constexpr (!steady && !staged) {
      if (!(status & kFinished)) release(shared.k_empty[k_ring.stage]);
    }
    Ring<Shared<Config, Variant>::value_stages> value_next = values;
    value_next.advance();
    const Ring<Config::q_stages> q_here = q_ring;

    float factor[Scores::rows], sums[Scores::rows][2];
    unsigned again = 0;
    bool rescales = !steady;
    int next_word = 0;
#pragma unroll 1
    while (true) {
      typename Variant::Tile uniform{};
      if constexpr (facts.has_tile)
        uniform = Variant::tile(params, item, Box{slot.row_lo, slot.row_hi, span.col(), span.col() + block_n});
      const TileView<Variant, Diagonal> view{
          item,
          uniform,
          reinterpret_cast<const typename Variant::Key*>(shared.keys) + (facts.has_key ? values.stage * block_n : 0),
          reinterpret_cast<const Diagonal*>(shared.diagonals) +
              (facts.has_diagonal ? values.stage * Shared<Config, Variant>::diagonal_capacity : 0),
          reinterpret_cast<const typename Variant::Row*>(slot.rows),
          slot.row_at,
          slot.row_lo,
          facts.diagonal_per_head ? slot.row_hi - slot.row_lo + block_n - 1 : 0,
          slot.work.h0,
          span.col(),
          Softmaxes<Config, Variant>::descends ? shared.ends[k_ring.stage] : slot.col_end};
      using TilePairs = Pairs<Variant, Scores, Diagonal>;
      if constexpr (relative && !late) {
        TilePairs(scores, view).make(s, reference, [](float x, int) { return x; });
      } else if constexpr (!plain && !late) {
        TilePairs(scores, view).make(s, NoReference(), [](float x, int) { return x; });
      }
      // What seldom happens to a tile's logits: a mask, a maximum.
      const auto settle = [&]() {
        if (!keeps_q && last && !again && !(status & kFinished)) release(shared.q_empty[q_here.stage][group]);
        // Kept from the first time, staged values would take a register for each pair.
        const int anew = facts.has_key || facts.has_diagonal ? *reinterpret_cast<const volatile int*>(&shared.zero) : 0;
#pragma unroll 1
        for (int some = span.word & kPartial; some; some = opaque_zero())
          TilePairs(Scores(opaque_thread() - kLoaders), view).mask(s, anew);
        if constexpr (steady) {
          if (again || (!keeps_q && last) || (status & kUnsettled)) {
            rescales = !(status & kOpens);
            reduction.raise(s, factor, scale, 0.0f);
            refer();
            // A diagonal's tile says little of its first rows: where a bias comes in any order, another tile's maximum counts, too.
            if (!(added && (status & kOpens)) && __all_sync(0xffffffffu, reduction.settled())) status &= ~kUnsettled;
          }
        }
      };
      // A loop that runs at most once, as values that it changes stay where they are: see opaque_zero.
#pragma unroll 1
      for (unsigned left = late ? 0 : seldom; left; left = opaque_zero()) settle();
      if constexpr (!steady && staged) {
        if (!(status & kFinished)) release(shared.k_empty[k_ring.stage]);
      }
      if constexpr (!steady) {
        reduction.raise(s, factor, scale, plain ? slot.slack : 8.0f);
        refer();
      }

      // The first exponentials run beside the product before, the others beside what is made of the first ones.
      if constexpr (late) {
        const auto weight = [](float x, int i) { return i < first ? Fn<Config::accuracy>::exp2(x) : x; };
        if (seldom) {
          TilePairs(Scores(opaque_thread() - kLoaders), view).make(s, NoReference(), [](float x, int) { return x; });
          settle();
          reduction.template weigh<first>(s, scale, reference);
        } else if constexpr (facts.has_diagonal) {
          if (facts.settles && span.word < 0)
            TilePairs(scores, view).make_settled(s, reference, weight);
          else
            TilePairs(scores, view).make_unpacked(s, reference, weight);
        } else {
          TilePairs(scores, view).make(s, reference, weight);
        }
      } else {
        reduction.template weigh<first>(s, scale, reference);
      }
      pin(s);
      wait_products<0>();
      pin(output);
      if (seldom && (status & kOpens) && !again) {
        if (status & kBegun) {
          Ring<Config::slots> stored = slots;
          if (!(status & kFinished)) stored.retreat();
          const Slot& ended = shared.slots[stored.stage];
          if constexpr (facts.output.present)
            store_rows<Config, Variant>(params, shared, ended, Outputs(opaque_thread() - kLoaders), output);
          else
            store_scaled<Config, Variant>(ended, Outputs(opaque_thread() - kLoaders), output, shared.scales);
          release(shared.slot_empty[stored.stage]);
        }
        if (status & kFinished) return;
      }
      // A quarter of what two accumulator tiles hold, whose pairs are one A operand: the layouts coincide. A softmax's weights are
      // at most 1: f16 holds them. Two of a row are added to each other first: a long chain of additions would go before the
      // exponentials.
      const auto finish = [&](int quarter) {
        const int step = quarter / 4 * 8, i = step + quarter % 4;
        sums[Scores::slot(i)][i & 1] += s[i] + s[i + 4];
        if (i % 2 == 1) {
          p[step / 8][i / 2 % 2] = pack(s[i - 1], s[i], Element());
          p[step / 8][i / 2 % 2 + 2] = pack(s[i + 3], s[i + 4], Element());
        }
      };
#pragma unroll
      for (int i = 0; i < Scores::rows; ++i) sums[i][0] = sums[i][1] = 0.0f;
#pragma unroll
      for (int i = first; i < Scores::values; ++i) {
        reduction.weigh_rest(s[i]);
        constexpr int others = Scores::values - first;
#pragma unroll
        for (int j = (i - first) * (first / 2) / others; j < (i + 1 - first) * (first / 2) / others; ++j) finish(j);
      }
#pragma unroll
      for (int i = 0; i < Scores::rows; ++i) pin(sums[i]);
#pragma unroll
      for (int step = 0; step < first / 8; ++step) pin(p[step]);
      pin(s);
      // What keeps them here: the wait for the next tile of K, which is there as a rule, asks whether the last ones are negative,
      // or a NaN that no weight is.
      unsigned any = 0, all = ~0u;
#pragma unroll
      for (int i = Scores::values - 4; i < Scores::values; ++i) {
        any |= float_to_bits(s[i]);
        all &= float_to_bits(s[i]);
      }
      const unsigned never = facts.has_weight ? unsigned(all == ~0u) : any >> 31;
      jitter<Config::jittered>();
      if (!last) {
        wait<false>(shared_address(&shared.k_full[k_next.stage]), k_next.parity ^ never);
        next_word = word_of(k_next.stage, value_next.stage);
      }
      // An addition that follows its exponential closely would hold the next ones up.
#pragma unroll
      for (int j = first / 2; j < Scores::values / 2; ++j) finish(j);
#pragma unroll
      for (int i = 0; i < Scores::rows; ++i) pin(sums[i]);  // else they are made twice, for the test below and after it
      if (last) {  // as late as may be: the next item's Q was asked for above
        q_ring = q_here;
        q_ring.advance();
        wait<false>(shared_address(&shared.q_full[q_ring.stage][group]), q_ring.parity);
        Ring<Config::slots> slot_next{opaque(slots.stage)};
        slot_next.advance();
        if (uniform_of(shared.slots[slot_next.stage].stop)) {
          status |= kEnds;
          next_word = kLast;
        } else {
          wait<false>(shared_address(&shared.k_full[k_next.stage]), k_next.parity);
          next_word = word_of(k_next.stage, value_next.stage);
        }
      }
      if constexpr (!steady) {
        break;
      } else {
        unsigned large = 0;
#pragma unroll
        for (int i = 0; i < Scores::rows; ++i)
          large |= (float_to_bits(sums[i][0]) + kFromLargest) | (float_to_bits(sums[i][1]) + kFromLargest);
        if (!__any_sync(0xffffffffu, (large & (again | (!keeps_q && last) ? 0u : 1u << 31)) != 0u)) break;
        again = seldom = 1;
        multiply_again<Config, added>(s, Scores(opaque_thread() - kLoaders), base + Layout::q + q_here.stage * QTile::bytes,
                                      base + Layout::k + k_ring.stage * KTile::bytes,
                                      base + Layout::biases + k_ring.stage * BiasTile::bytes);
      }
    }
    reduction.add(sums);
    release(shared.v_empty[v_stage]);
    if constexpr (steady) release(shared.k_empty[k_ring.stage]);
    if constexpr (Reduction::rescales) {
      if (rescales && (steady || !(status & kOpens))) {
        bool same = true;
#pragma unroll
        for (int i = 0; i < Scores::rows; ++i) same = same & (factor[i] == 1.0f);
        if (!__all_sync(0xffffffffu, same)) {
#pragma unroll
          for (int i = 0; i < Outputs::values; ++i) output[i] *= factor[Outputs::slot(i)];
        }
      }
    }

    // The next tile's product, of a stage that nobody writes where there is none, then this tile's.
    const bool tail = (span.word & kTail) != 0;
    const int col = span.col();
    const Ring<Config::stages> here = k_ring;
    const u64 v = v_tiles + u64(here.stage * (VTile::bytes >> 4));
    v_stage = here.stage;
    k_ring = k_next;
    k_next.advance();
    if constexpr (staged) values = value_next;
    span.word = uniform_of(next_word);
    if constexpr (consumers > 1) sync_named<256>(turn);
    fence_products();
    multiply_k();
    jitter<Config::jittered>();
    wait<false>(shared_address(&shared.v_full[here.stage]), here.parity);
    if (tail)
      zero_rows<Config>(smem + Layout::v + here.stage * VTile::bytes, slot.col_end - col, group, opaque_thread() & 127);
    fence_products();  // P and O were written since
    multiply_v(v, !(status & kOpens));
    if constexpr (consumers > 1) arrive_named<256>(next_turn);
    status &= ~kOpens;
    seldom = seldom_of();
    if (last) {
      if constexpr (keeps_q) release(shared.q_empty[q_here.stage][group]);
      // Lane q of a quad ends its q-th row.
      RowState state = reduction.state(0);
      const RowState second = reduction.state(1);
      const Scores fragment(opaque_thread() - kLoaders);
      const int q = fragment.lane & 3, ending = fragment.row(0) + 8 * q;
      if (q & 1) state = second;
      if constexpr (!facts.has_weight) state.first *= scale;
      if (q < 2) {
        if constexpr (facts.output.present)
          shared.states[ending] = state;
        else
          end_row<Config, Variant>(params.launch, slot, ending, state, shared.scales);
      }
      __syncwarp();  // the other lanes of the row read it
      if (!(status & kEnds)) slots.advance();
      if constexpr (plain) scale = shared.slots[slots.stage].scale;
      reduction = Reduction();
      refer();
      status |= kBegun | kOpens | kUnsettled | (status & kEnds ? kFinished : 0u);
      seldom = 1;
    }
    wait_products<1>();
    pin(s);
  }
}

// What products add, before the next barrier of the CTA: ones; and zeros, beside what is copied later.
template <class Config>
__device__ __forceinline__ void begin_added(char* smem) {
  using Layout = SharedLayout<Config>;
  constexpr int ones = Layout::OnesTile::plane_bytes / 16;
  uint4* const chunks = reinterpret_cast<uint4*>(smem + Layout::ones);
#pragma unroll 1
  for (int i = int(threadIdx.x); i < (Layout::bytes - Layout::ones) / 16; i += Config::threads)
    chunks[i] = uint4{i < ones ? kOnes.x : 0u, i < ones ? kOnes.y : 0u, 0u, 0u};
  fence_proxy();  // wgmma reads them
}

// The parameters for who prepares items. Constant memory is what reads them fastest, through uniform registers: where consumers
// would be left without any, from an address that nobody knows.
template <class Config, class Variant>
__device__ __forceinline__ const typename Variant::Params& helpers_params(const typename Variant::Params& params) {
  if constexpr (Config::hides_params || Softmaxes<Config, Variant>::late || Variant::facts.has_diagonal)
    return hidden(params);
  else
    return params;
}

// The items of one CTA. `smem` is 1024-byte aligned, SharedLayout<Config>::bytes long.
template <class Config, class Given>
__device__ __forceinline__ void run_block(const typename Given::Params& params, const TensorMap* k_map,
                                          const TensorMap* v_map, char* smem) {
  using Variant = typename Served<Config, Given>::Type;
  alignas(1024) __shared__ char state[sizeof(Shared<Config, Variant>)];
  auto& shared = *reinterpret_cast<Shared<Config, Variant>*>(state);
  if (Config::checked && shared_address(smem) % 1024 != 0) stop_kernel();
  if constexpr (Shared<Config, Variant>::added) begin_added<Config>(smem);
  if (threadIdx.x == 0) {
    constexpr int warps = 4 * Config::consumers;
    shared.zero = 0;
    init_barrier(shared_address(&shared.next_wanted), 1);
#pragma unroll 1
    for (int slot = 0; slot < Config::slots; ++slot) {
      init_barrier(shared_address(&shared.slot_full[slot]), 1);
      init_barrier(shared_address(&shared.slot_empty[slot]), warps);
    }
#pragma unroll 1
    for (int stage = 0; stage < Config::q_stages; ++stage) {
#pragma unroll 1
      for (int group = 0; group < Config::consumers; ++group) {
        init_barrier(shared_address(&shared.q_full[stage][group]), Shared<Config, Variant>::preparers);
        init_barrier(shared_address(&shared.q_empty[stage][group]), 4);
      }
    }
#pragma unroll 1
    for (int stage = 0; stage < Config::stages; ++stage) {
      init_barrier(shared_address(&shared.k_full[stage]), 1 + Shared<Config, Variant>::stagers / 32);
      init_barrier(shared_address(&shared.k_empty[stage]), warps);
      init_barrier(shared_address(&shared.v_full[stage]), 1);
      init_barrier(shared_address(&shared.v_empty[stage]), warps);
    }
    init_barrier(shared_address(&shared.v_empty[Config::stages]), warps);
    fence_barriers();
  }
  follow_grids();
  __syncthreads();
  if (threadIdx.x < kLoaders) {
    give_registers<Config::loader_registers>();
    if (threadIdx.x == 0)
      load_tiles<Config, Variant>(params.launch, k_map, v_map, shared, shared_address(smem));
    else if (threadIdx.x >= kLoaders - Shared<Config, Variant>::stagers)
      stage_items<Config, Variant>(params, shared, int(threadIdx.x) - (kLoaders - Shared<Config, Variant>::stagers));
    else if (threadIdx.x >= kLoaders - kHelpers)
      prepare_items<Config, Variant>(helpers_params<Config, Variant>(params), shared, smem, shared_address(smem),
                                     int(threadIdx.x) - (kLoaders - kHelpers));
  } else {
    take_registers<Config::consumer_registers>();
    multiply_items<Config, Variant>(params, shared, smem);
  }
}

}  // namespace wgmma_sm90
}  // namespace attncc
#endif  // ATTNCC_KERNELS
