// The memory of one mma_sm80 CTA: tiles and the output over them in dynamic shared memory, what an item's threads share in
// static. Owns where things lie; it may not know what is done with them.
#pragma once
#include "device/fragment.cuh"
#include "device/joint.cuh"
#include "device/pairs.cuh"
#include "device/smem.cuh"

namespace attncc {
namespace mma_sm80 {

template <class Config, int Cols = Config::block_n>
using Fragment = MmaFragment<Config::block_m, Config::warps, Cols>;

// Dynamic shared memory, in bytes from its start; codegen/families/mma_sm80.py computes the same.
template <class Config>
struct SharedLayout {
  using QKTile = SharedTile<Config::head_dim>;
  using VTile = SharedTile<Config::head_dim_v>;
  static constexpr int q = 0;
  static constexpr int k_bytes = Config::block_n * QKTile::row_bytes, v_bytes = Config::block_n * VTile::row_bytes;
  static constexpr int k = q + Config::block_m * QKTile::row_bytes;
  static constexpr int places = Config::stages + Config::folds;
  static constexpr int v = k + places * k_bytes;
  static constexpr int tiles_end = v + places * v_bytes;
  // The output lies over the tiles, once they are done with: as elements, laid out like V, or as floats, a row's RowEnd behind
  // them; 8 floats more keep the four rows that half a warp stores to in different banks. Elements take half of the time
  // and twice the code, which a large head dim cannot afford.
  static constexpr bool out_elements = Config::head_dim_v <= 64;
  static constexpr int out = 0, out_row_floats = Config::head_dim_v + 8;
  static constexpr int out_end = Config::block_m * out_row_floats * 4;
  static constexpr int bytes = tiles_end > out_end ? tiles_end : out_end;
};

// Static shared memory. One object, whose size its alignment divides: dynamic shared memory begins where it ends, and at
// NVVM's minimal level ptxas leaves the alignment that tiles need out of account. Raw bytes where an Item, Row, Key or
// Diagonal may have constructors.
template <class Config, class Variant>
struct alignas(128) Staged {
  static constexpr Facts facts = Variant::facts;
  static constexpr int places = SharedLayout<Config>::places;
  static constexpr int keys_count = facts.has_key ? places * Config::block_n : 1;
  static constexpr int diagonals_count = facts.has_diagonal ? places * Diagonals<Config, Variant>::capacity : 1;

  alignas(16) char item[sizeof(typename Variant::Item)];
  alignas(16) char rows[Config::block_m * sizeof(typename Variant::Row)];
  alignas(16) char keys[keys_count * sizeof(typename Variant::Key)];
  alignas(16) char diagonals[diagonals_count * sizeof(typename Diagonals<Config, Variant>::Value)];
  RowAt row_at[Config::block_m];
  // Of the item's rows. Aligned, as the compiler reads them by 16 bytes: what lies before is written meanwhile.
  alignas(16) Range ranges[facts.num_ranges];
  Range warp_ranges[Config::warps][facts.num_ranges];  // of each warp's rows, which prove more tiles
  // Uniform, and needed once a tile or at the end: here it costs no register while the accumulators fill them.
  struct {
    const char *k, *v;        // the item's first column
    i64 k_stride, v_stride;  // bytes between columns
    int b, slot, qo_base, nrows;
  } source;
};

}  // namespace mma_sm80
}  // namespace attncc
