"""Runs the hand-written variants through wgmma_sm90 on a GPU against float64, without the runtime of the package.

    python tests/gpu/wgmma_sm90_standalone.py [--bench] [--no-checks] [--only NAMES] [--dims 64,128] [--tiles ...]

Every check is that of mma_sm80_standalone.py, which this imports. A wrong barrier hangs a kernel, so a worker process
does the launching; the kernels it checks stop when they wait too long, and a worker that is silent for --patience
seconds is ended. --tiles 128:2x128x2x2x3,64:3x112x3x2x3: consumers, columns, stages of K and V, stages
of Q and slots of items by head dim.
--bench times dense and causal beside cuDNN, in turns, and prints a table last.
"""

import argparse
import ctypes
import dataclasses
import multiprocessing
import queue
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from cuda.bindings import driver  # noqa: E402

from attncc.codegen.families import merge, wgmma_sm90  # noqa: E402
from attncc.codegen.families.entries import SYMBOLS  # noqa: E402
from attncc.codegen.nvrtc import compile_cuda  # noqa: E402
from tests.gpu import mma_sm80_standalone as common  # noqa: E402
from tests.unit import mma_sm80_variants as variants  # noqa: E402

NAMES = tuple(name for name in variants.NAMES if name not in ("rope", "normed"))
Case = common.Case
CASES = (
    *common.CASES,
    Case(2, 2, 384, 640, batch=1),
    Case(4, 4, 300, 1000, kv_lens=(1000, 129), batch=2),
    Case(3, 3, 1, 1, batch=1),
    Case(2, 2, 257, 255, batch=3, strided=True),
    Case(2, 2, 100, 900, batch=2, growth=60.0),
)


def check(result: tuple[Any, ...]) -> Any:
    if int(result[0]) != 0:
        raise RuntimeError(f"CUDA driver: {result[0]}")
    return result[1] if len(result) > 1 else None


