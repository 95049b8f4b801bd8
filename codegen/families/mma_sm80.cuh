// The portable kernel family: mma.sync, cp.async, online softmax in registers; sm_80 and later. Owns the loop over KV
// tiles and everything about which thread holds which value. It may not know any variant: see device/joint.cuh.
//
// One CTA runs one work item: block_m packed query rows (a GQA group packed together) of one KV head, against that head's
// KV columns. Warp w owns rows [w, w + 1) * block_m / warps of the tile, so no row crosses a warp.
#pragma once
#include "device/joint.cuh"
#include "device/tiles.cuh"

#ifdef ATTNCC_KERNELS
#include "device/async_copy.cuh"
#include "device/mma.cuh"
#include "device/softmax.cuh"
#endif

namespace attncc {
namespace mma_sm80 {

// Which (row, column) of a block_m x Cols tile a thread's i-th accumulator value is. PTX ISA 9.7.14.5.8: in m16n8, lane l
// holds columns 2 (l % 4) and + 1 of rows l / 4 and l / 4 + 8. A slot is one of a thread's rows.
template <class Config, int Cols = Config::block_n>
struct Fragment {
  static constexpr int warp_rows = Config::block_m / Config::warps;
  static constexpr int m_tiles = warp_rows / 16, n_tiles = Cols / 8;
  static constexpr int values = m_tiles * n_tiles * 4, rows = m_tiles * 2;
  static_assert(m_tiles * 16 * Config::warps == Config::block_m && n_tiles * 8 == Cols, "whole mma tiles");

  int warp, lane;

  __device__ __forceinline__ explicit Fragment(int thread) : warp(thread / 32), lane(thread % 32) {}

  // The first of the four values of mma tile (mt, nt).
  __device__ __forceinline__ static constexpr int index(int mt, int nt) { return (mt * n_tiles + nt) * 4; }
  __device__ __forceinline__ static constexpr int slot(int i) { return i / (4 * n_tiles) * 2 + ((i >> 1) & 1); }
  __device__ __forceinline__ int row(int slot) const {
    return warp * warp_rows + (slot >> 1) * 16 + (slot & 1) * 8 + (lane >> 2);
  }
  __device__ __forceinline__ int col(int i) const { return i / 4 % n_tiles * 8 + (lane & 3) * 2 + (i & 1); }

#ifdef ATTNCC_KERNELS
  // Combines x over the four lanes that share a row; every one of them gets the result.
  template <class Op>
  __device__ __forceinline__ static float row_reduce(float x, Op op) {
    x = op(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return op(x, __shfl_xor_sync(0xffffffffu, x, 2));
  }
#endif
};

// Where a tile's packed row lies: query row `row` of head `h`; row < 0 past the item's rows.
struct RowAt {
  int row, h;
};

__device__ __forceinline__ RowAt unpack_row(const Work& work, int group, int i) {
  const int packed = work.row0 + i;
  const int row = packed / group;
  return {i < work.nrows ? row : -1, work.hk * group + packed - row * group};
}

// Dynamic shared memory, in bytes from its start; codegen/families/mma_sm80.py computes the same.
template <class Config>
struct SharedLayout {
  using QKTile = SharedTile<Config::head_dim>;
  using VTile = SharedTile<Config::head_dim_v>;
  static constexpr int q = 0;
  static constexpr int k_bytes = Config::block_n * QKTile::row_bytes, v_bytes = Config::block_n * VTile::row_bytes;
  static constexpr int k = q + Config::block_m * QKTile::row_bytes;
  static constexpr int v = k + Config::stages * k_bytes;
  static constexpr int tiles_end = v + Config::stages * v_bytes;
  static constexpr int out = 0, out_end = Config::block_m * VTile::row_bytes;  // over the tiles, once they are done with
  static constexpr int bytes = tiles_end > out_end ? tiles_end : out_end;
};

// Turns a tile's raw scores into logits; pairs that are masked or past col_end into -inf.
template <bool Partial, class Variant, class Fragment>
__device__ __forceinline__ void visit(float (&s)[Fragment::values], const Fragment& fragment,
                                      const typename Variant::Item& item,
                                      const typename Variant::Row (&rows)[Fragment::rows],
                                      const int (&row_index)[Fragment::rows], const typename Variant::Tile& tile,
                                      const typename Variant::Key* keys, int col0, int col_end) {
#pragma unroll
  for (int i = 0; i < Fragment::values; ++i) {
    const int slot = Fragment::slot(i);
    const int col = col0 + fragment.col(i);
    typename Variant::Key key;
    if constexpr (Variant::facts.has_key) key = keys[fragment.col(i)];
    const float logit = Variant::logits(s[i], item, rows[slot], tile, key, row_index[slot], col);
    bool keep = true;
    if constexpr (Partial) {
      keep = col < col_end;
      if constexpr (Variant::facts.has_mask) keep = keep & Variant::mask(item, rows[slot], key, row_index[slot], col);
    }
    s[i] = keep ? logit : -infinity();
  }
}

#ifdef ATTNCC_KERNELS

// Copies Rows rows of Cols elements to shared memory at `target`. source(row, valid) gives a row's address and whether
// it is read; zeros are written where it is not.
template <class Config, int Rows, int Cols, class Source>
__device__ __forceinline__ void load_rows(unsigned target, Source source) {
  using Layout = SharedTile<Cols>;
  constexpr int total = Rows * Layout::chunks;
#pragma unroll
  for (int base = 0; base < total; base += Config::threads) {
    const int i = base + int(threadIdx.x);
    if (total % Config::threads != 0 && i >= total) break;
    const int row = i / Layout::chunks, chunk = i % Layout::chunks;
    bool valid;
    const char* address = source(row, valid);
    copy_async(target + Layout::offset(row, chunk), address + chunk * 16, valid);
  }
}

// The same for rows `stride` bytes apart, the first `count` of them valid. It runs inside the loop over tiles, where
// registers are short: if a pass of the CTA covers whole groups of 8 rows, a thread walks one pointer down one column of
// chunks.
template <class Config, int Rows, int Cols>
__device__ __forceinline__ void load_block(unsigned target, const char* first, i64 stride, int count) {
  using Layout = SharedTile<Cols>;
  constexpr int pass = Config::threads / Layout::chunks;
  if constexpr (Config::threads % Layout::chunks == 0 && pass % 8 == 0 && Rows % pass == 0) {
    const int row = int(threadIdx.x) / Layout::chunks, chunk = int(threadIdx.x) % Layout::chunks;
    const char* address = first + row * stride + chunk * 16;
    target += Layout::offset(row, chunk);
#pragma unroll
    for (int base = 0; base < Rows; base += pass) {
      copy_async(target + base * Layout::row_bytes, address, row + base < count);
      // Opaque, or every pass's offset would be kept in registers across the loop over tiles, and spill.
      address = opaque(address + pass * stride);
    }
  } else {
    load_rows<Config, Rows, Cols>(target, [&](int row, bool& valid) {
      valid = row < count;
      return first + row * stride;
    });
  }
}

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
  constexpr Facts facts = Variant::facts;
  constexpr int block_m = Config::block_m, block_n = Config::block_n, stages = Config::stages;
  constexpr int m_tiles = Scores::m_tiles, q_steps = Config::head_dim / 16;
  static_assert(stages >= 2 && block_n % 16 == 0, "a tile is loaded while another is used; P feeds k16 steps");

