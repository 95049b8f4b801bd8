// The Hopper family: TMA, wgmma, specialised warps, online softmax in registers; sm_90a. Owns the roles of a CTA's warps and
// the protocol between them. It may not know any variant: see device/joint.cuh.
//
// Warpgroup 0 loads, the others (consumers) multiply, each 64 packed query rows of the CTA's tile. All walk the same items.
//   warp 0, one lane   K and V tiles by TMA into two rings of stages; says in `spans` which tile a stage holds.
//   warps 1 - 3        an item's rows of Q by cp.async, whatever their strides and packing; what hooks stage beside K.
//   consumers          S = Q K^T, softmax, O += P V with P in registers; the output from registers.
//
// BARRIERS, by phase; n counts the items a CTA has begun, t the tiles.
//   item_full    96 arrivals of warps 1-3: Q, the item's slot and rows are there. Consumers wait for phase n.
//   item_empty   an arrival a consumer warp, after the item's last product with Q. Warps 1-3 wait for phase n - 1 before Q.
//   k_full       TMA's bytes (and 96 arrivals where hooks stage values): K tile, span, staged values.
//   k_empty      an arrival a consumer warp: done with them.
//   v_full, v_empty   likewise for V.
// There are three item slots: slot n % 3 was last read by the epilogue of item n - 3, which every consumer warp left before it
// arrived at item_empty for item n - 2, and that is waited for before item n - 1 is loaded.
//
// Only loaders' waits are checked ones: with a trap among the consumers, ptxas does not give them their registers.
#pragma once
#include "device/fragment.cuh"
#include "device/joint.cuh"
#include "device/pairs.cuh"
#include "device/tiles.cuh"
#include "device/wgmma.cuh"

#ifdef ATTNCC_KERNELS
#include "device/async_copy.cuh"
#include "device/mbarrier.cuh"
#include "device/mma.cuh"
#include "device/reduction.cuh"
#include "device/sync.cuh"
#include "device/tma.cuh"
#include "families/merge.cuh"
#endif

namespace attncc {
namespace wgmma_sm90 {

template <class Config, int Cols = Config::block_n>
using Fragment = MmaFragment<Config::block_m, 4 * Config::consumers, Cols>;

// Dynamic shared memory, in bytes from its start; codegen/families/wgmma_sm90.py computes the same.
template <class Config>
struct SharedLayout {
  using QTile = SwizzledTile<Config::block_m, Config::head_dim>;
  using KTile = SwizzledTile<Config::block_n, Config::head_dim>;
  using VTile = SwizzledTile<Config::block_n, Config::head_dim_v>;
  static constexpr int q = 0, k = q + QTile::bytes, v = k + Config::stages * KTile::bytes;
  static constexpr int bytes = v + Config::stages * VTile::bytes;
};

#ifdef ATTNCC_KERNELS

constexpr int kLoaders = 128, kHelpers = 96;  // threads of the loading warpgroup; of its warps 1 - 3
constexpr int kSlots = 3;
constexpr int kSectionBytes = 24 << 20;  // half of an H200's L2

// Named barriers.
constexpr int kTurn = 1;      // + consumer: its turn to issue products
constexpr int kLoading = 4;   // the loading warpgroup
constexpr int kZeroing = 5;   // + consumer: its warpgroup
constexpr int kHelping = 8;   // warps 1 - 3

// What a K stage holds: the columns from `col` on.
struct StageSpan {
  int col, flags;
};
constexpr int kPartial = 1, kLast = 2, kTail = 4;  // kTail: rows of V past the columns' end may hold anything

// An item, as its loaders left it for the consumers. Raw bytes: an Item or Row may have constructors.
template <class Config, class Variant>
struct ItemSlot {
  alignas(16) char item[sizeof(typename Variant::Item)];
  alignas(16) char rows[Config::block_m * sizeof(typename Variant::Row)];
  RowAt row_at[Config::block_m];
  Range ranges[Variant::facts.num_ranges];
  Work work;
  int qo_base, kv_base, row_lo, row_hi, col_end;
  int any, stop;  // whether it has tiles; whether it is no item but the end
};

// One object of a whole number of 1024 bytes: dynamic shared memory begins where it ends, and tiles want that alignment.
template <class Config, class Variant>
struct alignas(1024) Shared {
  static constexpr bool staged = Variant::facts.has_key || Variant::facts.has_diagonal;
  using Diagonal = typename Diagonals<Config, Variant>::Value;
  static constexpr int diagonal_capacity = Diagonals<Config, Variant>::capacity;

