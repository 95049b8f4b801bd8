"""Tensor elements read for every key or pair, split: what a row or an item knows of the address is computed once there.

Owns the nodes for that, which exist between the IR and C++ only. ``device/views.cuh`` has their functions.
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
    """Extents and strides of the axes that are indexed at each read. ``request`` is the batch index of a tensor over
    tokens, whose lengths are the request's; empty for any other tensor."""

    tensor: str
    axes: tuple[int, ...]
    request: tuple[Expr, ...]

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


@dataclass(frozen=True, eq=False)
class Whole(Expr):
    """A tensor in the parameter block, with nothing known of its indices."""

    tensor: str

    @property
    def type(self) -> None:  # type: ignore[override]
        return None


@dataclass(frozen=True, eq=False)
class Fetch(Expr):
    """A load through a Whole."""

    whole: Expr
    indices: tuple[Expr, ...]
    type: Type


def split(load: Load, known: Mapping[int, Expr], *, tokens: bool) -> Element | Fetch:
    """``load`` with the indices of the axes in ``known`` folded into a pointer; ``tokens``: from a tensor over tokens,
    of which nothing is known without the request."""
    if tokens and 0 not in known:
        return Fetch(Whole(load.tensor), load.indices, load.type)
    fixed = tuple(known)
    rest = tuple(axis for axis in range(len(load.indices)) if axis not in known)
    pointer = Pointer(load.tensor, fixed, tuple(known.values()))
    axes = Axes(load.tensor, rest, (known[0],) if tokens else ())
    return Element(pointer, axes, tuple(load.indices[axis] for axis in rest), load.type)
