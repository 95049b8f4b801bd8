"""Which CUDA compiler this environment has, and what to install when it has none. Knows wheels, not kernels.

Nothing here loads a CUDA library: a cached kernel needs the compiler's version for its key, never the compiler.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attncc.diagnostics import ToolchainError

# CUDA major → the toolkit version kernels are made and measured with. Another minor generates other code from the same
# source (13.5 spills where 13.0 does not), so it is refused rather than trusted.
PINNED = {13: "13.0", 12: "12.9"}
INSTALL = "pip install 'attncc[cuda13]'   (without a GPU: 'attncc[compile]'; for a CUDA 12 driver: 'attncc[cuda12]')"


@dataclass(frozen=True)
class Wheel:
    """One installed distribution: its name and version as its metadata folder spells them, and where it lies."""

    name: str
    version: str
    folder: Path

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    @property
    def minor(self) -> str:
        """``13.0`` of ``13.0.88``."""
        return ".".join(self.version.split(".")[:2])


@functools.cache
def wheels() -> dict[str, Wheel]:
    """The installed distributions that matter here, by normalised name; the first on ``sys.path`` wins.

    importlib.metadata would say the same, and costs 35 ms to import: a tenth of what a cached compile may take.
    """
    found: dict[str, Wheel] = {}
    pattern = re.compile(r"((?:nvidia_(?:cuda|nvjitlink)|cuda|cupy|torch)[\w.]*)-([0-9][\w.+!]*)\.dist-info", re.I)
    for entry in sys.path:
        try:
            names = os.listdir(entry or ".")
        except OSError:
            continue
        for name in names:
            match = pattern.fullmatch(name)
            if match:
                wheel = Wheel(match[1].lower().replace("_", "-").replace(".", "-"), match[2], Path(entry))
                found.setdefault(wheel.name, wheel)
    return found


def _per_major(base: str) -> Iterator[Wheel]:
    """``base`` and its CUDA 12 spelling ``base-cu12``, as installed."""
    for name in (base, f"{base}-cu12", f"{base}-cu13"):
        if name in wheels():
            yield wheels()[name]


@dataclass(frozen=True)
class Toolchain:
    """A usable compiler: the version that goes into cache keys, and the folder of the CUDA headers if there is one."""

    nvrtc: str
    bindings: str
    include: Path | None


@functools.cache
def toolchain() -> Toolchain:
    """The NVRTC that `cuda.bindings` would load.

    Raises ToolchainError A1001 (no cuda-bindings), A1002 (no NVRTC), A1003 (wheels of two CUDA majors) or A1004 (a
    toolkit other than the pinned one).
    """
    bindings = wheels().get("cuda-bindings")
    if bindings is None:
        raise ToolchainError(
            "A1001",
            "compiling needs the package `cuda-bindings`, which is not installed",
            expected=f"cuda-bindings {PINNED[13]}.*",
            got="no such package in this environment",
            help=INSTALL,
        )
    if bindings.major not in PINNED:
        raise ToolchainError(
            "A1004",
            f"cuda-bindings {bindings.version} is of a CUDA version attncc does not compile with",
            expected=" or ".join(f"{version}.*" for version in PINNED.values()),
            got=bindings.version,
            help=INSTALL,
        )
    candidates = list(_per_major("nvidia-cuda-nvrtc"))
    nvrtc = next((wheel for wheel in candidates if wheel.major == bindings.major), None)
    if nvrtc is None and candidates:
        wrong = candidates[0]
        raise ToolchainError(
            "A1003",
            f"cuda-bindings is for CUDA {bindings.major}, the NVRTC wheel for CUDA {wrong.major}",
            expected=f"one CUDA major: nvidia-cuda-nvrtc {PINNED[bindings.major]}.*",
            got=f"{wrong.name} {wrong.version} with cuda-bindings {bindings.version}",
            help=f"pip uninstall {wrong.name}; {INSTALL}",
        )
    version = nvrtc.version if nvrtc is not None else _system_version()
    minor = ".".join(version.split(".")[:2])
    if minor != PINNED[bindings.major]:
        raise ToolchainError(
            "A1004",
            f"NVRTC {version} is not the version attncc's kernels are made with",
            expected=f"NVRTC {PINNED[bindings.major]}.*",
            got=version,
            help=f"{INSTALL}; another NVRTC generates other code from the same source",
        )
    return Toolchain(nvrtc=version, bindings=bindings.version, include=_include(bindings.major))


def _system_version() -> str:
    """The version of an NVRTC that comes with a toolkit rather than a wheel: only the library itself knows it."""
    try:
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError, OSError) as error:
        raise ToolchainError(
            "A1002",
            "the CUDA run-time compiler (NVRTC) was not found",
            expected="the wheel nvidia-cuda-nvrtc, or a CUDA toolkit",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            help=INSTALL,
        ) from error
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise ToolchainError("A1002", "NVRTC is installed and does not answer", got=str(status), help=INSTALL)
    return f"{major}.{minor}"


def _include(major: int) -> Path | None:
    """The folder of cuda.h: the runtime wheel's (nvidia/cu13, for CUDA 12 nvidia/cuda_runtime), or a toolkit's."""
    for wheel in _per_major("nvidia-cuda-runtime"):
        folder = wheel.folder / "nvidia" / ("cu13" if major == 13 else "cuda_runtime") / "include"
        if wheel.major == major and (folder / "cuda.h").is_file():
            return folder
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        root = os.environ.get(variable)
        if root and (Path(root) / "include" / "cuda.h").is_file():
            return Path(root) / "include"
    return None


def disassembler(name: str = "nvdisasm") -> Path:
    """``nvdisasm`` or ``cuobjdump``: beside the wheels, on PATH, or in CUDA_HOME. Raises ToolchainError A1008."""
    for wheel in _per_major(f"nvidia-cuda-{name}"):
        for sub in ("cu13/bin", f"cuda_{name}/bin", "cu12/bin"):
            path = wheel.folder / "nvidia" / sub / name
            if path.is_file():
                return path
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    for root in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if root and (Path(root) / "bin" / name).is_file():
            return Path(root) / "bin" / name
    raise ToolchainError(
        "A1008",
        f"`{name}` was not found",
        expected=f"the wheel nvidia-cuda-{name}, or a CUDA toolkit on PATH",
        got="neither",
        help="pip install 'attncc[sass]'",
    )


def problems() -> tuple[ToolchainError, ...]:
    """What keeps this environment from compiling, as the errors a compile would raise; empty when nothing does."""
    try:
        toolchain()
    except ToolchainError as error:
        return (error,)
    return ()