def tensor_map(pointer: int, dtype: str, sizes: list[int], strides: list[int], box: list[int]) -> bytes:
    """A descriptor of 16-bit elements: sizes and box innermost first, strides in bytes of every axis but the first."""
    kinds = driver.CUtensorMapDataType
    made = check(
        driver.cuTensorMapEncodeTiled(
            kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 if dtype == "bf16" else kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            len(sizes),
            pointer,
            [driver.cuuint64_t(size) for size in sizes],
            [driver.cuuint64_t(stride) for stride in strides],
            [driver.cuuint32_t(size) for size in box],
            [driver.cuuint32_t(1)] * len(sizes),
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )
    return ctypes.string_at(made.getPtr(), 128)


@dataclasses.dataclass(frozen=True)
class Operand:
    """K or V as the copy engine sees it: [batch, tokens, heads, dim] in elements; ragged tensors have batch 1."""

    pointer: int
    sizes: tuple[int, int, int, int]
    strides: tuple[int, int, int]

    def map(self, dtype: str, box: list[int]) -> bytes:
        batch, tokens, heads, dim = self.sizes
        strides = [2 * stride for stride in (self.strides[1], self.strides[2], self.strides[0])]
        sizes = [dim, tokens, heads, batch]
        # The stride of an axis of one element is never used, and must be valid.
        strides = [stride if size > 1 else 16 for stride, size in zip(strides, sizes[1:], strict=True)]
        return tensor_map(self.pointer, dtype, sizes, strides, [*box, 1, 1])


class Kernel:
    """The two entries of a variant's translation unit."""

    def __init__(self, name: str, config: wgmma_sm90.Config) -> None:
        self.name = name
        self.config = config
        torch.cuda.current_stream()
        made = compile_cuda(variants.source(name, config, wgmma_sm90), arch="sm_90a")
        self.seconds, self.warnings = made.seconds, made.warnings
        self.module = check(driver.cuModuleLoadData(made.cubin))
        self.main = check(driver.cuModuleGetFunction(self.module, SYMBOLS["main"].encode()))
        self.finish = check(driver.cuModuleGetFunction(self.module, SYMBOLS["merge"].encode()))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        check(driver.cuFuncSetAttribute(self.main, attribute, config.smem_bytes))

    def launch(
        self,
        params: torch.Tensor,
        max_qo_len: int,
        group: int,
        kv_heads: int,
        batch: int,
        splits: int = 0,
        blocks: int | None = None,
    ) -> None:
        tiles = -(-max_qo_len * group // self.config.block_m) * max(splits, 1)
        grid = (tiles, kv_heads, batch) if blocks is None else (blocks, 1, 1)
        self._start(self.main, grid, self.config.threads, self.config.smem_bytes, params)
        if splits:
            count = -(-max_qo_len * group * kv_heads // merge.WARPS)
            self._start(self.finish, (count, 1, batch), 32 * merge.WARPS, 0, params)

    def _start(self, entry: Any, grid: tuple[int, int, int], threads: int, smem: int, params: torch.Tensor) -> None:
        arguments = ((params.data_ptr(),), (ctypes.c_void_p,))
        stream = torch.cuda.current_stream().cuda_stream
        check(driver.cuLaunchKernel(entry, *grid, threads, 1, 1, smem, stream, arguments, 0))


def make_block(config: wgmma_sm90.Config) -> Callable[[str, dict[str, Any]], torch.Tensor]:
    """What builds a parameter block of ``words`` with the descriptors behind it."""

    def block(name: str, words: dict[str, Any]) -> torch.Tensor:
        plain = {word: value for word, value in words.items() if word != "tokens"}
        head = common.parameter_block(name, plain).cpu().numpy().tobytes()
        head += bytes(-len(head) % 64)
        ragged = "kv_indptr" in words
        maps = b""
        for operand, dim in (("k", config.head_dim), ("v", config.head_dim_v)):
            sizes = (1 if ragged else words["batch"], words["tokens"], words["num_kv_heads"], dim)
            strides = tuple(words[f"{operand}_stride.{axis}"] for axis in ("batch", "token", "head"))
            maps += Operand(words[operand], sizes, strides).map(config.dtype, [64, config.block_n])  # type: ignore[arg-type]
        return torch.frombuffer(bytearray(head + maps), dtype=torch.uint8).cuda()

    return block


def run_case(name: str, kernel: Kernel, case: Case) -> tuple[bool, str]:
    """common.run_case through descriptors: its parameter block gets them, and the number of tokens a tensor has."""
    build, plain = make_block(kernel.config), common.parameter_block
    tokens = case.kv_len
    if case.ragged:
        tokens = common.LEAD + sum(case.kv_lens or (case.kv_len,) * case.batch)

    def with_maps(variant: str, words: dict[str, Any]) -> torch.Tensor:
        common.parameter_block = plain
        try:
            return build(variant, words | {"tokens": tokens})
        finally:
            common.parameter_block = with_maps

    common.parameter_block = with_maps
    try:
        return common.run_case(name, kernel, case)  # type: ignore[arg-type]
    finally:
        common.parameter_block = plain


def run_persistent(name: str, kernel: Kernel, case: Case) -> tuple[bool, str]:
    """The same with fewer blocks than items."""
    launch = kernel.launch
    kernel.launch = lambda *given: launch(*given, blocks=5)  # type: ignore[method-assign]
    try:
        return run_case(name, kernel, case)
    finally:
        del kernel.launch


def run_structure(kernel: Kernel) -> tuple[bool, str]:
    build, plain = make_block(kernel.config), common.parameter_block

    def with_maps(variant: str, words: dict[str, Any]) -> torch.Tensor:
        common.parameter_block = plain
        return build(variant, words | {"tokens": words["max_kv_len"]})

    common.parameter_block = with_maps
    try:
        return common.run_structure(kernel)  # type: ignore[arg-type]
    finally:
        common.parameter_block = plain


STEADY = True
REGISTERS = {2: (72, 216), 3: (56, 152)}  # by consumers, of tiles given by hand
TILE_FIELDS = ("consumers", "block_n", "stages", "q_stages", "slots")
Dims = tuple[int, int]  # of queries and keys, of values
TileText = tuple[int, ...]  # by TILE_FIELDS


def config_of(dims: Dims, dtype: str, tile: TileText | None = None, name: str = "gemma2") -> wgmma_sm90.Config:
    hooks = frozenset({"dense": (), "causal": ("mask",)}.get(name, ("logits",)))
    config = wgmma_sm90.choose(dtype, *dims, "sm_90a", hooks=hooks)  # type: ignore[arg-type]
    config = dataclasses.replace(config, steady=STEADY)
    if tile is not None:
        config = dataclasses.replace(config, **dict(zip(TILE_FIELDS, tile, strict=True)))  # type: ignore[arg-type]
        wide = tile[0] == 2 and tile[1] > 144
        config = dataclasses.replace(config, registers=(56, 224) if wide else REGISTERS[tile[0]])
    return config


def worker(jobs: Any, results: Any) -> None:
    """Takes (variant, head dims, dtype, tile) until None; says (job, label, passed, text) a case, label None last."""
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    while (job := jobs.get()) is not None:
        name, dims, dtype, tile = job
        try:
            kernel = Kernel(name, dataclasses.replace(config_of(dims, dtype, tile, name), checked=True))
            results.put((job, "compile", not kernel.warnings, f"{kernel.seconds:.2f} s {kernel.warnings}"))
            todo: list[tuple[str, Callable[[], tuple[bool, str]]]] = []
            if name == "causal":
                todo.append(("structure", lambda k=kernel: run_structure(k)))
            todo += [(str(case), lambda c=case, k=kernel, n=name: run_case(n, k, c)) for case in CASES]
            todo += [
                (f"persistent {case}", lambda c=case, k=kernel, n=name: run_persistent(n, k, c))
                for case in (CASES[1], CASES[4], CASES[7])
            ]
            for label, run in todo:
                results.put((job, "begin " + label, True, ""))
                good, text = run()
                results.put((job, label, good, text))
        except Exception:
            results.put((job, "FAILED", False, traceback.format_exc()[-1500:]))
            return  # the context may be lost: another process goes on
        results.put((job, None, True, ""))


def check_all(jobs: list[tuple[Any, ...]], patience: float) -> tuple[int, int, int]:
    """Cases that passed, cases in all, workers lost."""
    context = multiprocessing.get_context("spawn")
    passed = total = lost = 0
    left = list(jobs)
    while left:
        todo, results = context.Queue(), context.Queue()
        for job in left:
            todo.put(job)
        todo.put(None)
        process = context.Process(target=worker, args=(todo, results))
        process.start()
        begun, wait = "start", 60.0 + patience
        while left:
            try:
                job, label, good, text = results.get(timeout=wait)
            except queue.Empty:
                print(f"HUNG {left[0]} in {begun}", flush=True)
                total += 1
                lost += 1
                left.pop(0)
                break
            wait = patience
            if label is None:
                print(f"{job}: done", flush=True)
                left.pop(0)
            elif label.startswith("begin "):
                begun = label
            else:
                total += 1
                passed += good
                if not good or label == "compile":
                    print(
                        f"{'ok' if good else 'FAIL'} {job} {label if label != 'FAILED' else begun}: {text}", flush=True
                    )
                if label == "FAILED":
                    lost += 1
                    left.pop(0)
                    break
        process.kill() if left else process.join(10)
    return passed, total, lost


Tiles = dict[Dims, list[TileText]]


def bench(shapes: list[Dims], tiles: Tiles, names: list[str], lengths: list[int]) -> None:
    """TFLOP/s beside cuDNN of the same mask, in turns: the median of the ratios of at least ten rounds."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    sms = torch.cuda.get_device_properties(0).multi_processor_count
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    end = time.time() + 2
    while time.time() < end:
        for _ in range(10):
            a @ a
        torch.cuda.synchronize()
    table = []
    for head_dim, head_dim_v in shapes:
        kernels: dict[Any, Kernel] = {}
        for length in lengths:
            batch, heads = max(1, 16384 // length), 2048 // head_dim
            q, k, v = (
                torch.randn(batch, length, heads, head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(3)
            )
            v = v[..., :head_dim_v].contiguous()
            out = torch.empty_like(v)
            words: dict[str, Any] = {"q": q.data_ptr(), "k": k.data_ptr(), "v": v.data_ptr(), "out": out.data_ptr()}
            for label, tensor in (("q_stride", q), ("k_stride", k), ("v_stride", v), ("out_stride", out)):
                words |= common.strides(label, tensor)
            words |= {"sm_scale.value": head_dim**-0.5, "batch": batch, "num_heads": heads, "num_kv_heads": heads}
            words |= {"group": 1, "max_qo_len": length, "max_kv_len": length, "tokens": length}
            slopes = (2.0 ** -torch.linspace(1, 8, heads)).cuda()
            for name in names:
                causal = name != "dense"
                flops = 4 * batch * heads * length * length * (head_dim + head_dim_v) / (4 if causal else 2)
                given = dict(words)
                if name == "gemma2":
                    given |= {"softcap.value": 50.0, "window.value": 1 << 30}
                if name == "alibi":
                    given |= common.tensor_words("slopes", slopes)

                def peer(causal: bool = causal, q: Any = q, k: Any = k, v: Any = v) -> None:
                    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                        torch.nn.functional.scaled_dot_product_attention(
                            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=causal
                        )

                for tile in tiles.get((head_dim, head_dim_v), [None]):  # type: ignore[list-item]
                    for blocks in (sms,):
                        config = config_of((head_dim, head_dim_v), "bf16", tile, name)
                        try:
                            kernel = kernels.get((name, config)) or Kernel(name, config)
                            kernels[name, config] = kernel
                            block = make_block(config)(name, given)
                            mine = lambda k=kernel, b=block, g=blocks, n=length, h=heads, c=batch: k.launch(  # noqa: E731
                                b, n, 1, h, c, blocks=g
                            )
                            pairs = [(common.seconds(mine), common.seconds(peer)) for _ in range(11)]
                            ours = sorted(pair[0] for pair in pairs)[5]
                            ratio = sorted(pair[1] / pair[0] for pair in pairs)[5]
                            theirs = sorted(pair[1] for pair in pairs)[5]
                            shape_text = "x".join(str(getattr(config, field)) for field in TILE_FIELDS)
                            speed, beside = (flops / spent / 1e12 for spent in (ours, theirs))
                            row = f"D{head_dim:<4}{name:8}S{length:<6}{shape_text:13}"
                            row += f"{speed:7.1f} TFLOP/s, cuDNN {beside:6.1f}, ratio {ratio:.3f}"
                        except Exception as error:
                            row = f"D{head_dim} {name} S{length} {tile}: {str(error)[:200]}"
                        print(row, flush=True)
                        table.append(row)
    print("\n".join(["", "TABLE", *table]))


def dims_of(text: str) -> Dims:
    """``128``, or ``192/128``."""
    first, _, second = text.partition("/")
    return int(first), int(second or first)


def tile_list(text: str) -> Tiles:
    """``128:2x128x2x2x3,64:2x128x2x2x3``."""
    found: Tiles = {}
    for part in text.split(","):
        dims, tile = part.split(":")
        found.setdefault(dims_of(dims), []).append(tuple(int(number) for number in tile.split("x")))
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench", action="store_true")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(NAMES))
    parser.add_argument(
        "--dims", type=lambda text: [dims_of(part) for part in text.split(",")], default=wgmma_sm90.SHAPES
    )
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=["bf16", "f16"])
    parser.add_argument("--tiles", type=tile_list, default={})
    parser.add_argument("--lengths", type=lambda text: [int(part) for part in text.split(",")], default=[2048, 8192])
    parser.add_argument("--patience", type=float, default=25.0)
    parser.add_argument("--timed", type=lambda text: text.split(","), default=["dense", "causal"])
    parser.add_argument("--no-steady", action="store_true", help="the largest score of every tile, when timing")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    passed = total = lost = 0
    if not arguments.no_checks:
        # Every variant with the tile of the table; of the others a causal mask is enough.
        jobs: list[tuple[Any, ...]] = [
            (name, dim, dtype, None) for dim in arguments.dims for name in arguments.only for dtype in arguments.dtypes
        ]
        jobs += [("causal", dim, "bf16", tile) for dim in arguments.dims for tile in arguments.tiles.get(dim, [])]
        passed, total, lost = check_all(jobs, arguments.patience)
        print(f"{passed} of {total} passed, {lost} workers lost", flush=True)
    if arguments.bench and not lost:
        global STEADY
        STEADY = not arguments.no_steady
        bench(arguments.dims, arguments.tiles, arguments.timed, arguments.lengths)
    return 0 if passed == total else 1


if __name__ == "__main__":
    raise SystemExit(main())
