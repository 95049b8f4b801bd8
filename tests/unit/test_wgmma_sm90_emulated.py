"""The kernel of wgmma_sm90, run thread by thread on the CPU by an emulated CTA, against float64.

No GPU: TMA, wgmma, mbarriers and named barriers are emulated as the PTX ISA describes them, everything asynchronous as
late as it may happen, then as early. Cases and checks are those of mma_sm80.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import itertools
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attncc import grammar
from attncc.artifact import LaunchRule
from attncc.codegen.emit.source import assemble
from attncc.codegen.emit.variant import emit_variant
from attncc.codegen.families import biases, transform, wgmma_sm90
from attncc.codegen.launch_block import LAUNCH_BYTES, LAUNCH_FIELDS
from attncc.diagnostics import Source
from attncc.ir.nodes import Variant
from attncc.passes.canonicalize import canonicalize
from attncc.passes.key_bias import has_key_bias
from attncc.reference import Sizes
from attncc.runtime.descriptors import Storage, stand_in
from tests.unit import mma_sm80_variants as variants
from tests.unit.emulated import FORMATS, ROOT, SCREEN_ENTRY
from tests.unit.test_mma_sm80_emulated import CASES, EXAMPLES, Case, check, check_far_documents, check_generated

# A narrow tile, so that short requests have several.
SMALL = dataclasses.replace(wgmma_sm90.choose("f16", 64, 64, "sm_90a"), block_n=32)
JITTERED = dataclasses.replace(SMALL, jittered=True)

ENTRY = """
EXPORT void emulate(const Params* params, const attncc::TensorMap* maps, int x, int y, int z, int early) {
  gridDim = {unsigned(x * y * z), 1, 1};
  for (unsigned i = 0; i < gridDim.x; ++i) {
    blockIdx = {i, 0, 0};
    emulator::early = early;
    emulator::reset_sm90();
    emulator::run(Config::threads, attncc::wgmma_sm90::SharedLayout<Config>::bytes, [&] {
      attncc::wgmma_sm90::run_block<Config, Variant>(*params, maps, maps + 1, emulator::memory);
    });
  }
}
// Which of q, k and v are transformed, as bits.
EXPORT int transformed() {
  constexpr attncc::Facts facts = Variant::facts;
  return facts.query.present + 2 * facts.key.present + 4 * facts.value.present;
}
EXPORT void transform(const Params* params, int x, int y, int z) {
  gridDim = {unsigned(x), unsigned(y), unsigned(z)};
  for (unsigned i = 0; i < gridDim.x * gridDim.y * gridDim.z; ++i) {
    blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / gridDim.x / gridDim.y};
    emulator::run(32 * attncc::transforming::kWarps, 0,
                  [&] { attncc::transforming::run_block<Config, Variant>(*params); });
  }
}
// Whether products add a bias by key, and whether it differs by KV head, as bits.
EXPORT int added() {
  constexpr attncc::Facts facts = Variant::facts;
  return Config::adds && facts.key_adds ? 1 + 2 * facts.key_adds_per_head : 0;
}
template <class Config, class Variant>
void make_biases(const Params& params) {
  if constexpr (Config::adds && Variant::facts.key_adds)
    emulator::run(attncc::biasing::kThreads, 0, [&] { attncc::biasing::run_block<Config, Variant>(params); });
}
EXPORT void biases(const Params* params, int x, int y, int z) {
  gridDim = {unsigned(x), unsigned(y), unsigned(z)};
  for (unsigned i = 0; i < gridDim.x * gridDim.y * gridDim.z; ++i) {
    blockIdx = {i % gridDim.x, i / gridDim.x % gridDim.y, i / gridDim.x / gridDim.y};
    make_biases<Config, Variant>(*params);
  }
}
EXPORT void merge(const Params* params, int blocks, int batch) {
  for (unsigned z = 0; z < unsigned(batch); ++z)
    for (unsigned x = 0; x < unsigned(blocks); ++x) {
      blockIdx = {x, 0, z};
      emulator::run(32 * attncc::merge::kWarps, 0, [&] { attncc::merge::run_block<Config, Variant>(*params); });
    }
}
EXPORT int items(const Params* params, unsigned blocks, int most, int* out) {
  int count = 0;
  emulator::run(32, 0, [&] {
    const int lane = int(threadIdx.x);
    attncc::wgmma_sm90::ItemOrder<Config, Variant> order(params->launch, blocks, lane);
    for (unsigned unit = 0; int(unit) < most; ++unit) {
      const attncc::Work work = order.at(unit);
      if (work.nrows <= 0) break;
      if (lane != 0) continue;
      int* item = out + 5 * count++;
      item[0] = work.b, item[1] = work.hk, item[2] = work.slot, item[3] = work.row0, item[4] = work.nrows;
    }
  });
  return count;
}
EXPORT int shared_bytes() { return attncc::wgmma_sm90::SharedLayout<Config>::bytes; }
"""


@dataclasses.dataclass(frozen=True)
class Emulated:
    """A built kernel as ``emulated.Batch.run`` calls it; what the host would encode is read off the parameter block."""

    library: ctypes.CDLL
    config: wgmma_sm90.Config
    early: bool = False
    blocks: int | None = None

    def emulate(self, params: ctypes.c_void_p, tiles: int, kv_heads: int, batch: int) -> int:
        block = (ctypes.c_char * LAUNCH_BYTES).from_address(params.value or 0)
        launch = {
            field.name: struct.unpack_from(FORMATS[field.ctype], block, field.offset)[0] for field in LAUNCH_FIELDS
        }
        places = {"q": (launch["num_heads"], "qo", self.config.head_dim), "k": (kv_heads, "kv", self.config.head_dim)}
        places["v"] = (kv_heads, "kv", self.config.head_dim_v)
        tokens = {}  # of a request's storage
        for name in ("qo", "kv"):
            indptr = launch[f"{name}_indptr"]
            ragged = (ctypes.c_int32 * (batch + 1)).from_address(indptr)[batch] if indptr else 0
            tokens[name] = (ragged, 1) if indptr else (launch[f"max_{name}_len"], batch)
        put = {f"{name}_tokens": length * requests for name, (length, requests) in tokens.items()}
        if launch["qo_indptr"]:
            put["qo_tokens"] = launch["qo_tokens"]
        counters = (ctypes.c_uint32 * 2)()
        put["counters"] = ctypes.addressof(counters)
        keep = {}  # what the entry `transform` makes, NaN before
        for bit, (name, (heads, side, dim)) in enumerate(places.items()):
            if self.library.transformed() >> bit & 1:
                keep[name] = np.full((put[f"{side}_tokens"], heads, dim), 0x7FFF, np.uint16)
                put[f"made_{name}"] = keep[name].ctypes.data
        added = self.library.added()
        if added:  # what the entry `biases` makes, NaN before, on 16 bytes; behind it as much as a tile may read
            keys = put["kv_tokens"] * (kv_heads if added > 1 else 1) + self.config.block_n
            channels = np.full(16 * keys + 16, 0xFF, np.uint8)
            put["biases"] = channels.ctypes.data + -channels.ctypes.data % 16
        for field in LAUNCH_FIELDS:
            if field.name in put:
                struct.pack_into(FORMATS[field.ctype], block, field.offset, put[field.name])
        if keep:
            rule = transform.launch_rule(tuple(keep))
            grid_of = LaunchRule(tuple(rule["grid"]), 0, 0).grid_of  # type: ignore[arg-type]
            self.library.transform(params, *grid_of({**launch, **put}))
        if added:
            rule = biases.launch_rule(per_head=added > 1)
            self.library.biases(params, *LaunchRule(tuple(rule["grid"]), 0, 0).grid_of({**launch, **put}))  # type: ignore[arg-type]
        maps = b""
        for name in ("k", "v"):
            heads, side, dim = places[name]
            length, requests = tokens[side]
            strides = [2 * launch[f"{name}_stride.{axis}"] for axis in ("token", "head", "batch")]
            words = [launch[name], dim, length, heads, requests, *strides]
            if name in keep:
                made = [2 * dim * heads, 2 * dim, 2 * dim * heads * length]
                words = [put[f"made_{name}"], dim, length, heads, requests, *made]
            if not length:  # as the runtime does
                none = stand_in(Storage(self.config.dtype, (dim, 0, heads, requests), (0, 0, 0)))
                words = [launch["q"], *none.sizes, *none.strides]
            maps += struct.pack("<10Q", *words, 64, self.config.block_n) + bytes(48)
        grid = (tiles, kv_heads, batch) if self.blocks is None else (self.blocks, 1, 1)
        self.library.emulate(params, maps, *grid, int(self.early))
        return 0

    def screen(self, params: ctypes.c_void_p, tiles: int, kv_heads: int, batch: int) -> None:
        self.library.screen(params, tiles, kv_heads, batch)

    def merge(self, params: ctypes.c_void_p, blocks: int, batch: int) -> None:
        self.library.merge(params, blocks, batch)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("emulated")

    @functools.cache
    def compile_(name: str, config: wgmma_sm90.Config) -> ctypes.CDLL:
        text = variants.definitions(name, config, wgmma_sm90)
        return library_of(folder, f"{name}_{abs(hash(config)):x}", text, ["-Wall", "-Werror", "-Wno-unknown-pragmas"])

    return compile_


def library_of(folder: Path, stem: str, text: str, warnings: list[str]) -> ctypes.CDLL:
    """A library of a translation unit without its CUDA entry; it exports what ``Emulated`` calls."""
    source, library = folder / f"{stem}.cc", folder / f"{stem}.so"
    source.write_text(f'{text}\n#include "{transform.HEADER}"\n#include "{biases.HEADER}"\n{SCREEN_ENTRY}{ENTRY}')
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", *warnings, "-fvisibility=hidden", "-fno-gnu-unique"]
    include = [f"-I{ROOT / 'codegen'}", f"-I{ROOT / 'tests' / 'unit'}", '-DATTNCC_EMULATOR="cta_emulator_sm90.h"']
    subprocess.run(["g++", *flags, *include, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def run(build: Any, name: str, config: wgmma_sm90.Config, case: Case, **how: Any) -> None:
    emulated: Any = Emulated(build(name, config), config, **how)
    check(emulated, name, config, case)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", variants.NAMES)
@pytest.mark.parametrize("early", [False, True])
def test_agrees_with_float64(build: Any, name: str, early: bool) -> None:
    for case in CASES:
        run(build, name, SMALL, case, early=early)
    run(build, name, SMALL, CASES[2], early=early, blocks=2)


@pytest.mark.parametrize(
    "change",
    [
        {"stages": 3},
        {"consumers": 1},
        {"q_stages": 1, "slots": 4},
        {"dtype": "bf16", "head_dim": 128, "head_dim_v": 128},
        {"dtype": "bf16", "head_dim": 80, "head_dim_v": 80},
        {"head_dim": 192, "head_dim_v": 128},
    ],
)
def test_other_configurations(build: Any, change: dict[str, Any]) -> None:
    config = dataclasses.replace(SMALL, **change)
    run(build, "causal", config, CASES[1])
    run(build, "documents", config, CASES[2], blocks=1)
    run(build, "normed", config, CASES[2])


@pytest.mark.parametrize("blocks", [None, 2])
def test_rows_of_no_request_are_filled(build: Any, blocks: int | None) -> None:
    for case in CASES[:3]:
        run(build, "causal", SMALL, dataclasses.replace(case, fills=True), blocks=blocks)


@pytest.mark.parametrize("name", ["dense", "causal", "documents", "sink"])
def test_scores_that_outgrow_the_first_tiles_largest(build: Any, name: str) -> None:
    """Logits hundreds above those of the first tile: its tile is done again against its own largest."""
    run(build, name, SMALL, Case((9, 64), (129, 80), heads=7, growth=60.0))
    run(build, name, SMALL, Case((40, 12), (21, 200), heads=4, kv_heads=2, splits=3, growth=60.0), early=True)


@pytest.mark.parametrize("name", ["dense", "causal", "sink"])
def test_no_keys_at_all(build: Any, name: str) -> None:
    """An item without tiles asks for one all the same, through a descriptor of what is there."""
    run(build, name, SMALL, Case((70, 3), (0, 0), heads=2))


@pytest.mark.parametrize("name", ["dense", "documents"])
@pytest.mark.parametrize("rings", [{}, {"stages": 2, "q_stages": 1}, {"stages": 4, "consumers": 1}])
def test_it_matters_not_who_is_early(build: Any, name: str, rings: dict[str, int]) -> None:
    """Loaders and consumers that dawdle here and there, another way with every block and case."""
    config = dataclasses.replace(JITTERED, **rings)  # type: ignore[arg-type]
    for number, case in enumerate(CASES):
        run(build, name, config, case, early=number % 2 == 0, blocks=2)


def generated(folder: Path, variant: Variant, small: wgmma_sm90.Config = SMALL, **how: Any) -> tuple[Any, Variant, Any]:
    """The kernel of a variant as the emitter writes it, to be emulated; the variant and the configuration."""
    config = dataclasses.replace(small, accuracy="exact")
    source = emit_variant(variant)
    text = assemble(variant, source, wgmma_sm90.HEADER, wgmma_sm90.render_config(config), {}).plain
    return Emulated(library_of(folder, variant.name, text, ["-w"]), config, **how), variant, config


@pytest.mark.parametrize("name", ["documents", "columns", "flags"])
@pytest.mark.parametrize("early", [False, True])
def test_what_a_screen_leaves_is_computed(tmp_path: Path, name: str, early: bool) -> None:
    """Tiles that all roles of a CTA find in the same bitmap, on few blocks that take an item after another."""
    check_generated(*generated(tmp_path, EXAMPLES[name], early=early, blocks=3))


# Values of row - col: of no bound but the table's, of few distances, of both signs; read by the mask, too.
DIAGONALS = """
variant far(table: f32[num_heads, n]) { logits = score + table[h, max(0, min(q - k, n - 1))]; mask = q >= k }
variant near(table: f32[num_heads, n]) { logits = score * 4.0 + table[h, max(0, min(q - k + 9, 18))] }
variant shared(table: f32[n]) {
    let distance = max(0, min(q - k, 70))
    logits = score + table[distance]
    mask   = q >= k and table[distance] < 1.5
}
variant buckets(bias: f32[num_heads, n], most: i32 = 128) {
    let exact = n // 2
    let distance = max(q - k, 0)
    let far = min(exact + i32(log(distance / exact) / log(most / exact) * (n - exact)), n - 1)
    logits = score + bias[h, distance if distance < exact else far]
    mask   = q >= k
}
variant decay(table: f32[n]) { weight = score * exp(-0.05 * max(0, min(abs(q - k), 90))) * (1.0 + table[0]) }
"""


@pytest.mark.parametrize("name", ["buckets", "far", "near", "shared", "decay"])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_values_of_a_diagonal_by_row_of_a_head(tmp_path: Path, name: str, kv_heads: int) -> None:
    """Several tiles, those near the diagonal and those where the value has settled; heads packed, and each alone."""
    written = grammar.read(Source("v.attn", DIAGONALS)).definitions
    variant = canonicalize(written[name].instantiate({}))
    assert "has_diagonal */ true" in emit_variant(variant).text.render()
    sizes = Sizes(batch=2, num_heads=2, num_kv_heads=kv_heads, head_dim=64, head_dim_v=64, qo_len=280, kv_len=430)
    check_generated(*generated(tmp_path, variant, blocks=3), sizes)


# Biases by key: beside a mask that reads keys as well, of several tensors and a column, that grow and fall by tiles,
# far larger than scores; minus infinity.
KEY_BIASES = """
variant plain(bias: f32[batch, kv_len]) { logits = score + bias[b, col] }
variant causal(bias: f32[batch, kv_len]) { logits = score + bias[b, col]; mask = q >= k }
variant masked(bias: f32[batch, kv_len]) {
    logits = 3.0 * score - bias[b, col]
    mask   = bias[b, col] < 0.9 and q - k < 50
}
variant several(x: f32[batch, kv_len], y: f32[kv_len], z: f32[num_kv_heads]) {
    logits = score - (x[b, col] + z[hk] * k) + y[col]
}
variant falls(bias: f32[batch, kv_len]) { logits = score - 0.7 * k + bias[b, col]; mask = q >= k }
variant grows(bias: f32[batch, kv_len]) { logits = score + 0.7 * k + bias[b, col]; mask = q >= k }
variant large(bias: f32[batch, kv_len]) { logits = score + (1e4 if bias[b, col] > 0.5 else -1e9 if col > 0 else 0.0) }
variant kept(bias: f32[batch, kv_len]) { logits = score + log(max(bias[b, col], 0.0)); mask = q >= k }
variant negative(bias: f32[batch, kv_len]) { sm_scale = -0.2; logits = score + bias[b, col] }
variant nothing(bias: f32[batch, kv_len]) { sm_scale = 0.0; logits = score + bias[b, col] }
variant scaled(s: f32[num_kv_heads], bias: f32[kv_len]) {
    logits = score * s[hk] + bias[col]
    mask   = q >= k and q - k < 70
}
variant normed(bias: f32[batch, kv_len]) {
    key    = key * rsqrt(dot(key, key) / head_dim + 1.0)
    logits = score + bias[b, col]
}
"""
ADDING = dataclasses.replace(SMALL, dtype="bf16", adds=True)


@pytest.mark.parametrize(
    "name",
    [
        *("plain", "causal", "masked", "several", "falls", "grows", "large", "kept", "negative", "nothing"),
        *("scaled", "normed"),
    ],
)
@pytest.mark.parametrize("early", [False, True])
def test_products_add_a_bias_by_key(tmp_path: Path, name: str, early: bool) -> None:
    """As a tile of three more channels beside every tile of K; done again, too."""
    written = grammar.read(Source("v.attn", KEY_BIASES)).definitions
    variant = canonicalize(written[name].instantiate({}))
    assert "key_adds */ true" in emit_variant(variant).text.render()
    assert has_key_bias(variant)
    kernel = generated(tmp_path, variant, ADDING, early=early, blocks=3)
    assert kernel[0].library.added() == (3 if name in ("several", "scaled") else 1)
    check_generated(*kernel)


@pytest.mark.parametrize("change", [{"stages": 3, "q_stages": 1}, {"consumers": 1, "block_n": 48}, {"slots": 2}])
def test_products_add_whoever_is_early(tmp_path: Path, change: dict[str, int]) -> None:
    variant = canonicalize(grammar.read(Source("v.attn", KEY_BIASES)).definitions["causal"].instantiate({}))
    config = dataclasses.replace(ADDING, jittered=True, **change)  # type: ignore[arg-type]
    check_generated(*generated(tmp_path, variant, config, blocks=3))


VECTORS = """
variant turned(c: f32[head_dim_v]) { output = out + rotate_half(out) * c[d] }
variant gated(gate: f32[num_heads, head_dim_v], w: f32[num_kv_heads, head_dim]) {
    mask   = q >= k
    key    = key * w[hk, d] * rsqrt(dot(key, key) + 1.0)
    value  = value + rotate_pairs(value)
    output = out * rsqrt(dot(out, out) / head_dim_v + 0.1) * gate[h, d]
}
"""


@pytest.mark.parametrize("name", ["partial_rope", "two_norms", "turned", "gated"])
def test_vectors_are_transformed(tmp_path: Path, name: str) -> None:
    """Before the kernel, and behind it: of a row all channels, or one for itself."""
    written = grammar.read(Source("v.attn", VECTORS)).definitions
    variant = EXAMPLES[name] if name in EXAMPLES else canonicalize(written[name].instantiate({}))
    check_generated(*generated(tmp_path, variant, blocks=3))


@pytest.mark.parametrize("kv_len", [600, 66_000])
def test_documents_are_computed_however_many_tiles_are_skipped(tmp_path: Path, kv_len: int) -> None:
    check_far_documents(*generated(tmp_path, EXAMPLES["documents"]), kv_len)


def test_shared_memory_is_what_the_header_says(build: Any) -> None:
    for config in (SMALL, wgmma_sm90.choose("bf16", 128, 128, "sm_90a")):
        assert build("causal", config).shared_bytes() == config.smem_bytes


def items(library: ctypes.CDLL, blocks: int, **launch: int) -> list[tuple[int, ...]]:
    """(b, hk, slot, row0, nrows) of every item of a launch, in their order."""
    fields = {field.name: field for field in LAUNCH_FIELDS}
    block = bytearray(LAUNCH_BYTES + 256)
    launch["num_heads"] = launch["num_kv_heads"] * launch["group"]
    for name, value in launch.items():
        struct.pack_into(FORMATS[fields[name].ctype], block, fields[name].offset, value)
    most = 1 << 15
    out = (ctypes.c_int * (5 * most))()
    count = library.items((ctypes.c_char * len(block)).from_buffer(block), blocks, most, out)
    assert count < most
    return [tuple(out[5 * i : 5 * i + 5]) for i in range(count)]


@pytest.mark.parametrize(
    ("batch", "kv_heads", "group", "rows", "cols", "splits", "blocks"),
    [
        (3, 2, 1, 500, 500, 1, 7),
        (2, 3, 3, 130, 70, 2, 5),
        (1, 1, 1, 1, 1, 1, 132),
        (64, 4, 1, 640, 1 << 14, 1, 30),  # sections of 8 requests
        (3, 5, 2, 640, 1 << 16, 1, 13),  # of a head
        (40, 3, 1, 100, 100, 1, 7),  # of 32 requests
        (16, 2, 1, 2048, 1 << 14, 3, 48),
    ],
)
def test_every_item_once_and_none_is_waited_for(
    build: Any, batch: int, kv_heads: int, group: int, rows: int, cols: int, splits: int, blocks: int
) -> None:
    sizes = {"batch": batch, "num_kv_heads": kv_heads, "group": group, "max_qo_len": rows, "max_kv_len": cols}
    seen = items(build("causal", SMALL), blocks, **sizes, num_splits=splits, split_cols=cols // splits)
    tiles = -(-rows * group // SMALL.block_m)
    wanted = itertools.product(
        range(batch), range(kv_heads), range(splits), range(0, tiles * SMALL.block_m, SMALL.block_m)
    )
    assert sorted(item[:4] for item in seen) == sorted(wanted)
    loads = [0] * blocks
    for item in seen:
        least = min(range(blocks), key=loads.__getitem__)
        loads[least] += item[3] + SMALL.block_m
    assert max(loads) - min(loads) <= max(item[3] + SMALL.block_m for item in seen[-blocks:])


def test_sections_fit_the_cache_and_begin_with_the_longest(build: Any) -> None:
    sizes = {"batch": 4, "num_kv_heads": 6, "group": 1, "max_qo_len": 1000, "max_kv_len": 1 << 15}
    seen = items(build("causal", SMALL), 132, **sizes)
    kept = (32 << 20) // ((1 << 15) * 2 * 2 * SMALL.head_dim)
    assert kept == 4
    sections = [list(group) for _, group in itertools.groupby(seen, key=lambda item: (item[0], item[1] // kept))]
    assert len(sections) == 8
    for section in sections:
        assert [item[3] for item in section] == sorted((item[3] for item in section), reverse=True)


@pytest.mark.parametrize(("name", "rows"), [("dense", 1000), ("dense", 700), ("causal", 700)])
def test_a_section_has_as_many_items_as_blocks(build: Any, name: str, rows: int) -> None:
    """Where row tiles are alike, or few; the last section under a mask has as many heads as the cache keeps."""
    sizes = {"batch": 4, "num_kv_heads": 6, "group": 1, "max_qo_len": rows, "max_kv_len": 1 << 15}
    tiles = -(-rows // SMALL.block_m)
    seen = items(build(name, SMALL), 2 * tiles, **sizes)
    heads = [(b, hk) for b, hk, _, _, _ in seen]
    for first in range(0, len(seen) - (4 * tiles if name == "causal" else 0), 2 * tiles):
        assert len(set(heads[first : first + 2 * tiles])) == 2
    assert len(set(heads[-4 * tiles :])) == 4
    assert len(set(heads[-2 * tiles :])) == (4 if name == "causal" else 2)


def test_a_request_without_rows_has_no_item(build: Any) -> None:
    lengths = [0, 200, 0, 128, 1, *[0] * 40, 300]
    lens = (ctypes.c_int32 * len(lengths))(*lengths)
    sizes = {"batch": len(lengths), "num_kv_heads": 2, "group": 1, "max_qo_len": 300, "max_kv_len": 64}
    seen = items(build("causal", SMALL), 132, **sizes, qo_lens=ctypes.addressof(lens))
    rows = {(b, hk): 0 for b in range(len(lengths)) for hk in range(2)}
    for b, hk, _, _, nrows in seen:
        assert nrows > 0
        rows[b, hk] += nrows
    assert rows == {(b, hk): lengths[b] for b, hk in rows}
