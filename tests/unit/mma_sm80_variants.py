"""Hand-written Variants, as the emitter would render them: what the kernel's own tests run, GPU or none.

Each is the C++ of ``Params`` and ``Variant``. Parameters follow ``launch`` in the order of ``FIELDS``.
"""

from collections.abc import Mapping
from typing import Any, Final

from attncc.artifact import LaunchRule, Role
from attncc.codegen.families import entries, merge, mma_sm80
from attncc.codegen.launch_block import scalar_fields, tensor_fields, token_tensor_fields

_PLAIN_LOGITS = """
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row&, const Tile&, const Key&,
                                                 int, int, float = 0.0f) {
    return score * item.scale;
  }
"""

_ITEM = """
  struct Item {
    int delta, kv_len;  // q - k = row - col + delta
    float scale;        // sm_scale * log2(e)
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry& g = work.geometry;
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
    const attncc::Geometry& g = work.geometry;
    const int delta = g.q_start - g.k_start;
    out[0] = {0, row_lo + delta + 1, 0};
    out[1] = {row_lo + delta + 1, row_hi + delta, 1};
    return 2;
  }
"""

_CAUSAL_MASK = """
  static __device__ __forceinline__ bool mask(const Item& item, const Row&, const Key&, int row,
                                              attncc::Column col) {
    return col.step <= row + item.delta - col.base;
  }
"""

_NO_SINK = """
  static __device__ __forceinline__ float sink(const Item&, const Row&) { return -attncc::infinity(); }
"""


def _variant(facts: str, *parts: str) -> str:
    return (
        "struct Variant {\n  using Params = ::Params;\n  struct Item;\n  struct Row;\n  struct Key;\n  struct Tile;\n"
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
    "rope": (("c", "attncc::TensorRef<float, 2>"), ("s", "attncc::TensorRef<float, 2>")),
    "sigmoid": (("bias", "attncc::Scalar<float>"),),
    "retention": (("gamma", "attncc::TensorRef<float, 1>"),),
    "normed": (
        ("w", "attncc::TensorRef<float, 1>"),
        ("gain", "attncc::TokenTensorRef<float, 2>"),
        ("gate", "attncc::TokenTensorRef<float, 3>"),
    ),
    "distance": (("table", "attncc::TensorRef<float, 1>"),),
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
    const attncc::Geometry& g = work.geometry;
    const float softcap = p.softcap.get(work.b);
    return {g.q_start - g.k_start, p.window.get(work.b), exact::div(p.launch.sm_scale.get(work.b), softcap),
            softcap * attncc::kLog2E};
  }
""",
        _NO_ROW, _NO_KEY, _NO_TILE, _NO_SINK,
        """
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row&, const Tile&, const Key&,
                                                 int, int, float reference = 0.0f) {
    return fast::mul(item.outer, fast::tanh(fast::mul(score, item.inner))) - reference;
  }
  static __device__ __forceinline__ int ranges(const Params& p, const attncc::Work& work, int row_lo, int row_hi,
                                               attncc::Range* out) {
    const attncc::Geometry& g = work.geometry;
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
                                                 int r, int col, float reference = 0.0f) {
    return score * item.scale + (row.slope * exact::to_f32(col - r - item.delta) - reference);
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
    const attncc::Geometry& g = work.geometry;
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
    const attncc::Geometry& g = work.geometry;
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
    const attncc::Geometry& g = work.geometry;
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
    const attncc::Geometry& g = work.geometry;
    out[0] = {0, row_hi + g.q_start - g.k_start, 1};
    return 1;
  }
  static __device__ __forceinline__ bool mask(const Item& item, const Row& row, const Key& key, int r, int col) {
    return row.doc == key.doc && r + item.delta >= col;
  }
""",
    ),
    # query and key rotated by half with tables over positions, causal
    "rope": _variant(
        "{false, true, false, false, false, 2, 0.0f, false, false, false, {true, 0}, {true, 0}, {}, {}}",
        """
  struct Item {
    int delta, q_start, k_start;
    float scale;
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry& g = work.geometry;
    return {g.q_start - g.k_start, g.q_start, g.k_start, p.launch.sm_scale.get(work.b) * attncc::kLog2E};
  }
  struct QueryChannel {
    float c, s;
  };
  using KeyChannel = QueryChannel;
  static __device__ __forceinline__ QueryChannel query_channel(const Params& p, const Item& item, int row, int d) {
    return {p.c.load(item.q_start + row, d), p.s.load(item.q_start + row, d)};
  }
  static __device__ __forceinline__ KeyChannel key_channel(const Params& p, const Item& item, int col, int d) {
    return {p.c.load(item.k_start + col, d), p.s.load(item.k_start + col, d)};
  }
  template <class X>
  static __device__ __forceinline__ float rotated(const X& x, int d, const QueryChannel& channel) {
    constexpr int half = Config::head_dim / 2;
    const float other = d < half ? -x(d + half) : x(d - half);
    return fast::add(fast::mul(x(d), channel.c), fast::mul(other, channel.s));
  }
  template <class X>
  static __device__ __forceinline__ float query(const Params&, const Item&, const X& x, const float*, int, int, int d,
                                                const QueryChannel& channel) {
    return rotated(x, d, channel);
  }
  template <class X>
  static __device__ __forceinline__ float key_vector(const Params&, const Item&, const X& x, const float*, int, int d,
                                                     const KeyChannel& channel) {
    return rotated(x, d, channel);
  }