  unsigned long long item_full, item_empty;
  unsigned long long k_full[Config::stages], k_empty[Config::stages], v_full[Config::stages], v_empty[Config::stages];
  StageSpan spans[Config::stages];
  int zero;
  ItemSlot<Config, Variant> slots[kSlots];
  alignas(16) char keys[(Variant::facts.has_key ? Config::stages * Config::block_n : 1) * sizeof(typename Variant::Key)];
  alignas(16) char diagonals[(Variant::facts.has_diagonal ? Config::stages * diagonal_capacity : 1) * sizeof(Diagonal)];
};

// The items of a launch: row tiles of every KV head of every request, and of each split of the columns. As many heads as
// the L2 holds K and V of are a section; in it the last row tiles of all come first: under a causal mask those are the
// longest, so that CTAs that take every n-th item have as much to do as each other.
template <class Config, class Variant>
struct Items {
  const Launch& launch;
  unsigned row_tiles, splits, total, section;
  bool packed;  // a tile packs the group's heads; else one, as tables kept by head hold so many

  __device__ __forceinline__ explicit Items(const Launch& launch) : launch(launch) {
    constexpr Facts facts = Variant::facts;
    packed = !(facts.has_diagonal && facts.diagonal_per_head) || launch.group <= kDiagonalHeads;
    row_tiles = packed ? (launch.max_qo_len * launch.group + Config::block_m - 1) / Config::block_m
                       : (launch.max_qo_len + Config::block_m - 1) / Config::block_m * launch.group;
    splits = launch.num_splits > 1 ? launch.num_splits : 1;
    total = row_tiles * splits * launch.num_kv_heads * launch.batch;
    const i64 part_bytes = i64(launch.max_kv_len) * (2 * (Config::head_dim + Config::head_dim_v)) / splits + 1;
    section = unsigned(part_bytes < kSectionBytes ? kSectionBytes / part_bytes : 1);
  }