  __shared__ Range ranges[facts.num_ranges];
  __shared__ RowAt row_at[block_m];
  __shared__ TileSpan spans[stages];  // the tile in each stage; col < 0 after the last
  // Uniform, and needed once a tile: in shared memory it costs no register while the accumulators fill them.
  __shared__ struct {
    const char *k, *v;        // the item's first column
    i64 k_stride, v_stride;  // bytes between columns
  } source;
  // Raw bytes: a Key may have constructors.
  constexpr int key_count = facts.has_key ? stages * block_n : 1;
  alignas(16) __shared__ char key_bytes[key_count * sizeof(typename Variant::Key)];
  auto* keys = reinterpret_cast<typename Variant::Key*>(key_bytes);

  const Launch& launch = params.launch;
  const Geometry g = geometry(launch, work.b);
  const int row_lo = work.row0 / launch.group, row_hi = (work.row0 + work.nrows - 1) / launch.group + 1;
  const int col_end = work.col0 + work.ncols < g.kv_len ? work.col0 + work.ncols : g.kv_len;
  for (int i = threadIdx.x; i < block_m; i += Config::threads) row_at[i] = unpack_row(work, launch.group, i);
  if (threadIdx.x == 0) {
    source.k_stride = 2 * launch.k_stride.token;
    source.v_stride = 2 * launch.v_stride.token;
    source.k = static_cast<const char*>(launch.k) + g.kv_base * source.k_stride +
               2 * (work.b * launch.k_stride.batch + work.hk * launch.k_stride.head);
    source.v = static_cast<const char*>(launch.v) + g.kv_base * source.v_stride +
               2 * (work.b * launch.v_stride.batch + work.hk * launch.v_stride.head);
    int count = Variant::ranges(params, work, row_lo, row_hi, ranges);
    for (; count < facts.num_ranges; ++count) ranges[count] = Range{0, 0, 1};
  }
  __syncthreads();

