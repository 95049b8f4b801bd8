// The loading warpgroup of wgmma_sm90: one thread orders tiles of K and V from the copy engine, of three warps one or all
// prepare items, the others stage what hooks want beside K.
// Owns what they do; the protocol is in families/wgmma_sm90.cuh. It may not know what consumers do with it.
#pragma once
#include "families/wgmma_items.cuh"
#include "families/wgmma_order.cuh"

#ifdef ATTNCC_KERNELS
#include "device/async_copy.cuh"
#include "device/biases.cuh"
#include "device/math.cuh"
#include "device/sync.cuh"
#include "device/tma.cuh"
#include "device/unowned.cuh"
#include "families/merge.cuh"

namespace attncc {
namespace wgmma_sm90 {

constexpr int kHelping = 8;  // named barrier of those who prepare items
constexpr int kNear = 4;     // tiles from an item's end: the next one is wanted, it takes two or three of them to prepare

// 2^x's factor on raw scores: where a variant's logits are scores times a scale, exp2 takes it in its multiply-add.
template <class Variant>
__device__ __forceinline__ float plain_scale(const typename Variant::Item& item) {
  constexpr Facts facts = Variant::facts;
  if constexpr (facts.has_logits || facts.has_weight)
    return 1.0f;
  else if constexpr (facts.has_diagonal)
    return Variant::logits(1.0f, item, typename Variant::Row(), typename Variant::Tile(), typename Variant::Key(),
                           typename Variant::Diagonal(), 0, 0);
  else
    return Variant::logits(1.0f, item, typename Variant::Row(), typename Variant::Tile(), typename Variant::Key(), 0, 0);
}

// One thread: everything of an item that follows from its Work, which is there, but its rows.
template <class Config, class Variant>
__device__ __forceinline__ void fill_slot(const typename Variant::Params& params, ItemSlot<Config, Variant>& slot) {
  forget_memory();  // the Work is read where it is needed: in registers it would have others spilled
  const Work& work = slot.work;
  const int kv_len = work.geometry.kv_len;
  const Launch& launch = params.launch;
  slot.unfinished = launch.split_out != nullptr;
  if (launch.split_out != nullptr) {
    slot.target_head = 4 * Config::head_dim_v;
    slot.target_row = slot.target_head * launch.num_heads;
    slot.target = reinterpret_cast<char*>(launch.split_out) + slot.target_head * merge::place(launch, work, 0, 0);
  } else {
    slot.target_head = 2 * launch.out_stride.head;
    slot.target_row = 2 * launch.out_stride.token;
    slot.target = static_cast<char*>(launch.out) + 2 * work.b * launch.out_stride.batch +
                  work.geometry.qo_base * slot.target_row;
  }
  slot.row_lo = work.row0 / work.pack;
  slot.row_hi = (work.row0 + work.nrows - 1) / work.pack + 1;
  slot.col_end = work.col0 + work.ncols < kv_len ? work.col0 + work.ncols : kv_len;
  *reinterpret_cast<typename Variant::Item*>(slot.item) = Variant::item(params, work);
  float scale = ::fabsf(plain_scale<Variant>(*reinterpret_cast<const typename Variant::Item*>(slot.item)));
  if constexpr (Softmaxes<Config, Variant>::added) scale = bias_scale(scale);
  slot.scale = scale == 0.0f ? 1.0f : scale;
  slot.slack = Fn<Accuracy::fast>::div(8.0f, slot.scale);
  int count = Variant::ranges(params, work, slot.row_lo, slot.row_hi, slot.ranges);
  if constexpr (Softmaxes<Config, Variant>::descends)
    slot.reach = count > 0 && slot.ranges[0].lo > work.col0 ? slot.ranges[0].lo : work.col0;
  else
    slot.reach = count > 0 ? slot.ranges[count - 1].hi : 0;
#pragma unroll 1
  for (; count < Variant::facts.num_ranges; ++count) slot.ranges[count] = Range{0, 0, 1};
}

// A warp: where the tiles end that captured data leave an item. What it reads is near when the item's tiles are walked.
template <class Config, class Variant>
__device__ __forceinline__ int screened_reach(const Launch& launch, const Work& work, int lane) {
  const auto& bitmap = *screen_of<Config, Variant>(launch, work);
  int reach = 0;
#pragma unroll 1
  for (int word = bitmap.begin + lane; word < bitmap.end; word += 32) {
    const int of_word = bitmap.reach(word);
    reach = of_word > reach ? of_word : reach;
  }
  return __reduce_max_sync(0xffffffffu, reach);
}

// One thread: the channels of K that add a bias, of the tile from `col` on. What is wrong in an indptr leads nowhere else.
template <class Config, class Variant>
__device__ __forceinline__ void load_biases(const Launch& launch, int b, int hk, int base, int col, unsigned target,
                                            unsigned barrier) {
  const i64 token = token_index(launch.kv_indptr, base, launch.max_kv_len, b, col), tokens = launch.kv_tokens;
  const i64 first = token < 0 || token > tokens ? tokens : token;
  load_bytes(target, key_channels<Variant>(launch, hk) + first, SharedLayout<Config>::BiasTile::plane_bytes, barrier);
}

// One thread: every tile of every item. A tile's K is multiplied beside the V of the tile before it: they come in that order.
template <class Config, class Variant>
__device__ __forceinline__ void load_tiles(const Launch& launch, const TensorMap* k_map, const TensorMap* v_map,
                                           Shared<Config, Variant>& shared, unsigned smem) {
  using Layout = SharedLayout<Config>;
  using KTile = typename Layout::KTile;
  using VTile = typename Layout::VTile;
  using BiasTile = typename Layout::BiasTile;
  constexpr bool added = Softmaxes<Config, Variant>::added;
  const bool ragged = launch.kv_indptr != nullptr;
  Ring<Config::slots> slots;
  Ring<Config::stages> k_ring, v_ring;
  int v_token = 0, v_head = 0, v_batch = 0;  // of the V that is to come
  bool begun = false, stop = false;
#pragma unroll 1
  while (!stop) {
    wait<Config::checked>(shared_address(&shared.slot_full[slots.stage]), slots.parity);
    const ItemSlot<Config, Variant>& slot = shared.slots[slots.stage];
    stop = slot.stop;
    const int col_end = stop ? 0 : slot.col_end, hk = slot.work.hk, base = slot.work.geometry.kv_base;
    const int b = ragged ? 0 : slot.work.b;
    // The copy engine itself writes zeros past a padded tensor's end, if it has one: of no token there is no descriptor.
    const bool clipped = !ragged && col_end == launch.max_kv_len && col_end > 0;
    ItemTiles<Config, Variant> tiles(launch, slot);
    TileSpan span{}, following{};
    if (!stop) tiles.next(span);
    constexpr bool descends = Softmaxes<Config, Variant>::descends;
    const int near = slot.reach + (descends ? 1 : -1) * kNear * Config::block_n;
    bool more = true, wanted = stop;
#pragma unroll 1
    while (more) {
      more = !stop && tiles.next(following);
      if (!stop) {
        const int stage = k_ring.stage;
        const unsigned k_full = shared_address(&shared.k_full[stage]);
        jitter<Config::jittered>();
        wait<Config::checked>(shared_address(&shared.k_empty[stage]), k_ring.parity ^ 1);
        shared.spans[stage].word = span.col << 3 | (span.partial ? kPartial : 0) | (more ? 0 : kLast) |
                                   (span.col + Config::block_n > col_end && !clipped ? kTail : 0);
        if constexpr (descends) shared.ends[stage] = span.end;
        arrive_expecting(k_full, KTile::bytes + (added ? BiasTile::plane_bytes : 0));
#pragma unroll 1
        for (int panel = 0; panel < KTile::panels; ++panel)
          load_box(smem + Layout::k + stage * KTile::bytes + panel * KTile::panel_bytes, k_map, k_full, panel * 64,
                   base + span.col, hk, b);
        if constexpr (added)
          load_biases<Config, Variant>(launch, b, hk, base, span.col, smem + Layout::biases + stage * BiasTile::bytes,
                                       k_full);
        k_ring.advance();
        if (!wanted && (!more || (descends ? span.col <= near : span.col >= near))) {
          arrive(shared_address(&shared.next_wanted));
          wanted = true;
        }
      }
      if (begun) {
        const int stage = v_ring.stage;
        const unsigned v_full = shared_address(&shared.v_full[stage]);
        jitter<Config::jittered>();
        wait<Config::checked>(shared_address(&shared.v_empty[stage]), v_ring.parity ^ 1);
        arrive_expecting(v_full, VTile::bytes);
#pragma unroll 1
        for (int panel = 0; panel < VTile::panels; ++panel)
          load_box(smem + Layout::v + stage * VTile::bytes + panel * VTile::panel_bytes, v_map, v_full, panel * 64,
                   v_token, v_head, v_batch);
        v_ring.advance();
      }
      begun = true;
      v_token = base + span.col;
      v_head = hk;
      v_batch = b;
      span = following;
    }
    slots.advance();
  }
}

// Those who prepare items: an item's rows, and L2 is asked for their Q, whose place may not be empty for a while.
template <class Config, class Variant>
__device__ __forceinline__ void prepare_rows(const typename Variant::Params& params, Shared<Config, Variant>& shared,
                                             ItemSlot<Config, Variant>& slot, int helper) {
  const Launch& launch = params.launch;
  const Work& work = slot.work;
  i64 token_stride = launch.q_stride.token, head_stride = launch.q_stride.head;
  const char* q =
      static_cast<const char*>(launch.q) + 2 * (work.b * launch.q_stride.batch + work.geometry.qo_base * token_stride);
  if constexpr (Variant::facts.query.present) {  // what the entry `transform` made of it
    head_stride = Config::head_dim;
    token_stride = head_stride * launch.num_heads;
    q = static_cast<const char*>(launch.made_q) +
        2 * token_stride * token_index(launch.qo_indptr, work.geometry.qo_base, launch.max_qo_len, work.b, 0);
  }
  const int row_lo = slot.row_lo, h0 = work.h0;
  q += 2 * (row_lo * token_stride + h0 * head_stride);
  if (helper == 0) shared.source = q;
  const auto& item = *reinterpret_cast<const typename Variant::Item*>(slot.item);
#pragma unroll 1
  for (int i = helper; i < Config::block_m; i += Shared<Config, Variant>::preparers) {
    const RowAt at = unpack_row(work, i);
    slot.row_at[i] = at;
    const i64 from = 2 * ((at.row - row_lo) * token_stride + (at.h - h0) * head_stride);
#pragma unroll
    for (int byte = 0; byte < 2 * Config::head_dim; byte += 128) prefetch_l2(q + from + byte);
    shared.sources[i] = int(from / 16);
    reinterpret_cast<typename Variant::Row*>(slot.rows)[i] = Variant::row(params, item, at.row, at.h);
  }
}

// Likewise: Q for a consumer, into its 64 rows, once they are empty.
template <class Config, class Variant>
__device__ __forceinline__ void load_queries(const Shared<Config, Variant>& shared,
                                             const ItemSlot<Config, Variant>& slot, int group, unsigned target,
                                             char* target_memory, int helper) {
  using QTile = typename SharedLayout<Config>::QTile;
  constexpr int pass = Shared<Config, Variant>::preparers / QTile::chunks, batch = 4;
  static_assert(pass > 0, "a thread copies one of a row's pieces");
  const int first = quotient<QTile::chunks>(helper), chunk = helper - first * QTile::chunks;
#pragma unroll 1
  for (int row = first < pass ? first : 64; row < 64; row += batch * pass) {
    const char* source[batch];  // read before the first copy, which nothing is moved over
#pragma unroll
    for (int j = 0; j < batch; ++j)
      source[j] = shared.source + i64(shared.sources[group * 64 + (row + j * pass < 64 ? row + j * pass : row)]) * 16;
#pragma unroll
    for (int j = 0; j < batch; ++j) {
      const int at = row + j * pass < 64 ? row + j * pass : row;
      copy_async(target + QTile::offset(at, chunk), source[j] + chunk * 16, true);
    }
  }
  commit_copies();
  wait_copies<0>();
  jitter<Config::jittered>();
  if constexpr (!Variant::facts.has_logits && !Variant::facts.has_weight) {
    // Consumers multiply by the magnitude of the scale, which must be positive: the sign goes into Q, and so does a 0.
    const float scale = plain_scale<Variant>(*reinterpret_cast<const typename Variant::Item*>(slot.item));
    if (scale <= 0.0f) {
      const unsigned sign = scale < 0.0f ? 0x80008000u : 0u, keep = scale < 0.0f ? ~0u : 0u;
#pragma unroll 1
      for (int row = first < pass ? first : 64; row < 64; row += pass) {  // what it copied itself
        uint4& own = *reinterpret_cast<uint4*>(target_memory + QTile::offset(row, chunk));
        own = uint4{(own.x & keep) ^ sign, (own.y & keep) ^ sign, (own.z & keep) ^ sign, (own.w & keep) ^ sign};
      }
    }
  }
  fence_proxy();  // wgmma reads what cp.async wrote
}

// Stagers: what hooks stage beside every tile of K of an item. It is made while the K stage is not empty yet: values have a stage
// more, whose last tile was done when the K stage before was empty.
template <class Config, class Variant>
__device__ __forceinline__ void stage_values(const typename Variant::Params& params,
                                             const ItemSlot<Config, Variant>& slot, Shared<Config, Variant>& shared,
                                             int stager, Ring<Config::stages>& ring,
                                             Ring<Shared<Config, Variant>::value_stages>& values) {
  constexpr Facts facts = Variant::facts;
  constexpr int block_n = Config::block_n, stagers = Shared<Config, Variant>::stagers;
  using Diagonal = typename Shared<Config, Variant>::Diagonal;
  const auto& item = *reinterpret_cast<const typename Variant::Item*>(slot.item);
  const int last = slot.work.geometry.kv_len - 1;
  // Where heads are not packed, diagonals are staged of all rows that a tile may have.
  const int rows = slot.work.pack == 1 ? Config::block_m : slot.row_hi - slot.row_lo, deltas = rows + block_n - 1;
  int settled_from = 0x7fffffff;  // from this diagonal on, all of the item's have one value
  int alike = 0;                  // how many tiles had it
  constexpr int kNone = 1 << 30;
  int first_before = kNone;  // the first diagonal of the tile before, if its values differ
  ItemTiles<Config, Variant> tiles(params.launch, slot);
  TileSpan span;
#pragma unroll 1
  while (tiles.next(span)) {
    jitter<Config::jittered>();
    const bool real = span.col < slot.col_end;  // else no value of the tile counts
    if constexpr (facts.has_key) {
      auto* keys = reinterpret_cast<typename Variant::Key*>(shared.keys) + values.stage * block_n;
      const auto column = [&](int i) { return span.col + i < last ? span.col + i : last; };
      const bool wanted = real && (!facts.key_in_mask_only || span.partial);
      constexpr int at_once = facts.key_reads ? (block_n + stagers - 1) / stagers : 1;  // reads come late
#pragma unroll 1
      for (int from = wanted ? stager : block_n; from < block_n; from += at_once * stagers) {
        typename KeyReadOf<Variant>::Type reads[at_once];
        if constexpr (facts.key_reads) {
#pragma unroll
          for (int j = 0; j < at_once; ++j) reads[j] = Variant::read_key(params, item, column(from + j * stagers));
        }
#pragma unroll
        for (int j = 0; j < at_once; ++j) {
          const int i = from + j * stagers;
          typename Variant::Key made;
          if constexpr (facts.key_reads)
            made = Variant::key(params, item, reads[j], column(i));
          else
            made = Variant::key(params, item, column(i));
          if (i < block_n) keys[i] = made;
        }
      }
    }
    if constexpr (facts.has_diagonal) {
      const auto of_stage = [&](int stage) {
        return reinterpret_cast<Diagonal*>(shared.diagonals) + stage * Shared<Config, Variant>::diagonal_capacity;
      };
      Diagonal* const diagonals = of_stage(values.stage);
      const int first = slot.row_lo - (span.col + block_n - 1), heads = facts.diagonal_per_head ? slot.work.pack : 1;
      bool same = false;
      if constexpr (facts.settles) {
        if (first < settled_from && Variant::settled(params, item, first, slot.row_lo + rows - 1 - slot.work.col0))
          settled_from = first;
        same = first >= settled_from;
        if (stager == 0) shared.settled[values.stage] = same ? kSettled : 0;
      }
      // One value for all of the item's tiles from here on: there already, once it was written to every stage.
      alike = same ? alike + 1 : 0;
      // What a tile has in common with the one before it: a thread finds what it wrote itself.
      const Diagonal* const before = of_stage(values.stage == 0 ? Shared<Config, Variant>::value_stages - 1 : values.stage - 1);
      const int shift = first - first_before;
      first_before = same ? kNone : first;
      const bool idle = !real || alike > Shared<Config, Variant>::value_stages;
      // Values [begin, end) are made, the others moved.
      const bool moves = shift % stagers == 0 && shift < deltas && -shift < deltas;
      const int begin = moves && shift > 0 ? deltas - shift : 0, end = moves && shift < 0 ? -shift : deltas;
#pragma unroll 1
      for (int head = idle ? heads : 0; head < heads; ++head) {
        Diagonal* const own = diagonals + head * deltas;
        if (same) {
          const Diagonal value = Variant::diagonal(params, item, slot.work.h0 + head, first + stager);
#pragma unroll 1
          for (int i = stager; i < deltas; i += stagers) own[i] = value;
          continue;
        }
        int i = stager;
#pragma unroll 1
        for (; i < begin; i += stagers) own[i] = before[head * deltas + i + shift];
        // Two at once: what a value is gathered from comes late.
#pragma unroll 1
        for (; i < end; i += 2 * stagers) {
          const int other = i + stagers < end ? i + stagers : i;
          const Diagonal value = Variant::diagonal(params, item, slot.work.h0 + head, first + i);
          const Diagonal another = Variant::diagonal(params, item, slot.work.h0 + head, first + other);
          own[i] = value;
          own[other] = another;
        }
        i = i > end && moves ? stager + (end - stager + stagers - 1) / stagers * stagers : i;
#pragma unroll 1
        for (; i < deltas; i += stagers) own[i] = before[head * deltas + i + shift];
      }
    }
    wait<Config::checked>(shared_address(&shared.k_empty[ring.stage]), ring.parity ^ 1);
    arrive_warp(shared_address(&shared.k_full[ring.stage]));
    ring.advance();
    values.advance();
  }
}

// Stagers: those of every item of this CTA.
template <class Config, class Variant>
__device__ __forceinline__ void stage_items(const typename Variant::Params& params, Shared<Config, Variant>& shared,
                                            int stager) {
  Ring<Config::slots> slots;
  Ring<Config::stages> ring;
  Ring<Shared<Config, Variant>::value_stages> values;
#pragma unroll 1
  while (true) {
    wait<Config::checked>(shared_address(&shared.slot_full[slots.stage]), slots.parity);
    const ItemSlot<Config, Variant>& slot = shared.slots[slots.stage];
    if (slot.stop) break;
    stage_values(params, slot, shared, stager, ring, values);
    slots.advance();
  }
}

// Those who prepare items: everything of every item of this CTA but its tiles and what is staged beside them.
template <class Config, class Variant>
__device__ __forceinline__ void prepare_items(const typename Variant::Params& params, Shared<Config, Variant>& shared,
                                              char* memory, unsigned smem, int helper) {
  using QTile = typename SharedLayout<Config>::QTile;
  Ring<Config::slots> slots;
  Ring<Config::q_stages> q_ring;
  constexpr int preparers = Shared<Config, Variant>::preparers;
  const unsigned blocks = gridDim.x;
  unsigned unit = blockIdx.x;
  ItemOrder<Config, Variant> order(params.launch, blocks, helper & 31);
  bool begun = false;
  unsigned wanted = 1;  // the parity of next_wanted's phase; before the first item there was none
#pragma unroll 1
  while (true) {
    ItemSlot<Config, Variant>& slot = shared.slots[slots.stage];
    jitter<Config::jittered>();
    if (helper < 32) {
      wait<Config::checked>(shared_address(&shared.next_wanted), wanted);
      if (helper == 0 && begun) unit = take_item(params.launch, blocks);
      begun = true;
      wanted ^= 1;
      unit = __shfl_sync(0xffffffffu, unit, 0);
      const Work work = order.at(unit);
      int reach = 0;
      if constexpr (Variant::facts.has_screen)
        if (work.nrows > 0) reach = screened_reach<Config, Variant>(params.launch, work, helper);
      wait<Config::checked>(shared_address(&shared.slot_empty[slots.stage]), slots.parity ^ 1);
      if (helper == 0) {
        slot.stop = work.nrows <= 0;
        slot.work = work;  // the end is walked, too, as an item without tiles: its screen is in memory, whatever it holds
        if (work.nrows > 0) fill_slot(params, slot);
        if constexpr (Variant::facts.has_screen) slot.reach = reach;
        arrive(shared_address(&shared.slot_full[slots.stage]));
      }
    }
    __syncwarp();
    sync_named<preparers>(kHelping);
    const bool stop = slot.stop;
    if (!stop) prepare_rows<Config, Variant>(params, shared, slot, helper);
    sync_named<preparers>(kHelping);
#pragma unroll 1
    for (int group = 0; group < Config::consumers; ++group) {
      const int place = SharedLayout<Config>::q + q_ring.stage * QTile::bytes + group * 64 * QTile::row_bytes;
      // At the end, too: a phase ends only once everyone has seen the one before.
      wait<Config::checked>(shared_address(&shared.q_empty[q_ring.stage][group]), q_ring.parity ^ 1);
      // Opaque: no register holds what follows from it while an item is found.
      if (!stop)
        load_queries<Config, Variant>(shared, slot, group, smem + place, memory + place, opaque(helper));
      arrive(shared_address(&shared.q_full[q_ring.stage][group]));
    }
    if (stop) break;
    slots.advance();
    q_ring.advance();
  }
  if (helper == 0) end_items(params.launch, blocks);
  constexpr int warps = preparers / 32;
  if (params.launch.fills_unowned)
    fill_unowned<Config>(params.launch, blockIdx.x * warps + helper / 32, blocks * warps, helper & 31);
}

}  // namespace wgmma_sm90
}  // namespace attncc
#endif  // ATTNCC_KERNELS
