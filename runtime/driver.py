"""The CUDA driver through cuda-bindings: contexts, modules, launches. Knows bytes and handles only.

Every call happens in the device's primary context, the one torch and cupy use, whatever is current on the thread.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from attncc.diagnostics import ToolchainError


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
    """One GPU: its primary context, its compute capability, its number of SMs."""

    def __init__(self, index: int) -> None:
        driver = bindings()
        self.index = index
        self.handle = call(driver.cuDeviceGet(index))
        attribute = driver.CUdevice_attribute
        major = call(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, self.handle))
        minor = call(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, self.handle))
        self.capability = (int(major), int(minor))
        self.sms = int(
            call(driver.cuDeviceGetAttribute(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, self.handle))
        )
        self.context = call(driver.cuDevicePrimaryCtxRetain(self.handle))

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


class Module:
    """A cubin on one device. It stays loaded with the process."""

    def __init__(self, on: Device, cubin: bytes) -> None:
        self.device = on
        with on.current(), relaxed_capture():
            self.handle = call(bindings().cuModuleLoadData(cubin))

    def function(self, symbol: str, smem: int) -> Any:
        """The handle of a kernel that may have ``smem`` bytes of dynamic shared memory."""
        driver = bindings()
        with self.device.current(), relaxed_capture():
            handle = call(driver.cuModuleGetFunction(self.handle, symbol.encode()))
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call(driver.cuFuncSetAttribute(handle, attribute, smem))
        return handle


def launch_config(on: Device, grid: tuple[int, int, int], threads: int, smem: int, stream: int) -> Any:
    """What ``cuLaunchKernelEx`` wants of a launch besides its arguments; never changed once made.

    Every kernel waits for the grids before it (``device/dependents.cuh``), so that it may begin while they end.
    """
    driver = bindings()
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid
    config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
    config.sharedMemBytes = smem
    config.hStream = stream
    config.numAttrs = 0
    if on.capability >= (9, 0):
        early = driver.CUlaunchAttribute()
        early.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        early.value.programmaticStreamSerializationAllowed = 1
        config.attrs = [early]
        config.numAttrs = 1
    return config


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