  const typename Variant::Item item = Variant::item(params, work);
  const unsigned shared = shared_address(smem);

  // ---- producer side: every thread copies its share ----------------------------------------------------------------
  const char* q = static_cast<const char*>(launch.q) +
                  2 * (work.b * launch.q_stride.batch + g.qo_base * launch.q_stride.token);
  const auto load_tile = [&](int col0, int stage) {
    // Columns past the end are zeros, V's above all: 0 times a neighbour's NaN would be NaN.
    load_block<Config, block_n, Config::head_dim>(shared + Layout::k + stage * Layout::k_bytes,
                                                  source.k + col0 * source.k_stride, source.k_stride, col_end - col0);
    load_block<Config, block_n, Config::head_dim_v>(shared + Layout::v + stage * Layout::v_bytes,
                                                    source.v + col0 * source.v_stride, source.v_stride, col_end - col0);
    if constexpr (Variant::facts.has_key) {
      for (int i = threadIdx.x; i < block_n; i += Config::threads) {
        const int col = col0 + i < g.kv_len ? col0 + i : g.kv_len - 1;
        keys[stage * block_n + i] = Variant::key(params, item, col);
      }
    }
  };

  load_rows<Config, block_m, Config::head_dim>(shared + Layout::q, [&](int i, bool& valid) {
    const RowAt at = row_at[i];
    valid = at.row >= 0;
    return q + 2 * (at.row * launch.q_stride.token + at.h * launch.q_stride.head);
  });

  TileIterator<block_n, facts.num_ranges> tiles(ranges, work.col0, col_end);
  const auto produce = [&](int stage) {
    TileSpan next;
    if (tiles.next(next))
      load_tile(next.col, stage);
    else
      next.col = -1;
    if (threadIdx.x == 0) spans[stage] = next;
    commit_copies();  // an empty group too: the count of groups in flight stays fixed
  };
#pragma unroll
  for (int stage = 0; stage < stages - 1; ++stage) produce(stage);

  // ---- consumer side -----------------------------------------------------------------------------------------------
  const Scores scores(threadIdx.x);
  const int lane = scores.lane;
  typename Variant::Row rows[Scores::rows];
  int row_index[Scores::rows];
#pragma unroll
  for (int slot = 0; slot < Scores::rows; ++slot) {
    const int i = scores.row(slot);
    const RowAt at = unpack_row(work, launch.group, i < work.nrows ? i : work.nrows - 1);
    row_index[slot] = at.row;
    rows[slot] = Variant::row(params, item, at.row, at.h);
  }

  // ldmatrix addresses of this lane. A (Q): matrices are rows 0-7 / 8-15 of chunk 0, then of chunk 1. B of Q K^T (K rows
  // are columns of B): chunks 0, 1 of rows 0-7, then of rows 8-15. B of P V (transposed): rows 0-7 / 8-15 of chunk 0, 1.
  const unsigned q_lane =
      shared + Layout::q + QKTile::offset(scores.warp * Scores::warp_rows + (lane & 15), lane >> 4);
  const unsigned k_lane = shared + Layout::k + QKTile::offset((lane & 7) + (lane >> 4) * 8, (lane >> 3) & 1);
  const unsigned v_lane = shared + Layout::v + VTile::offset(lane & 15, lane >> 4);

  float output[Outputs::values];
#pragma unroll
  for (int i = 0; i < Outputs::values; ++i) output[i] = 0.0f;
  Softmax<Scores, Config::accuracy> softmax;

  unsigned q_registers[Config::q_in_registers ? q_steps : 1][m_tiles][4];
  const auto load_q = [&](unsigned (&a)[m_tiles][4], int step) {
#pragma unroll
    for (int mt = 0; mt < m_tiles; ++mt)
      load_matrices(a[mt], QKTile::advance(q_lane, step * 2) + mt * 16 * QKTile::row_bytes);
  };
  if constexpr (Config::q_in_registers) {
    wait_copies<stages - 2>();  // Q belongs to the first group
    __syncthreads();
#pragma unroll
    for (int step = 0; step < q_steps; ++step) load_q(q_registers[step], step);
  }

