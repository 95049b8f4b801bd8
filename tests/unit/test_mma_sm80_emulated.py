"""The kernel body of mma_sm80, run thread by thread on the CPU by an emulated CTA, against float64.

No GPU: cp.async, ldmatrix, mma and shuffles are emulated as the PTX ISA describes them, so that addresses, fragments,
pipeline waits, tails and masks are checked as written in the .cuh.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from attncc.codegen.families import mma_sm80
from attncc.codegen.launch_block import LAUNCH_FIELDS, place, scalar_fields, tensor_fields
from tests.unit import mma_sm80_variants as variants

ROOT = Path(__file__).resolve().parents[2]
DTYPES: dict[str, Any] = {"f16": np.float16, "bf16": ml_dtypes.bfloat16}
FORMATS = {"ptr": "<Q", "i64": "<q", "i32": "<i", "u32": "<I", "f32": "<f"}
POISON = 1024.0

ENTRY = """
extern "C" __attribute__((visibility("default"))) long emulate(const Params* params, int tiles, int kv_heads, int batch) {
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
extern "C" __attribute__((visibility("default"))) int shared_bytes() { return attncc::mma_sm80::SharedLayout<Config>::bytes; }
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """Lengths of each request, and how heads are grouped."""

    qo_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    heads: int = 2
    kv_heads: int = 1
    q_starts: tuple[int, ...] | None = None
    k_start: int = 0


def parameter_block(name: str, words: dict[str, Any]) -> ctypes.Array[ctypes.c_char]:
    """The bytes of ``Params``; words not given are 0."""
    extra: list[tuple[str, str]] = []
    for field, ctype in variants.FIELDS[name]:
        if "Scalar" in ctype:
            extra += scalar_fields(field, "f32" if "float" in ctype else "i32")
        else:
            extra += tensor_fields(field, int(ctype.rstrip(">").split(",")[1]))
    start = LAUNCH_FIELDS[-1].offset + LAUNCH_FIELDS[-1].size
    fields = [*LAUNCH_FIELDS, *place(extra, start)]
    block = ctypes.create_string_buffer(fields[-1].offset + fields[-1].size)
    assert not set(words) - {field.name for field in fields}
    for field in fields:
        struct.pack_into(FORMATS[field.ctype], block, field.offset, words.get(field.name, 0))
    return block


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, mma_sm80.Config], ctypes.CDLL]:
    folder = tmp_path_factory.mktemp("emulated")

    @functools.cache
    def compile_(name: str, config: mma_sm80.Config) -> ctypes.CDLL:
        stem = f"{name}_{config.dtype}_{config.head_dim}_{config.stages}_{config.q_in_registers}"
        source, library = folder / f"{stem}.cc", folder / f"{stem}.so"
        source.write_text(variants.definitions(name, config) + ENTRY)
        flags = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
        # Every library instantiates templates of the same names over another Config: nothing may be shared.
        flags += ["-fvisibility=hidden", "-fno-gnu-unique"]
        include = [f"-I{ROOT / 'codegen'}", f"-I{ROOT / 'tests' / 'unit'}", '-DATTNCC_EMULATOR="cta_emulator.h"']
        subprocess.run(["g++", *flags, *include, str(source), "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))
        loaded.emulate.restype = ctypes.c_long
        return loaded

    return compile_


def formula(name: str, values: dict[str, Any], b: int, score: Any, row: Any, col: Any, q: Any, k: Any, own: Any) -> Any:
    """score [heads, rows, cols] -> (logits, mask), as the variant's definition reads."""
    causal = q >= k
    if name == "dense":
        return score, np.ones_like(causal)
    if name == "gemma2":
        return values["softcap"] * np.tanh(score / values["softcap"]), causal & (q - k < values["window"])
    if name == "alibi":
        return score + values["slopes"][:, None, None] * (k - q), causal
    if name == "sink":
        return score, causal & (q - k < values["window"])
    if name == "documents":
        doc = values["doc"][b]
        return score, causal & (doc[np.clip(own, 0, len(doc) - 1)] == doc[col])
    return score, causal


def reference(name: str, values: dict[str, Any], b: int, q: Any, k: Any, v: Any, starts: tuple[int, int]) -> Any:
    """out [rows, heads, dim] and lse [rows, heads] of one request in float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (x.astype(np.float64).transpose(1, 0, 2) for x in (q, k, v))
    k, v = k.repeat(group, 0), v.repeat(group, 0)
    row, col = np.arange(q.shape[1])[:, None], np.arange(k.shape[1])[None, :]
    score = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[2])
    own = row + k.shape[1] - q.shape[1]
    logits, mask = formula(name, values, b, score, row, col, starts[0] + row, starts[1] + col, own)
    weights = np.where(mask, np.exp(logits), 0.0)
    total = weights.sum(-1)
    if name == "sink":
        total = total + np.exp(values["sinks"].astype(np.float64))[:, None]
    with np.errstate(divide="ignore"):
        lse = np.log(total)
    out = weights @ v / np.where(total == 0, 1, total)[..., None]
    return out.transpose(1, 0, 2), lse.T


def check(library: ctypes.CDLL, name: str, config: mma_sm80.Config, case: Case) -> None:
    """Runs a case whose storage outside the requests is NaN, and whose output is poisoned around the rows."""
    random = np.random.default_rng(5)
    dtype, batch = DTYPES[config.dtype], len(case.qo_lens)
    qo_len, kv_len, group = max(case.qo_lens), max(case.kv_lens), case.heads // case.kv_heads

    def storage(tokens: int, heads: int, dim: int, fill: float) -> Any:
        """[batch, tokens, heads, dim] with heads outermost in memory, 16-byte aligned, `fill` everywhere."""
        raw = np.full((batch, heads, tokens + 2, dim + 8), fill, dtype=dtype)
        flat = np.full(raw.size + 8, fill, dtype=dtype)
        flat = flat[(-flat.ctypes.data % 16) // 2 :][: raw.size].reshape(raw.shape)
        return flat.transpose(0, 2, 1, 3)[..., :dim]

    q = storage(qo_len, case.heads, config.head_dim, math.nan)
    k = storage(kv_len, case.kv_heads, config.head_dim, math.nan)
    v = storage(kv_len, case.kv_heads, config.head_dim_v, math.nan)
    out = storage(qo_len, case.heads, config.head_dim_v, POISON)
    lse = np.full(out.shape[:3], POISON, np.float32)
    for b in range(batch):
        for tensor, length in ((q, case.qo_lens[b]), (k, case.kv_lens[b]), (v, case.kv_lens[b])):
            tensor[b, :length] = random.normal(size=(length, *tensor.shape[2:])).astype(dtype)

    values: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for field, ctype in variants.FIELDS[name]:
        if "Scalar" in ctype:
            values[field] = {"softcap": 1.5, "window": 50}[field]
            words[f"{field}.value"] = values[field]
            continue
        values[field] = {
            "slopes": lambda: (0.5 ** np.arange(1, case.heads + 1)).astype(np.float32),
            "sinks": lambda: random.normal(size=case.heads).astype(np.float32),
            "doc": lambda: np.tile((np.arange(kv_len) // 29).astype(np.int32), (batch, 1)),
        }[field]()
        words[f"{field}.data"] = values[field].ctypes.data
        for axis, extent in enumerate(values[field].shape):
            words[f"{field}.extent[{axis}]"] = extent
            words[f"{field}.stride[{axis}]"] = values[field].strides[axis] // values[field].itemsize
    tensors = (("q", q), ("k", k), ("v", v), ("out", out), ("lse", lse))
    for label, tensor in tensors:
        words[label] = tensor.ctypes.data
        for axis, place_ in (("batch", 0), ("token", 1), ("head", 2)):
            words[f"{label}_stride.{axis}"] = tensor.strides[place_] // tensor.itemsize
    lengths = {"qo_lens": case.qo_lens, "kv_lens": case.kv_lens, "q_starts": case.q_starts}
    keep = {label: np.array(given, np.int32) for label, given in lengths.items() if given is not None}
    words |= {label: array.ctypes.data for label, array in keep.items()}
    words |= {"sm_scale.value": config.head_dim**-0.5, "batch": batch, "num_heads": case.heads, "group": group}
    words |= {"num_kv_heads": case.kv_heads, "k_start": case.k_start, "max_qo_len": qo_len, "max_kv_len": kv_len}

    tiles = -(-qo_len * group // config.block_m)
    block = parameter_block(name, words)
    assert library.emulate(block, tiles, case.kv_heads, batch) == 0, "ldmatrix met bank conflicts"

    unit = 2.0**-11 if config.dtype == "f16" else 2.0**-8
    for b in range(batch):
        rows, cols = case.qo_lens[b], case.kv_lens[b]
        q_start = case.q_starts[b] if case.q_starts else case.k_start + cols - rows
        expected, expected_lse = reference(
            name, values, b, q[b, :rows], k[b, :cols], v[b, :cols], (q_start, case.k_start)
        )
        got, got_lse = out[b, :rows].astype(np.float64), lse[b, :rows].astype(np.float64)
        # P and the output are rounded to the dtype once each; one wrong key among 200 is 20 times as far away.
        error, size = np.linalg.norm(got - expected, axis=-1), np.linalg.norm(expected, axis=-1)
        np.testing.assert_array_less(error, 2.0 * unit * (size + 0.05) + 1e-12)
        np.testing.assert_allclose(got_lse, expected_lse, atol=1e-4)
        empty = np.isneginf(expected_lse)
        assert not got[empty].any()
        assert (out[b, rows:] == POISON).all() and (lse[b, rows:] == POISON).all(), "wrote past the request's rows"
    gaps = np.lib.stride_tricks.as_strided(
        out[:, :, :, :1], shape=(*out.shape[:3], config.head_dim_v + 8), strides=out.strides
    )
    assert (gaps[..., config.head_dim_v :] == POISON).all(), "wrote between rows"


CASES = (
    Case((70,), (70,)),
    Case((33, 0, 3), (150, 5, 0), heads=3),
    Case((40,), (21,), heads=2, kv_heads=2),
    Case((9, 64), (129, 80), heads=7, q_starts=(60, 300), k_start=7),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.qo_lens}x{case.kv_lens}")
@pytest.mark.parametrize("name", variants.NAMES)
def test_agrees_with_float64(build: Any, name: str, case: Case) -> None:
    config = mma_sm80.choose("f16", 64, 64, "sm_90a")
    check(build(name, config), name, config, case)


@pytest.mark.parametrize("case", CASES[:2], ids=lambda case: f"{case.qo_lens}x{case.kv_lens}")
def test_head_dim_128_in_bf16(build: Any, case: Case) -> None:
    config = mma_sm80.choose("bf16", 128, 128, "sm_90a")
    check(build("causal", config), "causal", config, case)


@pytest.mark.parametrize(
    "change",
    [
        {"stages": 3},
        {"q_in_registers": True},
        {"head_dim": 80, "head_dim_v": 48, "stages": 4, "block_n": 48},
        {"head_dim": 32, "head_dim_v": 192, "warps": 8},
    ],
    ids=str,
)
def test_other_configurations(build: Any, change: dict[str, Any]) -> None:
    """The template's parameters beyond today's tile table: deeper pipelines, padded rows, Dv unlike D."""
    config = dataclasses.replace(mma_sm80.choose("f16", 64, 64, "sm_90a"), **change)
    library = build("documents", config)
    assert library.shared_bytes() == config.smem_bytes
    check(library, "documents", config, CASES[1])
