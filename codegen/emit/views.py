"""Tensor elements read for every pair, split: what a row or an item knows of the address is computed once there.

Owns three nodes that exist between the IR and C++ only. ``device/views.cuh`` has their functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attncc.ir.nodes import Expr, Load
from attncc.ir.types import Type


@dataclass(frozen=True, eq=False)
class Pointer(Expr):
    """Where a tensor's elements lie once the indices of ``axes`` are known."""

    tensor: str
    axes: tuple[int, ...]
    indices: tuple[Expr, ...]

    @property
    def type(self) -> None:  # type: ignore[override]
        return None


@dataclass(frozen=True, eq=False)
class Axes(Expr):
    """Extents and strides of the axes that are indexed at each read."""

    tensor: str
    axes: tuple[int, ...]

    @property
    def type(self) -> None:  # type: ignore[override]
        return None


@dataclass(frozen=True, eq=False)
class Element(Expr):
    """A load through a Pointer; ``indices`` are those of ``axes``."""

    pointer: Expr
    axes: Expr
    indices: tuple[Expr, ...]
    type: Type


def split(load: Load, known: Mapping[int, Expr]) -> Element:
    """``load`` with the indices of the axes in ``known`` folded into a pointer."""
    fixed = tuple(known)
    rest = tuple(axis for axis in range(len(load.indices)) if axis not in known)
    pointer = Pointer(load.tensor, fixed, tuple(known.values()))
    return Element(pointer, Axes(load.tensor, rest), tuple(load.indices[axis] for axis in rest), load.type)
