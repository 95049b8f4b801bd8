"""`make demo`: compile three variants for two GPUs, draw a mask, compute a batch. Uses a GPU, and needs none.

Each formula stands here a second time, in plain numpy: what attncc computes is compared with that.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import attncc
from attncc.cache import Cache
from attncc.cli.environment import gpu_count
from attncc.codegen.compile import KernelSpec, stages
from attncc.viz import show

HERE = Path(__file__).parent
TARGETS = ("sm_80", "sm_90a")
BATCH, HEADS, KV_HEADS, LENGTH, HEAD_DIM = 2, 8, 2, 192, 64
SLOPES = np.exp2(-np.arange(1, HEADS + 1, dtype=np.float32))  # ALiBi's for eight heads: 1/2, 1/4, ...

# A variant with its arguments, and its formula: from scores s [batch, heads, q, k] and positions i, j to logits.
VARIANTS = {
    "causal": ({}, lambda s, i, j: np.where(j <= i, s, -np.inf)),
    "gemma2": (
        {"softcap": 20.0, "w": 64},
        lambda s, i, j: np.where((j <= i) & (i - j < 64), 20 * np.tanh(s / 20), -np.inf),
    ),
    "alibi": ({"slopes": SLOPES}, lambda s, i, j: np.where(j <= i, s - SLOPES[:, None, None] * (i - j), -np.inf)),
}


def main() -> None:
    begin = time.perf_counter()
    console = Console(highlight=False)
    factories = {name: attncc.load(HERE / f"{name}.attn")[name] for name in VARIANTS}
    bound = {name: factories[name](**arguments) for name, (arguments, _) in VARIANTS.items()}

    with console.status("compiling"), tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        jobs = [
            stages(one.variant, KernelSpec(target, "bf16", HEAD_DIM), cache=Cache(Path(folder)))
            for one in bound.values()
            for target in TARGETS
        ]
        reports = list(pool.map(lambda job: job.report, jobs))
    console.print(kernels(reports))

    show(bound["gemma2"], qo_len=LENGTH)
    print()
    results = [agrees(name) for name in VARIANTS]
    print(f"{time.perf_counter() - begin:.1f} s in all")
    sys.exit(0 if all(results) else 1)


def kernels(reports: list[dict]) -> Table:
    """What NVRTC made of each variant."""
    table = Table(title=f"attncc {attncc.__version__}: bf16, head_dim {HEAD_DIM}, compiled just now on this machine")
    for column in ("variant", "target", "family"):
        table.add_column(column)
    for column in ("registers", "shared mem", "spills", "compiled in"):
        table.add_column(column, justify="right")
    for one in reports:
        main = one["entries"]["main"]
        smem = main["static_smem"] + main["dynamic_smem"]
        spills = main["spill_stores"] + main["spill_loads"]
        row = (one["variant"], one["target"], one["family"], str(main["registers"]))
        table.add_row(*row, f"{smem / 1024:.0f} KiB", f"{spills} bytes", f"{one['seconds']:.2f} s")
    return table


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random q, k, v [batch, len, heads, head_dim]."""
    rng = np.random.default_rng(0)
    shapes = [(BATCH, LENGTH, heads, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    q, k, v = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return q, k, v


def formula(q: np.ndarray, k: np.ndarray, v: np.ndarray, logits) -> np.ndarray:
    """softmax(logits(q·kᵀ/√d))·v in float64."""
    q, k, v = (x.astype(np.float64).swapaxes(1, 2) for x in (q, k, v))
    k, v = (x.repeat(HEADS // KV_HEADS, axis=1) for x in (k, v))
    i = np.arange(LENGTH)
    s = logits(q @ k.swapaxes(2, 3) / np.sqrt(HEAD_DIM), i[:, None], i[None, :])
    p = np.exp(s - s.max(-1, keepdims=True))
    return (p / p.sum(-1, keepdims=True) @ v).swapaxes(1, 2)


def compute(name: str, arguments: dict) -> tuple[str, np.ndarray, tuple[np.ndarray, ...]]:
    """Where a variant was computed, its result, and the q, k, v it saw: bf16 on a GPU, f32 elsewhere."""
    vectors, variant = batch(), attncc.load(HERE / f"{name}.attn")[name]
    if not gpu_count():
        return "no GPU: the reference", attncc.attention(*vectors, variant(**arguments)), vectors
    import torch

    q, k, v = (torch.from_numpy(x).to("cuda", torch.bfloat16) for x in vectors)
    moved = {key: torch.from_numpy(x).cuda() if isinstance(x, np.ndarray) else x for key, x in arguments.items()}
    out = attncc.attention(q, k, v, variant(**moved))
    seen = tuple(x.float().cpu().numpy() for x in (q, k, v))
    return f"kernel on {torch.cuda.get_device_name()}", out.float().cpu().numpy(), seen


def agrees(name: str) -> bool:
    """Compute a variant and say how far its worst row is from plain numpy; whether that is near enough."""
    arguments, logits = VARIANTS[name]
    engine, out, vectors = compute(name, arguments)
    exact = formula(*vectors, logits)
    error = (np.linalg.norm(out - exact, axis=-1) / np.linalg.norm(exact, axis=-1)).max()
    near = bool(error <= (2e-2 if gpu_count() else 1e-5))
    shape = " × ".join(map(str, out.shape))
    print(f"{name:<8}{engine}, {shape}: {'agrees' if near else 'DISAGREES'} with plain numpy, worst row {error:.1e}")
    return near


if __name__ == "__main__":
    main()
