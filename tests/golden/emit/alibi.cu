struct Params {
  attncc::Launch launch;
  attncc::TensorRef<float, 1> slopes;  // tensor slopes: f32, byte 384
};
static_assert(sizeof(Params) == 408, "the host fills the block by the offsets above");

struct Variant {
  using Params = ::Params;
  static constexpr attncc::Facts facts = {
      /* has_logits */ true,
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
    int k_start;
    int q_start;
  };

  struct Row {
    float slopes;  // slopes[h] * log2(e)
    int q;  // q_start + row
    int limit;  // q_start + row - k_start
  };

  struct Key {};

  struct Tile {};

  static __device__ __forceinline__ Item item(const Params& params, const attncc::Work& work) {
    const attncc::Geometry& g = work.geometry;
    return {params.launch.sm_scale.get(work.b) * 1.442695f, g.k_start, g.q_start};
  }

  static __device__ __forceinline__ Row row(const Params& params, const Item& item, int row, int h) {
    return {
      params.slopes.load(h) * 1.442695f,
      item.q_start + row,
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

  // logits = score + slopes[h] * (k - q)
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row& r, const Tile&,
      const Key& c, int row, attncc::Column column, float reference = 0.0f) {
    const float t0 = r.slopes * float(item.k_start + column.base - r.q) - reference + r.slopes * float(column.step);
    return score * item.sm_scale + t0;
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
