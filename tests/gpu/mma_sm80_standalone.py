"""Runs the hand-written variants of mma_sm80 on a GPU against float64, without any other part of the package.

    python tests/gpu/mma_sm80_standalone.py [--bench] [--only NAME] [--head-dims 64,128]

Checks, for every row, ||err|| <= 1.5 (||eager err|| + u ||ref||) and |lse - ref| <= 2e-3; that rows and neighbours
around the output keep their poison; that NaN outside a request's columns never shows. Prints a line per case.
"""

import argparse
import dataclasses
import math
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import cupy  # noqa: E402
import torch  # noqa: E402

from attncc.codegen.families import mma_sm80  # noqa: E402
from attncc.codegen.launch_block import LAUNCH_FIELDS, place, scalar_fields, tensor_fields  # noqa: E402
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


CASES = (
    Case(4, 4, 128, 128),
    Case(8, 2, 77, 301),
    Case(4, 1, 1, 513, strided=True),
    Case(7, 1, 61, 333, strided=True),
    Case(8, 2, 130, 200, qo_lens=(130, 0, 63), kv_lens=(130, 5, 200), batch=3, strided=True),
    Case(2, 2, 96, 40),
    Case(2, 1, 50, 70, qo_lens=(50, 3), kv_lens=(0, 70)),
    Case(4, 2, 65, 129, q_starts=(40, 300), k_start=7),
    Case(2, 1, 1100, 1111, batch=1),
)


