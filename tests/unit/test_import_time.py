"""`import attncc` is cheap: a command line or a server that only loads a pack pays for nothing else."""

from __future__ import annotations

import statistics
import subprocess
import sys

HEAVY = ("click", "cuda", "cupy", "lark", "numpy", "rich", "torch")

TIMED_IMPORT = "import time; start = time.perf_counter(); import attncc; print(time.perf_counter() - start)"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_takes_at_most_50_ms() -> None:
    seconds = [float(run(TIMED_IMPORT)) for _ in range(9)]
    assert statistics.median(seconds) <= 0.050, seconds


def test_import_loads_nothing_heavy() -> None:
    loaded = run("import sys, attncc; print(*sorted({name.partition('.')[0] for name in sys.modules}))").split()
    assert "attncc" in loaded
    assert not set(HEAVY) & set(loaded)
