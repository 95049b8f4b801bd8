"""Value types and storage types of the IR. Knows no nodes."""

from __future__ import annotations

import enum
import math
import struct

I32_MIN, I32_MAX, U32_MAX = -(2**31), 2**31 - 1, 2**32 - 1


class Type(enum.Enum):
    """What an expression evaluates to. ``/`` and every transcendental function give f32."""

    F32 = "f32"
    I32 = "i32"
    U32 = "u32"
    BOOL = "bool"

    def __repr__(self) -> str:
        return self.value

    @property
    def is_integer(self) -> bool:
        return self in (Type.I32, Type.U32)


class Storage(enum.Enum):
    """How a captured tensor lies in memory; ``value`` is what a load of it yields."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    BOOL = "bool"
    U8 = "u8"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U32 = "u32"

    def __repr__(self) -> str:
        return self.value

    @property
    def loaded(self) -> Type:
        """The value type of a load: floats widen to f32, small integers and i64 read as i32."""
        return _LOADED[self]

    @property
    def itemsize(self) -> int:
        return _ITEMSIZE[self]


_LOADED = {
    Storage.F32: Type.F32,
    Storage.F16: Type.F32,
    Storage.BF16: Type.F32,
    Storage.BOOL: Type.BOOL,
    Storage.U8: Type.I32,
    Storage.I8: Type.I32,
    Storage.I16: Type.I32,
    Storage.I32: Type.I32,
    Storage.I64: Type.I32,
    Storage.U32: Type.U32,
}
_ITEMSIZE = {
    Storage.F32: 4,
    Storage.F16: 2,
    Storage.BF16: 2,
    Storage.BOOL: 1,
    Storage.U8: 1,
    Storage.I8: 1,
    Storage.I16: 2,
    Storage.I32: 4,
    Storage.I64: 8,
    Storage.U32: 4,
}

Value = float | int | bool


def round_f32(value: float) -> float:
    """The nearest f32, as a Python float; overflow gives an infinity, as a cast in a kernel does."""
    try:
        (result,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return float(result)


def wrap(value: int, type: Type) -> int:
    """An integer reduced to 32 bits, as i32 and u32 arithmetic does."""
    value &= U32_MAX
    return value - 2**32 if type is Type.I32 and value > I32_MAX else value


def truncate(value: float, type: Type) -> int:
    """float to integer as a cast does it: towards zero, saturating, NaN gives 0."""
    low, high = (I32_MIN, I32_MAX) if type is Type.I32 else (0, U32_MAX)
    if math.isnan(value):
        return 0
    if math.isinf(value):
        return low if value < 0 else high
    return max(low, min(high, math.trunc(value)))
