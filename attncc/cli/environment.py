"""What there is: packages, driver, GPUs, cache. Asks the driver itself, so that nothing heavy is imported."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import attncc

PACKAGES = (
    "numpy",
    "lark",
    "torch",
    "cupy",
    "cuda-bindings",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
    "nvidia-cuda-nvdisasm",
    "safetensors",
    "pillow",
)


@dataclass(frozen=True)
class Gpu:
    """One GPU: its memory in bytes, its compute capability ("9.0"), and the target to compile for it."""

    name: str
    memory: int
    capability: str
    target: str


@dataclass(frozen=True)
class CacheState:
    """The kernel cache: its size in bytes."""

    folder: str
    kernels: int
    size: int
    writable: bool

    def summary(self) -> str:
        kernels = f"{self.kernels} kernel{'s' if self.kernels != 1 else ''}, {self.size / 2**20:.1f} MiB"
        return kernels if self.writable else kernels + ", not writable"


@dataclass(frozen=True)
class Problem:
    """Something missing or wrong, and the command that mends it."""

    what: str
    help: str


@dataclass(frozen=True)
class Environment:
    """Everything ``attncc env`` shows. ``driver`` is the newest CUDA version the driver supports."""

    attncc: str
    location: str
    python: str
    platform: str
    packages: Mapping[str, str | None]
    driver: str | None
    gpus: tuple[Gpu, ...]
    families: Mapping[str, tuple[str, ...]]  # the targets of each kernel family, in order of preference
    cache: CacheState
    problems: tuple[Problem, ...]
    can_compile: bool
    can_run: bool


def inspect() -> Environment:
    """Look at this machine. Never raises for what it finds."""
    from attncc.codegen.select import FAMILIES, targets_of
    from attncc.codegen.toolchain import problems as toolchain_problems

    packages = _packages()
    version = cuda_driver()
    present = gpus()
    compiling = [Problem(error.message, error.help or "") for error in toolchain_problems()]
    running = _running_problems(packages, version, present)
    cache = _cache()
    other = []
    if not cache.writable:
        other.append(Problem(f"the cache folder {cache.folder} cannot be written", "set ATTNCC_CACHE_DIR to another"))
    return Environment(
        attncc=attncc.__version__,
        location=str(Path(attncc.__file__).parent),
        python=f"{sys.version.split()[0]}  ({sys.executable})",
        platform=platform.platform(),
        packages=packages,
        driver=f"CUDA {version[0]}.{version[1]}" if version else None,
        gpus=present,
        families={name: targets_of(name) for name in FAMILIES},
        cache=cache,
        problems=(*compiling, *running, *other),
        can_compile=not compiling,
        can_run=not compiling and not running,
    )


def _packages() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    from attncc.codegen.toolchain import wheels

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        if name == "cupy":
            cupies = [wheel for key, wheel in wheels().items() if key == "cupy" or key.startswith("cupy-cuda")]
            found[name] = ", ".join(f"{wheel.version} ({wheel.name})" for wheel in cupies) or None
            continue
        found[name] = None
        for spelling in (name, f"{name}-cu12"):
            try:
                found[name] = version(spelling)
                break
            except PackageNotFoundError:
                continue
    return found


@functools.cache
def _driver() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return library


def cuda_driver() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver supports; None without a driver."""
    library = _driver()
    value = ctypes.c_int(0)
    if library is None or library.cuDriverGetVersion(ctypes.byref(value)) != 0:
        return None
    return value.value // 1000, value.value % 1000 // 10


def gpu_count() -> int:
    """How many GPUs the driver lets this process see."""
    library = _driver()
    count = ctypes.c_int(0)
    if library is None or library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


# CUDA Driver API, CUdevice_attribute.
_MAJOR, _MINOR = 75, 76


def gpus() -> tuple[Gpu, ...]:
    from attncc.codegen.targets import best
    from attncc.diagnostics import AttnccError

    library = _driver()
    found: list[Gpu] = []
    for index in range(gpu_count()):
        assert library is not None
        device, memory = ctypes.c_int(0), ctypes.c_size_t(0)
        name = ctypes.create_string_buffer(256)
        library.cuDeviceGet(ctypes.byref(device), index)
        library.cuDeviceGetName(name, len(name), device)
        library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        numbers = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int(0)
            library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            numbers.append(value.value)
        try:
            target = best((numbers[0], numbers[1]))
        except AttnccError:
            target = "no target"
        found.append(Gpu(name.value.decode(), memory.value, f"{numbers[0]}.{numbers[1]}", target))
    return tuple(found)


def _running_problems(
    packages: Mapping[str, str | None], driver: tuple[int, int] | None, present: tuple[Gpu, ...]
) -> list[Problem]:
    """What keeps kernels from running here. A machine without a GPU still compiles and runs the reference."""
    from attncc.codegen.toolchain import wheels

    if driver is None:
        return [Problem("no NVIDIA driver: kernels compile here and run elsewhere", "install one to run kernels")]
    if not present:
        return [Problem("the driver reports no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES")]
    problems: list[Problem] = []
    extra = "cuda13" if driver[0] >= 13 else "cuda12"
    install = f"pip install 'attncc[{extra}]'"
    cupies = [wheel.name for name, wheel in wheels().items() if name == "cupy" or name.startswith("cupy-cuda")]
    if not cupies:
        problems.append(Problem("cupy is not installed", install))
    if len(cupies) > 1:
        names = " and ".join(cupies)
        both = f"{names} are both installed and overwrite each other"
        problems.append(Problem(both, f"pip uninstall {names}; {install}"))
    for name in cupies:
        major = name.removeprefix("cupy-cuda").removesuffix("x")
        if major.isdigit() and int(major) > driver[0]:
            problems.append(
                Problem(
                    f"{name} is for CUDA {major}, and the driver supports CUDA {driver[0]}.{driver[1]} at most",
                    f"pip uninstall {name}; {install}, or update the driver",
                )
            )
    if (packages.get("torch") or "").endswith("+cpu"):
        problems.append(Problem("this torch is built without CUDA", "install a CUDA build of torch: pytorch.org"))
    return problems


def _cache() -> CacheState:
    from attncc.cache import default_cache

    cache = default_cache()
    size = 0
    for folder, _, names in os.walk(cache.root):
        for name in names:
            try:
                size += os.stat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    existing = cache.root
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return CacheState(str(cache.root), len(cache.entries()), size, writable)
