// The portable kernel family: mma.sync, cp.async, online softmax in registers; sm_80 and later. Owns the loop over KV
// tiles and everything about which thread holds which value. It may not know any variant: see device/joint.cuh.
//
// One CTA runs one work item: block_m packed query rows (a GQA group packed together) of one KV head, against that head's
// KV columns or a split of them. Warp w owns rows [w, w + 1) * block_m / warps of the tile, so no row crosses a warp.
#pragma once
#include "device/tiles.cuh"
#include "families/mma_layout.cuh"

#ifdef ATTNCC_KERNELS
#include "device/dependents.cuh"
#include "device/mma.cuh"
#include "device/reduction.cuh"
#include "device/tile_copy.cuh"
#include "device/unowned.cuh"
#include "device/vectors.cuh"
#include "families/mma_epilogue.cuh"
#endif

namespace attncc {
namespace mma_sm80 {

#ifdef ATTNCC_KERNELS

// One work item. On entry no thread of the CTA still reads shared memory of an earlier item. `smem` is 128-byte aligned,
// SharedLayout<Config>::bytes long. Writes out (and lse) for exactly the item's rows.
template <class Config, class Variant>
__device__ __forceinline__ void run_item(const typename Variant::Params& params, const Work& work, char* smem) {
  using Element = typename Config::Element;
  using Scores = Fragment<Config>;
  using Outputs = Fragment<Config, Config::head_dim_v>;
  using Layout = SharedLayout<Config>;
  using QKTile = typename Layout::QKTile;
  using VTile = typename Layout::VTile;
  constexpr bool bounded =
      Variant::facts.logit_bound > 0.0f && Variant::facts.logit_bound <= FixedReference<Element>::most;
  using Reduction =
      typename ReductionOf<Variant::facts.has_weight, Config::accuracy, bounded>::template Running<Scores>;
  using Diagonal = typename Diagonals<Config, Variant>::Value;
  using Tiles = TilesOf<Variant::facts.has_screen>;
  constexpr Facts facts = Variant::facts;
  constexpr int block_m = Config::block_m, block_n = Config::block_n, stages = Config::stages;
  constexpr int m_tiles = Scores::m_tiles, q_steps = Config::head_dim / 16;
  static_assert(stages >= 2 && block_n % 16 == 0, "a tile is loaded while another is used; P feeds k16 steps");
  static_assert(block_n <= Config::threads, "a thread computes one key of a tile");
  constexpr bool folds = Config::folds && !facts.has_screen && !facts.key.present && !facts.value.present;
  static_assert(!folds || stages == 2, "one tile on its way, one place more than stages");

  __shared__ Staged<Config, Variant> staged;
  auto& ranges = staged.ranges;
  auto& row_at = staged.row_at;
  auto& source = staged.source;
  auto* rows = reinterpret_cast<typename Variant::Row*>(staged.rows);
  auto* keys = reinterpret_cast<typename Variant::Key*>(staged.keys);
  auto* diagonals = reinterpret_cast<Diagonal*>(staged.diagonals);
  const auto& item = *reinterpret_cast<const typename Variant::Item*>(staged.item);

  const Launch& launch = params.launch;
  const Geometry& g = work.geometry;
  const int row_lo = packed_row(work.row0, work.pack), row_hi = packed_row(work.row0 + work.nrows - 1, work.pack) + 1;
  int col_end = work.col0 + work.ncols < g.kv_len ? work.col0 + work.ncols : g.kv_len;
  const unsigned shared = shared_address(smem);
  const i64 q_token = 2 * launch.q_stride.token, q_head = 2 * launch.q_stride.head;
  load_packed<Config, block_m, Config::head_dim>(
      shared + Layout::q,
      static_cast<const char*>(launch.q) + (2 * work.b * launch.q_stride.batch + g.qo_base * q_token + work.h0 * q_head),
      q_token, q_head, work.row0, work.pack, work.nrows);
  // Everything else of an item that its threads share: a warp to each part, so that none waits for another's.
  if (threadIdx.x <= Config::warps) {
    // A lane for each warp's rows, another for all: one copy of the code, run at once.
    const int lane = threadIdx.x;
    constexpr int warp_rows = Scores::warp_rows;
    const bool all = lane == Config::warps;
    const int first = all ? 0 : lane * warp_rows, left = work.nrows - first;
    const int count = all || left < warp_rows ? left : warp_rows, begin = work.row0 + first;
    Range* out = all ? ranges : staged.warp_ranges[lane];
    int found = 0;
    if (count > 0)
      found = Variant::ranges(params, work, packed_row(begin, work.pack),
                              packed_row(begin + count - 1, work.pack) + 1, out);
    for (; found < facts.num_ranges; ++found) out[found] = Range{0, 0, 1};
  } else if (threadIdx.x == Config::threads / 2 + 4) {
    source.b = work.b;
    source.slot = work.slot;
    source.nrows = work.nrows;
    source.qo_base = g.qo_base;
    source.k_stride = 2 * launch.k_stride.token;
    source.v_stride = 2 * launch.v_stride.token;
    source.k = static_cast<const char*>(launch.k) + g.kv_base * source.k_stride +
               2 * (work.b * launch.k_stride.batch + work.hk * launch.k_stride.head);
    source.v = static_cast<const char*>(launch.v) + g.kv_base * source.v_stride +
               2 * (work.b * launch.v_stride.batch + work.hk * launch.v_stride.head);
  } else if (threadIdx.x == Config::threads - 4) {
    *reinterpret_cast<typename Variant::Item*>(staged.item) = Variant::item(params, work);
  }
  __syncthreads();

  // ---- producer side: every thread copies its share ----------------------------------------------------------------
  const int deltas = row_hi - row_lo + block_n - 1;  // of a tile, for each head
  const auto load_tile = [&](int col0, int stage) {
    // Columns past the end are zeros, V's above all: 0 times a neighbour's NaN would be NaN.
    // Both sources are read before the first copy: behind the copies a read waits for their issue.
    const char *k = source.k, *v = source.v;
    const i64 k_stride = source.k_stride, v_stride = source.v_stride;
    load_block<Config, block_n, Config::head_dim>(shared + Layout::k + stage * Layout::k_bytes, k, col0, k_stride,
                                                  col_end - col0);
    load_block<Config, block_n, Config::head_dim_v>(shared + Layout::v + stage * Layout::v_bytes, v, col0, v_stride,
                                                    col_end - col0);
    if constexpr (Variant::facts.has_diagonal) {
      const int first = row_lo - (col0 + block_n - 1);
#pragma unroll 1
      for (int i = threadIdx.x; i < (Variant::facts.diagonal_per_head ? work.pack : 1) * deltas; i += Config::threads) {
        const int head = i / deltas;
        diagonals[stage * Diagonals<Config, Variant>::capacity + i] =
            Variant::diagonal(params, item, work.h0 + head, first + i - head * deltas);
      }
    }
  };

  const auto make_rows = [&] {
#pragma unroll 1
    for (int i = threadIdx.x; i < block_m; i += Config::threads) {
      const RowAt at = unpack_row(work, i);
      row_at[i] = at;
      rows[i] = Variant::row(params, item, at.row, at.h);
    }
  };
  // Tiles begin where the columns do: a window's first tile is as full as its last.
  auto tiles = Tiles::template walk<block_n>(ranges, screen_of<Config, Variant>(launch, work), work.col0, col_end);
  TileSpan spans[stages - 1];  // of the tiles on their way, the oldest first; col < 0 after the last
  // A tile's keys are made in two steps, a thread its own column's: `read` is asked for when the tile is, and the key is
  // made of it once products have hidden the latency, before the next barrier.
  using KeyRead = typename KeyReadOf<Variant>::Type;
  const auto key_col = [&](const TileSpan& tile) {
    const int col = tile.col + int(threadIdx.x);
    return col < g.kv_len ? col : g.kv_len - 1;
  };
  const auto wants_key = [](const TileSpan& tile) { return !Variant::facts.key_in_mask_only || tile.partial; };
  const auto ask = [&](const TileSpan& tile, int stage, KeyRead& read) {
    load_tile(tile.col, stage);
    if constexpr (Variant::facts.has_key && Variant::facts.key_reads) {
      if (threadIdx.x < block_n && wants_key(tile)) read = Variant::read_key(params, item, key_col(tile));
    }
  };
  const auto produce = [&](int stage, KeyRead& read) {
    TileSpan next{-1, false};
    if (tiles.next(next)) ask(next, stage, read);
    commit_copies();  // an empty group too: the count of groups in flight stays fixed
    return next;
  };
  const auto store_key = [&](int stage, const TileSpan& tile, const KeyRead& read) {
    if (!Variant::facts.has_key || tile.col < 0 || threadIdx.x >= block_n || !wants_key(tile)) return;
    if constexpr (Variant::facts.has_key && Variant::facts.key_reads)
      keys[stage * block_n + threadIdx.x] = Variant::key(params, item, read, key_col(tile));
    else if constexpr (Variant::facts.has_key)
      keys[stage * block_n + threadIdx.x] = Variant::key(params, item, key_col(tile));
  };
#pragma unroll
  for (int stage = 0; stage < stages - 1; ++stage) {
    KeyRead read{};
    spans[stage] = produce(stage, read);
    store_key(stage, spans[stage], read);
  }
  int stage = 0;   // where this warp's tile lies
  int filled = 0;  // folds: where the last tile lies that was asked for
  if constexpr (folds) {
    // A band's first tile has no pair of the item's last rows, and its last tile none of the first rows. Where no warp needs
    // both of them they are one step: a warp takes the one it needs.
    const int first = spans[0].col, last = first < 0 ? first : last_tile<block_n>(ranges, first, col_end);
    const int lane = int(threadIdx.x) & 31;
    const bool both = lane < Config::warps && meets(staged.warp_ranges[lane], first, first + block_n) &&
                      meets(staged.warp_ranges[lane], last, col_end);
    if (__ballot_sync(0xffffffffu, both) == 0 && last > first) {
      const TileSpan tile{last, true};
      KeyRead read{};
      filled = 1;
      ask(tile, filled, read);
      commit_copies();
      store_key(filled, tile, read);
      tiles.end_at(last);
      if (meets(staged.warp_ranges[threadIdx.x >> 5], last, col_end)) {
        spans[0] = tile;
        stage = filled;
      } else {
        col_end = last;
      }
    }
  }
  make_rows();  // read in the loop, after its first barrier

  // ---- consumer side -----------------------------------------------------------------------------------------------
  const Scores scores(threadIdx.x);
  const int lane = scores.lane;
  // ldmatrix addresses of this lane. A (Q): matrices are rows 0-7 / 8-15 of chunk 0, then of chunk 1. B of Q K^T (K rows
  // are columns of B): chunks 0, 1 of rows 0-7, then of rows 8-15. B of P V (transposed): rows 0-7 / 8-15 of chunk 0, 1.
  const unsigned q_lane =
      shared + Layout::q + QKTile::offset(scores.warp * Scores::warp_rows + (lane & 15), lane >> 4);
  const unsigned k_lane =
      opaque(shared + Layout::k + QKTile::offset((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1));
  const unsigned v_lane = shared + Layout::v + VTile::offset(lane & 15, lane >> 4);
  constexpr bool keeps_v_lane = Scores::values + Outputs::values < 192;  // its register is needed where they take more

  float output[Outputs::values];
#pragma unroll
  for (int i = 0; i < Outputs::values; ++i) output[i] = 0.0f;
  Reduction reduction;

  unsigned q_registers[Config::q_in_registers ? q_steps : 1][m_tiles][4];
  const auto load_q = [&](unsigned (&a)[m_tiles][4], int step) {
#pragma unroll
    for (int mt = 0; mt < m_tiles; ++mt)
      load_matrices(a[mt], QKTile::advance(q_lane, step * 2) + mt * 16 * QKTile::row_bytes);
  };
  if constexpr (facts.query.present || Config::q_in_registers) {
    wait_copies<stages - 2>();  // Q belongs to the first group
    __syncthreads();
  }
  if constexpr (facts.query.present) {
    transform_rows<Config, block_m, Config::head_dim>(smem + Layout::q, QueryHook<Variant>{params, item, row_at, work.nrows});
    __syncthreads();
  }
  if constexpr (Config::q_in_registers) {
#pragma unroll
    for (int step = 0; step < q_steps; ++step) load_q(q_registers[step], step);
  }

#pragma unroll 1
  while (true) {
    // Everyone's share of this tile has landed, and everyone is done with the tile before it, whose stage is to be refilled.
    wait_copies<stages - 2>();
    __syncthreads();
    const TileSpan tile = spans[0];
    if (tile.col < 0) break;
    if constexpr (facts.key.present || facts.value.present) {
      if constexpr (facts.key.present)
        transform_rows<Config, block_n, Config::head_dim>(smem + Layout::k + stage * Layout::k_bytes,
                                                          ColumnHook<Variant, true>{params, item, tile.col, col_end});
      if constexpr (facts.value.present)
        transform_rows<Config, block_n, Config::head_dim_v>(smem + Layout::v + stage * Layout::v_bytes,
                                                            ColumnHook<Variant, false>{params, item, tile.col, col_end});
      __syncthreads();
    }

    // At the edges of a mask a tile often holds every pair of this warp's rows.
    bool partial = tile.partial;
    if constexpr (facts.has_mask) {
      if (partial) partial = !proven<block_n, facts.num_ranges>(staged.warp_ranges[scores.warp], tile.col, col_end);
    }

    float s[Scores::values];
    const unsigned k_tile = k_lane + stage * Layout::k_bytes;
#pragma unroll
    for (int i = 0; i < Scores::values; ++i) s[i] = 0.0f;
#pragma unroll
    for (int step = 0; step < q_steps; ++step) {
      unsigned a[m_tiles][4];
      if constexpr (!Config::q_in_registers) load_q(a, step);
#pragma unroll
      for (int pair = 0; pair < block_n / 16; ++pair) {
        unsigned b[4];
        load_matrices(b, QKTile::advance(k_tile, step * 2) + pair * 16 * QKTile::row_bytes);
#pragma unroll
        for (int mt = 0; mt < m_tiles; ++mt) {
          const auto& left = Config::q_in_registers ? q_registers[Config::q_in_registers ? step : 0][mt] : a[mt];
          mma(&s[Scores::index(mt, pair * 2)], left, b[0], b[1], Element());
          mma(&s[Scores::index(mt, pair * 2 + 1)], left, b[2], b[3], Element());
        }
      }
    }

    // The next tile's copies start while the products above are still under way.
    const int refilled = folds ? (filled == stages ? 0 : filled + 1) : stage == 0 ? stages - 1 : stage - 1;
    KeyRead read{};
#pragma unroll
    for (int i = 0; i < stages - 2; ++i) spans[i] = spans[i + 1];
    spans[stages - 2] = produce(refilled, read);

    typename Variant::Tile uniform{};
    if constexpr (facts.has_tile)
      uniform = Variant::tile(params, item, Box{row_lo, row_hi, tile.col, tile.col + block_n});
    const TileView<Variant, Diagonal> view{item,
                                           uniform,
                                           facts.has_key ? keys + stage * block_n : keys,
                                           facts.has_diagonal ? diagonals + stage * Diagonals<Config, Variant>::capacity : diagonals,
                                           rows,
                                           row_at,
                                           row_lo,
                                           facts.diagonal_per_head ? deltas : 0,
                                           work.h0,
                                           tile.col,
                                           col_end};
    visit(s, scores, partial, view);

    float factor[Scores::rows];
    reduction.update(s, factor);
    if constexpr (Reduction::rescales) {
#pragma unroll
      for (int i = 0; i < Outputs::values; ++i) output[i] *= factor[Outputs::slot(i)];
    }

    store_key(refilled, spans[stages - 2], read);  // sooner than the round's end: it frees a register

    unsigned v_tile = v_lane + stage * Layout::v_bytes;
    if constexpr (!keeps_v_lane) {
      const int thread = opaque_thread();
      v_tile = shared + Layout::v + VTile::offset(thread & 15, thread >> 4 & 1) + stage * Layout::v_bytes;
    }
#pragma unroll
    for (int step = 0; step < block_n / 16; ++step) {
      // Two accumulator tiles side by side are one A operand: the layouts coincide. A softmax's weights are at most
      // 1: f16 holds them.
      unsigned p[m_tiles][4];
#pragma unroll
      for (int mt = 0; mt < m_tiles; ++mt) {
        const float* left = &s[Scores::index(mt, step * 2)];
        const float* right = &s[Scores::index(mt, step * 2 + 1)];
        p[mt][0] = pack(left[0], left[1], Element());
        p[mt][1] = pack(left[2], left[3], Element());
        p[mt][2] = pack(right[0], right[1], Element());
        p[mt][3] = pack(right[2], right[3], Element());
      }
#pragma unroll
      for (int pair = 0; pair < Config::head_dim_v / 16; ++pair) {
        unsigned b[4];
        load_matrices_transposed(b, VTile::advance(v_tile, pair * 2) + step * 16 * VTile::row_bytes);
#pragma unroll
        for (int mt = 0; mt < m_tiles; ++mt) {
          mma(&output[Outputs::index(mt, pair * 2)], p[mt], b[0], b[1], Element());
          mma(&output[Outputs::index(mt, pair * 2 + 1)], p[mt], b[2], b[3], Element());
        }
      }
    }
    if constexpr (folds) {
      stage = filled = refilled;
      col_end = tiles.col_end;  // of the last tile, before the others, it was further
    } else {
      stage = stage == stages - 1 ? 0 : stage + 1;
    }
  }

  end_item(params, staged, scores, output, reduction, smem);
}

// What a block does: row tiles from the last of a request, a split of the columns, a KV head. b >= batch: nothing.
struct Place {
  int from_end, slot, b, hk;
};

constexpr unsigned kGridRows = 65535;  // codegen/families/mma_sm80.py has the same

// The grid: (KV heads of a section times num_splits, row tiles of the longest request, sections). A section is as many KV
// heads, counted over all requests, as read their keys and values through the L2 at once; its row tiles run from the last,
// one of every head in turn: under a causal mask those are the longest, and the short ones of all heads fill what they leave
// idle. More row tiles than a grid has in y go on in z; then there is one section.
__device__ __forceinline__ Place block_place(const Launch& launch, int tiles) {
  const bool whole = tiles <= int(kGridRows);
  const unsigned section = whole ? blockIdx.z : 0, from_end = blockIdx.y + (whole ? 0 : blockIdx.z * kGridRows);
  unsigned head = section * gridDim.x + blockIdx.x, slot = 0;
  if (launch.num_splits > 1) {
    const unsigned all = head;
    head = all / launch.num_splits;
    slot = all - head * launch.num_splits;
  }
  const unsigned b = head / launch.num_kv_heads;
  return {int(from_end), int(slot), int(b), int(head - b * launch.num_kv_heads)};
}

// Of the longest request.
template <class Config>
__device__ __forceinline__ int row_tiles(const Launch& launch) {
  return (launch.max_qo_len * launch.group + Config::block_m - 1) / Config::block_m;
}

// Row tile `tile` against a split of its columns.
template <class Config, class Variant>
__device__ __forceinline__ Work block_work(const Launch& launch, const Place& place, int tile, int h0, int heads) {
  if constexpr (Variant::facts.has_screen) {
    // The walk reads one word of the bitmap after another, and waits for each.
    Work item{};
    item.b = place.b, item.hk = place.hk, item.h0 = h0, item.row0 = tile * Config::block_m;
    const auto* bitmap = screen_of<Config, Variant>(launch, item);
    if (128 * threadIdx.x < sizeof(*bitmap)) prefetch(reinterpret_cast<const char*>(bitmap) + 128 * threadIdx.x);
  }
  Work work = row_tile(launch, Config::block_m, tile, place.hk, place.b, h0, heads);
  work.slot = place.slot;
  if (launch.num_splits > 1) {
    work.col0 = place.slot * launch.split_cols;
    work.ncols = launch.split_cols;
  }
  return work;
}

// Where tables are kept by head: a group too large for them has `group` times the row tiles of one head, which the same
// blocks share, an item a round. Returns whether there was one.
template <class Config, class Variant>
__device__ __forceinline__ bool run_head_items(const typename Variant::Params& params, int round, char* smem) {
  const Launch& launch = params.launch;
  const int tiles = opaque(row_tiles<Config>(launch));  // kept, the place would cost registers
  const Place place = block_place(launch, tiles);
  if (place.b >= launch.batch || place.from_end >= tiles) return false;
  const int i = (round + 1) * tiles - 1 - place.from_end;
  const bool packed = packs_group<Variant>(launch);
  const int per_head = packed ? tiles : (launch.max_qo_len + Config::block_m - 1) / Config::block_m;
  if (i >= per_head * (packed ? 1 : launch.group)) return false;
  const int head = i / per_head;
  const Work work = block_work<Config, Variant>(launch, place, i - head * per_head, place.hk * launch.group + head,
                                       packed ? launch.group : 1);
  if (work.nrows > 0) run_item<Config, Variant>(params, work, smem);
  return true;
}

// Of the rows behind a block's request, and before the first one, which belong to none, the block's share.
template <class Config>
__device__ __forceinline__ void fill_behind(const Launch& launch) {
  const int tiles = row_tiles<Config>(launch);
  const Place place = block_place(launch, tiles);
  if (place.slot != 0 || place.b >= launch.batch || place.from_end >= tiles) return;
#pragma unroll 1
  for (int b = place.b == 0 ? -1 : place.b; b <= place.b; ++b)
    fill_rows<Config>(launch, rows_behind(launch, b), b, place.hk * launch.group, launch.group, place.from_end, tiles,
                      int(threadIdx.x), Config::threads);
}

template <class Config, class Variant>
__device__ __forceinline__ void run_block(const typename Variant::Params& params, char* smem) {
  if (params.launch.fills_unowned) fill_behind<Config>(params.launch);
  if constexpr (Variant::facts.has_diagonal && Variant::facts.diagonal_per_head) {
#pragma unroll 1
    for (int round = 0;; ++round) {
      // What follows from the parameters is found anew for every item: no register holds it meanwhile.
      if (!run_head_items<Config, Variant>(hidden(params), round, smem)) break;
      __syncthreads();  // the next item's copies go where this one's output is read
    }
  } else {
    const Launch& launch = params.launch;
    const int tiles = row_tiles<Config>(launch);
    const Place place = block_place(launch, tiles);
    if (place.b >= launch.batch || place.from_end >= tiles) return;
    const Work work =
        block_work<Config, Variant>(launch, place, tiles - 1 - place.from_end, place.hk * launch.group, launch.group);
    if (work.nrows > 0) run_item<Config, Variant>(params, work, smem);
  }
}

#endif  // ATTNCC_KERNELS

}  // namespace mma_sm80
}  // namespace attncc
