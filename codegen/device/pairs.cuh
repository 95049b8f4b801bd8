// The hooks of pairs over a tile of scores: where its packed rows lie, the values of row - col staged beside it, and the
// walk over a fragment that turns scores into logits or weights and masks them. It may not know a kernel's loop.
#pragma once
#include "device/columns.cuh"
#include "device/joint.cuh"
#include "device/opaque.cuh"

namespace attncc {

// Where a tile's packed row lies: query row `row` of head `h`. Past the item's rows it is the last one again.
struct RowAt {
  int row, h;
};

// The query row of a packed row. A division takes longer than what stands beside it.
__device__ __forceinline__ int packed_row(int i, int pack) { return pack == 1 ? i : int(unsigned(i) / unsigned(pack)); }

__device__ __forceinline__ RowAt unpack_row(const Work& work, int i) {
  const int packed = work.row0 + (i < work.nrows ? i : work.nrows - 1);
  const int row = packed_row(packed, work.pack);
  return {row, work.h0 + packed - row * work.pack};
}

// Row tile `tile` of a request, padded or ragged, against all of its columns. nrows <= 0: nothing to do, the request is
// shorter than the longest. heads: the KV head's query heads that are packed together, from h0 on.
__device__ __forceinline__ Work row_tile(const Launch& launch, int rows, int tile, int hk, int b, int h0, int heads) {
  Work work{};
  work.geometry = geometry(launch, b);
  const Geometry& g = work.geometry;
  work.b = b;
  work.hk = hk;
  work.h0 = h0;
  work.pack = heads;
  work.row0 = tile * rows;
  const int left = g.qo_len * heads - work.row0;
  work.nrows = left < rows ? left : rows;
  work.ncols = g.kv_len;
  return work;
}

// All query heads of a KV head in one row, against all of the request's columns: what entries beside `main` ask an item of.
__device__ __forceinline__ Work group_row(const Launch& launch, const Geometry& geometry, int b, int hk, int row) {
  Work work{};
  work.b = b;
  work.hk = hk;
  work.h0 = hk * launch.group;
  work.pack = work.nrows = launch.group;
  work.row0 = row * launch.group;
  work.ncols = geometry.kv_len;
  work.geometry = geometry;
  return work;
}

// A tile's values of row - col: `deltas` of them for each head of the table, the head of packed row i being i % heads.
// They are staged like keys. A table for each head is kept for groups of kDiagonalHeads at most; of a larger group, a
// tile packs one head.
constexpr int kDiagonalHeads = 8;

template <class Variant>
__device__ __forceinline__ bool packs_group(const Launch& launch) {
  return !(Variant::facts.has_diagonal && Variant::facts.diagonal_per_head) || launch.group <= kDiagonalHeads;
}

template <class Config, class Variant, bool Has = Variant::facts.has_diagonal>
struct Diagonals {
  struct Value {};
  static constexpr int capacity = 1;
};
template <class Config, class Variant>
struct Diagonals<Config, Variant, true> {
  using Value = typename Variant::Diagonal;
  // At most (block_m - 1) / pack + 2 rows, and block_n - 1 more deltas, for each of pack heads.
  static constexpr int heads = Variant::facts.diagonal_per_head ? kDiagonalHeads : 1;
  static constexpr int capacity = Config::block_m + heads * (Config::block_n + 1);
};

// What a key reads from captured tensors, where a Variant separates that from the key.
template <class Variant, bool Reads = Variant::facts.key_reads>
struct KeyReadOf {
  struct Type {};
};
template <class Variant>
struct KeyReadOf<Variant, true> {
  using Type = typename Variant::KeyRead;
};

// What hooks of pairs read; all of it lies in shared memory, so that no register holds it while tiles are multiplied.
template <class Variant, class Diagonal>
struct TileView {
  const typename Variant::Item& item;
  const typename Variant::Tile& tile;
  const typename Variant::Key* keys;   // of the tile's columns
  const Diagonal* diagonals;           // of head h0, row_lo and the tile's last column first
  const typename Variant::Row* rows;   // of the tile's packed rows
  const RowAt* row_at;
  int row_lo, head_deltas, h0;  // head_deltas: entries of `diagonals` a head, 0 when heads share them
  int col0, col_end;
  const volatile int* zero = nullptr;  // a 0 that no compiler knows: a mask reads staged values anew; null: as it likes
};

// Logits as they are.
struct NoReference {
  __device__ __forceinline__ constexpr float operator[](int) const { return 0.0f; }
};

// A pair's weight, or its logit relative to a reference; `at` is its key, its diagonal where there are any, row and column.
template <class Variant, class... At>
__device__ __forceinline__ float pair_value(float score, float reference, const typename Variant::Item& item,
                                            const typename Variant::Row& row, const typename Variant::Tile& tile,
                                            const At&... at) {
  if constexpr (Variant::facts.has_weight)
    return Variant::weight(score, item, row, tile, at...);
  else
    return Variant::logits(score, item, row, tile, at..., reference);
}

// A tile's pairs as one thread has them: turns raw scores into logits, or weights, and masks them. The values are made once,
// then masked in place: two copies of their code would cost registers where the copies meet, and compile time.
template <class Variant, class Fragment, class Diagonal>
struct Pairs {
  static constexpr Facts facts = Variant::facts;
  static constexpr int cols = Fragment::n_tiles * 8;
  const TileView<Variant, Diagonal>& view;
  typename Variant::Item item;
  typename Variant::Row rows[Fragment::rows];
  int row_index[Fragment::rows];
  int base;  // of all columns of the thread
  const typename Variant::Key* keys;
  const Diagonal* diagonals[Fragment::rows];
  const Diagonal* own_diagonal;  // of the first row and column, where no heads are packed

