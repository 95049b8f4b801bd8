"""The kernel body of mma_sm80, run thread by thread on the CPU by an emulated CTA, against float64.

No GPU: cp.async, ldmatrix, mma and shuffles are emulated as the PTX ISA describes them, so that addresses, fragments,
pipeline waits, tails and masks are checked as written in the .cuh, under hand-written and under generated variants.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attncc.codegen.emit.source import assemble
from attncc.codegen.emit.variant import emit_variant
from attncc.codegen.families import mma_sm80
from attncc.codegen.launch_block import LAUNCH_FIELDS, place, scalar_fields, tensor_fields
from attncc.reference import Sizes
from tests.unit import emit_cases, emitted, emulated
from tests.unit import mma_sm80_variants as variants


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
        struct.pack_into(emulated.FORMATS[field.ctype], block, field.offset, words.get(field.name, 0))
    return block


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("emulated")

    @functools.cache
    def compile_(name: str, config: mma_sm80.Config) -> ctypes.CDLL:
        stem = f"{name}_{config.dtype}_{config.head_dim}_{config.stages}_{config.q_in_registers}"
        return emulated.build(folder, stem, variants.definitions(name, config))

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


def check(library: ctypes.CDLL, name: str, config: mma_sm80.Config, case: Case) -> None:
    random = np.random.default_rng(6)
    batch = emulated.Batch.make(config, case.qo_lens, case.kv_lens, case.heads, case.kv_heads)
    kv_len = max(case.kv_lens)
    values: dict[str, Any] = {}
    words: dict[str, Any] = {}
    for field, ctype in variants.FIELDS[name]:
        if "Scalar" in ctype:
            values[field] = {"softcap": 1.5, "window": 50}[field]
            words[f"{field}.value"] = values[field]
            continue
        values[field] = {
            "slopes": (0.5 ** np.arange(1, case.heads + 1)).astype(np.float32),
            "sinks": random.normal(size=case.heads).astype(np.float32),
            "doc": np.tile((np.arange(kv_len) // 29).astype(np.int32), (len(case.qo_lens), 1)),
        }[field]
        words[f"{field}.data"] = values[field].ctypes.data
        for axis, extent in enumerate(values[field].shape):
            words[f"{field}.extent[{axis}]"] = extent
            words[f"{field}.stride[{axis}]"] = values[field].strides[axis] // values[field].itemsize
    lengths = {"qo_lens": case.qo_lens, "kv_lens": case.kv_lens, "q_starts": case.q_starts}
    keep = {label: np.array(given, np.int32) for label, given in lengths.items() if given is not None}
    words |= {label: array.ctypes.data for label, array in keep.items()}
    words |= {"sm_scale.value": config.head_dim**-0.5, "batch": len(case.qo_lens), "num_heads": case.heads}
    words |= {"group": case.heads // case.kv_heads, "num_kv_heads": case.kv_heads, "k_start": case.k_start}
    words |= {"max_qo_len": max(case.qo_lens), "max_kv_len": kv_len}
    block = parameter_block(name, words)
    batch.run(library, ctypes.addressof(block))

    for b, (rows, cols) in enumerate(zip(case.qo_lens, case.kv_lens, strict=True)):
        q, k, _ = batch.inputs(b)
        q_start = case.q_starts[b] if case.q_starts else case.k_start + cols - rows
        row, col = np.arange(rows)[:, None], np.arange(cols)[None, :]
        score = q @ k.transpose(0, 2, 1) * config.head_dim**-0.5
        positions = (row, col, q_start + row, case.k_start + col, row + cols - rows)
        logits, mask = formula(name, values, b, score, *positions)
        sink = values["sinks"].astype(np.float64)[:, None] if name == "sink" else np.full((1, 1), -np.inf)
        batch.check(b, logits, mask, sink)


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


EXAMPLES = emit_cases.examples()
SIZES = Sizes(batch=3, num_heads=4, num_kv_heads=2, head_dim=64, head_dim_v=64, qo_len=70, kv_len=140)


@pytest.mark.parametrize("name", EXAMPLES)
def test_generated_variants_agree_with_the_reference(tmp_path: Path, name: str) -> None:
    """From the IR through the emitter and the kernel to numbers: random lengths, starts, parameters and tensors."""
    variant, config = EXAMPLES[name], mma_sm80.choose("f16", 64, 64, "sm_90a", precise=True)
    source = emit_variant(variant)
    text = assemble(variant, source, mma_sm80.HEADER, mma_sm80.render_config(config), "").plain
    library = emulated.build(tmp_path, name, text, generated=True)
    case = emit_cases.random_case(variant, 1, SIZES)
    qo_lens, kv_lens = case.call.qo_lens.tolist(), case.call.kv_lens.tolist()
    batch = emulated.Batch.make(config, qo_lens, kv_lens, SIZES.num_heads, SIZES.num_kv_heads)
    with emitted.parameter_block(source, case) as block:
        assert block.value is not None
        batch.run(library, block.value)
    for b in range(SIZES.batch):
        q, k, _ = batch.inputs(b)
        expected = emit_cases.expected(case, b, (q @ k.transpose(0, 2, 1)).astype(np.float32))
        batch.check(b, expected["logits"] * np.log(2), expected["mask"], expected["sink"] * np.log(2))
