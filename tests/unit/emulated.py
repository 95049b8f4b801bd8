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

from attncc.codegen.families import mma_sm80
from attncc.codegen.launch_block import LAUNCH_FIELDS

ROOT = Path(__file__).resolve().parents[2]
DTYPES: dict[str, Any] = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
UNITS = {"f16": 2.0**-11, "bf16": 2.0**-8}
FORMATS = {"ptr": "<Q", "i64": "<q", "i32": "<i", "u32": "<I", "f32": "<f"}
POISON = 1024.0

ENTRY = """
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT long emulate(const Params* params, int tiles, int kv_heads, int batch) {
  long conflicts = 0;
  gridDim = {unsigned(tiles), unsigned(kv_heads), unsigned(batch)};
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
EXPORT int shared_bytes() { return attncc::mma_sm80::SharedLayout<Config>::bytes; }
"""


def build(folder: Path, stem: str, text: str, *, generated: bool = False) -> ctypes.CDLL:
    """A library of a translation unit without its CUDA entry; it exports ``emulate`` and ``shared_bytes``.

    Warnings are errors, but not in generated text, which declares what it may need.
    """
    source, library = folder / f"{stem}.cc", folder / f"{stem}.so"
    source.write_text(text + ENTRY)
    warnings = ["-w"] if generated else ["-Wall", "-Werror", "-Wno-unknown-pragmas"]
    flags = ["-std=c++17", "-O1", "-fPIC", "-shared", *warnings]
    # Every library instantiates templates of the same names over another Config: nothing may be shared.
    flags += ["-fvisibility=hidden", "-fno-gnu-unique"]
    include = [f"-I{ROOT / 'codegen'}", f"-I{ROOT / 'tests' / 'unit'}", '-DATTNCC_EMULATOR="cta_emulator.h"']
    subprocess.run(["g++", *flags, *include, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.emulate.restype = ctypes.c_long
    return loaded


@dataclasses.dataclass(frozen=True)
class Batch:
    """q, k, v, out [batch, tokens, heads, dim] and lse [batch, tokens, heads]; heads are outermost in memory.

    Outside the requests' rows and columns q, k and v are NaN, out and lse are POISON.
    """

    config: mma_sm80.Config
    qo_lens: Sequence[int]
    kv_lens: Sequence[int]
    q: Any
    k: Any
    v: Any
    out: Any
    lse: Any

    @staticmethod
    def make(
        config: mma_sm80.Config, qo_lens: Sequence[int], kv_lens: Sequence[int], heads: int, kv_heads: int
    ) -> Batch:
        random, dtype = np.random.default_rng(5), DTYPES[config.dtype]

        def storage(tokens: int, heads: int, dim: int, fill: float) -> Any:
            """16-byte aligned, two tokens and eight channels more than asked for, `fill` everywhere."""
            shape = (len(qo_lens), heads, tokens + 2, dim + 8)
            flat = np.full(math.prod(shape) + 8, fill, dtype=dtype)
            start = -flat.ctypes.data % 16 // 2
            return flat[start : start + math.prod(shape)].reshape(shape).transpose(0, 2, 1, 3)[..., :dim]

        q = storage(max(qo_lens), heads, config.head_dim, math.nan)
        k = storage(max(kv_lens), kv_heads, config.head_dim, math.nan)
        v = storage(max(kv_lens), kv_heads, config.head_dim_v, math.nan)
        out = storage(max(qo_lens), heads, config.head_dim_v, POISON)
        for tensor, lengths in ((q, qo_lens), (k, kv_lens), (v, kv_lens)):
            for b, length in enumerate(lengths):
                tensor[b, :length] = random.normal(size=(length, *tensor.shape[2:])).astype(dtype)
        return Batch(config, qo_lens, kv_lens, q, k, v, out, np.full(out.shape[:3], POISON, np.float32))

    def words(self) -> dict[str, int]:
        """What of the Launch block says where the tensors are."""
        found = {}
        for name in ("q", "k", "v", "out", "lse"):
            tensor = getattr(self, name)
            found[name] = tensor.ctypes.data
            for axis, stride in zip(("batch", "token", "head"), tensor.strides, strict=False):
                found[f"{name}_stride.{axis}"] = stride // tensor.itemsize
        return found

    def run(self, library: ctypes.CDLL, params: int) -> None:
        """Runs the grid. ``params`` is the address of a Params with everything but this batch's tensors."""
        words = self.words()
        block = (ctypes.c_char * (LAUNCH_FIELDS[-1].offset + LAUNCH_FIELDS[-1].size)).from_address(params)
        for field in LAUNCH_FIELDS:
            if field.name in words:
                struct.pack_into(FORMATS[field.ctype], block, field.offset, words[field.name])
        kv_heads = self.k.shape[2]
        tiles = -(-max(self.qo_lens) * (self.q.shape[2] // kv_heads) // self.config.block_m)
        conflicts = library.emulate(ctypes.c_void_p(params), tiles, kv_heads, len(self.qo_lens))
        assert conflicts == 0, "ldmatrix met bank conflicts"

    def inputs(self, b: int) -> tuple[Any, Any, Any]:
        """A request's q, k, v [heads, tokens, dim] in float64, KV heads repeated over their groups."""
        rows, cols = self.qo_lens[b], self.kv_lens[b]
        parts = (self.q[b, :rows], self.k[b, :cols], self.v[b, :cols])
        q, k, v = (part.astype(np.float64).transpose(1, 0, 2) for part in parts)
        group = len(q) // len(k)
        return q, k.repeat(group, 0), v.repeat(group, 0)

    def check(self, b: int, logits: Any, mask: Any, sink: Any) -> None:
        """Compares request b with float64; natural logits and mask [heads, rows, cols], sink [heads, rows]."""
        _, _, v = self.inputs(b)
        rows = self.qo_lens[b]
        weights = np.where(mask, np.exp(logits), 0.0)
        total = weights.sum(-1) + np.exp(sink)
        with np.errstate(divide="ignore"):
            expected_lse = np.log(total).T
        expected = (weights @ v / np.where(total == 0, 1, total)[..., None]).transpose(1, 0, 2)
        got, got_lse = self.out[b, :rows].astype(np.float64), self.lse[b, :rows].astype(np.float64)
        # P and the output are rounded to the dtype once each; one wrong key among 200 is 20 times as far away.
        error, size = np.linalg.norm(got - expected, axis=-1), np.linalg.norm(expected, axis=-1)
        np.testing.assert_array_less(error, 2.0 * UNITS[self.config.dtype] * (size + 0.05) + 1e-12)
        np.testing.assert_allclose(got_lse, expected_lse, atol=1e-4, rtol=1e-6)
        assert not got[np.isneginf(expected_lse)].any()
        untouched = [self.out[b, rows:], self.lse[b, rows:]]
        assert all((part == POISON).all() for part in untouched), "wrote past the request's rows"
        shape = (*self.out.shape[1:3], self.config.head_dim_v + 8)
        padded = np.lib.stride_tricks.as_strided(self.out[b], shape=shape, strides=self.out.strides[1:])
        assert (padded[..., self.config.head_dim_v :] == POISON).all(), "wrote between rows"