  int stage = 0;
#pragma unroll 1
  while (true) {
    // Everyone's share of this tile has landed, and everyone is done with the tile before it, whose stage is refilled.
    wait_copies<stages - 2>();
    __syncthreads();
    const TileSpan tile = spans[stage];
    if (tile.col < 0) break;
    produce(stage == 0 ? stages - 1 : stage - 1);

    float s[Scores::values];
#pragma unroll
    for (int i = 0; i < Scores::values; ++i) s[i] = 0.0f;
    const unsigned k_tile = k_lane + stage * Layout::k_bytes;
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

    typename Variant::Tile uniform{};
    if constexpr (facts.has_tile)
      uniform = Variant::tile(params, item, Box{row_lo, row_hi, tile.col, tile.col + block_n});
    const auto* tile_keys = facts.has_key ? keys + stage * block_n : keys;
    if (tile.partial)
      visit<true, Variant>(s, scores, item, rows, row_index, uniform, tile_keys, tile.col, col_end);
    else
      visit<false, Variant>(s, scores, item, rows, row_index, uniform, tile_keys, tile.col, col_end);

    float factor[Scores::rows];
    softmax.update(s, factor);
#pragma unroll
    for (int i = 0; i < Outputs::values; ++i) output[i] *= factor[Outputs::slot(i)];

    const unsigned v_tile = v_lane + stage * Layout::v_bytes;
#pragma unroll
    for (int step = 0; step < block_n / 16; ++step) {
      // Two accumulator tiles side by side are one A operand: the layouts coincide. Weights are at most 1: f16 holds
      // them.
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
    stage = stage == stages - 1 ? 0 : stage + 1;
  }

  // ---- epilogue ----------------------------------------------------------------------------------------------------
  wait_copies<0>();  // an item without tiles still has Q in flight
  __syncthreads();   // the output tile overwrites Q, K and V
#pragma unroll
  for (int slot = 0; slot < Scores::rows; ++slot) {
    float sink = -infinity(), scale, lse;
    if constexpr (facts.has_sink) sink = Variant::sink(item, rows[slot]);
    softmax.finish(slot, sink, scale, lse);
#pragma unroll
    for (int i = 0; i < Outputs::values; ++i)
      if (Outputs::slot(i) == slot) output[i] *= scale;
    const RowAt at = row_at[scores.row(slot)];
    if (launch.lse != nullptr && at.row >= 0 && (lane & 3) == 0)
      launch.lse[work.b * launch.lse_stride.batch + (g.qo_base + at.row) * launch.lse_stride.token +
                 at.h * launch.lse_stride.head] = lse;
  }

  // Through shared memory for 16-byte stores; each warp writes and reads its own rows.
  const Outputs outputs(threadIdx.x);
#pragma unroll
  for (int i = 0; i < Outputs::values; i += 2) {
    const int col = outputs.col(i);
    char* target = smem + Layout::out + VTile::offset(outputs.row(Outputs::slot(i)), col / 8) + col % 8 * 2;
    *reinterpret_cast<unsigned*>(target) = pack(output[i], output[i + 1], Element());
  }
  __syncwarp();
  char* out = static_cast<char*>(launch.out) +
              2 * (work.b * launch.out_stride.batch + g.qo_base * launch.out_stride.token);
#pragma unroll
  for (int i = lane; i < Outputs::warp_rows * VTile::chunks; i += 32) {
    const int row = outputs.warp * Outputs::warp_rows + i / VTile::chunks, chunk = i % VTile::chunks;
    const RowAt at = row_at[row];
    if (at.row < 0) continue;
    const uint4 value = *reinterpret_cast<const uint4*>(smem + Layout::out + VTile::offset(row, chunk));
    char* target = out + 2 * (at.row * launch.out_stride.token + at.h * launch.out_stride.head) + chunk * 16;
    *reinterpret_cast<uint4*>(target) = value;
  }
}

// The work item of block (x, hk, b) in a launch of `tiles` row tiles, for a padded or a ragged batch. Tiles run from the
// last: under a causal mask those are the longest. nrows <= 0: the request is shorter than the longest, nothing to do.
template <class Config>
__device__ __forceinline__ Work block_work(const Launch& launch, int x, int hk, int b, int tiles) {
  const Geometry g = geometry(launch, b);
  Work work{};
  work.b = b;
  work.hk = hk;
  work.row0 = (tiles - 1 - x) * Config::block_m;
  const int left = g.qo_len * launch.group - work.row0;
  work.nrows = left < Config::block_m ? left : Config::block_m;
  work.ncols = g.kv_len;
  return work;
}

// The grid: (row tiles of the longest request, KV heads, requests).
template <class Config, class Variant>
__device__ __forceinline__ void run_block(const typename Variant::Params& params, char* smem) {
  const Work work = block_work<Config>(params.launch, blockIdx.x, blockIdx.y, blockIdx.z, gridDim.x);
  if (work.nrows > 0) run_item<Config, Variant>(params, work, smem);
}

#endif  // ATTNCC_KERNELS

}  // namespace mma_sm80
}  // namespace attncc