  // nrows <= 0: nothing to do, the request is shorter than the longest.
  __device__ __forceinline__ Work work(unsigned index) const {
    const unsigned parts = total / row_tiles, of_section = section * row_tiles;
    const unsigned before = index / of_section * section, inside = index - before * row_tiles;
    const unsigned wide = parts - before < section ? parts - before : section;
    const unsigned longest = inside / wide, part = before + inside - longest * wide, head = part / splits;
    unsigned tile = row_tiles - 1 - longest;
    Work work{};
    work.slot = part - head * splits;
    work.b = head / launch.num_kv_heads;
    work.hk = head - work.b * launch.num_kv_heads;
    work.h0 = work.hk * launch.group;
    work.pack = launch.group;
    if (!packed) {
      const unsigned per_head = row_tiles / launch.group, of_group = tile / per_head;
      tile -= of_group * per_head;
      work.h0 += of_group;
      work.pack = 1;
    }
    work.geometry = geometry(launch, work.b);
    const Geometry& g = work.geometry;
    work.row0 = tile * Config::block_m;
    const int left = g.qo_len * work.pack - work.row0;
    work.nrows = left < Config::block_m ? left : Config::block_m;
    work.ncols = g.kv_len;
    if (launch.num_splits > 1) {
      work.col0 = work.slot * launch.split_cols;
      work.ncols = launch.split_cols;
    }
    return work;
  }
};

// ---- the loading warpgroup -------------------------------------------------------------------------------------------

// One thread: everything of an item but its rows.
template <class Config, class Variant>
__device__ __forceinline__ void fill_slot(const typename Variant::Params& params, const Work& work,
                                          ItemSlot<Config, Variant>& slot) {
  const Geometry& g = work.geometry;
  slot.work = work;
  slot.qo_base = g.qo_base;
  slot.kv_base = g.kv_base;
  slot.row_lo = work.row0 / work.pack;
  slot.row_hi = (work.row0 + work.nrows - 1) / work.pack + 1;
  slot.col_end = work.col0 + work.ncols < g.kv_len ? work.col0 + work.ncols : g.kv_len;
  *reinterpret_cast<typename Variant::Item*>(slot.item) = Variant::item(params, work);
  int count = Variant::ranges(params, work, slot.row_lo, slot.row_hi, slot.ranges);
  for (; count < Variant::facts.num_ranges; ++count) slot.ranges[count] = Range{0, 0, 1};
  TileIterator<Config::block_n, Variant::facts.num_ranges> tiles(slot.ranges, work.col0, slot.col_end);
  TileSpan first;
  slot.any = tiles.next(first);
  slot.stop = 0;
}

// One thread: every tile of an item.
template <class Config, class Variant>
__device__ __forceinline__ void load_tiles(const Launch& launch, const TensorMap* k_map, const TensorMap* v_map,
                                           const ItemSlot<Config, Variant>& slot, Shared<Config, Variant>& shared,
                                           unsigned smem, Ring<Config::stages>& ring) {
  using Layout = SharedLayout<Config>;
  using KTile = typename Layout::KTile;
  using VTile = typename Layout::VTile;
  const int col_end = slot.col_end, base = slot.kv_base, hk = slot.work.hk;
  const bool ragged = launch.kv_indptr != nullptr;
  const int b = ragged ? 0 : slot.work.b;
  // The copy engine itself writes zeros past a padded tensor's end.
  const bool clipped = !ragged && col_end == launch.max_kv_len;
  TileIterator<Config::block_n, Variant::facts.num_ranges> tiles(slot.ranges, slot.work.col0, col_end);
  TileSpan span;
  bool more = tiles.next(span);
#pragma unroll 1
  while (more) {
    TileSpan following;
    more = tiles.next(following);
    const int stage = ring.stage;
    const unsigned k_full = shared_address(&shared.k_full[stage]), v_full = shared_address(&shared.v_full[stage]);
    wait<Config::checked>(shared_address(&shared.k_empty[stage]), ring.parity ^ 1);
    shared.spans[stage] = {span.col, (span.partial ? kPartial : 0) | (more ? 0 : kLast) |
                                         (span.col + Config::block_n > col_end && !clipped ? kTail : 0)};
    arrive_expecting(k_full, KTile::bytes);
#pragma unroll
    for (int panel = 0; panel < KTile::panels; ++panel)
      load_box(smem + Layout::k + stage * KTile::bytes + panel * KTile::panel_bytes, k_map, k_full, panel * 64,
               base + span.col, hk, b);
    wait<Config::checked>(shared_address(&shared.v_empty[stage]), ring.parity ^ 1);
    arrive_expecting(v_full, VTile::bytes);
#pragma unroll
    for (int panel = 0; panel < VTile::panels; ++panel)
      load_box(smem + Layout::v + stage * VTile::bytes + panel * VTile::panel_bytes, v_map, v_full, panel * 64,
               base + span.col, hk, b);
    ring.advance();
    span = following;
  }
}

// Warps 1 - 3: Q and the item's rows.
template <class Config, class Variant>
__device__ __forceinline__ void load_rows(const typename Variant::Params& params, ItemSlot<Config, Variant>& slot,
                                          unsigned target, int helper) {
  using QTile = typename SharedLayout<Config>::QTile;
  const Launch& launch = params.launch;
  const Work work = slot.work;
  const char* q = static_cast<const char*>(launch.q) +
                  2 * (work.b * launch.q_stride.batch + slot.qo_base * launch.q_stride.token);
  const auto& item = *reinterpret_cast<const typename Variant::Item*>(slot.item);
#pragma unroll 1
  for (int i = helper; i < Config::block_m; i += kHelpers) slot.row_at[i] = unpack_row(work, i);
  sync_named<kHelpers>(kHelping);
#pragma unroll 4
  for (int i = helper; i < Config::block_m * QTile::chunks; i += kHelpers) {
    const int row = quotient<QTile::chunks>(i), chunk = i - row * QTile::chunks;
    const RowAt at = slot.row_at[row];
    copy_async(target + QTile::offset(row, chunk),
               q + 2 * (at.row * launch.q_stride.token + at.h * launch.q_stride.head) + chunk * 16, row < work.nrows);
  }
  commit_copies();
#pragma unroll 1
  for (int i = helper; i < Config::block_m; i += kHelpers) {
    const RowAt at = slot.row_at[i];
    reinterpret_cast<typename Variant::Row*>(slot.rows)[i] = Variant::row(params, item, at.row, at.h);
  }
  wait_copies<0>();
  fence_proxy();  // wgmma reads what cp.async wrote
}

// Warps 1 - 3: what hooks stage beside every tile of K.
template <class Config, class Variant>
__device__ __forceinline__ void stage_values(const typename Variant::Params& params,
                                             const ItemSlot<Config, Variant>& slot, Shared<Config, Variant>& shared,
                                             int helper, Ring<Config::stages>& ring) {
  constexpr Facts facts = Variant::facts;
  constexpr int block_n = Config::block_n;
  using Diagonal = typename Shared<Config, Variant>::Diagonal;
  const auto& item = *reinterpret_cast<const typename Variant::Item*>(slot.item);
  const int last = slot.work.geometry.kv_len - 1;
  TileIterator<block_n, facts.num_ranges> tiles(slot.ranges, slot.work.col0, slot.col_end);
  TileSpan span;
#pragma unroll 1
  while (tiles.next(span)) {
    const int stage = ring.stage;
    wait<Config::checked>(shared_address(&shared.k_empty[stage]), ring.parity ^ 1);
    if constexpr (facts.has_key) {
      auto* keys = reinterpret_cast<typename Variant::Key*>(shared.keys) + stage * block_n;
#pragma unroll 1
      for (int i = helper; i < block_n; i += kHelpers) {
        const int col = span.col + i < last ? span.col + i : last;
        if constexpr (facts.key_reads)
          keys[i] = Variant::key(params, item, Variant::read_key(params, item, col), col);
        else
          keys[i] = Variant::key(params, item, col);
      }
    }
    if constexpr (facts.has_diagonal) {
      auto* diagonals =
          reinterpret_cast<Diagonal*>(shared.diagonals) + stage * Shared<Config, Variant>::diagonal_capacity;
      const int deltas = slot.row_hi - slot.row_lo + block_n - 1, first = slot.row_lo - (span.col + block_n - 1);
#pragma unroll 1
      for (int i = helper; i < (facts.diagonal_per_head ? slot.work.pack : 1) * deltas; i += kHelpers) {
        const int head = i / deltas;
        diagonals[i] = Variant::diagonal(params, item, slot.work.h0 + head, first + i - head * deltas);
      }
    }
    arrive(shared_address(&shared.k_full[stage]));
    ring.advance();
  }
}

template <class Config, class Variant>
__device__ __forceinline__ void load_items(const typename Variant::Params& params, const TensorMap* k_map,
                                           const TensorMap* v_map, Shared<Config, Variant>& shared, unsigned smem) {
  const Items<Config, Variant> items(params.launch);
  const int thread = threadIdx.x, helper = thread - (kLoaders - kHelpers);
  const unsigned item_full = shared_address(&shared.item_full);
  const unsigned blocks = gridDim.x * gridDim.y * gridDim.z;
  Ring<Config::stages> ring;
  unsigned parity = 0;
  int at = 0;
  if (thread == 0) {
    acquire_map(k_map);
    acquire_map(v_map);
  }
#pragma unroll 1
  for (unsigned index = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z); index < items.total;
       index += blocks) {
    const Work work = items.work(index);
    if (work.nrows <= 0) continue;
    ItemSlot<Config, Variant>& slot = shared.slots[at];
    if (helper == 0) fill_slot(params, work, slot);
    __syncwarp();
    sync_named<kLoaders>(kLoading);
    if (helper >= 0) {
      wait<Config::checked>(shared_address(&shared.item_empty), parity ^ 1);
      load_rows<Config, Variant>(params, slot, smem + SharedLayout<Config>::q, helper);
      arrive(item_full);
      if constexpr (Shared<Config, Variant>::staged) stage_values(params, slot, shared, helper, ring);
    } else if (thread == 0) {
      load_tiles(params.launch, k_map, v_map, slot, shared, smem, ring);
    }
    __syncwarp();
    at = at == kSlots - 1 ? 0 : at + 1;
    parity ^= 1;
  }
  if (helper >= 0) {
    if (helper == 0) shared.slots[at].stop = 1;
    // A phase ends only once everyone has seen the one before it.
    wait<Config::checked>(shared_address(&shared.item_empty), parity ^ 1);
    arrive(item_full);
  }
}

// ---- the consumers ---------------------------------------------------------------------------------------------------

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

// What one warp stores of its rows, from registers.
template <class Config, class Variant, class Outputs, class Reduction>
__device__ __forceinline__ void store_rows(const Launch& launch, const ItemSlot<Config, Variant>& slot,
                                           const Outputs& fragment, const float (&output)[Outputs::values],
                                           const Reduction& reduction, float scale) {
  using Element = typename Config::Element;
  constexpr Facts facts = Variant::facts;
  static_assert(Outputs::n_tiles % 4 == 0 && Outputs::m_tiles == 1, "whole transposed quads");
  const auto& item = *reinterpret_cast<const typename Variant::Item*>(slot.item);
  const int q = fragment.lane & 3;
#pragma unroll
  for (int s = 0; s < Outputs::rows; ++s) {
    const int i = fragment.row(s);
    const bool valid = i < slot.work.nrows;
    const RowAt at = slot.row_at[i];
    RowState state = reduction.state(s);
    if constexpr (!facts.has_weight) state.first *= scale;
    if (launch.split_out != nullptr) {
      if (!valid) continue;
      const i64 place = slot.work.slot * launch.split_tokens * launch.num_heads +
                        merge::state_index(launch, slot.qo_base, slot.work.b, at.row, at.h);
      float* target = launch.split_out + place * Config::head_dim_v + 2 * q;
#pragma unroll
      for (int n = 0; n < Outputs::n_tiles; ++n)
        *reinterpret_cast<float2*>(target + 8 * n) = float2{output[Outputs::value(s, 2 * n)], output[Outputs::value(s, 2 * n + 1)]};
      if (q == 0) {
        launch.split_state[2 * place] = state.first;
        launch.split_state[2 * place + 1] = state.second;
      }
      continue;
    }
    const Finished end = finish<Variant, Config::accuracy>(
        item, reinterpret_cast<const typename Variant::Row*>(slot.rows)[i], state);
    const i64 token = slot.qo_base + at.row;
    char* target = static_cast<char*>(launch.out) +
                   2 * (slot.work.b * launch.out_stride.batch + token * launch.out_stride.token +
                        at.h * launch.out_stride.head) +
                   16 * q;
#pragma unroll
    for (int n = 0; n < Outputs::n_tiles; n += 4) {
      unsigned r[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        r[j] = pack(output[Outputs::value(s, 2 * (n + j))] * end.scale, output[Outputs::value(s, 2 * (n + j) + 1)] * end.scale,
                    Element());
      transpose_quad(r, q);
      if (valid) *reinterpret_cast<uint4*>(target + 16 * n) = uint4{r[0], r[1], r[2], r[3]};
    }
    if (launch.lse != nullptr && valid && q == 0)
      launch.lse[slot.work.b * launch.lse_stride.batch + token * launch.lse_stride.token +
                 at.h * launch.lse_stride.head] = end.lse;
  }
}

// 2^x's factor on raw scores: where a variant's logits are scores times a positive scale, exp2 takes it in its multiply-add.
template <class Variant, class Diagonal>
__device__ __forceinline__ float plain_scale(const typename Variant::Item& item) {
  constexpr Facts facts = Variant::facts;
  if constexpr (facts.has_logits || facts.has_weight)
    return 1.0f;
  else if constexpr (facts.has_diagonal)
    return Variant::logits(1.0f, item, typename Variant::Row(), typename Variant::Tile(), typename Variant::Key(),
                           Diagonal(), 0, 0);
  else
    return Variant::logits(1.0f, item, typename Variant::Row(), typename Variant::Tile(), typename Variant::Key(), 0, 0);
}

// A warp's rows of Q K^T once more, with instructions of the warp alone. `q` and `k` are shared addresses of the tiles.
template <class Config, class Scores>
__device__ __forceinline__ void multiply_again(float (&s)[Scores::values], const Scores& scores, unsigned q, unsigned k) {
  using QTile = typename SharedLayout<Config>::QTile;
  using KTile = typename SharedLayout<Config>::KTile;
  const int lane = scores.lane;
#pragma unroll
  for (int i = 0; i < Scores::values; ++i) s[i] = 0.0f;
#pragma unroll 1
  for (int step = 0; step < Config::head_dim / 16; ++step) {
    unsigned a[4];
    load_matrices(a, q + QTile::offset(scores.warp * 16 + (lane & 15), step * 2 + (lane >> 4)));
    const unsigned column = k + KTile::offset((lane & 7) + (lane >> 4) * 8, step * 2 + ((lane >> 3) & 1));
#pragma unroll
    for (int pair = 0; pair < Config::block_n / 16; ++pair) {
      unsigned b[4];
      load_matrices(b, column + pair * 16 * 128);
      mma(&s[Scores::index(0, pair * 2)], a, b[0], b[1], typename Config::Element());
      mma(&s[Scores::index(0, pair * 2 + 1)], a, b[2], b[3], typename Config::Element());
    }
  }
}

// What a thread's weights of a tile may sum up to, in place of 1 each: far from the end of the type that they are rounded
// to, and of f32.
template <class Element>
struct LargestSum;
template <>
struct LargestSum<bf16> {
  static constexpr float value = 0x1p60f;
};
template <>
struct LargestSum<f16> {
  static constexpr float value = 0x1p15f;
};

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
  constexpr bool bounded =
      Variant::facts.logit_bound > 0.0f && Variant::facts.logit_bound <= FixedReference<Element>::most;
  using Reduction =
      typename ReductionOf<Variant::facts.has_weight, Config::accuracy, bounded>::template Running<Scores>;
  using Diagonal = typename Shared<Config, Variant>::Diagonal;
  constexpr Facts facts = Variant::facts;
  constexpr int block_n = Config::block_n, consumers = Config::consumers;
  constexpr bool plain = !facts.has_logits && !facts.has_weight;
  // Scores of plain products hardly grow along a row: the largest of the first tile serves them all, unless weights
  // against it show otherwise. Then the tile is done again.
  constexpr bool steady = Config::steady && plain && !facts.has_diagonal;
  constexpr int before = Scores::values * 3 / 16 * 4;  // of a tile's weights: what is made while P V runs

  const int thread = int(threadIdx.x) - kLoaders;
  const int group = __shfl_sync(0xffffffffu, thread >> 7, 0);
  const int lane = thread & 31;
  const int next_group = group == consumers - 1 ? 0 : group + 1;
  const unsigned base = shared_address(smem);
  const u64 q_tile = descriptor(base + Layout::q + group * 64 * 128, 16, 1024);
  const u64 k_tiles = descriptor(base + Layout::k, 16, 1024);
  const u64 v_tiles = descriptor(base + Layout::v, VTile::panel_bytes, 1024);
  const Scores scores(thread);
  const Outputs outputs(thread);

  Ring<Config::stages> k_ring, v_ring;
  unsigned parity = 0;
  int at = 0;
  if (consumers > 1 && group == consumers - 1) arrive_named<256>(kTurn);  // the first turn is consumer 0's

#pragma unroll 1
  while (true) {
    wait<false>(shared_address(&shared.item_full), parity);
    const ItemSlot<Config, Variant>& slot = shared.slots[at];
    if (slot.stop) break;
    const auto& item = *reinterpret_cast<const typename Variant::Item*>(slot.item);
    const auto* rows = reinterpret_cast<const typename Variant::Row*>(slot.rows);
    const float given = plain_scale<Variant, Diagonal>(item);
    const bool unusual = plain && !(given > 0.0f && given < infinity());
    const float scale = unusual ? 1.0f : given, slack = 8.0f / scale;

    float s[Scores::values], output[Outputs::values];
    unsigned p[block_n / 16][4];
#pragma unroll
    for (int i = 0; i < Outputs::values; ++i) output[i] = 0.0f;
    Reduction reduction;

    const auto release = [&](unsigned long long& barrier) {
      __syncwarp();
      if (lane == 0) arrive(shared_address(&barrier));
    };
    // Both are issued, not waited for.
    const auto multiply_k = [&]() {
#pragma unroll
      for (int step = 0; step < Config::head_dim / 16; ++step)
        Product<block_n, Element>::from_shared(
            s, q_tile + column_step<QTile>(step),
            k_tiles + u64(k_ring.stage * (KTile::bytes >> 4)) + column_step<KTile>(step), step != 0);
      commit_products();
    };
    const auto multiply_v = [&]() {
#pragma unroll
      for (int step = 0; step < block_n / 16; ++step)
        Product<Config::head_dim_v, Element>::from_registers(
            output, p[step], v_tiles + u64(v_ring.stage * (VTile::bytes >> 4)) + row_step(step), true);
      commit_products();
    };

    if (slot.any) {
      wait<false>(shared_address(&shared.k_full[k_ring.stage]), k_ring.parity);
      StageSpan span = shared.spans[k_ring.stage];
      fence_products();
      multiply_k();
      wait_products<0>();
      pin(s);
      bool first = true;
      // On top of the loop S is done, and the product of the tile before it with V may be running.
#pragma unroll 1
      while (true) {
        if constexpr (!steady && !Shared<Config, Variant>::staged) release(shared.k_empty[k_ring.stage]);
        if constexpr (!steady) {
          if (span.flags & kLast) release(shared.item_empty);
        }
        Ring<Config::stages> k_next = k_ring;
        k_next.advance();
        float factor[Scores::rows], sums[Scores::rows][2];
        bool again = false;
#pragma unroll 1
        while (true) {
          typename Variant::Tile uniform{};
          if constexpr (facts.has_tile)
            uniform = Variant::tile(params, item, Box{slot.row_lo, slot.row_hi, span.col, span.col + block_n});
          if constexpr (plain) {
            if (unusual) {
#pragma unroll
              for (int i = 0; i < Scores::values; ++i) s[i] *= given;
            }
          }
          const TileView<Variant, Diagonal> view{
              item,
              uniform,
              reinterpret_cast<const typename Variant::Key*>(shared.keys) + (facts.has_key ? k_ring.stage * block_n : 0),
              reinterpret_cast<const Diagonal*>(shared.diagonals) +
                  (facts.has_diagonal ? k_ring.stage * Shared<Config, Variant>::diagonal_capacity : 0),
              rows,
              slot.row_at,
              slot.row_lo,
              facts.diagonal_per_head ? slot.row_hi - slot.row_lo + block_n - 1 : 0,
              slot.work.h0,
              span.col,
              slot.col_end,
              &shared.zero};
          visit<plain>(s, scores, (span.flags & kPartial) != 0, view);
          if constexpr (!steady && Shared<Config, Variant>::staged) release(shared.k_empty[k_ring.stage]);

#pragma unroll
          for (int i = 0; i < Scores::rows; ++i) {
            factor[i] = 1.0f;
            sums[i][0] = sums[i][1] = 0.0f;
          }
          if constexpr (steady) {
            if (again || !__all_sync(0xffffffffu, reduction.settled())) reduction.raise(s, factor, scale, 0.0f);
          } else {
            reduction.raise(s, factor, scale, slack);
          }
          // Most exponentials run beside the product before; the rest beside what else there is to do once it is there.
          // ptxas would have them all on one side: the wait for the next tile of K, which is there as a rule, asks whether
          // sums of the first are a NaN that no addition gives, and the rest need a 0 that is read after it.
          reduction.template weigh<0, before>(s, sums, scale);
          pin(s);
          if (!(span.flags & kLast)) {
            unsigned never = 0;
#pragma unroll
            for (int i = 0; i < Scores::rows; ++i)
              never |= unsigned(float_to_bits(sums[i][0]) == ~0u) | unsigned(float_to_bits(sums[i][1]) == ~0u);
            wait<false>(shared_address(&shared.k_full[k_next.stage]), k_next.parity ^ never);
          }
          wait_products<0>();
          pin(output);
          reduction.template weigh<before, Scores::values>(s, sums, scale,
                                                         *reinterpret_cast<const volatile float*>(&shared.zero));
          // Two accumulator tiles side by side are one A operand: the layouts coincide. A softmax's weights are at most 1:
          // f16 holds them.
#pragma unroll
          for (int step = 0; step < block_n / 16; ++step) {
#pragma unroll
            for (int j = 0; j < 4; ++j) p[step][j] = pack(s[step * 8 + 2 * j], s[step * 8 + 2 * j + 1], Element());
          }
          if constexpr (!steady) {
            break;
          } else {
            bool fine = true;
#pragma unroll
            for (int i = 0; i < Scores::rows; ++i)
              fine = fine & (sums[i][0] < LargestSum<Element>::value) & (sums[i][1] < LargestSum<Element>::value);
            if (again || __all_sync(0xffffffffu, fine)) break;
            again = true;
            multiply_again<Config>(s, scores, base + Layout::q, base + Layout::k + k_ring.stage * KTile::bytes);
          }
        }
        reduction.add(sums);
        if (!first) {
          release(shared.v_empty[v_ring.stage]);
          v_ring.advance();
        }
        first = false;
        if constexpr (steady) {
          release(shared.k_empty[k_ring.stage]);
          if (span.flags & kLast) release(shared.item_empty);
        }
        k_ring = k_next;
        if constexpr (Reduction::rescales) {
          bool same = true;
#pragma unroll
          for (int i = 0; i < Scores::rows; ++i) same = same & (factor[i] == 1.0f);
          if (!__all_sync(0xffffffffu, same)) {
#pragma unroll
            for (int i = 0; i < Outputs::values; ++i) output[i] *= factor[Outputs::slot(i)];
          }
        }
        if (span.flags & kLast) break;

        span = shared.spans[k_ring.stage];
        if constexpr (consumers > 1) sync_named<256>(kTurn + group);
        fence_products();
        multiply_k();
        wait<false>(shared_address(&shared.v_full[v_ring.stage]), v_ring.parity);
        fence_products();  // P and O were written since
        multiply_v();
        if constexpr (consumers > 1) arrive_named<256>(kTurn + next_group);
        wait_products<1>();
        pin(s);
      }

      wait<false>(shared_address(&shared.v_full[v_ring.stage]), v_ring.parity);
      if (span.flags & kTail)
        zero_rows<Config>(smem + Layout::v + v_ring.stage * VTile::bytes, slot.col_end - span.col, group, thread & 127);
      fence_products();
      multiply_v();
      wait_products<0>();
      pin(output);
      release(shared.v_empty[v_ring.stage]);
      v_ring.advance();
    } else {
      release(shared.item_empty);
    }
    store_rows<Config, Variant>(params.launch, slot, outputs, output, reduction, scale);
    at = at == kSlots - 1 ? 0 : at + 1;
    parity ^= 1;
  }
}

// The items of one CTA. `smem` is 1024-byte aligned, SharedLayout<Config>::bytes long.
template <class Config, class Variant>
__device__ __forceinline__ void run_block(const typename Variant::Params& params, const TensorMap* k_map,
                                          const TensorMap* v_map, char* smem) {
  alignas(1024) __shared__ char state[sizeof(Shared<Config, Variant>)];
  auto& shared = *reinterpret_cast<Shared<Config, Variant>*>(state);
  if (Config::checked && shared_address(smem) % 1024 != 0) stop_kernel();
  if (threadIdx.x == 0) {
    constexpr int warps = 4 * Config::consumers;
    shared.zero = 0;
    init_barrier(shared_address(&shared.item_full), kHelpers);
    init_barrier(shared_address(&shared.item_empty), warps);
#pragma unroll 1
    for (int stage = 0; stage < Config::stages; ++stage) {
      init_barrier(shared_address(&shared.k_full[stage]), 1 + (Shared<Config, Variant>::staged ? kHelpers : 0));
      init_barrier(shared_address(&shared.k_empty[stage]), warps);
      init_barrier(shared_address(&shared.v_full[stage]), 1);
      init_barrier(shared_address(&shared.v_empty[stage]), warps);
    }
    fence_barriers();
  }
  __syncthreads();
  if (threadIdx.x < kLoaders) {
    give_registers<Config::loader_registers>();
    load_items<Config, Variant>(params, k_map, v_map, shared, shared_address(smem));
  } else {
    take_registers<Config::consumer_registers>();
    multiply_items<Config, Variant>(params, shared, smem);
  }
}

#endif  // ATTNCC_KERNELS

}  // namespace wgmma_sm90
}  // namespace attncc