""",
        _NO_ROW, _NO_KEY, _NO_TILE, _PLAIN_LOGITS, _NO_SINK, _CAUSAL_RANGES, _CAUSAL_MASK,
    ),
    # weight = sigmoid(logits + bias), causal
    "sigmoid": _variant(
        "{true, true, false, false, false, 2, 0.0f, true, false, false, {}, {}, {}, {}}",
        _NO_ROW, _NO_KEY, _NO_TILE,
        """
  struct Item {
    int delta;
    float scale, bias;
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry& g = work.geometry;
    return {g.q_start - g.k_start, p.launch.sm_scale.get(work.b), p.bias.get(work.b)};
  }
  static __device__ __forceinline__ float weight(float score, const Item& item, const Row&, const Tile&, const Key&,
                                                 int, int) {
    return fast::sigmoid(score * item.scale + item.bias);
  }
  static __device__ __forceinline__ float normalize(const Item&, const Row&, float) { return 1.0f; }
""",
        _CAUSAL_RANGES, _CAUSAL_MASK,
    ),
    # weight = logits * gamma[h] ** (q - k), causal; normalize = max(|total|, 1). The decay is a diagonal's value.
    "retention": _variant(
        "{true, true, false, false, false, 2, 0.0f, true, true, true, {}, {}, {}, {}}",
        _NO_ROW, _NO_KEY, _NO_TILE,
        """
  struct Item {
    int delta;
    float scale;
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry& g = work.geometry;
    return {g.q_start - g.k_start, p.launch.sm_scale.get(work.b)};
  }
  struct Diagonal {
    float decay;
  };
  static __device__ __forceinline__ Diagonal diagonal(const Params& p, const Item& item, int h, int delta) {
    return {exact::pow(p.gamma.load(h), exact::to_f32(delta + item.delta))};
  }
  static __device__ __forceinline__ float weight(float score, const Item& item, const Row&, const Tile&, const Key&,
                                                 const Diagonal& diagonal, int, int) {
    return score * item.scale * diagonal.decay;
  }
  static __device__ __forceinline__ float normalize(const Item&, const Row&, float total) {
    return exact::max(exact::abs(total), 1.0f);
  }
  static __device__ __forceinline__ bool mask(const Item& item, const Row&, const Key&, const Diagonal&, int row,
                                              int col) {
    return row + item.delta >= col;
  }
""",
        _CAUSAL_RANGES,
    ),
    # query, key = RMS norm times w[d]; value = value * gain[b, col]; output = out * gate[b, row, h]; causal
    "normed": _variant(
        "{false, true, false, false, false, 2, 0.0f, false, false, false, {true, 1}, {true, 1}, {true, 0}, {true, 0}}",
        """
  struct Item {
    int b, delta;
    float scale;
  };
  static __device__ __forceinline__ Item item(const Params& p, const attncc::Work& work) {
    const attncc::Geometry& g = work.geometry;
    return {work.b, g.q_start - g.k_start, p.launch.sm_scale.get(work.b) * attncc::kLog2E};
  }
  struct QueryChannel {
    float w;
  };
  using KeyChannel = QueryChannel;
  struct ValueChannel {};
  struct OutputRow {
    float gate;
  };
  struct OutputRead {};
  static __device__ __forceinline__ OutputRead output_read(const Params&, const Item&, const OutputRow&, int, int,
                                                           int) {
    return {};
  }
  static __device__ __forceinline__ QueryChannel query_channel(const Params& p, const Item&, int, int d) {
    return {p.w.load(d)};
  }
  static __device__ __forceinline__ KeyChannel key_channel(const Params& p, const Item&, int, int d) {
    return {p.w.load(d)};
  }
  static __device__ __forceinline__ ValueChannel value_channel(const Params&, const Item&, int, int) { return {}; }
  static __device__ __forceinline__ OutputRow output_row(const Params& p, const Item& item, float, float, int row,
                                                         int h) {
    return {p.gate.load(item.b, row, h)};
  }
  template <class X>
  static __device__ __forceinline__ float query_term(int, const Params&, const Item&, const X& x, const float*, int,
                                                     int, int d) {
    return x(d) * x(d);
  }
  template <class X>
  static __device__ __forceinline__ float query(const Params&, const Item&, const X& x, const float* sums, int, int,
                                                int d, const QueryChannel& channel) {
    return x(d) * exact::rsqrt(sums[0] / float(Config::head_dim) + 1e-5f) * channel.w;
  }
  template <class X>
  static __device__ __forceinline__ float key_vector_term(int, const Params&, const Item&, const X& x, const float*,
                                                          int, int d) {
    return x(d) * x(d);
  }
  template <class X>
  static __device__ __forceinline__ float key_vector(const Params&, const Item&, const X& x, const float* sums, int,
                                                     int d, const KeyChannel& channel) {
    return x(d) * exact::rsqrt(sums[0] / float(Config::head_dim) + 1e-5f) * channel.w;
  }
  template <class X>
  static __device__ __forceinline__ float value_vector(const Params& p, const Item& item, const X& x, const float*,
                                                       int col, int d, const ValueChannel&) {
    return x(d) * p.gain.load(item.b, col);
  }
  template <class X>
  static __device__ __forceinline__ float output(const Params&, const Item&, const X& x, const float*, float, float,
                                                 int, int, int d, const OutputRow& row, const OutputRead&) {
    return x(d) * row.gate;
  }
