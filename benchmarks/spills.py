"""The claim: no example keeps registers in local memory at head dims up to 128, on any target.

    python benchmarks/spills.py [--head-dims 32,48,64,80,96,112,128] [--targets sm_80,...] [--dtypes bf16]

Compiles every example for every target, two at a time, into a cache that is thrown away, and reads what ptxas reported.
Needs no GPU and some ten minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import attncc
from attncc.cache import Cache
from attncc.codegen.compile import KernelSpec, stages
from attncc.codegen.targets import TARGETS
from attncc.grammar import read

EXAMPLES = Path(attncc.__file__).resolve().parents[1] / "examples"


def spilled(path: Path, target: str, dtype: str, head_dim: int) -> int:
    """Bytes a thread of the kernel of the file's last variant stores to and loads from local memory."""
    *_, definition = read(path).definitions.values()
    with tempfile.TemporaryDirectory(prefix="attncc-spills-") as folder:
        spec = KernelSpec(arch=target, dtype=dtype, head_dim=head_dim)
        main = stages(definition.instantiate(), spec, cache=Cache(Path(folder))).artifact.main
    return main.spill_stores + main.spill_loads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dims", default="32,48,64,80,96,112,128")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--dtypes", default="bf16")
    options = parser.parse_args()
    paths = sorted(path for path in EXAMPLES.glob("*.attn") if path.with_suffix(".py").exists())
    cells = [
        (path, target, dtype, int(dim))
        for target in options.targets.split(",")
        for dtype in options.dtypes.split(",")
        for dim in options.head_dims.split(",")
        for path in paths
    ]
    wrong = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for cell, count in zip(cells, pool.map(spilled, *zip(*cells, strict=True)), strict=True):
            if count:
                wrong += 1
                path, *rest = cell
                print(path.stem, *rest, f"{count} bytes", flush=True)
    print(f"{wrong} of {len(cells)} kernels spill")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
