"""Rounding to storage precisions with numpy alone: what a bf16 or f16 tensor does to a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def to_bf16(values: Array) -> Array:
    """The nearest bf16, ties to even, as float32. Overflow gives an infinity; a NaN stays one."""
    wide = np.asarray(values, np.float32)
    bits = wide.view(np.uint32) if wide.ndim else wide.reshape(1).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    found: Array = np.where(np.isnan(wide), np.float32(np.nan), rounded.view(np.float32).reshape(wide.shape))
    return found


def to_f16(values: Array) -> Array:
    """The nearest f16, ties to even, as float32. Overflow gives an infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def to_f32(values: Array) -> Array:
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Precision:
    """How data-dependent values are computed: the type of the arithmetic, and how each operation's result is rounded.

    ``unit`` is u of the accuracy bounds: half the distance between 1 and the next value.
    """

    name: str
    work: type[np.floating[Any]]
    round: Callable[[Array], Array]
    unit: float


EXACT = Precision("exact", np.float64, lambda values: values, 2.0**-53)
PRECISIONS = {
    "bf16": Precision("bf16", np.float32, to_bf16, 2.0**-9),
    "f16": Precision("f16", np.float32, to_f16, 2.0**-12),
    "f32": Precision("f32", np.float32, to_f32, 2.0**-25),
}