""",
        _NO_ROW, _NO_KEY, _NO_TILE, _PLAIN_LOGITS, _NO_SINK, _CAUSAL_RANGES, _CAUSAL_MASK,
    ),
    # score + table[|row - col|], where row - col is odd or 0: bias and mask are values of a diagonal
    "distance": _variant(
        "{true, true, false, false, false, 1, 0.0f, false, true, false, {}, {}, {}, {}}",
        _ITEM, _NO_ROW, _NO_KEY, _NO_TILE, _NO_SINK,
        """
  struct Diagonal {
    float bias;
    int keep;
  };
  static __device__ __forceinline__ Diagonal diagonal(const Params& p, const Item&, int, int delta) {
    return {p.table.load(exact::abs(delta)) * attncc::kLog2E, delta == 0 || (delta & 1)};
  }
  static __device__ __forceinline__ float logits(float score, const Item& item, const Row&, const Tile&, const Key&,
                                                 const Diagonal& diagonal, int, int, float reference = 0.0f) {
    return score * item.scale + (diagonal.bias - reference);
  }
  static __device__ __forceinline__ int ranges(const Params&, const attncc::Work& work, int, int, attncc::Range* out) {
    out[0] = {0, work.col0 + work.ncols, 1};
    return 1;
  }
  static __device__ __forceinline__ bool mask(const Item&, const Row&, const Key&, const Diagonal& diagonal, int, int) {
    return diagonal.keep != 0;
  }
""",
    ),
}  # fmt: skip

NAMES: Final = tuple(_VARIANTS)


def words(name: str) -> list[tuple[str, str]]:
    """The words of ``Params`` after ``launch``."""
    found: list[tuple[str, str]] = []
    for field, ctype in FIELDS[name]:
        if "Scalar" in ctype:
            found += scalar_fields(field, "f32" if "float" in ctype else "i32")
            continue
        rank = int(ctype.rstrip(">").split(",")[1])
        found += token_tensor_fields(field, rank) if "Token" in ctype else tensor_fields(field, rank)
    return found


def definitions(name: str, config: Any, family: Any = mma_sm80) -> str:
    """Everything but the entry point. With mma_sm80 it compiles as CUDA and as plain C++."""
    fields = "".join(f"  {ctype} {field};\n" for field, ctype in FIELDS[name])
    return (
        '#include "device/joint.cuh"\n#include "device/math.cuh"\n'
        f'#include "{family.HEADER}"\n\n'
        f"{family.render_config(config)}\n"
        "using fast = attncc::Fn<Config::accuracy>;\n"
        "using exact = attncc::Fn<attncc::Accuracy::exact>;\n\n"
        f"struct Params {{\n  attncc::Launch launch;\n{fields}}};\n\n{_VARIANTS[name]}\n"
    )


def source(name: str, config: Any, family: Any = mma_sm80) -> str:
    """The whole translation unit for NVRTC; ``config`` is the family's."""
    wrappers: dict[Role, str] = {"main": family.render_wrapper(), "merge": merge.render_wrapper()}
    return definitions(name, config, family) + entries.render(wrappers)


def main_grid(config: mma_sm80.Config, sizes: Mapping[str, int]) -> tuple[int, int, int]:
    """The grid of ``main`` without splits, by the rule that the runtime follows."""
    rule: Any = config.launch_rule()
    return LaunchRule(tuple(rule["grid"]), config.threads, config.smem_bytes).grid_of(sizes)
