"""The integer program that says which KV columns a tile of query rows visits: data that travels in a kernel's manifest.

A program is straight-line code over 64-bit integers: every instruction makes one value from earlier ones, conditions
are 0 and 1. It knows neither the IR nor kernels, so that the host, a test and generated C++ run the same thing.
Values stay within ±2⁶², and range ends within ±2⁴⁰, for lengths below 2²⁸ and starts within ±2²⁹.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

INPUTS = ("row_lo", "rows", "b", "hk", "group", "q_start", "k_start")
EVERYTHING = 2**40  # a range end no column reaches

# Instructions are ("const", number), ("input" | "param" | "extent", name), ("load", tensor, values...), (op,
# values...).
OPS: Mapping[str, Callable[..., int]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "floordiv": lambda x, y: x // y if y else 0,
    "mod": lambda x, y: x % y if y else 0,
    "min": min,
    "max": max,
    "lt": lambda x, y: int(x < y),
    "le": lambda x, y: int(x <= y),
    "eq": lambda x, y: int(x == y),
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "select": lambda c, x, y: x if c else y,
}


@dataclass(frozen=True)
class TileRange:
    """KV columns [lo, hi). ``partial`` False: every row of the tile attends every one of them, in every head."""

    lo: int
    hi: int
    partial: bool


@dataclass(frozen=True)
class Environment:
    """What a program reads: one request, one KV head, one tile of ``rows`` >= 1 rows from ``row_lo``.

    ``inputs`` has the INPUTS, ``params`` the request's values, ``extents`` every size by name (``kv_len`` included),
    and ``tensors`` arrays that are indexed with integers; indices are clamped here.
    """

    inputs: Mapping[str, int]
    params: Mapping[str, int | bool]
    extents: Mapping[str, int]
    tensors: Mapping[str, Any]


@dataclass(frozen=True)
class TileProgram:
    """``code`` in order of evaluation; ``cover`` and ``full`` are pairs of indices into it, half-open ranges [lo, hi).

    Together the ``cover`` ranges hold every column that any row of the tile attends in any head of the group; each
    column of a ``full`` range is attended by all of them. Ranges may be empty, overlap, and reach outside [0,
    kv_len).
    """

    code: tuple[tuple[Any, ...], ...]
    cover: tuple[tuple[int, int], ...]
    full: tuple[tuple[int, int], ...]

    @property
    def is_band(self) -> bool:
        """Whether both ends of every ``cover`` range depend on the tile's first row."""
        moves: list[bool] = []
        for op, *arguments in self.code:
            if op in ("const", "param", "extent", "input"):
                moves.append((op, *arguments) == ("input", "row_lo"))
            else:
                moves.append(any(moves[i] for i in (arguments[1:] if op == "load" else arguments)))
        return bool(self.cover) and all(moves[lo] and moves[hi] for lo, hi in self.cover)

    def evaluate(self, env: Environment) -> list[TileRange]:
        """The columns to visit, as ascending disjoint ranges inside [0, kv_len); neighbours differ in ``partial``."""
        values = self._run(env)
        length = env.extents["kv_len"]

        def clipped(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
            pairs = ((max(values[lo], 0), min(values[hi], length)) for lo, hi in ranges)
            return [(lo, hi) for lo, hi in pairs if lo < hi]

        return disjoint(clipped(self.cover), clipped(self.full))

    def _run(self, env: Environment) -> list[int]:
        values: list[int] = []
        for op, *arguments in self.code:
            match op:
                case "const":
                    values.append(arguments[0])
                case "input":
                    values.append(env.inputs[arguments[0]])
                case "param":
                    values.append(int(env.params[arguments[0]]))
                case "extent":
                    values.append(env.extents[arguments[0]])
                case "load":
                    values.append(_load(env.tensors[arguments[0]], [values[i] for i in arguments[1:]]))
                case _:
                    values.append(OPS[op](*(values[i] for i in arguments)))
        return values

    def to_json(self) -> dict[str, Any]:
        """Lists and numbers only; ``from_json`` reads it back."""
        return {
            "code": [list(instruction) for instruction in self.code],
            "cover": [list(pair) for pair in self.cover],
            "full": [list(pair) for pair in self.full],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TileProgram:
        def pairs(name: str) -> tuple[tuple[int, int], ...]:
            return tuple((int(lo), int(hi)) for lo, hi in data[name])

        return cls(tuple(tuple(instruction) for instruction in data["code"]), pairs("cover"), pairs("full"))


def disjoint(cover: Sequence[tuple[int, int]], full: Sequence[tuple[int, int]]) -> list[TileRange]:
    """``cover`` ranges merged and cut where ``full`` ones begin and end."""
    cuts = sorted({end for pair in (*cover, *full) for end in pair})
    result: list[TileRange] = []
    for lo, hi in pairwise(cuts):
        if not any(first <= lo and hi <= last for first, last in cover):
            continue
        partial = not any(first <= lo and hi <= last for first, last in full)
        if result and result[-1].hi == lo and result[-1].partial == partial:
            lo = result.pop().lo
        result.append(TileRange(lo, hi, partial))
    return result


def _load(tensor: Any, indices: Sequence[int]) -> int:
    shape = tensor.shape
    if not all(shape):
        return 0
    at = tuple(max(0, min(index, size - 1)) for index, size in zip(indices, shape, strict=True))
    value = int(tensor[at])
    return (value + 2**31) % 2**32 - 2**31  # i64 storage reads as i32
