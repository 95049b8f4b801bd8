"""The CUDA driver through cuda-bindings: contexts, modules, launches, pinned uploads. Knows bytes and handles only.

Every call happens in the device's primary context, the one torch and cupy use, whatever is current on the thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from attncc.diagnostics import ToolchainError

SLOT_BYTES = 4096
SLOTS_A_CHUNK = 256


@functools.cache
def bindings() -> Any:
    """``cuda.bindings.driver``, initialised. Raises ToolchainError A1001 (not installed) or A1010 (no driver)."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise ToolchainError(
            "A1001",
            "launching kernels needs the package `cuda-bindings`",
            got=str(error),
            help="pip install 'attncc[cuda13]'",
        ) from error
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError as error:  # libcuda.so.1 is not there
        raise ToolchainError(
            "A1010",
            "no CUDA driver on this machine",
            expected="libcuda.so.1, which comes with the NVIDIA driver",
            got=str(error).splitlines()[0] if str(error) else "nothing",
            help="pass CPU tensors to run the reference",
        ) from error
    if int(status) != 0:
        raise ToolchainError("A1010", "the CUDA driver does not start", got=status.name, help="check `nvidia-smi`")
    return driver


def call(result: tuple[Any, ...]) -> Any:
    """The value of a driver call. Raises ToolchainError A1013 naming its status."""
    status = result[0]
    if int(status) != 0:
        raise ToolchainError(
            "A1013",
            f"the CUDA driver answered {status.name}",
            help="an earlier kernel on this device may have failed; CUDA_LAUNCH_BLOCKING=1 shows which",
        )
    if len(result) == 1:
        return None
    return result[1] if len(result) == 2 else result[1:]


def device_count() -> int:
    """How many GPUs the driver sees."""
    return int(call(bindings().cuDeviceGetCount()))


class Device:
    """One GPU: its primary context, its compute capability, its pinned slots."""

    def __init__(self, index: int) -> None:
        driver = bindings()
        self.index = index
        self.handle = call(driver.cuDeviceGet(index))
        attribute = driver.CUdevice_attribute
        major = call(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self.handle))
        minor = call(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self.handle))
        self.capability = (int(major), int(minor))
        self.context = call(driver.cuDevicePrimaryCtxRetain(self.handle))
        self.staging = Staging()

    @property
    def name(self) -> str:
        """What the driver calls it."""
        text: bytes = call(bindings().cuDeviceGetName(128, self.handle))
        return text.split(b"\0")[0].decode()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The primary context is this thread's for the block, and the caller's own again after it."""
        driver = bindings()
        call(driver.cuCtxPushCurrent(self.context))
        try:
            yield
        finally:
            call(driver.cuCtxPopCurrent())


@functools.cache
def device(index: int) -> Device:
    return Device(index)


class Function:
    """A kernel on one device. The cubin stays loaded with the process."""

    def __init__(self, on: Device, cubin: bytes, symbol: str, smem: int) -> None:
        driver = bindings()
        with on.current(), relaxed_capture():
            self.module = call(driver.cuModuleLoadData(cubin))
            self.handle = call(driver.cuModuleGetFunction(self.module, symbol.encode()))
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call(driver.cuFuncSetAttribute(self.handle, attribute, smem))
        self.smem = smem

    def launch(self, grid: tuple[int, int, int], threads: int, stream: int, argument: int) -> None:
        """Launch with one pointer as the only argument. The device's context must be current."""
        arguments = ((argument,), (ctypes.c_void_p,))
        call(bindings().cuLaunchKernel(self.handle, *grid, threads, 1, 1, self.smem, stream, arguments, 0))


@contextlib.contextmanager
def relaxed_capture() -> Iterator[None]:
    """Allows, while this or another thread captures a graph, what a capture forbids by default: allocation, loading."""
    driver = bindings()
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    before = call(driver.cuThreadExchangeStreamCaptureMode(mode))
    try:
        yield
    finally:
        call(driver.cuThreadExchangeStreamCaptureMode(before))


class Staging:
    """Pinned host memory in slots, so that an upload is asynchronous for certain and never waits.

    A copy from pageable memory may make the driver wait for the stream, and a captured one would read the memory again
    at every replay. A slot comes back once the event behind its copy has passed, looked at and never waited for; during
    graph capture it does not come back, because the graph reads it whenever it is replayed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[tuple[int, Any]] = []
        self._busy: dict[int, deque[tuple[int, Any]]] = {}

    def upload(self, data: bytes, destination: int, stream: int) -> None:
        """Copy ``data`` to device memory in the stream's order. The device's context must be current."""
        driver = bindings()
        capturing = int(call(driver.cuStreamIsCapturing(stream))) != 0
        with self._lock:
            slot, event = self._take(stream, len(data), reuse=not capturing)
        ctypes.memmove(slot, data, len(data))
        call(driver.cuMemcpyHtoDAsync(destination, slot, len(data), stream))
        if not capturing:
            call(driver.cuEventRecord(event, stream))
            with self._lock:
                self._busy.setdefault(stream, deque()).append((slot, event))

    def _take(self, stream: int, size: int, *, reuse: bool) -> tuple[int, Any]:
        if size > SLOT_BYTES:
            raise ToolchainError("A1013", f"a parameter block of {size} bytes", expected=f"at most {SLOT_BYTES}")
        busy = self._busy.get(stream)
        # In one stream the oldest copy is done first.
        if reuse and busy and int(bindings().cuEventQuery(busy[0][1])[0]) == 0:
            return busy.popleft()
        if not self._free:
            self._grow()
        return self._free.pop()

    def _grow(self) -> None:
        driver = bindings()
        with relaxed_capture():
            chunk = int(call(driver.cuMemHostAlloc(SLOT_BYTES * SLOTS_A_CHUNK, 0)))
            flags = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
            self._free = [(chunk + i * SLOT_BYTES, call(driver.cuEventCreate(flags))) for i in range(SLOTS_A_CHUNK)]
