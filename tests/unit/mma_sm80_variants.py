"""Hand-written Variants, as the emitter would render them: what the kernel's own tests run, GPU or none.

Each is the C++ of ``Params`` and ``Variant``. Parameters follow ``launch`` in the order of ``FIELDS``.
"""

from collections.abc import Mapping
from typing import Final

from attncc.codegen.families import mma_sm80

_PLAIN_LOGITS = """
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row&, const Tile&, const Key&,
                                                 int, int) {
    return score * item.scale;
  }
"""

_ITEM = """
  struct Item {
    int delta, kv_len;  // q - k = row - col + delta
    float scale;        // sm_scale * log2(e)
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry g = attncc::geometry(p.launch, work.b);
    return {g.q_start - g.k_start, g.kv_len, p.launch.sm_scale.get(work.b) * attncc::kLog2E};
  }
"""

_NO_ROW = """
  struct Row {};
  static __device__ __forceinline__ Row row(const Params&, const Item&, int, int) { return {}; }
"""

_NO_KEY = """
  struct Key {};
  static __device__ __forceinline__ Key key(const Params&, const Item&, int) { return {}; }
"""

_NO_TILE = """
  struct Tile {};
  static __device__ __forceinline__ Tile tile(const Params&, const Item&, const attncc::Box&) { return {}; }
"""

_CAUSAL_RANGES = """
  static __device__ __forceinline__ int ranges(const Params& p, const attncc::Work& work, int row_lo, int row_hi,
                                               attncc::Range* out) {
    const attncc::Geometry g = attncc::geometry(p.launch, work.b);
    const int delta = g.q_start - g.k_start;
    out[0] = {0, row_lo + delta + 1, 0};
    out[1] = {row_lo + delta + 1, row_hi + delta, 1};
    return 2;
  }
"""

_CAUSAL_MASK = """
  static __device__ __forceinline__ bool mask(const Item& item, const Row&, const Key&, int row, int col) {
    return row + item.delta >= col;
  }
"""

_NO_SINK = """
  static __device__ __forceinline__ float sink(const Item&, const Row&) { return -attncc::infinity(); }
"""


def _variant(facts: str, *parts: str) -> str:
    return (
        "struct Variant {\n  using Params = ::Params;\n"
        f"  static constexpr attncc::Facts facts = {facts};\n" + "".join(parts) + "};\n"
    )


# What follows `launch` in Params: (name, C++ type).
FIELDS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "dense": (),
    "causal": (),
    "gemma2": (("softcap", "attncc::Scalar<float>"), ("window", "attncc::Scalar<int>")),
    "alibi": (("slopes", "attncc::TensorRef<float, 1>"),),
    "sink": (("sinks", "attncc::TensorRef<float, 1>"), ("window", "attncc::Scalar<int>")),
    "documents": (("doc", "attncc::TensorRef<int, 2>"),),
}

