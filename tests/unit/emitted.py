"""Generated Variants as plain C++: compiled by g++ in one library, called over grids of pairs.

Values come back as arrays [num_heads, rows, cols] of one request, so that they compare with the reference's blocks.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as default
from pathlib import Path
from typing import Any

import numpy as np

from attncc.codegen.emit.hooks import kernel_hooks
from attncc.codegen.emit.source import HEADERS, assemble
from attncc.codegen.emit.variant import VariantSource, emit_variant
from attncc.codegen.families.screen import HEADER as SCREEN_HEADER
from attncc.codegen.launch_block import LAUNCH_FIELDS
from attncc.ir.nodes import Variant
from attncc.reference.call import Call

Array = np.ndarray[Any, Any]

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """struct Config {{
  static constexpr int head_dim = {head_dim}, head_dim_v = {head_dim_v};
  static constexpr attncc::Accuracy accuracy = attncc::Accuracy::exact;
}};"""
_FLAGS = ("-O1", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-Werror=narrowing")
_HEADERS = (*HEADERS, SCREEN_HEADER, "device/columns.cuh", "device/fragment.cuh")
_INCLUDES = "#include <cstddef>\n#include <cstdlib>\n#include <cstring>\n" + "".join(
    f'#include "{header}"\n' for header in _HEADERS
)

# What a test calls, for the variant in namespace {ns}.
_CALLS = """
static attncc::Work {ns}_work(const {ns}::Params& params, const int* at) {{
  attncc::Work work{{}};
  work.b = at[0], work.hk = at[1], work.nrows = at[2] * params.launch.group, work.ncols = at[3];
  work.geometry = attncc::geometry(params.launch, work.b);
  return work;
}}
extern "C" void {ns}_pairs(const {ns}::Params* params, int b, int heads, int rows, int cols, const float* scores,
                           float* logits, bool* masks) {{
  using V = {ns}::Variant;
  for (int h = 0; h < heads; ++h) {{
    const int at[] = {{b, h / params->launch.group, rows, cols}};
    const V::Item item = V::item(*params, {ns}_work(*params, at));
    for (int i = 0; i < rows; ++i) {{
      const V::Row row = V::row(*params, item, i, h);
      for (int j = 0; j < cols; ++j) {{
        const V::Key key = V::key(*params, item, {read}j);
        const V::Tile tile = V::tile(*params, item, attncc::Box{{0, rows, 0, cols}});
        const int place = (h * rows + i) * cols + j;
        {diagonal}
        const attncc::Column column(j - j % 24, j % 24);
        logits[place] = V::{pair}(scores[place], item, row, tile, key, {by}i, column);
        masks[place] = V::mask(item, row, key, {by}i, column);
        const bool alike = [&](auto variant) {{  // a thread's columns at once say the same
          using W = decltype(variant);
          if constexpr (W::facts.mask_in_columns) {{
            using Fragment = attncc::MmaFragment<64, 4, 80>;
            const int in_tile = j % 80;
            const attncc::Columns<Fragment> columns{{j - in_tile + in_tile % 8 / 2 * 2, {{}}}};
            return W::mask(item, row, key, {by}i, columns).has(in_tile / 8 * 2 + in_tile % 2) == masks[place];
          }} else {{
            return true;
          }}
        }}(V());
        if (!alike) masks[place] = !masks[place];
      }}
    }}
  }}
}}
extern "C" void {ns}_sinks(const {ns}::Params* params, int b, int heads, int rows, float* sinks) {{
  using V = {ns}::Variant;
  for (int h = 0; h < heads; ++h) {{
    const int at[] = {{b, h / params->launch.group, rows, 0}};
    const V::Item item = V::item(*params, {ns}_work(*params, at));
    for (int i = 0; i < rows; ++i) {{
      const V::Row row = V::row(*params, item, i, h);
      float& value = sinks[h * rows + i];
      value = V::{row};
    }}
  }}
}}
extern "C" int {ns}_ranges(const {ns}::Params* params, const int* at, int row_lo, int row_hi, int* out) {{
  attncc::Range ranges[{ns}::Variant::facts.num_ranges];
  const int count = {ns}::Variant::ranges(*params, {ns}_work(*params, at), row_lo, row_hi, ranges);
  for (int i = 0; i < count; ++i) *out++ = ranges[i].lo, *out++ = ranges[i].hi, *out++ = ranges[i].partial;
  return count;
}}
extern "C" int {ns}_num_ranges() {{ return {ns}::Variant::facts.num_ranges; }}
extern "C" float {ns}_logit_bound() {{ return {ns}::Variant::facts.logit_bound; }}
extern "C" void {ns}_offsets(long long* out) {{
  *out++ = sizeof({ns}::Params);
  {offsets}
}}
"""

# Of diagonals lo to hi: bit 0, whether they are settled; bit 1, whether every head's are the same all over.
_SETTLED = """
extern "C" int {ns}_settled(const {ns}::Params* params, const int* at, int lo, int hi) {{
  using V = {ns}::Variant;
  const attncc::Work work = {ns}_work(*params, at);
  const V::Item item = V::item(*params, work);
  bool same = true;
  for (int h = work.hk * params->launch.group; h < (work.hk + 1) * params->launch.group; ++h) {{
    const V::Diagonal first = V::diagonal(*params, item, h, lo);
    for (int delta = lo; delta <= hi; ++delta) {{
      const V::Diagonal other = V::diagonal(*params, item, h, delta);
      same = same && std::memcmp(&first, &other, sizeof(first)) == 0;
    }}
  }}
  return int(V::settled(*params, item, lo, hi)) + 2 * int(same);
}}
"""

# The tiles of rows [row_lo, row_hi) of all heads of a group, by the variant's screen: (col, partial) for each.
_SCREEN = """
template <int TileCols, int Words>
static int {ns}_screened_by(const {ns}::Params& params, const attncc::Work& work, int row_lo, int row_hi, int begin,
                            int end, int* out) {{
  using V = {ns}::Variant;
  const V::Item item = V::item(params, work);
  attncc::Range ranges[V::facts.num_ranges];
  for (int count = V::ranges(params, work, row_lo, row_hi, ranges); count < V::facts.num_ranges; ++count)
    ranges[count] = attncc::Range{{0, 0, 1}};
  V::RowBounds rows;
  rows.each(attncc::Forget());
  for (int h = work.hk * params.launch.group; h < (work.hk + 1) * params.launch.group; ++h)
    for (int row = row_lo; row < row_hi; ++row)
      rows.merge(V::row_bounds(params, item, V::row(params, item, row, h), row, h));
  attncc::TileBitmap<Words> bitmap;
  static_cast<attncc::BitmapPlace&>(bitmap) = attncc::cover_ranges<Words>(ranges, begin, end);
  bitmap.clear();
  if (bitmap.words > Words) std::abort();
  for (int word = 0; word < bitmap.words; ++word) {{
    bitmap.may[word] = bitmap.all[word] = 0;
    for (int bit = 0; bit < 32; ++bit) {{
      const int at = word * 32 + bit;
      attncc::Box box{{row_lo, row_hi, bitmap.col(at), bitmap.col(at + 1)}};
      V::KeyBounds keys;
      keys.each(attncc::Forget());
      for (int col = box.col_lo; col < box.col_hi && end > 0; col += 4)
        keys.merge(V::key_bounds(params, item, col, end - 1));
      if (box.col_hi > end) box.col_hi = end;
      auto found = attncc::ranged(ranges, box);
      if (found.hi && !found.lo) found = V::screen(params, item, rows, keys, box);
      bitmap.may[word] |= unsigned(found.hi) << bit;
      bitmap.all[word] |= unsigned(found.lo) << bit;
    }}
    if (bitmap.may[word]) bitmap.begin = word < bitmap.begin ? word : bitmap.begin, bitmap.end = word + 1;
  }}
  auto tiles = attncc::TilesOf<true>::walk<TileCols>(ranges, &bitmap, begin, end);
  attncc::TileSpan tile;
  int count = 0;
  for (; tiles.next(tile); ++count) *out++ = tile.col, *out++ = tile.partial;
  return count;
}}
extern "C" int {ns}_screened(const {ns}::Params* params, const int* at, int row_lo, int row_hi, int begin, int end,
                             int tile_cols, int words, int* out) {{
  const attncc::Work work = {ns}_work(*params, at);
  if (tile_cols == 48) return {ns}_screened_by<48, 128>(*params, work, row_lo, row_hi, begin, end, out);
  if (words == 1) return {ns}_screened_by<16, 1>(*params, work, row_lo, row_hi, begin, end, out);
  return {ns}_screened_by<16, 128>(*params, work, row_lo, row_hi, begin, end, out);
}}
"""

# A vector hook over [heads, tokens, channels]; `share` query heads to a head of the array, `state` two floats a token.
_VECTOR_CALLS = """
extern "C" void {ns}_{name}(const {ns}::Params* params, int b, int share, int heads, int tokens, int channels,
                            const float* in, const float* state, float* out) {{
  using V = {ns}::Variant;
  for (int head = 0; head < heads; ++head) {{
    const int h = head * share;
    const int at[] = {{b, h / params->launch.group, tokens, 0}};
    const V::Item item = V::item(*params, {ns}_work(*params, at));
    for (int token = 0; token < tokens; ++token) {{
      const int place = head * tokens + token;
      const float total = state[2 * place], lse = state[2 * place + 1];
      const auto x = [&](int d) {{
        if (d < 0 || d >= channels) std::abort();
        return in[place * channels + d];
      }};
      float sums[16] = {{}};
      {terms}
      for (int d = 0; d < channels; ++d)
        out[place * channels + d] = V::{function}(*params, item, x, sums, {arguments}, {before});
    }}
  }}
}}
"""
_TERM = """
      for (int d = 0; d < channels; ++d) sums[{i}] += V::{function}_term({i}, *params, item, x, sums, {arguments});"""
_READ = "V::output_read(*params, item, V::output_row(*params, item, total, lse, token, h), token, h, d)"
_VECTORS = {
    "query": ("query", "token, h, d", "query_channel(*params, item, token, d)"),
    "key": ("key_vector", "token, d", "key_channel(*params, item, token, d)"),
    "value": ("value_vector", "token, d", "value_channel(*params, item, token, d)"),
    "out": ("output", "total, lse, token, h, d", "output_row(*params, item, total, lse, token, h), {read}"),
}


def _vector_calls(namespace: str, variant: Variant) -> str:
    parts = []
    for name, hook in kernel_hooks(variant).vectors.items():
        function, arguments, before = _VECTORS[name]
        terms = "".join(_TERM.format(i=i, function=function, arguments=arguments) for i in range(len(hook.terms)))
        given = {
            "function": function,
            "arguments": arguments,
            "before": f"V::{before.format(read=_READ)}",
            "terms": terms,
        }
        parts.append(_VECTOR_CALLS.format(ns=namespace, name=name, **given))
    return "".join(parts)


@dataclass(frozen=True)
class Case:
    """A call, its captured tensors as they lie in memory (``call`` has them as values), and the call's sm_scale.

    A tensor that ``indptr`` names is ragged, [tokens, ...]; ``call`` has it padded.
    """

    call: Call
    stored: Mapping[str, Array]
    sm_scale: float
    indptr: Mapping[str, Array] = default(default_factory=dict)


@dataclass(frozen=True)
class Emitted:
    """One variant of the library."""

    library: ctypes.CDLL
    namespace: str
    variant: Variant
    source: VariantSource

    @property
    def logit_bound(self) -> float:
        function = self.library[f"{self.namespace}_logit_bound"]
        function.restype = ctypes.c_float
        return float(function())

    def offsets(self) -> list[int]:
        """sizeof(Params), then the offset of every field as C++ has it."""
        found = (ctypes.c_longlong * (1 + len(self.source.block.fields)))()
        self.library[f"{self.namespace}_offsets"](found)
        return list(found)

    def pairs(self, case: Case, b: int, scores: Array) -> tuple[Array, Array]:
        """(logits or weights, masks) [num_heads, rows, cols] for raw dot products of the same shape."""
        heads, rows, cols = scores.shape
        scores = np.ascontiguousarray(scores, np.float32)
        logits, masks = np.empty_like(scores), np.empty(scores.shape, np.bool_)
        with parameter_block(self.source, case) as block:
            arrays = map(_pointer, (scores, logits, masks))
            self.library[f"{self.namespace}_pairs"](block, b, heads, rows, cols, *arrays)
        return logits, masks

    def rows(self, case: Case, b: int, totals: Array) -> Array:
        """[num_heads, rows]: the sink in the log2 domain, or of a weighted variant the denominators of ``totals``."""
        found = np.array(totals, np.float32)
        with parameter_block(self.source, case) as block:
            self.library[f"{self.namespace}_sinks"](block, b, *found.shape, _pointer(found))
        return found

    def vectors(self, case: Case, b: int, name: str, before: Array, state: Array) -> Array:
        """[heads, tokens, channels] after the hook on ``name``; ``state`` is [heads, tokens, 2]: total and lse."""
        before, state = np.ascontiguousarray(before, np.float32), np.ascontiguousarray(state, np.float32)
        after = np.empty_like(before)
        share = case.call.sizes.group if name in ("key", "value") else 1
        with parameter_block(self.source, case) as block:
            arrays = map(_pointer, (before, state, after))
            self.library[f"{self.namespace}_{name}"](block, b, share, *before.shape, *arrays)
        return after

    def ranges(self, case: Case, b: int, hk: int, row_lo: int, row_hi: int) -> list[tuple[int, int, int]]:
        """The KV ranges of a row tile: (lo, hi, partial)."""
        most = self.library[f"{self.namespace}_num_ranges"]()
        out = (ctypes.c_int * (3 * most))()
        at = (ctypes.c_int * 4)(b, hk, int(case.call.qo_lens[b]), int(case.call.kv_lens[b]))
        with parameter_block(self.source, case) as block:
            count = self.library[f"{self.namespace}_ranges"](block, at, row_lo, row_hi, out)
        assert count <= most
        return [(out[3 * i], out[3 * i + 1], out[3 * i + 2]) for i in range(count)]

    def settled(self, case: Case, b: int, hk: int, lo: int, hi: int) -> tuple[bool, bool]:
        """Of diagonals lo to hi: whether they are said to have one value, and whether they do."""
        at = (ctypes.c_int * 4)(b, hk, int(case.call.qo_lens[b]), int(case.call.kv_lens[b]))
        with parameter_block(self.source, case) as block:
            found = self.library[f"{self.namespace}_settled"](block, at, lo, hi)
        return bool(found & 1), bool(found & 2)

    @property
    def has_screen(self) -> bool:
        return self.source.screen is not None

    def screened(
        self,
        case: Case,
        b: int,
        hk: int,
        rows: tuple[int, int],
        cols: tuple[int, int],
        tile_cols: int,
        words: int = 128,
    ) -> list[tuple[int, bool]]:
        """The tiles (first column, partial) of columns [begin, end) that rows [lo, hi) visit, by the screen.

        ``tile_cols`` is 16 or 48; ``words`` is the bitmap's capacity, 1 (512 columns at their finest, with tiles of 16)
        or 128.
        """
        length = int(case.call.kv_lens[b])
        out = (ctypes.c_int * (2 * (length // tile_cols + 2)))()
        at = (ctypes.c_int * 4)(b, hk, int(case.call.qo_lens[b]), length)
        with parameter_block(self.source, case) as block:
            function = self.library[f"{self.namespace}_screened"]
            count = function(block, at, *rows, *cols, tile_cols, words, out)
        return [(out[2 * i], bool(out[2 * i + 1])) for i in range(count)]


def compile_variants(variants: Sequence[Variant], folder: Path, *, head_dim: int = 64) -> list[Emitted]:
    """All variants in one library: one run of g++."""
    parts, sources = [_INCLUDES], []
    for index, variant in enumerate(variants):
        namespace, source = f"v{index}", emit_variant(variant)
        config = CONFIG.format(head_dim=head_dim, head_dim_v=head_dim)
        text = assemble(variant, source, "", config, {}).plain
        body = text.replace("::Params;", f"::{namespace}::Params;").replace("#include", "// #include")
        weighted = variant.branches[0].weight is not None
        calls = {"pair": "weight" if weighted else "logits"}
        calls["row"] = "normalize(item, row, value)" if weighted else "sink(item, row)"
        by_diagonal = " Diagonal diagonal(" in text
        if by_diagonal:  # any head of the group serves where the value does not depend on it
            head = "h" if "diagonal_per_head */ true" in text else "h / params->launch.group * params->launch.group"
            calls["diagonal"] = f"const V::Diagonal diagonal = V::diagonal(*params, item, {head}, i - j);"
        calls["read"] = "V::read_key(*params, item, j), " if " KeyRead read_key(" in text else ""
        calls |= {"diagonal": calls.get("diagonal", ""), "by": "diagonal, " if by_diagonal else ""}
        offsets = "".join(f"*out++ = offsetof({namespace}::Params, {f.member});" for f in source.block.fields)
        parts += [f"namespace {namespace} {{\n{body}}}\n", _CALLS.format(ns=namespace, offsets=offsets, **calls)]
        parts.append(_vector_calls(namespace, variant))
        if source.screen is not None:
            parts.append(_SCREEN.format(ns=namespace))
        if source.settles:
            parts.append(_SETTLED.format(ns=namespace))
        sources.append(source)
    path = folder / "variants.cpp"
    path.write_text("".join(parts))
    target = folder / "variants.so"
    command = ["g++", *_FLAGS, f"-I{ROOT / 'codegen'}", str(path), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"g++ refused the generated code:\n{done.stderr[:4000]}")
    library = ctypes.CDLL(str(target))
    return [Emitted(library, f"v{i}", v, s) for i, (v, s) in enumerate(zip(variants, sources, strict=True))]


@contextmanager
def parameter_block(source: VariantSource, case: Case) -> Iterator[ctypes.c_void_p]:
    """The call's Params, filled as the host fills a kernel's, in memory that lives as long as the context."""
    block = np.zeros(source.block.size, np.uint8)
    alive: list[Array] = []

    def put(offset: int, value: Any, format: str) -> None:
        block[offset : offset + np.dtype(format).itemsize] = np.array([value], format).view(np.uint8)

    def data(array: Array) -> int:
        alive.append(array)
        return int(array.ctypes.data)

    call, sizes = case.call, case.call.sizes
    launch: dict[str, Any] = {
        "sm_scale.value": case.sm_scale,
        "batch": sizes.batch,
        "num_heads": sizes.num_heads,
        "num_kv_heads": sizes.num_kv_heads,
        "group": sizes.group,
        "max_qo_len": sizes.qo_len,
        "max_kv_len": sizes.kv_len,
        "qo_lens": data(np.ascontiguousarray(call.qo_lens, np.int32)),
        "kv_lens": data(np.ascontiguousarray(call.kv_lens, np.int32)),
        "q_starts": data(np.ascontiguousarray(call.q_starts, np.int32)),
        "k_starts": data(np.ascontiguousarray(call.k_starts, np.int32)),
    }
    for field in LAUNCH_FIELDS:
        if field.name in launch:
            put(field.offset, launch[field.name], field.numpy)
    numpy_type = {"f32": "<f4", "i32": "<i4", "u32": "<u4", "bool": "<i4"}
    for entry in source.block.fields:
        if entry.kind == "param":
            value = np.asarray(call.params[entry.name])
            if value.ndim:  # one per request
                put(entry.offset, data(np.ascontiguousarray(value, numpy_type[entry.type])), "<u8")
            else:
                put(entry.offset + 8, value.item(), numpy_type[entry.type])
            continue
        tensor = np.asarray(case.stored[entry.name])
        put(entry.offset, data(tensor), "<u8")
        shape, strides = tensor.shape, tensor.strides
        if entry.name in case.indptr:
            shape, strides = (sizes.batch, *shape), (0, *strides)
            put(entry.offset + 8 + 16 * entry.rank, data(np.ascontiguousarray(case.indptr[entry.name], "<i4")), "<u8")
        for axis in range(entry.rank):
            put(entry.offset + 8 + 8 * axis, shape[axis], "<i8")
            put(entry.offset + 8 + 8 * (entry.rank + axis), strides[axis] // tensor.itemsize, "<i8")
    yield ctypes.c_void_p(data(block))


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
