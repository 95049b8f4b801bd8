"""The NVRTC driver: CUDA text in; cubin, PTX, resources and warnings out. Needs no GPU and knows no variant.

NVRTC's verbose log is the only place where registers and spills show; wgmma serialisation (ptxas C75xx) is reported
there and always kept.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attncc.codegen.targets import target
from attncc.codegen.toolchain import INSTALL, Toolchain, toolchain
from attncc.diagnostics import Note, ToolchainError

# What every kernel is compiled with; part of the cache key. Line information is what maps a profile back to the .attn
# file. NVRTC's own cache (NVRTC guide, "Caching") answers without ptxas's log, which says what a kernel uses.
FLAGS = ("--std=c++17", "--generate-line-info", "--ptxas-options=-v", "--no-cache")
INCLUDE = Path(__file__).resolve().parent  # "device/joint.cuh", "families/mma_sm80.cuh"


@dataclass(frozen=True)
class Resources:
    """What ptxas gave one entry: registers a thread; spills, stack and local memory in bytes a thread; static shared
    memory in bytes a block."""

    registers: int
    spill_stores: int = 0
    spill_loads: int = 0
    stack: int = 0
    static_smem: int = 0
    barriers: int = 0


@dataclass(frozen=True)
class Compiled:
    """One compiled program. ``cubin`` is for one real architecture; ``ptx`` is what ptxas made it from."""

    arch: str
    cubin: bytes = field(repr=False)
    ptx: bytes = field(repr=False)
    resources: Mapping[str, Resources]
    warnings: tuple[str, ...]
    log: str = field(repr=False)
    seconds: float


def compile_cuda(source: str, *, arch: str, name: str = "variant.cu", flags: tuple[str, ...] = ()) -> Compiled:
    """Compile CUDA C++ for ``arch`` (``sm_90a``). ``name`` is what messages call the text.

    Raises UnsupportedError A0701 (unknown architecture), ToolchainError A1001–A1005 (nothing to compile with) or A1006
    (NVRTC refused the text; the log is in its notes).
    """
    target(arch)
    tools = toolchain()
    nvrtc = _bindings()
    options = [f"--gpu-architecture={arch}", *FLAGS, *flags, f"--include-path={INCLUDE}"]
    if tools.include is not None:
        options.append(f"--include-path={tools.include}")
    start = time.perf_counter()
    program = _call(nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, None, None))[0]
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        size = _call(nvrtc.nvrtcGetProgramLogSize(program))[0]
        buffer = bytes(size)
        _call(nvrtc.nvrtcGetProgramLog(program, buffer))
        log = buffer.rstrip(b"\0 \n").decode("utf-8", errors="replace")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise _refused(status.name, log, source, name, arch, tools)
        cubin = _read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        ptx = _read(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).rstrip(b"\0")
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return Compiled(
        arch=arch,
        cubin=cubin,
        ptx=ptx,
        resources=parse_resources(log),
        warnings=parse_warnings(log),
        log=log,
        seconds=time.perf_counter() - start,
    )


def parse_resources(log: str) -> dict[str, Resources]:
    """What ptxas -v printed, by entry. Functions that were not inlined (``Function properties`` alone) are left out."""
    found: dict[str, Resources] = {}
    for block in re.split(r"(?=Compiling entry function)", log)[1:]:
        entry = re.match(r"Compiling entry function '([^']+)'", block)
        used = re.search(r"Used (\d+) registers(.*)", block)
        if entry is None or used is None:
            continue
        # "Function properties for" this entry comes before "Used"; those of device functions it calls follow.
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block)
        stack, stores, loads = (int(number) for number in frame.groups()) if frame else (0, 0, 0)
        smem = re.search(r"(\d+) bytes smem", used[2])
        barriers = re.search(r"used (\d+) barriers", used[2])
        found[entry[1]] = Resources(
            registers=int(used[1]),
            spill_stores=stores,
            spill_loads=loads,
            stack=stack,
            static_smem=int(smem[1]) if smem else 0,
            barriers=int(barriers[1]) if barriers else 0,
        )
    return found


def parse_warnings(log: str) -> tuple[str, ...]:
    """Warnings of the front end and of ptxas, and every C75xx line (wgmma serialised) whatever it calls itself."""
    lines = [line.strip() for line in log.splitlines() if not line.startswith("Remark:")]
    return tuple(dict.fromkeys(line for line in lines if re.search(r"\bwarning\b|\(C75\d\d\)", line)))


def _bindings() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise ToolchainError(
            "A1001", "`cuda-bindings` is installed and cannot be imported", got=str(error), help=INSTALL
        ) from error
    try:
        _, major, minor = nvrtc.nvrtcVersion()
    except (RuntimeError, OSError) as error:  # cuda-pathfinder's DynamicLibNotFoundError is a RuntimeError
        raise ToolchainError(
            "A1002",
            "the CUDA run-time compiler (NVRTC) could not be loaded",
            expected="libnvrtc of the wheel nvidia-cuda-nvrtc",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            help=INSTALL,
        ) from error
    known = toolchain().nvrtc
    if not f"{known}.".startswith(f"{major}.{minor}."):
        # Another copy was in the process first (LD_LIBRARY_PATH, a preloading package); its kernels would be stored
        # under the wheel's version.
        raise ToolchainError(
            "A1004",
            f"NVRTC {major}.{minor} is loaded instead of the installed {known}",
            expected=known,
            got=f"{major}.{minor}",
            help="take the other toolkit out of LD_LIBRARY_PATH, or import attncc before the package that loads it",
        )
    return nvrtc


def _call(result: tuple[Any, ...]) -> tuple[Any, ...]:
    status, *values = result
    if int(status) != 0:
        raise ToolchainError("A1007", f"NVRTC failed: {status.name}", help=INSTALL)
    return tuple(values)


def _read(size: Any, read: Any, program: Any) -> bytes:
    buffer = bytes(_call(size(program))[0])
    _call(read(program, buffer))
    return buffer


_LOCATION = re.compile(r"^(?P<file>[^\n(]+)\((?P<line>\d+)\): (?:catastrophic )?error: (?P<text>.+)$", re.MULTILINE)


def _refused(status: str, log: str, source: str, name: str, arch: str, tools: Toolchain) -> ToolchainError:
    first = _LOCATION.search(log)
    missing = re.search(r'cannot open source file "([^"]+)"', log)
    if missing and tools.include is None:
        return ToolchainError(
            "A1005",
            f"this kernel needs the CUDA header `{missing[1]}`, and no CUDA headers are installed",
            expected="the wheel nvidia-cuda-runtime of the same CUDA version",
            got="no folder with cuda.h",
            help=INSTALL,
        )
    at = f" at {first['file']}:{first['line']}" if first else ""
    text = first["text"] if first else next((line for line in log.splitlines() if "error" in line), status)
    return ToolchainError(
        "A1006",
        f"NVRTC refused the generated code{at}: {text}",
        expected=f"code that compiles for {arch}",
        got=status,
        help="this is a defect of attncc, not of your variant; please report it with the variant and the log",
        notes=(Note(log[:8000]),),
    )