_VARIANTS: Final[Mapping[str, str]] = {
    "dense": _variant(
        "{false, false, false, false, false, 1, 0.0f}",
        _ITEM, _NO_ROW, _NO_KEY, _NO_TILE, _PLAIN_LOGITS, _NO_SINK,
        """
  static __device__ __forceinline__ int ranges(const Params&, const attncc::Work& work, int, int, attncc::Range* out) {
    out[0] = {0, work.col0 + work.ncols, 0};
    return 1;
  }
  static __device__ __forceinline__ bool mask(const Item&, const Row&, const Key&, int, int) { return true; }
""",
    ),
    "causal": _variant(
        "{false, true, false, false, false, 2, 0.0f}",
        _ITEM, _NO_ROW, _NO_KEY, _NO_TILE, _PLAIN_LOGITS, _NO_SINK, _CAUSAL_RANGES, _CAUSAL_MASK,
    ),
    # softcap * tanh(score / softcap), q >= k and q - k < window
    "gemma2": _variant(
        "{true, true, false, false, false, 3, 0.0f}",
        """
  struct Item {
    int delta, window;
    float inner, outer;  // sm_scale / softcap; softcap * log2(e)
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry g = attncc::geometry(p.launch, work.b);
    const float softcap = p.softcap.get(work.b);
    return {g.q_start - g.k_start, p.window.get(work.b), exact::div(p.launch.sm_scale.get(work.b), softcap),
            softcap * attncc::kLog2E};
  }
""",
        _NO_ROW, _NO_KEY, _NO_TILE, _NO_SINK,
        """
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row&, const Tile&, const Key&,
                                                 int, int) {
    return fast::mul(item.outer, fast::tanh(fast::mul(score, item.inner)));
  }
  static __device__ __forceinline__ int ranges(const Params& p, const attncc::Work& work, int row_lo, int row_hi,
                                               attncc::Range* out) {
    const attncc::Geometry g = attncc::geometry(p.launch, work.b);
    const int delta = g.q_start - g.k_start, window = p.window.get(work.b);
    const int some_lo = row_lo + delta - window + 1, all_lo = row_hi - 1 + delta - window + 1;
    out[0] = {some_lo, row_hi + delta, 1};
    out[1] = {all_lo, row_lo + delta + 1, 0};
    return 2;
  }
  static __device__ __forceinline__ bool mask(const Item& item, const Row&, const Key&, int row, int col) {
    const int distance = row + item.delta - col;
    return distance >= 0 && distance < item.window;
  }
""",
    ),
    # score + slopes[h] * (k - q), causal
    "alibi": _variant(
        "{true, true, false, false, false, 2, 0.0f}",
        _ITEM,
        """
  struct Row {
    float slope;
  };
  static __device__ __forceinline__ Row row(const Params& p, const Item&, int, int h) {
    return {p.slopes.load(h) * attncc::kLog2E};
  }
""",
        _NO_KEY, _NO_TILE, _NO_SINK, _CAUSAL_RANGES, _CAUSAL_MASK,
        """
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row& row, const Tile&, const Key&,
                                                 int r, int col) {
    return score * item.scale + row.slope * exact::to_f32(col - r - item.delta);
  }
""",
    ),
    # causal and q - k < window, softmax(sink = sinks[h])
    "sink": _variant(
        "{false, true, true, false, false, 1, 0.0f}",
        """
  struct Item {
    int delta, window;
    float scale;
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry g = attncc::geometry(p.launch, work.b);
    return {g.q_start - g.k_start, p.window.get(work.b), p.launch.sm_scale.get(work.b) * attncc::kLog2E};
  }
  struct Row {
    float sink;
  };
  static __device__ __forceinline__ Row row(const Params& p, const Item&, int, int h) {
    return {p.sinks.load(h) * attncc::kLog2E};
  }
""",
        _NO_KEY, _NO_TILE, _PLAIN_LOGITS,
        """
  static __device__ __forceinline__ float sink(const Item&, const Row& row) { return row.sink; }
  static __device__ __forceinline__ int ranges(const Params& p, const attncc::Work& work, int row_lo, int row_hi,
                                               attncc::Range* out) {
    const attncc::Geometry g = attncc::geometry(p.launch, work.b);
    const int delta = g.q_start - g.k_start;
    out[0] = {row_lo + delta - p.window.get(work.b) + 1, row_hi + delta, 1};
    return 1;
  }
  static __device__ __forceinline__ bool mask(const Item& item, const Row&, const Key&, int row, int col) {
    const int distance = row + item.delta - col;
    return distance >= 0 && distance < item.window;
  }
""",
    ),
    # doc[b, own] == doc[b, col] and causal: a value staged beside each key
    "documents": _variant(
        "{false, true, false, true, false, 1, 0.0f}",
        """
  struct Item {
    int b, delta, own;
    float scale;
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry g = attncc::geometry(p.launch, work.b);
    return {work.b, g.q_start - g.k_start, g.kv_len - g.qo_len, p.launch.sm_scale.get(work.b) * attncc::kLog2E};
  }
  struct Row {
    int doc;
  };
  static __device__ __forceinline__ Row row(const Params& p, const Item& item, int row, int) {
    return {p.doc.load(item.b, row + item.own)};
  }
  struct Key {
    int doc;
  };
  static __device__ __forceinline__ Key key(const Params& p, const Item& item, int col) {
    return {p.doc.load(item.b, col)};
  }
""",
        _NO_TILE, _PLAIN_LOGITS, _NO_SINK,
        """
  static __device__ __forceinline__ int ranges(const Params& p, const attncc::Work& work, int row_lo, int row_hi,
                                               attncc::Range* out) {
    const attncc::Geometry g = attncc::geometry(p.launch, work.b);
    out[0] = {0, row_hi + g.q_start - g.k_start, 1};
    return 1;
  }
  static __device__ __forceinline__ bool mask(const Item& item, const Row& row, const Key& key, int r, int col) {
    return row.doc == key.doc && r + item.delta >= col;
  }
""",
    ),
}  # fmt: skip

NAMES: Final = tuple(_VARIANTS)


def definitions(name: str, config: mma_sm80.Config) -> str:
    """Everything but the entry point: compiles as CUDA and as plain C++."""
    fields = "".join(f"  {ctype} {field};\n" for field, ctype in FIELDS[name])
    return (
        '#include "device/joint.cuh"\n#include "device/math.cuh"\n'
        f'#include "{mma_sm80.HEADER}"\n\n'
        f"{mma_sm80.render_config(config)}\n"
        "using fast = attncc::Fn<Config::accuracy>;\n"
        "using exact = attncc::Fn<attncc::Accuracy::exact>;\n\n"
        f"struct Params {{\n  attncc::Launch launch;\n{fields}}};\n\n{_VARIANTS[name]}\n"
    )


def source(name: str, config: mma_sm80.Config) -> str:
    """The whole translation unit for NVRTC."""
    return definitions(name, config) + mma_sm80.render_wrapper()
