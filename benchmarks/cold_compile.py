"""The claim: a cold compile for sm_90a takes at most 1.0 s at head dim 128 and 1.8 s at 256, for every example.

    python benchmarks/cold_compile.py [--head-dims 64,128,256] [--rounds 3] [--fresh]

From the canonical form to the artifact in an empty cache, what `attncc compile` prints as its time: passes, emitter,
NVRTC, manifest, store. ``--fresh``: of a process that has compiled nothing before, loading NVRTC and the emitter
included. Needs no GPU; wants two cores that do nothing else, which the least of some rounds is nearest to. Entries are
compiled at once, so that the CPU time, given beside it for a warm process, is more.
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
from attncc.grammar import read

EXAMPLES = Path(attncc.__file__).resolve().parents[1] / "examples"
TARGET = "sm_90a"
LIMITS = {128: 1.0, 256: 1.8}  # seconds


def seconds(path: Path, head_dim: int) -> tuple[float, float]:
    """(wall, CPU) of one cold compile of the file's last variant, bf16."""
    *_, definition = read(path).definitions.values()
    variant = definition.instantiate()
    with tempfile.TemporaryDirectory(prefix="attncc-cold-") as folder:
        spec = KernelSpec(arch=TARGET, dtype="bf16", head_dim=head_dim)
        cpu, wall = time.process_time(), time.perf_counter()
        made = stages(variant, spec, cache=Cache(Path(folder))).made
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert not made.cached
    return wall, cpu


def fresh_seconds(path: Path, head_dim: int) -> float:
    """What a new process prints as the time of that compile."""
    options = ["--target", TARGET, "--head-dim", str(head_dim), "--no-cache", "--emit=report", "-o", "-"]
    run = subprocess.run(
        [sys.executable, "-m", "attncc", "compile", str(path), *options], capture_output=True, text=True, check=True
    )
    return float(json.loads(run.stdout)["seconds"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dims", default="64,128,256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()
    head_dims = [int(text) for text in options.head_dims.split(",")]
    paths = sorted(path for path in EXAMPLES.glob("*.attn") if path.with_suffix(".py").exists())
    seconds(paths[0], head_dims[0])  # what a process loads once
    heading = "s" if options.fresh else "wall (CPU), s"
    print(f"{'':16}" + "".join(f"{f'D{dim} {heading}':>22}" for dim in head_dims))
    missed = []
    for path in paths:
        line = f"{path.stem:16}"
        for dim in head_dims:
            if options.fresh:
                wall = min(fresh_seconds(path, dim) for _ in range(options.rounds))
                line += f"{wall:>22.2f}"
            else:
                wall, cpu = min(seconds(path, dim) for _ in range(options.rounds))
                line += f"{f'{wall:.2f} ({cpu:.2f})':>22}"
            if wall > LIMITS.get(dim, float("inf")):
                missed.append(f"{path.stem} D{dim}")
        print(line, flush=True)
    print(f"over the limit: {', '.join(missed)}" if missed else "every one is within its limit")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
