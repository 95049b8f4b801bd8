"""The claim: no example keeps registers in local memory at head dims up to 128, on any target.

    python benchmarks/spills.py [--head-dims 32,48,64,80,96,112,128] [--targets sm_80,...] [--dtypes bf16]

Compiles every example for every target, a core each, into a cache that is thrown away, and reads what ptxas reported.
Where the kernel of the family that is asked first does not fit and another's is taken, it says so: such a variant costs
two compiles, once. Needs no GPU and some ten minutes on two cores.
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
from attncc.codegen.select import MISFIT
from attncc.codegen.targets import TARGETS
from attncc.grammar import read

EXAMPLES = Path(attncc.__file__).resolve().parents[1] / "examples"


def compiled(path: Path, target: str, dtype: str, head_dim: int) -> tuple[int, list[str]]:
    """The file's last variant: bytes a thread of its kernel stores to and loads from local memory, and the families
    whose kernels did not fit."""
    *_, definition = read(path).definitions.values()
    with tempfile.TemporaryDirectory(prefix="attncc-spills-") as folder:
        spec = KernelSpec(arch=target, dtype=dtype, head_dim=head_dim)
        made = stages(definition.instantiate(), spec, cache=Cache(Path(folder)))
        main = made.artifact.main
        refused = made.settled.choice.refused
    return main.spill_stores + main.spill_loads, [name for name, reasons in refused.items() if MISFIT in reasons]


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
    wrong = twice = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for cell, (count, passed) in zip(cells, pool.map(compiled, *zip(*cells, strict=True)), strict=True):
            path, *rest = cell
            wrong += bool(count)
            twice += bool(passed)
            if count or passed:
                ways = f", after {' and '.join(passed)}" if passed else ""
                print(path.stem, *rest, f"{count} bytes{ways}", flush=True)
    print(f"{twice} of {len(cells)} kernels gave way to another family's")
    print(f"{wrong} of {len(cells)} kernels spill")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
