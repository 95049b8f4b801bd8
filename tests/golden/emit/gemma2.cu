struct Params {
  attncc::Launch launch;
  attncc::Scalar<float> softcap;  // param softcap: f32, byte 384
  attncc::Scalar<int> window;  // param window: i32, byte 400
};
static_assert(sizeof(Params) == 416, "the host fills the block by the offsets above");

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
      /* has_special */ true,
      /* key_adds */ false,
      /* key_in_mask */ false,
      /* key_adds_per_head */ false,
      /* mask_in_columns */ true,
  };

  struct Item {
    float softcap;  // softcap * log2(e)
    float sm_scale_softcap;  // sm_scale / softcap
    int q_start;
    int k_start;
    int window;
  };

  struct Row {
    int limit;  // q_start + row - k_start - window
    int limit_2;  // q_start + row - k_start
  };

  struct Key {};

  struct Tile {};

  static __device__ __forceinline__ Item item(const Params& params, const attncc::Work& work) {
    const attncc::Geometry& g = work.geometry;
    const float t0 = params.softcap.get(work.b);
    return {
      t0 * 1.442695f,
      exact::div(params.launch.sm_scale.get(work.b), t0),
      g.q_start,
      g.k_start,
      params.window.get(work.b),
    };
  }

  static __device__ __forceinline__ Row row(const Params& params, const Item& item, int row, int h) {
    return {
      attncc::bounds::end(attncc::i64(item.q_start)
          + attncc::i64(row) - attncc::i64(item.k_start) - attncc::i64(item.window)),
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
    const i64 v0 = i64(params.window.get(work.b));
    const i64 v1 = i64(g.q_start) + i64(row_lo);
    const i64 v2 = v1 - i64(g.k_start);
    const i64 v3 = v1 + i64(row_hi - row_lo) - i64(g.k_start);
    out[0] = {attncc::bounds::end(v2 - v0 + 1ll), attncc::bounds::end(v3), 1};
    out[1] = {attncc::bounds::end(v3 - v0), attncc::bounds::end(v2 + 1ll), 0};
    return 2;
  }

  // logits = softcap * tanh(score / softcap)
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row& r, const Tile&,
      const Key& c, int row, int col, float reference = 0.0f) {
    return item.softcap * fast::tanh(score * item.sm_scale_softcap) - reference;
  }

  static __device__ __forceinline__ float sink(const Item&, const Row&) {
    return -attncc::infinity();
  }

  // mask = q - k < window and k <= q
  template <class Column>  // a column, or all of a thread's in a row
  static __device__ __forceinline__ auto mask(const Item& item, const Row& r, const Key& c, int row, Column column) {
    return (r.limit - column.base < column.step) & (column.step <= r.limit_2 - column.base);
  }
};
