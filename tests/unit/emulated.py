"""A batch whose storage is poisoned around its requests, and mma_sm80 run on it by an emulated CTA on the CPU."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from attncc.codegen.families import merge, mma_sm80, screen
from attncc.codegen.launch_block import LAUNCH_BYTES, LAUNCH_FIELDS
from tests.unit.mma_sm80_variants import main_grid

ROOT = Path(__file__).resolve().parents[2]
DTYPES: dict[str, Any] = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
UNITS = {"f16": 2.0**-11, "bf16": 2.0**-8}
FORMATS = {"ptr": "<Q", "i64": "<q", "i32": "<i", "u32": "<I", "f32": "<f"}
POISON = 1024.0
LEAD = 2

# The entry that finds the tiles to visit, of any family.
SCREEN_ENTRY = """
#include "families/screen.cuh"
#define EXPORT extern "C" __attribute__((visibility("default")))
template <class Config, class Variant>
void screen_items(const typename Variant::Params& params, unsigned tiles, unsigned kv_heads, unsigned batch) {
  if constexpr (Variant::facts.has_screen)
    for (unsigned z = 0; z < batch; ++z)
      for (unsigned y = 0; y < (Variant::facts.screen_per_head ? kv_heads : 1); ++y)
        for (unsigned x = 0; x < tiles; ++x) {
          blockIdx = {x, y, z};
          emulator::run(attncc::screening::kThreads, 0, [&] { attncc::screening::run_block<Config, Variant>(params); });
        }
}
EXPORT void screen(const Params* params, int tiles, int kv_heads, int batch) {
  screen_items<Config, Variant>(*params, tiles, kv_heads, batch);
}
"""
ENTRY = """
EXPORT long emulate(const Params* params, int x, int y, int z) {
  long conflicts = 0;
  gridDim = {unsigned(x), unsigned(y), unsigned(z)};
  for (unsigned z = 0; z < gridDim.z; ++z)
    for (unsigned y = 0; y < gridDim.y; ++y)
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        conflicts += emulator::run(Config::threads, attncc::mma_sm80::SharedLayout<Config>::bytes, [&] {
          attncc::mma_sm80::run_block<Config, Variant>(*params, emulator::memory);
        });
      }
  return conflicts;
}
EXPORT void merge(const Params* params, int blocks, int batch) {
  for (unsigned z = 0; z < unsigned(batch); ++z)
    for (unsigned x = 0; x < unsigned(blocks); ++x) {
      blockIdx = {x, 0, z};
      emulator::run(32 * attncc::merge::kWarps, 0, [&] { attncc::merge::run_block<Config, Variant>(*params); });
    }
}
EXPORT int shared_bytes() { return attncc::mma_sm80::SharedLayout<Config>::bytes; }
"""


def build(folder: Path, stem: str, text: str, *, generated: bool = False) -> ctypes.CDLL:
    """A library of a translation unit without its CUDA entry; it exports ``emulate`` and ``shared_bytes``.

    Warnings are errors, but not in generated text, which declares what it may need.
    """
    source, library = folder / f"{stem}.cc", folder / f"{stem}.so"
    source.write_text(text + SCREEN_ENTRY + ENTRY)
    warnings = ["-w"] if generated else ["-Wall", "-Werror", "-Wno-unknown-pragmas"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", *warnings]
    # Every library instantiates templates of the same names over another Config: nothing may be shared.
    flags += ["-fvisibility=hidden", "-fno-gnu-unique"]
    include = [f"-I{ROOT / 'codegen'}", f"-I{ROOT / 'tests' / 'unit'}", '-DATTNCC_EMULATOR="cta_emulator.h"']
    subprocess.run(["g++", *flags, *include, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.emulate.restype = ctypes.c_long
    return loaded


def part_of(tensor: Any, indptr: Any, b: int, length: int) -> Any:
    """Request b's tokens of [batch, tokens, ...]; ragged where there is an indptr."""
    return tensor[b, :length] if indptr is None else tensor[0, indptr[b] : indptr[b] + length]