def kernel(name: str, config: mma_sm80.Config) -> Callable[..., None]:
    module = cupy.RawModule(
        code=variants.source(name, config), backend="nvrtc", options=("-std=c++17", f"-I{ROOT / 'codegen'}")
    )
    function = module.get_function(mma_sm80.ENTRIES["main"])
    function.max_dynamic_shared_size_bytes = config.smem_bytes

    def launch(params: torch.Tensor, max_qo_len: int, group: int, kv_heads: int, batch: int) -> None:
        grid = (-(-max_qo_len * group // config.block_m), kv_heads, batch)
        function(grid, (config.threads,), (params.data_ptr(),), shared_mem=config.smem_bytes)

    return launch


def parameter_block(name: str, words: dict[str, Any]) -> torch.Tensor:
    fields = list(LAUNCH_FIELDS)
    extra: list[tuple[str, str]] = []
    for field, ctype in variants.FIELDS[name]:
        if "Scalar" in ctype:
            extra += scalar_fields(field, "f32" if "float" in ctype else "i32")
        else:
            extra += tensor_fields(field, int(ctype.rstrip(">").split(",")[1]))
    fields += place(extra, fields[-1].offset + fields[-1].size)
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


def parameters(name: str, case: Case) -> tuple[dict[str, Any], dict[str, torch.Tensor | float]]:
    generator = torch.Generator(device="cuda").manual_seed(3)
    if name == "gemma2":
        return {"softcap.value": 5.0, "window.value": 50}, {"softcap": 5.0, "window": 50}
    if name == "alibi":
        slopes = 2.0 ** -torch.linspace(1, 8, case.heads, device="cuda")
        return tensor_words("slopes", slopes), {"slopes": slopes}
    if name == "sink":
        sinks = torch.randn(case.heads, device="cuda", generator=generator)
        return {**tensor_words("sinks", sinks), "window.value": 37}, {"sinks": sinks, "window": 37}
    if name == "documents":
        doc = (torch.arange(case.kv_len, device="cuda") // 45).int().repeat(case.batch, 1)
        return tensor_words("doc", doc), {"doc": doc}
    return {}, {}


def formula(name: str, values: dict[str, Any], score: Any, b: int, row: Any, col: Any, q: Any, k: Any, own: Any) -> Any:
    """score [heads, rows, cols] in any dtype -> (logits, mask)."""
    causal = q >= k
    if name == "dense":
        return score, torch.ones_like(causal)
    if name == "gemma2":
        return values["softcap"] * torch.tanh(score / values["softcap"]), causal & (q - k < values["window"])
    if name == "alibi":
        bias = values["slopes"][:, None, None] * (k - q).float()
        return score + bias.to(score.dtype), causal
    if name == "sink":
        return score, causal & (q - k < values["window"])
    if name == "documents":
        doc = values["doc"][b].long()
        return score, causal & (doc[own.clamp(0, len(doc) - 1)] == doc[col])
    return score, causal


def reference(
    name: str, values: dict[str, Any], case: Case, b: int, q: Any, k: Any, v: Any, start: tuple[int, int], eager: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [rows, heads, dim] and lse [rows, heads] of one request, in float64, or op by op in the input's dtype."""
    compute = q.dtype if eager else torch.float64
    group = case.heads // case.kv_heads
    q, k, v = (x.to(compute).transpose(0, 1) for x in (q, k, v))
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    row = torch.arange(q.shape[1], device="cuda")[:, None]
    col = torch.arange(k.shape[1], device="cuda")[None, :]
    score = (q @ k.transpose(1, 2)) * (1.0 / math.sqrt(q.shape[2]))
    own = row + k.shape[1] - q.shape[1]
    logits, mask = formula(name, values, score, b, row, col, start[0] + row, start[1] + col, own)
    wide = logits.to(torch.float32 if eager else torch.float64).masked_fill(~mask, -math.inf)
    if name == "sink":
        sink = values["sinks"].to(wide.dtype)[:, None, None].expand(-1, wide.shape[1], 1)
        denominator = torch.logsumexp(torch.cat([wide, sink], -1), -1)
    elif wide.shape[2]:
        denominator = torch.logsumexp(wide, -1)
    else:
        denominator = wide.new_full(wide.shape[:2], -math.inf)
    weights = torch.exp(wide - denominator[..., None].nan_to_num(neginf=0.0))
    out = weights.to(compute) @ v
    return out.transpose(0, 1).double(), denominator.transpose(0, 1).double()


def run_case(name: str, config: mma_sm80.Config, launch: Callable[..., None], case: Case) -> tuple[bool, str]:
    dtype = TORCH[config.dtype]
    torch.manual_seed(1)
    q = storage(case.batch, case.qo_len, case.heads, config.head_dim, dtype, math.nan, case.strided)
    k = storage(case.batch, case.kv_len, case.kv_heads, config.head_dim, dtype, math.nan, case.strided)
    v = storage(case.batch, case.kv_len, case.kv_heads, config.head_dim_v, dtype, math.nan, case.strided)
    out = storage(case.batch, case.qo_len, case.heads, config.head_dim_v, dtype, POISON, case.strided)
    lse = torch.full(out.shape[:3], POISON, device="cuda")
    qo_lens = case.qo_lens or (case.qo_len,) * case.batch
    kv_lens = case.kv_lens or (case.kv_len,) * case.batch
    for b in range(case.batch):
        for tensor, length, gain in ((q, qo_lens[b], 2.0), (k, kv_lens[b], 1.0), (v, kv_lens[b], 1.0)):
            tensor[b, :length] = gain * torch.randn(length, *tensor.shape[2:], device="cuda")
    words, values = parameters(name, case)
    words |= {"q": q.data_ptr(), "k": k.data_ptr(), "v": v.data_ptr(), "out": out.data_ptr(), "lse": lse.data_ptr()}
    for label, tensor in (("q_stride", q), ("k_stride", k), ("v_stride", v), ("out_stride", out), ("lse_stride", lse)):
        words |= strides(label, tensor)
    keep = []
    for label, given in (("qo_lens", case.qo_lens), ("kv_lens", case.kv_lens), ("q_starts", case.q_starts)):
        if given is not None:
            keep.append(torch.tensor(given, dtype=torch.int32, device="cuda"))
            words[label] = keep[-1].data_ptr()
    words |= {"sm_scale.value": 1.0 / math.sqrt(config.head_dim), "batch": case.batch, "num_heads": case.heads}
    words |= {"num_kv_heads": case.kv_heads, "group": case.heads // case.kv_heads, "k_start": case.k_start}
    words |= {"max_qo_len": case.qo_len, "max_kv_len": case.kv_len}
    block = parameter_block(name, words)
    launch(block, case.qo_len, case.heads // case.kv_heads, case.kv_heads, case.batch)
    torch.cuda.synchronize()

    worst, worst_lse, sums, problems = 0.0, 0.0, [0.0, 0.0], []
    for b in range(case.batch):
        rows, cols = qo_lens[b], kv_lens[b]
        q_start = case.q_starts[b] if case.q_starts else case.k_start + cols - rows
        inputs = (q[b, :rows], k[b, :cols], v[b, :cols], (q_start, case.k_start))
        expected, expected_lse = reference(name, values, case, b, *inputs, eager=False)
        eager, _ = reference(name, values, case, b, *inputs, eager=True)
        got, got_lse = out[b, :rows].double(), lse[b, :rows].double()
        if rows:
            error = (got - expected).norm(dim=-1)
            eager_error = (eager - expected).norm(dim=-1)
            bound = 1.5 * (eager_error + UNIT[config.dtype] * expected.norm(dim=-1))
            if not bool((error <= bound).all()):  # NaN fails
                problems.append(f"row norm b={b} {int((~(error <= bound)).sum())} of {error.numel()} rows")
            worst = max(worst, float((error / bound.clamp_min(1e-30)).max()))
            sums[0] += float(error.sum())
            sums[1] += float(eager_error.sum())
            empty = expected_lse == -math.inf
            if not torch.equal(got_lse[empty], expected_lse[empty]) or bool(got[empty].abs().sum() != 0):
                problems.append(f"empty rows b={b}")
            difference = (got_lse - expected_lse)[~empty].abs()
            if difference.numel():
                worst_lse = max(worst_lse, float(difference.max()))
                if not bool((difference <= 2e-3).all()):
                    problems.append(f"lse b={b}")
        if bool((out[b, rows:] != POISON).any()) or bool((lse[b, rows:] != POISON).any()):
            problems.append(f"wrote past row {rows} of b={b}")
    if case.strided:
        under = out.as_strided((case.batch, case.heads, case.qo_len + 3, 8), _padding_strides(out), config.head_dim_v)
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


def run_structure(config: mma_sm80.Config, launch: Callable[..., None]) -> tuple[bool, str]:
    """Causal, K = 0, V the indicator of the key: the output's nonzeros are the keys that a row saw."""
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
    launch(block, length, 1, 2, 1)
    seen = out[0, :, :, :length] != 0
    expected = torch.ones(length, length, dtype=torch.bool, device="cuda").tril()[:, None].expand(-1, 2, -1)
    return torch.equal(seen, expected), "keys seen"


def bench(dtype_name: str, head_dim: int) -> None:
    """TFLOP/s beside torch's flash backend, alternating; every row of a small table of tiles."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    base = mma_sm80.choose(dtype_name, head_dim, head_dim, "sm_90a")  # type: ignore[arg-type]
    shapes = [(128, 64, 8, False), (128, 64, 4, False), (128, 32, 4, False), (64, 64, 4, False), (64, 64, 4, True)]
    shapes += [(128, 64, 8, True), (128, 128, 8, False), (64, 128, 4, False), (128, 48, 4, False), (64, 32, 4, True)]
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
        for name in ("dense", "causal", "gemma2"):
            flops = 4 * batch * heads * length * length * head_dim / (1 if name == "dense" else 2)
            block = parameter_block(name, words)

            def flash(name: str = name, q: Any = q, k: Any = k, v: Any = v) -> None:
                with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                    args = (q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
                    torch.nn.functional.scaled_dot_product_attention(*args, is_causal=name != "dense")

            for block_m, block_n, warps, in_registers in shapes:
                config = dataclasses.replace(
                    base, block_m=block_m, block_n=block_n, warps=warps, q_in_registers=in_registers, min_blocks=1
                )
                try:
                    launch = kernel(name, config)
                    mine = lambda: launch(block, length, 1, heads, batch)  # noqa: B023, E731
                    ratios, speeds = [], []
                    for _ in range(6):
                        ours, peer = seconds(mine), seconds(flash)
                        ratios.append(peer / ours)
                        speeds.append(flops / ours / 1e12)
                    ratio, speed = sorted(ratios)[3], sorted(speeds)[3]
                    print(
                        f"bench {name:7} {dtype_name} D{head_dim} S{length} {block_m}x{block_n} warps {warps} "
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
    return begin.elapsed_time(end) / 1e3 / repeats


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--only", choices=variants.NAMES)
    parser.add_argument("--head-dims", default="64,128")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "cupy", cupy.__version__, flush=True)
    failed = total = 0
    for name in (arguments.only,) if arguments.only else variants.NAMES:
        for head_dim in map(int, arguments.head_dims.split(",")):
            for dtype in ("f16", "bf16"):
                config = mma_sm80.choose(dtype, head_dim, head_dim, "sm_90a")  # type: ignore[arg-type]
                begin = time.perf_counter()
                try:
                    launch = kernel(name, config)
                except Exception as error:
                    print(f"{name} D{head_dim} {dtype}: does not compile\n{str(error)[:3000]}", flush=True)
                    failed += 1
                    continue
                print(f"{name} D{head_dim} {dtype}: compiled in {time.perf_counter() - begin:.2f} s", flush=True)
                checks = [(str(case), lambda case=case: run_case(name, config, launch, case)) for case in CASES]  # noqa: B023
                if name == "causal":
                    checks.append(("structure", lambda: run_structure(config, launch)))  # noqa: B023
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
                    print(f"  {'ok  ' if good else 'FAIL'} {label}: {text}", flush=True)
    print(f"{total - failed} of {total} passed", flush=True)
    if arguments.bench:
        for head_dim in map(int, arguments.head_dims.split(",")):
            bench("bf16", head_dim)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
