"""The claim: a cold compile of any example for sm_90a at head dim 128 takes at most 1.2 s with wgmma_sm90, which is the
default there, and 1.0 s with mma_sm80; at 256 at most 1.8 s with either.

    python benchmarks/cold_compile.py [--families wgmma_sm90,mma_sm80] [--head-dims 64,128,256] [--rounds 3] [--fresh]

From the canonical form to the artifact in an empty cache, what `attncc compile` prints as its time: passes, emitter,
NVRTC, manifest, store. ``--fresh``: of a process that has compiled nothing before, loading NVRTC and the emitter
included. A variant that a family does not serve has no figure. Needs no GPU; wants two cores that do nothing else, to
which the least of some rounds is nearest. Entries are compiled at once: the CPU time, given beside it for a warm
process, is more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attncc
from attncc.cache import Cache
from attncc.codegen.compile import KernelSpec, stages
from attncc.diagnostics import UnsupportedError
from attncc.grammar import read

EXAMPLES = Path(attncc.__file__).resolve().parents[1] / "examples"
TARGET = "sm_90a"
LIMITS = {  # seconds, by family and head dim
    "wgmma_sm90": {128: 1.2, 256: 1.8},
    "mma_sm80": {128: 1.0, 256: 1.8},
}


def seconds(path: Path, head_dim: int, family: str) -> tuple[float, float]:
    """(wall, CPU) of one cold compile of the file's last variant, bf16. Raises UnsupportedError A0704."""
    *_, definition = read(path).definitions.values()
    variant = definition.instantiate()
    with tempfile.TemporaryDirectory(prefix="attncc-cold-") as folder:
        spec = KernelSpec(arch=TARGET, dtype="bf16", head_dim=head_dim, family=family)
        cpu, wall = time.process_time(), time.perf_counter()
        made = stages(variant, spec, cache=Cache(Path(folder))).made
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert not made.cached
    return wall, cpu


def fresh_seconds(path: Path, head_dim: int, family: str) -> float:
    """What a new process prints as the time of that compile."""
    options = ["--target", TARGET, "--head-dim", str(head_dim), "--family", family]
    options += ["--no-cache", "--emit=report", "-o", "-"]
    run = subprocess.run(
        [sys.executable, "-m", "attncc", "compile", str(path), *options], capture_output=True, text=True, check=True
    )
    return float(json.loads(run.stdout)["seconds"])


def table(family: str, head_dims: list[int], rounds: int, fresh: bool) -> list[str]:
    """Prints a family's table; the cells over their limit."""
    paths = sorted(path for path in EXAMPLES.glob("*.attn") if path.with_suffix(".py").exists())
    seconds(EXAMPLES / "causal.attn", head_dims[0], family)  # what a process loads once
    heading = "s" if fresh else "wall (CPU), s"
    print(f"{family:16}" + "".join(f"{f'D{dim} {heading}':>22}" for dim in head_dims))
    missed = []
    for path in paths:
        line = f"{path.stem:16}"
        for dim in head_dims:
            try:
                wall, cpu = min(seconds(path, dim, family) for _ in range(1 if fresh else rounds))
            except UnsupportedError:
                line += f"{'-':>22}"
                continue
            if fresh:
                wall = min(fresh_seconds(path, dim, family) for _ in range(rounds))
            line += f"{f'{wall:.2f}' if fresh else f'{wall:.2f} ({cpu:.2f})':>22}"
            if wall > LIMITS[family].get(dim, float("inf")):
                missed.append(f"{family} {path.stem} D{dim}")
        print(line, flush=True)
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(LIMITS))
    parser.add_argument("--head-dims", default="64,128,256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    head_dims = [int(text) for text in options.head_dims.split(",")]
    missed = []
    for family in options.families.split(","):
        missed += table(family, head_dims, options.rounds, options.fresh)
    print(f"over the limit: {', '.join(missed)}" if missed else "every one is within its limit")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
