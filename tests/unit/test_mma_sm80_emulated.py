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
import torch

from attncc import grammar
from attncc.codegen.emit.source import assemble
from attncc.codegen.emit.variant import emit_variant
from attncc.codegen.families import mma_sm80
from attncc.codegen.launch_block import LAUNCH_BYTES, LAUNCH_FIELDS, place
from attncc.diagnostics import Source
from attncc.ir.nodes import Variant
from attncc.passes.canonicalize import canonicalize
from attncc.reference import Sizes, attention
from tests.unit import emit_cases, emitted, emulated
from tests.unit import mma_sm80_reference as reference
from tests.unit import mma_sm80_variants as variants

STORED = {"f16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Case:
    """Lengths of each request, and how heads are grouped."""

    qo_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    heads: int = 2
    kv_heads: int = 1
    q_starts: tuple[int, ...] | None = None
    k_start: int = 0
    ragged: bool = False
    splits: int = 0
    growth: float = 1.0
    fills: bool = False


def parameter_block(name: str, words: dict[str, Any]) -> ctypes.Array[ctypes.c_char]:
    """The bytes of ``Params``; words not given are 0."""
    start = LAUNCH_BYTES
    fields = [*LAUNCH_FIELDS, *place(variants.words(name), start)]
    block = ctypes.create_string_buffer(fields[-1].offset + fields[-1].size)
    assert not set(words) - {field.name for field in fields}
    for field in fields:
        struct.pack_into(emulated.FORMATS[field.ctype], block, field.offset, words.get(field.name, 0))
    return block


# A small tile of the same shape as the table's: two row tiles a warp, several warps, swizzled rows.
SMALL = dataclasses.replace(mma_sm80.choose("f16", 64, 64, "sm_90a"), block_m=64, block_n=32, warps=2)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("emulated")

    @functools.cache
    def compile_(name: str, config: mma_sm80.Config) -> ctypes.CDLL:
        stem = f"{name}_{abs(hash(config)):x}"
        return emulated.build(folder, stem, variants.definitions(name, config))

    return compile_


def check(library: ctypes.CDLL, name: str, config: mma_sm80.Config, case: Case, *, through_state: bool = False) -> None:
    ragged, sizes = case.ragged, (len(case.qo_lens), max(case.qo_lens), max(case.kv_lens))
    batch = emulated.Batch.make(
        config,
        case.qo_lens,
        case.kv_lens,
        case.heads,
        case.kv_heads,
        ragged=ragged,
        growth=case.growth,
        fills=case.fills,
    )
    values = reference.make_values(name, case.heads, *sizes, config.head_dim)
    words: dict[str, Any] = {}
    keep: list[Any] = []
    for field, ctype in variants.FIELDS[name]:
        if "Scalar" in ctype:
            words[f"{field}.value"] = values[field]
            continue
        tensor = values[field].contiguous()
        strides = list(tensor.stride())
        if "Token" in ctype and ragged:
            indptr = batch.qo_indptr if field == "gate" else batch.kv_indptr
            flat = torch.full((int(indptr[-1]), *tensor.shape[2:]), float("nan"))
            for b in range(len(case.qo_lens)):
                length = int(indptr[b + 1] - indptr[b])
                flat[indptr[b] : indptr[b + 1]] = tensor[b, :length]
            keep.append(flat)
            words[f"{field}.indptr"] = indptr.ctypes.data
            words[f"{field}.data"] = flat.data_ptr()
        else:
            keep.append(tensor)
            words[f"{field}.data"] = tensor.data_ptr()
        for axis, extent in enumerate(tensor.shape):
            words[f"{field}.extent[{axis}]"] = extent
            words[f"{field}.stride[{axis}]"] = strides[axis]
    lengths = {"qo_lens": case.qo_lens, "kv_lens": case.kv_lens} if not ragged else {}
    lengths |= {"q_starts": case.q_starts} if case.q_starts else {}
    arrays = {label: np.array(given, np.int32) for label, given in lengths.items()}
    words |= {label: array.ctypes.data for label, array in arrays.items()}
    words |= {"sm_scale.value": config.head_dim**-0.5, "batch": len(case.qo_lens), "num_heads": case.heads}
    words |= {"group": case.heads // case.kv_heads, "num_kv_heads": case.kv_heads, "k_start": case.k_start}
    words |= {"max_qo_len": max(case.qo_lens), "max_kv_len": max(case.kv_lens)}
    block = parameter_block(name, words)
    batch.run(library, ctypes.addressof(block), splits=case.splits, through_state=through_state)

    for b, (rows, cols) in enumerate(zip(case.qo_lens, case.kv_lens, strict=True)):
        q_start = case.q_starts[b] if case.q_starts else case.k_start + cols - rows
        q, k, v = (torch.from_numpy(part.astype(np.float64)) for part in batch.stored(b))
        q, k, v = (x.to(STORED[config.dtype]) for x in (q, k, v))
        starts = (q_start, case.k_start)
        out, lse = reference.attention(name, values, b, (q, k, v), starts, config.head_dim**-0.5)
        # A transformed channel may round to the other neighbour than float64's does.
        lse_error = 2e-3 if name in ("rope", "normed") else 1e-4
        batch.compare(b, out.numpy(), None if lse is None else lse.numpy(), lse_error=lse_error)


CASES = (
    Case((70,), (70,)),
    Case((33, 0, 3), (150, 5, 0), heads=3),
    Case((9, 64), (129, 80), heads=7, q_starts=(130, 300), k_start=7, ragged=True),
    Case((40, 12), (21, 200), heads=4, kv_heads=2, splits=3),
)


@pytest.mark.parametrize("name", variants.NAMES)
def test_agrees_with_float64(build: Any, name: str) -> None:
    """Every hook of the joint, on padded and ragged batches, empty requests, a group of 7, starts and split columns."""
    for case in CASES:
        check(build(name, SMALL), name, SMALL, case)


def test_rows_of_no_request_are_filled(build: Any) -> None:
    for case in CASES[:3]:
        check(build("causal", SMALL), "causal", SMALL, dataclasses.replace(case, fills=True))


@pytest.mark.parametrize("name", ["retention", "normed"])
def test_weights_and_output_hooks_survive_many_splits(build: Any, name: str) -> None:
    """More splits than tiles, a ragged batch, and a group too large for a diagonal's table by heads."""
    case = Case((19, 5), (70, 41), heads=9, ragged=True, splits=5)
    check(build(name, SMALL), name, SMALL, case)
    check(build(name, SMALL), name, SMALL, dataclasses.replace(case, splits=0, ragged=False))


def test_head_dim_128_in_bf16(build: Any) -> None:
    """The tile table's own row."""
    config = mma_sm80.choose("bf16", 128, 128, "sm_90a")
    check(build("causal", config), "causal", config, Case((70, 9), (70, 130), heads=2))


@pytest.mark.parametrize(
    "change",
    [
        {"stages": 3, "q_in_registers": True},
        {"head_dim": 80, "head_dim_v": 48, "stages": 4, "block_n": 48},
        {"head_dim": 32, "head_dim_v": 96, "warps": 4},
        {"head_dim": 192, "head_dim_v": 128, "dtype": "bf16", "warps": 4},
    ],
    ids=str,
)
def test_other_configurations(build: Any, change: dict[str, Any]) -> None:
    """Deeper pipelines, padded rows, Dv unlike D, under a variant with transforms, and one with staged keys."""
    config = dataclasses.replace(SMALL, **change)
    for name in ("documents", "normed"):
        library = build(name, config)
        assert library.shared_bytes() == config.smem_bytes
        check(library, name, config, CASES[1])


EXAMPLES = emit_cases.examples()
SIZES = Sizes(batch=3, num_heads=4, num_kv_heads=2, head_dim=64, head_dim_v=64, qo_len=70, kv_len=140)


@pytest.mark.parametrize("name", EXAMPLES)
def test_generated_variants_agree_with_the_reference(tmp_path: Path, name: str) -> None:
    """From the IR through the emitter and the kernel to numbers: random lengths, starts, parameters and tensors, padded
    and ragged, whole and in splits."""
    check_generated(*generated(tmp_path, EXAMPLES[name], dataclasses.replace(SMALL, accuracy="exact")))


BOUNDED = """
variant v(sink: f32[num_heads], const c: f32 = 1.0) {
    logits    = c * tanh(score * 40.0 / c)
    mask      = q >= k and q - k < 50
    normalize = softmax(sink = sink[h])
}
"""


@pytest.mark.parametrize(("dtype", "cap"), [("bf16", 60.0), ("f16", 9.7), ("f16", 30.0)])
def test_logits_proven_small_need_no_running_maximum(tmp_path: Path, dtype: mma_sm80.Dtype, cap: float) -> None:
    """Logits at both ends of their bound, rows that see nothing, a sink, splits: as with the maximum. In f16 weights of
    30 would not do, and that variant keeps it."""
    variant = canonicalize(grammar.read(Source("v.attn", BOUNDED)).definitions["v"].instantiate({"c": cap}))
    check_generated(*generated(tmp_path, variant, dataclasses.replace(SMALL, accuracy="exact", dtype=dtype)))


def generated(folder: Path, variant: Variant, config: mma_sm80.Config) -> tuple[Any, Variant, mma_sm80.Config]:
    """The kernel of a variant as the emitter writes it, the variant and the configuration."""
    text = assemble(variant, emit_variant(variant), mma_sm80.HEADER, mma_sm80.render_config(config), {}).plain
    return emulated.build(folder, variant.name, text, generated=True), variant, config


def check_generated(library: Any, variant: Variant, config: Any, sizes: Sizes = SIZES) -> None:
    """Runs a variant on a padded batch, and on a ragged one in three splits, and compares with float64."""
    source = emit_variant(variant)
    padded = emit_cases.random_case(variant, 1, sizes)
    for case, splits in ((padded, 0), (emit_cases.ragged(padded), 3)):
        call = case.call
        lens = (call.qo_lens.tolist(), call.kv_lens.tolist())
        batch = emulated.Batch.make(config, *lens, sizes.num_heads, sizes.num_kv_heads, ragged=splits > 0)
        with emitted.parameter_block(source, case) as block:
            assert block.value is not None
            batch.run(library, block.value, splits=splits)
        stored = ((sizes.qo_len, sizes.num_heads), *[(sizes.kv_len, sizes.num_kv_heads)] * 2)
        inputs = [np.zeros((sizes.batch, tokens, heads, sizes.head_dim)) for tokens, heads in stored]
        for b in range(sizes.batch):
            for array, part in zip(inputs, batch.stored(b), strict=True):
                array[b, : len(part)] = part.astype(np.float64)
        expected, eager = (
            attention(
                variant,
                *inputs,
                params=call.params,
                tensors=call.tensors,
                sm_scale=None if np.isnan(case.sm_scale) else case.sm_scale,
                q_start=call.q_starts,
                k_start=call.k_starts,
                qo_lens=call.qo_lens,
                kv_lens=call.kv_lens,
                dtype=dtype,
            )
            for dtype in (None, config.dtype)
        )
        # A transformed vector is rounded once more: then large logits move, eagerly too.
        branch = variant.branches[0]
        moved = any((branch.query, branch.key, branch.value))
        for b, rows in enumerate(lens[0]):
            slack = 2.0 * np.linalg.norm(eager.out[b] - expected.out[b], axis=-1).max() if moved else 0.0
            lse, lse_error = None, 1e-4
            if expected.lse is not None and eager.lse is not None:
                lse = expected.lse[b, :rows]
                seen = np.isfinite(lse)
                lse_error += np.abs(eager.lse[b, :rows][seen] - lse[seen]).max(initial=0.0) if moved else 0.0
            batch.compare(b, expected.out[b, :rows], lse, lse_error=lse_error, slack=slack)


BAND = """
variant v(sink: f32[num_heads], bias: f32[batch, kv_len], const w: i32 = 100) {
    logits    = score + bias[b, col]
    mask      = q >= k and q - k < w
    normalize = softmax(sink = sink[h])
}
"""
BARRIERS = """
extern "C" __attribute__((visibility("default"))) unsigned barriers() { return emulator::cta_barrier.generation; }
"""


@pytest.mark.parametrize(
    ("change", "width"),
    [
        ({}, 1),
        ({}, 40),
        ({}, 65),
        ({"block_m": 128, "block_n": 64, "warps": 4}, 100),
        ({"block_m": 128, "block_n": 64, "warps": 8}, 131),
        ({"block_m": 128, "block_n": 32, "warps": 4}, 64),
    ],
    ids=str,
)
def test_first_and_last_tiles_of_a_band_are_one_step(tmp_path: Path, change: dict[str, Any], width: int) -> None:
    """Bands of one tile and of several, wider and narrower than a warp's rows, with keys' values, ragged, in splits."""
    config = dataclasses.replace(SMALL, accuracy="exact", folds=True, **change)
    variant = canonicalize(grammar.read(Source("v.attn", BAND)).definitions["v"].instantiate({"w": width}))
    check_generated(*generated(tmp_path, variant, config))


def test_a_folded_item_takes_a_step_less(tmp_path: Path) -> None:
    """Counted in barriers, of which a step has one: of a window over both ends of 64 rows, and of none."""
    case = Case((64,), (200,), heads=1)
    for name, steps in (("gemma2", 1), ("causal", 0)):
        counts = []
        for folds in (False, True):
            config = dataclasses.replace(SMALL, folds=folds)
            library = emulated.build(tmp_path, f"{name}{folds}", variants.definitions(name, config) + BARRIERS)
            check(library, name, config, case)
            counts.append(library.barriers())
        assert counts[0] - counts[1] == steps, (name, counts)


PLACES = """
extern "C" __attribute__((visibility("default"))) void places(int splits, int kv_heads, int tiles,
                                                             const int* grid, int* out) {
  attncc::Launch launch{};
  launch.num_splits = splits, launch.num_kv_heads = kv_heads;
  gridDim = {unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
  for (unsigned z = 0; z < gridDim.z; ++z)
    for (unsigned y = 0; y < gridDim.y; ++y)
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        const attncc::mma_sm80::Place place = attncc::mma_sm80::block_place(launch, tiles);
        *out++ = place.from_end, *out++ = place.slot, *out++ = place.b, *out++ = place.hk;
      }
}
"""


@pytest.mark.parametrize(
    ("splits", "kv_heads", "batch", "rows", "cols"),
    [(0, 3, 5, 40, 40), (3, 2, 2, 65, 900), (0, 8, 32, 256, 2048), (2, 7, 19, 32, 2048), (0, 1, 2, 65536 * 32, 9)],
)
def test_every_item_has_one_block(tmp_path: Path, splits: int, kv_heads: int, batch: int, rows: int, cols: int) -> None:
    """Whatever the sections, with more row tiles than a grid has in y too; of a section, the last row tiles first."""
    library = emulated.build(tmp_path, "places", variants.definitions("causal", SMALL) + PLACES)
    tiles, parts = -(-rows // SMALL.block_m), max(splits, 1)
    sizes = {"max_qo_len": rows, "group": 1, "num_kv_heads": kv_heads, "batch": batch, "max_kv_len": cols}
    x, y, z = variants.main_grid(SMALL, sizes)
    grid = np.array((x * parts, y, z), np.int32)
    found = np.zeros((grid.prod(), 4), np.int32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (grid, found)]
    library.places(splits, kv_heads, tiles, *pointers)
    used = (found[:, 0] < tiles) & (found[:, 2] < batch)
    items = np.ravel_multi_index(tuple(found[used].T), (tiles, parts, batch, kv_heads))
    assert np.array_equal(np.sort(items), np.arange(tiles * parts * batch * kv_heads))
    sections = found.reshape(z if tiles <= 65535 else 1, -1, 4)
    assert (np.diff(sections[:, :, 0], axis=1) >= 0).all()


def test_merged_states_merge_again(build: Any) -> None:
    """`merge` may leave a state, without the sink, which a later merge takes as one of its parts."""
    case = Case((19, 5), (170, 41), heads=3, ragged=True, splits=4)
    library, name = build("sink", SMALL), "sink"
    check(library, name, SMALL, case, through_state=True)


@pytest.mark.parametrize("kv_len", [600, 66_000])
def test_documents_are_computed_however_many_tiles_are_skipped(tmp_path: Path, kv_len: int) -> None:
    check_far_documents(
        *generated(tmp_path, EXAMPLES["documents"], dataclasses.replace(SMALL, accuracy="exact")), kv_len
    )


def check_far_documents(library: Any, variant: Variant, config: Any, kv_len: int) -> None:
    """One request whose rows are of the last two documents; 66,000 columns are more than its bitmap has bits for."""
    source = emit_variant(variant)
    assert "has_screen */ true" in source.text.render()
    sizes = dataclasses.replace(SIZES, batch=1, num_heads=2, num_kv_heads=1, qo_len=70, kv_len=kv_len)
    case = emit_cases.random_case(variant, 1, sizes, starts=False)
    doc = (np.arange(kv_len, dtype=np.int32)[None] + 60) // 100
    call = dataclasses.replace(
        case.call, tensors={"doc": doc}, qo_lens=np.array([70]), kv_lens=np.array([kv_len]),
        q_starts=np.array([kv_len - 70]), k_starts=np.array([0]),
    )  # fmt: skip
    case = dataclasses.replace(case, call=call, stored={"doc": doc})
    batch = emulated.Batch.make(config, [70], [kv_len], 2, 1)
    with emitted.parameter_block(source, case) as block:
        assert block.value is not None
        batch.run(library, block.value)
    last = kv_len - 240  # no row attends a column before
    q, k, v = batch.inputs(0)
    rows, cols = np.arange(kv_len - 70, kv_len)[:, None], np.arange(last, kv_len)[None]
    mask = (doc[0][rows] == doc[0][cols]) & (cols <= rows)
    logits = q @ k[:, last:].transpose(0, 2, 1) * case.sm_scale
    logits -= np.max(np.where(mask, logits, -np.inf), axis=-1, keepdims=True)
    weights = np.where(mask, np.exp(logits), 0.0)
    expected = (weights / weights.sum(-1, keepdims=True)) @ v[:, last:]
    batch.compare(0, expected.transpose(1, 0, 2), None)
