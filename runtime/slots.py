"""Where parameter blocks travel: slots of pinned host memory, each with its place in device memory. Knows bytes only.

A copy from pageable memory may make the driver wait for the stream, and a captured one would read the memory again at
every replay: so a block is written into pinned memory and copied from there. A slot serves again once what it was used
for has passed, looked at and never waited for. During graph capture it never does: the graph reads it at every replay.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from typing import Any

from attncc.diagnostics import ToolchainError
from attncc.runtime.driver import Device, bindings, call, relaxed_capture

SLOT_BYTES = 4096 + 256  # words, and descriptors behind them; a multiple of a descriptor's alignment
SLOTS_A_PAGE = 16  # one event for as many launches
PAGES_A_CHUNK = 16


class Slot:
    """One block's place. ``argument`` is the address of a kernel's argument list: one pointer to ``device``."""

    __slots__ = ("_argument", "_pointer", "argument", "bytes", "device", "floats", "host", "ints", "uints", "words")

    def __init__(self, host: int, device: int) -> None:
        memory = memoryview((ctypes.c_char * SLOT_BYTES).from_address(host)).cast("B")
        self.host = host
        self.bytes = memory
        self.words, self.floats = memory.cast("Q"), memory.cast("f")
        self.ints, self.uints = memory.cast("i"), memory.cast("I")
        self.device = bindings().CUdeviceptr(device)
        self._pointer = ctypes.c_uint64(device)
        self._argument = (ctypes.c_void_p * 1)(ctypes.addressof(self._pointer))
        self.argument = ctypes.addressof(self._argument)


class Page:
    """A few slots that are used in order and come back together, once ``event`` has passed."""

    def __init__(self, slots: list[Slot], event: Any) -> None:
        self.slots = slots
        self.event = event
        self.used = 0


class Pages:
    """The pages of one device."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._free: list[Page] = []

    def take(self) -> Page:
        with self._lock:
            if not self._free:
                self._grow()
            return self._free.pop()

    def _grow(self) -> None:
        driver = bindings()
        size = SLOT_BYTES * SLOTS_A_PAGE * PAGES_A_CHUNK
        with self.device.current(), relaxed_capture():
            host, there = int(call(driver.cuMemHostAlloc(size, 0))), int(call(driver.cuMemAlloc(size)))
            flags = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
            for page in range(PAGES_A_CHUNK):
                places = range(page * SLOTS_A_PAGE * SLOT_BYTES, (page + 1) * SLOTS_A_PAGE * SLOT_BYTES, SLOT_BYTES)
                slots = [Slot(host + offset, there + offset) for offset in places]
                self._free.append(Page(slots, call(driver.cuEventCreate(flags))))


class Lane:
    """The slots of one stream. Its lock is held from ``take`` until the slot's launches are in the stream: only then
    does an event behind the page's last slot say that all of them have passed.
    """

    def __init__(self, pages: Pages, stream: int) -> None:
        self.pages = pages
        self.lock = threading.Lock()
        self.stream = bindings().CUstream(stream)
        self._page = pages.take()
        self._passing: deque[Page] = deque()  # in one stream the oldest is done first
        self._captured: Page | None = None

    def take(self) -> Slot:
        """The next slot. The device's context must be current."""
        page = self._page
        if page.used == SLOTS_A_PAGE:
            page = self._turn(page)
        slot = page.slots[page.used]
        page.used += 1
        return slot

    def take_captured(self) -> Slot:
        """A slot for a launch that is being captured into a graph."""
        page = self._captured
        if page is None or page.used == SLOTS_A_PAGE:
            page = self._captured = self.pages.take()
            page.used = 0
        slot = page.slots[page.used]
        page.used += 1
        return slot

    def _turn(self, page: Page) -> Page:
        driver, passing = bindings(), self._passing
        with relaxed_capture():  # of another thread's stream: looking at an event would break it
            call(driver.cuEventRecord(page.event, self.stream))
            passing.append(page)
            passed = int(driver.cuEventQuery(passing[0].event)[0]) == 0
        page = passing.popleft() if passed else self.pages.take()
        page.used = 0
        self._page = page
        return page


class Slots:
    """Every lane of one device, by stream."""

    def __init__(self, device: Device) -> None:
        self.pages = Pages(device)
        self._lock = threading.Lock()
        self._lanes: dict[int, Lane] = {}

    def lane(self, stream: int) -> Lane:
        lane = self._lanes.get(stream)
        if lane is None:
            with self._lock:
                lane = self._lanes.get(stream)
                if lane is None:
                    lane = self._lanes[stream] = Lane(self.pages, stream)
        return lane


def check_size(size: int) -> None:
    """Raises ToolchainError A1013 for a block that no slot holds."""
    if size > SLOT_BYTES:
        raise ToolchainError("A1013", f"a parameter block of {size} bytes", expected=f"at most {SLOT_BYTES}")


def captured(stream: Any) -> bool:
    """Whether a graph is being captured from the stream."""
    return int(call(bindings().cuStreamIsCapturing(stream))) != 0
