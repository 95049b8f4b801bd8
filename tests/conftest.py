"""What every test shares: a cache of its own, the GPU marker, and how long the fuzzers run."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Before numpy loads: several workers share the cores, and OpenBLAS threads that spin take them from each other.
for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

ROOT = Path(__file__).resolve().parent.parent

# derandomize: the same examples in every run, so a red test is red again; no deadline: two busy cores are slow.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=100)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=20_000, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-full", action="store_true", help="run the fuzzers in full instead of a slice")
    parser.addoption("--require-gpu", action="store_true", help="fail where there is no GPU instead of skipping")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile", default=None):
        hypothesis.settings.load_profile("fuzz" if config.getoption("--fuzz-full") else "ci")
    if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the folder of the process that started them
        folder = tempfile.mkdtemp(prefix="attncc-test-cache-")
        os.environ["ATTNCC_CACHE_DIR"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@functools.cache
def gpu_count() -> int:
    """How many GPUs the driver sees; 0 without a driver. Asks the driver itself, so that nothing heavy is imported."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items or gpu_count() > 0:
        return
    if config.getoption("--require-gpu"):
        raise pytest.UsageError("--require-gpu: the CUDA driver reports no GPU")
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def fuzz_full(request: pytest.FixtureRequest) -> bool:
    """True under --fuzz-full: a fuzzer that counts its own cases runs all of them, otherwise a slice."""
    return bool(request.config.getoption("--fuzz-full"))


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty kernel cache for one test, which cannot see what other tests compiled."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(folder))
    return folder