  __device__ __forceinline__ Pairs(const Fragment& fragment, const TileView<Variant, Diagonal>& view)
      : view(view),
        item(view.item),
        base(view.col0 + fragment.first_col()),
        keys(view.keys + fragment.first_col()),
        own_diagonal(view.diagonals + (fragment.row(0) + cols - 1 - fragment.first_col())) {
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) {
      const int i = fragment.row(slot);
      const RowAt at = view.row_at[i];
      rows[slot] = view.rows[i];
      row_index[slot] = at.row;
      const int delta = at.row - view.row_lo + cols - 1 - fragment.first_col();
      diagonals[slot] = view.diagonals + (delta + (at.h - view.h0) * view.head_deltas);
    }
  }

  __device__ __forceinline__ typename Variant::Key key(int step) const {
    return facts.has_key ? keys[step] : typename Variant::Key();
  }

  // The i-th score becomes last(weight, i), or last(logit relative to reference[slot], i). Column by column: the pairs of a column share its
  // key. diagonal_of(slot, step) is a pair's value of row - col.
  template <class Reference, class Last, class DiagonalOf>
  __device__ __forceinline__ void make_of(float (&s)[Fragment::values], const Reference& reference, Last last,
                                          const DiagonalOf& diagonal_of) const {
#pragma unroll
    for (int n = 0; n < Fragment::row_values; ++n) {
      const Column col(base, Fragment::step(Fragment::value(0, n)));
      const typename Variant::Key of_col = key(col.step);
#pragma unroll
      for (int slot = 0; slot < Fragment::rows; ++slot) {
        const int i = Fragment::value(slot, n);
        if constexpr (facts.has_diagonal)
          s[i] = last(pair_value<Variant>(s[i], reference[slot], item, rows[slot], view.tile, of_col,
                                          diagonal_of(slot, col.step), row_index[slot], col),
                      i);
        else
          s[i] = last(
              pair_value<Variant>(s[i], reference[slot], item, rows[slot], view.tile, of_col, row_index[slot], col), i);
      }
    }
  }

  template <class Reference, class Last>
  __device__ __forceinline__ void make(float (&s)[Fragment::values], const Reference& reference, Last last) const {
    make_of(s, reference, last, [&](int slot, int step) -> const Diagonal& { return diagonals[slot][-step]; });
  }

