struct Params {
  attncc::Launch launch;
};
static_assert(sizeof(Params) == 384, "the host fills the block by the offsets above");

struct Variant {
  using Params = ::Params;
  static constexpr attncc::Facts facts = {
      /* has_logits */ false,
      /* has_mask */ true,
      /* has_sink */ false,
      /* has_key */ false,
      /* has_tile */ false,
      /* num_ranges */ 2,
      /* logit_bound */ 0.0f,
      /* has_weight */ false,
      /* has_diagonal */ false,
      /* diagonal_per_head */ false,
      /* query (present, sums, across) */ {false, 0},
      /* key (present, sums, across) */ {false, 0},
      /* value (present, sums, across) */ {false, 0},
      /* output (present, sums, across) */ {false, 0},
      /* key_reads */ false,
      /* has_screen */ false,
      /* screen_per_head */ false,
      /* key_in_mask_only */ false,
      /* settles */ false,
      /* has_special */ false,
      /* key_adds */ false,
      /* key_in_mask */ false,
      /* key_adds_per_head */ false,
      /* mask_in_columns */ true,
  };

  struct Item {
    float sm_scale;  // sm_scale * log2(e)
    int q_start;
    int k_start;
  };

  struct Row {
    int limit;  // q_start + row - k_start
  };

  struct Key {};

  struct Tile {};

  static __device__ __forceinline__ Item item(const Params& params, const attncc::Work& work) {
    const attncc::Geometry& g = work.geometry;
    return {params.launch.sm_scale.get(work.b) * 1.442695f, g.q_start, g.k_start};
  }

  static __device__ __forceinline__ Row row(const Params& params, const Item& item, int row, int h) {
    return {
      attncc::bounds::end(attncc::i64(item.q_start) + attncc::i64(row) - attncc::i64(item.k_start)),
    };
  }

  static __device__ __forceinline__ Key key(const Params&, const Item&, int) {
    return {};
  }

  static __device__ __forceinline__ Tile tile(const Params&, const Item&, const attncc::Box&) {
    return {};
  }

  static __device__ __forceinline__ int ranges(const Params& params, const attncc::Work& work, int row_lo,
      int row_hi, attncc::Range* out) {
    const attncc::Geometry& g = work.geometry;
    using i64 = attncc::i64;
    const i64 v0 = i64(g.q_start) + i64(row_lo);
    out[0] = {0, attncc::bounds::end(v0 + i64(row_hi - row_lo) - i64(g.k_start)), 1};
    out[1] = {0, attncc::bounds::end(v0 - i64(g.k_start) + 1ll), 0};
    return 2;
  }

  // logits = sm_scale * dot(query, key)
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row& r, const Tile&,
      const Key& c, int row, int col, float reference = 0.0f) {
    return score * item.sm_scale;
  }

  static __device__ __forceinline__ float sink(const Item&, const Row&) {
    return -attncc::infinity();
  }

  // mask = k <= q
  template <class Column>  // a column, or all of a thread's in a row
  static __device__ __forceinline__ auto mask(const Item& item, const Row& r, const Key& c, int row, Column column) {
    return column.step <= r.limit - column.base;
  }
};
