"""Runs the hand-written variants of mma_sm80 on a GPU against float64, without any other part of the package.

    python tests/gpu/mma_sm80_standalone.py [--bench] [--only NAME] [--shapes 64,128,192/128]

Checks, for every row, ||err|| <= 1.5 (||eager err|| + u ||ref||) and |lse - ref| <= 2e-3; that rows and neighbours
around the output keep their poison; that NaN outside a request's columns never shows. Prints a line per case.
"""

import argparse
import dataclasses
import functools
import math
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import cupy  # noqa: E402
import torch  # noqa: E402

from attncc.codegen.families import merge, mma_sm80  # noqa: E402
from attncc.codegen.families.entries import SYMBOLS  # noqa: E402
from attncc.codegen.launch_block import LAUNCH_FIELDS, place  # noqa: E402
from tests.unit import mma_sm80_reference as meaning  # noqa: E402
from tests.unit import mma_sm80_variants as variants  # noqa: E402

TORCH = {"f16": torch.float16, "bf16": torch.bfloat16}
UNIT = {"f16": 2.0**-12, "bf16": 2.0**-9}
POISON = 1024.0
FORMATS = {"ptr": "<Q", "i64": "<q", "i32": "<i", "u32": "<I", "f32": "<f"}


@dataclasses.dataclass(frozen=True)
class Case:
    heads: int
    kv_heads: int
    qo_len: int
    kv_len: int
    qo_lens: tuple[int, ...] | None = None
    kv_lens: tuple[int, ...] | None = None
    q_starts: tuple[int, ...] | None = None
    k_start: int = 0
    strided: bool = False
    batch: int = 2
    ragged: bool = False
    splits: int = 0
    growth: float = 1.0  # of the keys of every request's second half


CASES = (
    Case(4, 4, 128, 128),
    Case(8, 2, 77, 301, splits=3),
    Case(4, 1, 1, 513, strided=True, splits=8),
    Case(7, 1, 61, 333, strided=True),
    Case(8, 2, 130, 200, qo_lens=(130, 0, 63), kv_lens=(130, 5, 200), batch=3, ragged=True),
    Case(2, 1, 50, 70, qo_lens=(50, 3), kv_lens=(0, 70), ragged=True, splits=2),
    Case(18, 2, 65, 129, q_starts=(129, 300), k_start=7),
    Case(2, 1, 1100, 1111, batch=1),
)
LEAD = 3  # tokens before the first request of a ragged batch
# What the family calls heavy, of the hand-written variants.
HEAVY = {"rope": "key", "sigmoid": "weight", "retention": "weight", "normed": "output", "distance": "gather"}
# (head_dim, head_dim_v), and the variants that run at each: all of them at 64 and 128.
SHAPES: dict[tuple[int, int], tuple[str, ...]] = {
    (64, 64): variants.NAMES,
    (128, 128): variants.NAMES,
    (32, 32): ("causal", "normed"),
    (80, 80): ("documents", "rope"),
    (96, 96): ("causal", "retention"),
    (192, 192): ("causal", "normed"),
    (192, 128): ("causal", "distance"),
    (256, 256): ("causal", "gemma2", "normed"),
}