@dataclasses.dataclass(frozen=True)
class Batch:
    """q, k, v, out [batch, tokens, heads, dim] and lse [batch, tokens, heads]; heads are outermost in memory.

    Outside the requests' rows and columns q, k and v are NaN, out and lse are POISON. A ragged batch has one request's
    worth of memory, in which its requests lie one after another from token LEAD on.
    """

    config: mma_sm80.Config
    qo_lens: Sequence[int]
    kv_lens: Sequence[int]
    q: Any
    k: Any
    v: Any
    out: Any
    lse: Any
    qo_indptr: Any = None
    kv_indptr: Any = None
    fills: bool = False

    @staticmethod
    def make(
        config: mma_sm80.Config,
        qo_lens: Sequence[int],
        kv_lens: Sequence[int],
        heads: int,
        kv_heads: int,
        *,
        ragged: bool = False,
        growth: float = 1.0,
        fills: bool = False,
    ) -> Batch:
        """``growth`` multiplies the keys of every request's second half; ``fills``: rows of no request are written."""
        random, dtype = np.random.default_rng(5), DTYPES[config.dtype]

        def storage(tokens: int, heads: int, dim: int, fill: float) -> Any:
            """16-byte aligned, two tokens and eight channels more than asked for, `fill` everywhere."""
            shape = (1 if ragged else len(qo_lens), heads, tokens + 2, dim + 8)
            flat = np.full(math.prod(shape) + 8, fill, dtype=dtype)
            start = -flat.ctypes.data % 16 // 2
            return flat[start : start + math.prod(shape)].reshape(shape).transpose(0, 2, 1, 3)[..., :dim]

        rows, cols = (LEAD + sum(lens) if ragged else max(lens) for lens in (qo_lens, kv_lens))
        q = storage(rows, heads, config.head_dim, math.nan)
        k = storage(cols, kv_heads, config.head_dim, math.nan)
        v = storage(cols, kv_heads, config.head_dim_v, math.nan)
        out = storage(rows, heads, config.head_dim_v, POISON)
        indptr = [np.cumsum([LEAD, *lens]).astype(np.int32) if ragged else None for lens in (qo_lens, kv_lens)]
        lse = np.full(out.shape[:3], POISON, np.float32)
        batch = Batch(config, qo_lens, kv_lens, q, k, v, out, lse, *indptr, fills=fills)
        for b, (qo_len, kv_len) in enumerate(zip(qo_lens, kv_lens, strict=True)):
            for tensor, length, starts in ((q, qo_len, indptr[0]), (k, kv_len, indptr[1]), (v, kv_len, indptr[1])):
                part = part_of(tensor, starts, b, length)
                part[:] = random.normal(size=part.shape).astype(dtype)
                if tensor is k:
                    part[length // 2 :] *= dtype(growth)
        return batch

    def words(self) -> dict[str, int]:
        """What of the Launch block says where the tensors are."""
        found = {}
        for name in ("q", "k", "v", "out", "lse"):
            tensor = getattr(self, name)
            found[name] = tensor.ctypes.data
            for axis, stride in zip(("batch", "token", "head"), tensor.strides, strict=False):
                found[f"{name}_stride.{axis}"] = stride // tensor.itemsize
        if self.qo_indptr is not None:
            found |= {f"{name}_stride.batch": 0 for name in ("q", "k", "v", "out", "lse")}
            found |= {"qo_indptr": self.qo_indptr.ctypes.data, "kv_indptr": self.kv_indptr.ctypes.data}
        return found

    def run(self, library: ctypes.CDLL, params: int, *, splits: int = 0, through_state: bool = False) -> None:
        """Runs the grid. ``params`` is the address of a Params with everything but this batch's tensors.

        With ``splits`` > 0 the columns are cut into so many parts, and the merge entry finishes; ``through_state``: by
        way of one state for all columns.
        """
        words = self.words() | {"fills_unowned": int(self.fills), "qo_tokens": self.out.shape[0] * self.out.shape[1]}
        heads, kv_heads, dim = self.q.shape[2], self.k.shape[2], self.config.head_dim_v
        if splits:
            tokens = self.out.shape[0] * self.out.shape[1]
            states = np.full((splits, tokens, heads, dim), math.nan, np.float32)
            values = np.full((splits, tokens, heads, 2), math.nan, np.float32)
            tiles = -(-max(self.kv_lens) // self.config.block_n)
            words |= {"split_out": states.ctypes.data, "split_state": values.ctypes.data, "split_tokens": tokens}
            words |= {"num_splits": splits, "split_cols": -(-tiles // splits) * self.config.block_n}
        block = (ctypes.c_char * LAUNCH_BYTES).from_address(params)

        def put(words: dict[str, int]) -> None:
            for field in LAUNCH_FIELDS:
                if field.name in words:
                    struct.pack_into(FORMATS[field.ctype], block, field.offset, words[field.name])

        put(words)
        rows, group = max(self.qo_lens), heads // kv_heads
        most = max(-(-rows * group // self.config.block_m), -(-rows // self.config.block_m) * group)
        size = len(self.qo_lens) * kv_heads * most * screen.BITMAP_BYTES // 4
        bitmaps = np.arange(size, dtype=np.int32) % 4096 * 65536 + (90 << 24)  # rubbish, whatever is made of it
        put({"screens": bitmaps.ctypes.data})
        library.screen(ctypes.c_void_p(params), most, kv_heads, len(self.qo_lens))
        stored = {f.name: struct.unpack_from(FORMATS[f.ctype], block, f.offset)[0] for f in LAUNCH_FIELDS}
        x, y, z = main_grid(self.config, stored)
        conflicts = library.emulate(ctypes.c_void_p(params), x * max(splits, 1), y, z)
        assert conflicts == 0, "ldmatrix met bank conflicts"
        if splits:
            assert (self.out == POISON).all(), "a split wrote the output"
            blocks = -(-max(self.qo_lens) * heads // merge.WARPS)
            if through_state:
                whole = np.full((tokens, heads, dim), math.nan, np.float32)
                state = np.full((tokens, heads, 2), math.nan, np.float32)
                put({"merged_out": whole.ctypes.data, "merged_state": state.ctypes.data})
                library.merge(ctypes.c_void_p(params), blocks, len(self.qo_lens))
                assert (self.out == POISON).all(), "a state is no output"
                put({"merged_out": 0, "merged_state": 0, "num_splits": 1})
                put({"split_out": whole.ctypes.data, "split_state": state.ctypes.data})
            library.merge(ctypes.c_void_p(params), blocks, len(self.qo_lens))

    def stored(self, b: int) -> tuple[Any, Any, Any]:
        """A request's q, k, v [tokens, heads, dim] as they are stored."""
        rows, cols = self.qo_lens[b], self.kv_lens[b]
        return (
            part_of(self.q, self.qo_indptr, b, rows),
            part_of(self.k, self.kv_indptr, b, cols),
            part_of(self.v, self.kv_indptr, b, cols),
        )

    def inputs(self, b: int) -> tuple[Any, Any, Any]:
        """A request's q, k, v [heads, tokens, dim] in float64, KV heads repeated over their groups."""
        q, k, v = (part.astype(np.float64).transpose(1, 0, 2) for part in self.stored(b))
        group = len(q) // len(k)
        return q, k.repeat(group, 0), v.repeat(group, 0)

    def compare(self, b: int, expected: Any, expected_lse: Any, *, lse_error: float = 1e-4, slack: float = 0.0) -> None:
        """Compares request b with float64 results [rows, heads, dim] and [rows, heads]; lse None: not for weights."""
        rows = self.qo_lens[b]
        got = part_of(self.out, self.qo_indptr, b, rows).astype(np.float64)
        got_lse = part_of(self.lse, self.qo_indptr, b, rows).astype(np.float64)
        # P and the output are rounded to the dtype once each; one wrong key among 200 is 20 times as far away.
        error, size = np.linalg.norm(got - expected, axis=-1), np.linalg.norm(expected, axis=-1)
        np.testing.assert_array_less(error, 2.0 * UNITS[self.config.dtype] * (size + 0.05) + slack + 1e-12)
        if expected_lse is not None:
            np.testing.assert_allclose(got_lse, expected_lse, atol=lse_error, rtol=1e-6)
            assert not got[np.isneginf(expected_lse)].any()
        for tensor, fill in ((self.out, 0.0), (self.lse, -math.inf)):
            if self.qo_indptr is None:
                unowned, foreign = [tensor[b, rows : max(self.qo_lens)]], tensor[b, max(self.qo_lens) :]
            else:
                unowned, foreign = [tensor[0, :LEAD], tensor[0, self.qo_indptr[-1] :]], tensor[:0]
            wanted = fill if self.fills else POISON
            assert all((part == wanted).all() for part in unowned), "rows that belong to no request"
            assert (foreign == POISON).all(), "wrote past the request's rows"
        shape = (*self.out.shape[1:3], self.config.head_dim_v + 8)
        first = self.out[b if self.qo_indptr is None else 0]
        padded = np.lib.stride_tricks.as_strided(first, shape=shape, strides=self.out.strides[1:])
        assert (padded[..., self.config.head_dim_v :] == POISON).all(), "wrote between rows"

    def check(self, b: int, logits: Any, mask: Any, sink: Any) -> None:
        """Compares request b with float64; natural logits and mask [heads, rows, cols], sink [heads, rows]."""
        _, _, v = self.inputs(b)
        weights = np.where(mask, np.exp(logits), 0.0)
        total = weights.sum(-1) + np.exp(sink)
        with np.errstate(divide="ignore"):
            expected_lse = np.log(total).T
        expected = (weights @ v / np.where(total == 0, 1, total)[..., None]).transpose(1, 0, 2)
        self.compare(b, expected, expected_lse)
