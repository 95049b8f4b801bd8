"""Where parameter blocks travel, and what a stream's launches share on the device. Knows bytes only.

A block is the argument of its launches, by value: the driver copies it when it is asked to launch, into a graph while
one is captured, so that its memory on the host serves the next call at once. Kernels whose blocks take items as they
get free count them in device memory, which is 0 between launches: launches of one stream come one after another and
share their counters, and each captured launch has its own, as a graph may be replayed beside anything.
"""

from __future__ import annotations

import ctypes
import threading

from attncc.diagnostics import ToolchainError
from attncc.runtime.driver import Device, bindings, call, relaxed_capture

BLOCK_BYTES = 4096 + 256  # words, and descriptors behind them; CUDA 12.1 and later take up to 32764
COUNTERS_BYTES = 32  # a launch's: two words, and a sector of the cache for them alone
COUNTERS_A_CHUNK = 2048


class Block:
    """A parameter block on the host. ``argument`` is the address of a kernel's argument list: the block itself."""

    __slots__ = ("_argument", "_memory", "argument", "bytes", "floats", "ints", "uints", "words")

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(BLOCK_BYTES)
        memory = memoryview(self._memory).cast("B")
        self.bytes = memory
        self.words, self.floats = memory.cast("Q"), memory.cast("f")
        self.ints, self.uints = memory.cast("i"), memory.cast("I")
        self._argument = (ctypes.c_void_p * 1)(ctypes.addressof(self._memory))
        self.argument = ctypes.addressof(self._argument)


class Counters:
    """Counters of a device, 0 when they are given out: addresses in device memory."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._free: list[int] = []

    def take(self) -> int:
        with self._lock:
            if not self._free:
                self._grow()
            return self._free.pop()

    def _grow(self) -> None:
        driver = bindings()
        size = COUNTERS_BYTES * COUNTERS_A_CHUNK
        with self.device.current(), relaxed_capture():
            # On a stream of its own: the default one may not be touched while others capture.
            stream = call(driver.cuStreamCreate(int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)))
            start = call(driver.cuMemAlloc(size))
            call(driver.cuMemsetD8Async(start, 0, size, stream))
            call(driver.cuStreamSynchronize(stream))
            call(driver.cuStreamDestroy(stream))
        self._free.extend(range(int(start), int(start) + size, COUNTERS_BYTES))


class Lane:
    """A block and counters, of a stream's launches, or, with ``counters`` of None, of whoever captures.

    Its lock is held from the block's first word until its launches are in the stream.
    """

    def __init__(self, pool: Counters, counters: int | None) -> None:
        self.lock = threading.Lock()
        self.block = Block()
        self._pool = pool
        self._counters = counters

    def counters(self) -> int:
        """The address of the counters of the next launch."""
        return self._pool.take() if self._counters is None else self._counters


class Lanes:
    """The lanes of one device."""

    def __init__(self, device: Device) -> None:
        self.counters = Counters(device)
        self.captured = Lane(self.counters, None)
        self._lock = threading.Lock()
        self._lanes: dict[int, Lane] = {}
        driver = bindings()
        self._is_capturing, self._identity = driver.cuStreamIsCapturing, driver.cuStreamGetId

    def lane(self, identity: int) -> Lane:
        """Of a stream, by what cuStreamGetId says: a handle may come again, and that of a thread's default stream is
        the same in every thread."""
        lane = self._lanes.get(identity)
        if lane is None:
            with self._lock:
                lane = self._lanes.get(identity)
                if lane is None:
                    lane = self._lanes[identity] = Lane(self.counters, self.counters.take())
        return lane

    def of(self, stream: int) -> Lane:
        """Of the next launch on a stream. While it is captured, a stream does not say which one it is."""
        status, capturing = self._is_capturing(stream)
        if status:
            call((status,))
        if int(capturing):
            return self.captured
        status, identity = self._identity(stream)
        if status:
            call((status,))
        return self.lane(int(identity))


def check_size(size: int) -> None:
    """Raises ToolchainError A1013 for a block that is no argument."""
    if size > BLOCK_BYTES:
        raise ToolchainError("A1013", f"a parameter block of {size} bytes", expected=f"at most {BLOCK_BYTES}")