  // The same where the tile's rows are consecutive ones of one head: a thread's rows are 8 apart, and so are its columns of two
  // accumulator tiles side by side, so that every value of a diagonal but the ends serves twice.
  template <class Reference, class Last>
  __device__ __forceinline__ void make_unpacked(float (&s)[Fragment::values], const Reference& reference,
                                                Last last) const {
    static_assert(Fragment::rows == 2, "rows 8 apart");
    Diagonal above[2] = {own_diagonal[8], own_diagonal[7]};
#pragma unroll
    for (int n = 0; n < Fragment::row_values; ++n) {
      const Column col(base, Fragment::step(Fragment::value(0, n)));
      const typename Variant::Key of_col = key(col.step);
      const Diagonal here = own_diagonal[-col.step];
      const int i = Fragment::value(0, n), j = Fragment::value(1, n);
      s[i] = last(pair_value<Variant>(s[i], reference[0], item, rows[0], view.tile, of_col, here, row_index[0], col), i);
      s[j] = last(pair_value<Variant>(s[j], reference[1], item, rows[1], view.tile, of_col, above[n & 1], row_index[1], col), j);
      above[n & 1] = here;
    }
  }

  // The same where every diagonal of a head has one value.
  template <class Reference, class Last>
  __device__ __forceinline__ void make_settled(float (&s)[Fragment::values], const Reference& reference, Last last) const {
    Diagonal of_row[Fragment::rows];
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) of_row[slot] = *diagonals[slot];
    make_of(s, reference, last, [&](int slot, int) -> const Diagonal& { return of_row[slot]; });
  }

  // Pairs that are masked or past col_end become -inf, or 0. One loop for the mask and the end of the columns: a second one
  // would have the values copied in every tile. `again` is 0: added to places of staged values that are read anew.
  __device__ __forceinline__ void mask(float (&s)[Fragment::values], int again) const {
    const int first = opaque(base);  // what follows from it is no earlier than here
    if constexpr (!facts.has_mask || facts.mask_in_columns)
      mask_rows(s, first);
    else
      mask_pairs(s, first, again);
  }

  // A row's columns at once.
  __device__ __forceinline__ void mask_rows(float (&s)[Fragment::values], int first) const {
    const ColumnBits<Fragment> inside = ColumnSteps<Fragment>() < view.col_end - first;
#pragma unroll
    for (int slot = 0; slot < Fragment::rows; ++slot) {
      ColumnBits<Fragment> keep = inside;
      const Columns<Fragment> columns{first, {}};
      if constexpr (facts.has_mask && facts.has_diagonal)
        keep = keep & Variant::mask(item, rows[slot], typename Variant::Key(), Diagonal(), row_index[slot], columns);
      else if constexpr (facts.has_mask)
        keep = keep & Variant::mask(item, rows[slot], typename Variant::Key(), row_index[slot], columns);
#pragma unroll
      for (int n = 0; n < Fragment::row_values; ++n) {
        float& x = s[Fragment::value(slot, n)];
        x = keep.has(n) ? x : (facts.has_weight ? 0.0f : -infinity());
      }
    }
  }

  __device__ __forceinline__ void mask_pairs(float (&s)[Fragment::values], int first, int again) const {
#pragma unroll
    for (int n = 0; n < Fragment::row_values; ++n) {
      const Column col(first, Fragment::step(Fragment::value(0, n)));
      const bool inside = col.step < view.col_end - first;
      const typename Variant::Key of_col = key(col.step + again);
#pragma unroll
      for (int slot = 0; slot < Fragment::rows; ++slot) {
        float& x = s[Fragment::value(slot, n)];
        bool keep = inside;
        if constexpr (facts.has_diagonal)
          keep = keep & Variant::mask(item, rows[slot], of_col, diagonals[slot][again - col.step], row_index[slot], col);
        else
          keep = keep & Variant::mask(item, rows[slot], of_col, row_index[slot], col);
        x = keep ? x : (facts.has_weight ? 0.0f : -infinity());
      }
    }
  }
};

// Both, of a tile of which `partial` is known.
template <class Variant, class Fragment, class Diagonal>
__device__ __forceinline__ void visit(float (&s)[Fragment::values], const Fragment& fragment, bool partial,
                                      const TileView<Variant, Diagonal>& view) {
  const Pairs<Variant, Fragment, Diagonal> pairs(fragment, view);
  pairs.make(s, NoReference(), [](float x, int) { return x; });
  // Runs at most once: see opaque_zero.
#pragma unroll 1
  for (int left = partial; left; left = opaque_zero()) {
    // Kept from the first time, staged values would take a register for each pair.
    int again = 0;
    if ((Variant::facts.has_key || Variant::facts.has_diagonal) && view.zero != nullptr) again = *view.zero;
    pairs.mask(s, again);
  }
}

}  // namespace attncc