class Kernel:
    """The two entries of a variant's translation unit."""

    def __init__(self, name: str, config: mma_sm80.Config) -> None:
        module = cupy.RawModule(
            code=variants.source(name, config), backend="nvrtc", options=("-std=c++17", f"-I{ROOT / 'codegen'}")
        )
        self.config = config
        self.main = module.get_function(SYMBOLS["main"])
        self.main.max_dynamic_shared_size_bytes = config.smem_bytes
        self.finish = module.get_function(SYMBOLS["merge"])

    def launch(self, params: torch.Tensor, sizes: Mapping[str, int], splits: int = 0) -> None:
        """``sizes``: the words of Launch that the grid depends on, and more."""
        x, y, z = variants.main_grid(self.config, sizes)
        grid, smem = (x * max(splits, 1), y, z), self.config.smem_bytes
        self.main(grid, (self.config.threads,), (params.data_ptr(),), shared_mem=smem)
        if splits:
            blocks = -(-sizes["max_qo_len"] * sizes["num_heads"] // merge.WARPS)
            self.finish((blocks, 1, sizes["batch"]), (32 * merge.WARPS,), (params.data_ptr(),))


def parameter_block(name: str, words: dict[str, Any]) -> torch.Tensor:
    fields = list(LAUNCH_FIELDS)
    fields += place(variants.words(name), fields[-1].offset + fields[-1].size)
    assert not set(words) - {field.name for field in fields} - {"softcap.value", "window.value"}
    block = bytearray(fields[-1].offset + fields[-1].size)
    for field in fields:
        struct.pack_into(FORMATS[field.ctype], block, field.offset, words.get(field.name, 0))
    return torch.frombuffer(block, dtype=torch.uint8).cuda()


def strides(name: str, tensor: torch.Tensor) -> dict[str, int]:
    return {f"{name}.batch": tensor.stride(0), f"{name}.token": tensor.stride(1), f"{name}.head": tensor.stride(2)}


def tensor_words(name: str, tensor: torch.Tensor) -> dict[str, int]:
    words = {f"{name}.data": tensor.data_ptr()}
    for axis in range(tensor.dim()):
        words[f"{name}.extent[{axis}]"] = tensor.shape[axis]
        words[f"{name}.stride[{axis}]"] = tensor.stride(axis)
    return words


def storage(
    batch: int, tokens: int, heads: int, dim: int, dtype: torch.dtype, fill: float, strided: bool
) -> torch.Tensor:
    """[batch, tokens + 3, heads, dim], filled; strided: [batch, heads, tokens + 3, dim + 8] underneath, all filled."""
    if not strided:
        return torch.full((batch, tokens + 3, heads, dim), fill, dtype=dtype, device="cuda")
    under = torch.full((batch, heads, tokens + 3, dim + 8), fill, dtype=dtype, device="cuda")
    return under.transpose(1, 2)[..., :dim]


def parameters(
    name: str, case: Case, head_dim: int, indptrs: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[dict[str, Any], dict[str, Any], list[torch.Tensor]]:
    """The words of a variant's parameters, their values for the reference, and what must stay alive."""
    values = meaning.make_values(name, case.heads, case.batch, case.qo_len, case.kv_len, head_dim)
    values = {field: value.cuda() if isinstance(value, torch.Tensor) else value for field, value in values.items()}
    words: dict[str, Any] = {}
    alive = []
    for field, ctype in variants.FIELDS[name]:
        if "Scalar" in ctype:
            words[f"{field}.value"] = values[field]
            continue
        tensor = values[field].contiguous()
        words |= tensor_words(field, tensor)
        if "Token" in ctype and indptrs is not None:
            indptr = indptrs[0 if field == "gate" else 1]
            bounds = indptr.tolist()
            flat = torch.full((bounds[-1] + 1, *tensor.shape[2:]), math.nan, device="cuda")
            for b in range(case.batch):
                flat[bounds[b] : bounds[b + 1]] = tensor[b, : bounds[b + 1] - bounds[b]]
            words |= {f"{field}.data": flat.data_ptr(), f"{field}.indptr": indptr.data_ptr()}
            tensor = flat
        alive.append(tensor)
    return words, values, alive


def run_case(name: str, kernel: Kernel, case: Case) -> tuple[bool, str]:
    config = kernel.config
    dtype = TORCH[config.dtype]
    torch.manual_seed(1)
    qo_lens = case.qo_lens or (case.qo_len,) * case.batch
    kv_lens = case.kv_lens or (case.kv_len,) * case.batch
    batch, rows, cols = case.batch, case.qo_len, case.kv_len
    if case.ragged:
        batch, rows, cols = 1, LEAD + sum(qo_lens), LEAD + sum(kv_lens)
    q = storage(batch, rows, case.heads, config.head_dim, dtype, math.nan, case.strided)
    k = storage(batch, cols, case.kv_heads, config.head_dim, dtype, math.nan, case.strided)
    v = storage(batch, cols, case.kv_heads, config.head_dim_v, dtype, math.nan, case.strided)
    out = storage(batch, rows, case.heads, config.head_dim_v, dtype, POISON, case.strided)
    lse = torch.full(out.shape[:3], POISON, device="cuda")
    indptrs = None
    if case.ragged:
        cumulated = [torch.tensor((LEAD, *lens), device="cuda").cumsum(0).int() for lens in (qo_lens, kv_lens)]
        indptrs = (cumulated[0], cumulated[1])

    def part(tensor: torch.Tensor, lens: tuple[int, ...], b: int) -> torch.Tensor:
        first = LEAD + sum(lens[:b])
        return tensor[0, first : first + lens[b]] if case.ragged else tensor[b, : lens[b]]

    for b in range(case.batch):
        for tensor, lens, gain in ((q, qo_lens, 2.0), (k, kv_lens, 1.0), (v, kv_lens, 1.0)):
            target = part(tensor, lens, b)
            target[:] = gain * torch.randn(target.shape, device="cuda")
            if tensor is k:
                target[lens[b] // 2 :] *= case.growth
    words, values, alive = parameters(name, case, config.head_dim, indptrs)
    words |= {"q": q.data_ptr(), "k": k.data_ptr(), "v": v.data_ptr(), "out": out.data_ptr(), "lse": lse.data_ptr()}
    for label, tensor in (("q_stride", q), ("k_stride", k), ("v_stride", v), ("out_stride", out), ("lse_stride", lse)):
        words |= strides(label, tensor)
        if case.ragged:
            words[f"{label}.batch"] = 0
    given: dict[str, tuple[int, ...] | None] = {"q_starts": case.q_starts}
    if indptrs is not None:
        words |= {"qo_indptr": indptrs[0].data_ptr(), "kv_indptr": indptrs[1].data_ptr()}
    else:
        given |= {"qo_lens": case.qo_lens, "kv_lens": case.kv_lens}
    for label, numbers in given.items():
        if numbers is not None:
            alive.append(torch.tensor(numbers, dtype=torch.int32, device="cuda"))
            words[label] = alive[-1].data_ptr()
    sm_scale = 1.0 / math.sqrt(config.head_dim)
    words |= {"sm_scale.value": sm_scale, "batch": case.batch, "num_heads": case.heads}
    words |= {"num_kv_heads": case.kv_heads, "group": case.heads // case.kv_heads, "k_start": case.k_start}
    words |= {"max_qo_len": case.qo_len, "max_kv_len": case.kv_len}
    if case.splits:
        tokens = out.shape[0] * out.shape[1]
        alive.append(torch.full((case.splits, tokens, case.heads, config.head_dim_v), math.nan, device="cuda"))
        alive.append(torch.full((case.splits, tokens, case.heads, 2), math.nan, device="cuda"))
        words |= {"split_out": alive[-2].data_ptr(), "split_state": alive[-1].data_ptr(), "split_tokens": tokens}
        tiles = -(-case.kv_len // config.block_n)
        words |= {"num_splits": case.splits, "split_cols": -(-tiles // case.splits) * config.block_n}
    block = parameter_block(name, words)
    kernel.launch(block, words, case.splits)
    first = out.clone()
    kernel.launch(block, words, case.splits)
    torch.cuda.synchronize()

    worst, worst_lse, sums, problems = 0.0, 0.0, [0.0, 0.0], []
    if not torch.equal(first.view(torch.int16), out.view(torch.int16)):
        problems.append("a second launch gives other bits")
    untouched = torch.ones(out.shape[:2], dtype=torch.bool, device="cuda")
    for b in range(case.batch):
        length = qo_lens[b]
        part(untouched, qo_lens, b)[:] = False
        if not length:
            continue
        q_start = case.q_starts[b] if case.q_starts else case.k_start + kv_lens[b] - length
        inputs = (part(q, qo_lens, b), part(k, kv_lens, b), part(v, kv_lens, b))
        starts = (q_start, case.k_start)
        expected, expected_lse = meaning.attention(name, values, b, inputs, starts, sm_scale)
        eager, _ = meaning.attention(name, values, b, inputs, starts, sm_scale, dtype)
        got, got_lse = part(out, qo_lens, b).double(), part(lse, qo_lens, b).double()
        error = (got - expected).norm(dim=-1)
        eager_error = (eager - expected).norm(dim=-1)
        bound = 1.5 * (eager_error + UNIT[config.dtype] * expected.norm(dim=-1))
        if not bool((error <= bound).all()):  # NaN fails
            problems.append(f"row norm b={b} {int((~(error <= bound)).sum())} of {error.numel()} rows")
        worst = max(worst, float((error / bound.clamp_min(1e-30)).max()))
        sums[0] += float(error.sum())
        sums[1] += float(eager_error.sum())
        if expected_lse is None:
            continue
        empty = expected_lse == -math.inf
        if not torch.equal(got_lse[empty], expected_lse[empty]) or bool(got[empty].abs().sum() != 0):
            problems.append(f"empty rows b={b}")
        difference = (got_lse - expected_lse)[~empty].abs()
        if difference.numel():
            worst_lse = max(worst_lse, float(difference.max()))
            if not bool((difference <= 2e-3).all()):
                problems.append(f"lse b={b}")
    if bool((out[untouched] != POISON).any()) or bool((lse[untouched] != POISON).any()):
        problems.append("wrote past a request's rows")
    if case.strided:
        under = out.as_strided((*out.shape[:1], case.heads, out.shape[1], 8), _padding_strides(out), config.head_dim_v)
        if bool((under != POISON).any()):
            problems.append("wrote between rows")
    ratio = sums[0] / sums[1] if sums[1] else 0.0
    elements = sum(qo_lens) * case.heads * config.head_dim_v
    if ratio > 1.0 and elements >= 4096:
        problems.append(f"mean error {ratio:.2f} of eager")
    text = f"row {worst:.2f} of bound, mean {ratio:.2f} of eager, lse {worst_lse:.1e}"
    return not problems, text + ("" if not problems else "  FAIL " + "; ".join(problems))


def _padding_strides(out: torch.Tensor) -> tuple[int, int, int, int]:
    return (out.stride(0), out.stride(2), out.stride(1), 1)


def run_structure(kernel: Kernel) -> tuple[bool, str]:
    """Causal, K = 0, V the indicator of the key: the output's nonzeros are the keys that a row saw."""
    config = kernel.config
    dtype, length = TORCH[config.dtype], min(config.head_dim_v, 61)
    q = torch.randn(1, length, 2, config.head_dim, device="cuda").to(dtype)
    k = torch.zeros(1, length, 2, config.head_dim, device="cuda", dtype=dtype)
    v = (
        torch.eye(length, config.head_dim_v, device="cuda", dtype=dtype)[None, :, None]
        .expand(1, -1, 2, -1)
        .contiguous()
    )
    out = torch.full_like(v, POISON)
    words: dict[str, Any] = {"q": q.data_ptr(), "k": k.data_ptr(), "v": v.data_ptr(), "out": out.data_ptr()}
    for label, tensor in (("q_stride", q), ("k_stride", k), ("v_stride", v), ("out_stride", out)):
        words |= strides(label, tensor)
    words |= {"sm_scale.value": 1.0, "batch": 1, "num_heads": 2, "num_kv_heads": 2, "group": 1}
    words |= {"max_qo_len": length, "max_kv_len": length}
    block = parameter_block("causal", words)
    kernel.launch(block, words)
    seen = out[0, :, :, :length] != 0
    expected = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()[:, None].expand(-1, 2, -1)
    return torch.equal(seen, expected), "keys seen"


# Tiles to compare, by head dim: block_m, block_n, warps, stages, Q in registers.
BENCHED = {
    64: [(128, 64, 4, 2, False), (128, 128, 4, 2, False), (128, 64, 4, 3, False), (128, 96, 4, 2, False),
         (128, 64, 4, 2, True), (128, 128, 8, 2, True), (64, 64, 4, 2, True), (192, 64, 6, 2, False)],
    128: [(128, 48, 4, 2, False), (128, 64, 4, 2, False), (128, 32, 4, 2, False), (128, 64, 8, 2, False)],
    256: [(128, 64, 8, 2, False), (128, 32, 8, 2, False), (128, 48, 8, 2, False), (64, 32, 4, 2, False),
          (64, 64, 4, 2, False), (128, 32, 8, 3, False)],
}  # fmt: skip


def bench(dtype_name: str, head_dim: int) -> None:
    """TFLOP/s beside torch's flash backend, alternating; every row of a small table of tiles."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    base = mma_sm80.choose(dtype_name, head_dim, head_dim, "sm_90a")  # type: ignore[arg-type]
    built: dict[tuple[str, mma_sm80.Config], Kernel] = {}
    for length in (2048, 8192):
        batch, heads = 16384 // length, 2048 // head_dim
        q, k, v = (
            torch.randn(batch, length, heads, head_dim, device="cuda", dtype=TORCH[dtype_name]) for _ in range(3)
        )
        out = torch.empty_like(q)
        words: dict[str, Any] = {"q": q.data_ptr(), "k": k.data_ptr(), "v": v.data_ptr(), "out": out.data_ptr()}
        for label, tensor in (("q_stride", q), ("k_stride", k), ("v_stride", v), ("out_stride", out)):
            words |= strides(label, tensor)
        words |= {"sm_scale.value": head_dim**-0.5, "batch": batch, "num_heads": heads, "num_kv_heads": heads}
        words |= {
            "group": 1,
            "max_qo_len": length,
            "max_kv_len": length,
            "softcap.value": 50.0,
            "window.value": 1 << 30,
        }
        for name in ("dense", "causal"):
            flops = 4 * batch * heads * length * length * head_dim / (1 if name == "dense" else 2)
            block = parameter_block(name, words)

            def flash(name: str = name, q: Any = q, k: Any = k, v: Any = v) -> None:
                with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                    args = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
                    torch.nn.functional.scaled_dot_product_attention(*args, is_causal=name != "dense")

            for block_m, block_n, warps, stages, in_registers in BENCHED[head_dim]:
                config = dataclasses.replace(base, block_m=block_m, block_n=block_n, warps=warps, stages=stages)
                config = dataclasses.replace(config, q_in_registers=in_registers, min_blocks=1)
                try:
                    made = built.get((name, config)) or Kernel(name, config)
                    built[name, config] = made
                    mine = lambda: made.launch(block, words)  # noqa: B023, E731
                    ratios, speeds = [], []
                    for _ in range(6):
                        ours, peer = seconds(mine), seconds(flash)
                        ratios.append(peer / ours)
                        speeds.append(flops / ours / 1e12)
                    ratio, speed = sorted(ratios)[3], sorted(speeds)[3]
                    print(
                        f"bench {name:7} {dtype_name} D{head_dim} S{length} {block_m}x{block_n} warps {warps} "
                        f"stages {stages} registers {made.main.num_regs} local {made.main.local_size_bytes} "
                        f"{'Q regs' if in_registers else 'Q smem'}: {speed:6.1f} TFLOP/s, {ratio:.3f} of flash",
                        flush=True,
                    )
                except Exception as error:  # a tile that does not fit is a row of the table too
                    print(f"bench {name} {block_m}x{block_n} warps {warps}: {str(error)[:100]}", flush=True)


def seconds(call: Callable[[], None], repeats: int = 5) -> float:
    call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def shapes(text: str) -> list[tuple[int, int]]:
    pairs = [part.split("/") for part in text.split(",")]
    return [(int(pair[0]), int(pair[-1])) for pair in pairs]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", action="store_true", help="also time tiles at head dims 64, 128 and 256")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--only", choices=variants.NAMES)
    parser.add_argument("--shapes", type=shapes, default=list(SHAPES))
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cupy", cupy.__version__, flush=True)
    failed = total = 0
    for head_dim, head_dim_v in [] if arguments.no_checks else arguments.shapes:
        for name in SHAPES.get((head_dim, head_dim_v), ("causal",)):
            if arguments.only not in (None, name):
                continue
            for dtype in ("f16", "bf16"):
                hooks = frozenset({HEAVY.get(name, "mask")})
                config = mma_sm80.choose(dtype, head_dim, head_dim_v, "sm_90a", hooks=hooks)
                begin = time.perf_counter()
                try:
                    kernel = Kernel(name, config)
                except Exception as error:
                    print(f"{name} D{head_dim} {dtype}: does not compile\n{str(error)[:3000]}", flush=True)
                    failed += 1
                    continue
                spent = time.perf_counter() - begin
                print(f"{name} D{head_dim}/{head_dim_v} {dtype}: compiled in {spent:.2f} s", flush=True)
                checks = [(str(case), functools.partial(run_case, name, kernel, case)) for case in CASES]
                if name == "causal":
                    checks.append(("structure", functools.partial(run_structure, kernel)))
                for label, check in checks:
                    total += 1
                    try:
                        good, text = check()
                    except Exception as error:
                        good, text = False, f"FAIL {type(error).__name__}: {str(error)[:500]}"
                        if "CUDA" in text or "cuda" in text:  # the context is lost; nothing after it says anything
                            print(f"  {label}: {text}", flush=True)
                            return 1
                    failed += not good
                    if not good:
                        print(f"  FAIL {label}: {text}", flush=True)
    print(f"{total - failed} of {total} passed", flush=True)
    if arguments.bench:
        for head_dim in BENCHED:
            bench("bf16", head_dim)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
