"""A mask evaluated over one request and head, reduced to cells of a picture. Knows nothing of how it is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attncc.binding import bind_extents
from attncc.diagnostics import CallError
from attncc.ir.nodes import Variant
from attncc.reference.call import Block, Call, Sizes, make_call
from attncc.reference.hooks import mask

BLOCK_PAIRS = 1 << 20  # pairs evaluated at once: a few megabytes an operation

EMPTY, PARTIAL, FULL = 0, 1, 2


@dataclass(frozen=True)
class Geometry:
    """The shape of a call, and which request and query head of it to look at."""

    batch: int
    num_heads: int
    num_kv_heads: int
    qo_len: int
    kv_len: int
    head_dim: int
    head_dim_v: int
    b: int
    h: int
    q_start: int
    k_start: int

    @classmethod
    def of(
        cls,
        *,
        qo_len: int,
        kv_len: int | None = None,
        batch: int = 1,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        head_dim: int = 128,
        head_dim_v: int | None = None,
        b: int = 0,
        h: int = 0,
        q_start: int | None = None,
        k_start: int = 0,
    ) -> Geometry:
        """Defaults as in a call: as many keys as queries, the rows are the newest tokens. Raises CallError A0820."""
        keys = qo_len if kv_len is None else kv_len
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        for name, value in (("batch", batch), ("num_heads", num_heads), ("num_kv_heads", kv_heads), ("qo_len", qo_len)):
            if value < 1:
                raise CallError("A0820", f"`{name}` must be at least 1", expected="1 or more", got=str(value))
        if num_heads % kv_heads:
            raise CallError(
                "A0820",
                "query heads do not divide among the KV heads",
                expected=f"a multiple of {kv_heads} query heads",
                got=str(num_heads),
            )
        for name, value, size in (("request", b, batch), ("head", h, num_heads)):
            if not 0 <= value < size:
                raise CallError("A0820", f"there is no {name} {value}", expected=f"0 to {size - 1}", got=str(value))
        start = k_start + keys - qo_len if q_start is None else q_start
        dim_v = head_dim if head_dim_v is None else head_dim_v
        return cls(batch, num_heads, kv_heads, qo_len, keys, head_dim, dim_v, b, h, start, k_start)

    def extents(self) -> dict[str, int]:
        """The extents of the language, as this request sees them."""
        names = ("batch", "num_heads", "num_kv_heads", "head_dim", "head_dim_v", "qo_len", "kv_len")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Picture:
    """A mask in cells of ``step`` × ``step`` pairs (fewer at the edges).

    ``density`` [rows, cols] is the share of a cell's pairs that attend. If asked for, ``tiles`` [rows, cols] holds
    EMPTY, PARTIAL or FULL for each tile of ``tile`` × ``tile`` pairs, and ``proven`` what the compiler proves of it.
    """

    title: str
    geometry: Geometry
    step: int
    density: npt.NDArray[np.float32]
    attended: int
    tile: int | None = None
    tiles: npt.NDArray[np.uint8] | None = None
    proven: npt.NDArray[np.uint8] | None = None

    @property
    def share(self) -> float:
        """The share of all pairs that attend."""
        pairs = self.geometry.qo_len * self.geometry.kv_len
        return self.attended / pairs if pairs else 0.0

    def caption(self) -> str:
        """What is seen: the variant, the request and head, the size, the share of pairs that attend."""
        g = self.geometry
        where = f"request {g.b}, head {g.h}" if g.batch > 1 or g.num_heads > 1 else ""
        scale = f"{self.step} × {self.step} pairs a cell" if self.step > 1 else ""
        parts = [self.title, where, f"{g.qo_len} queries × {g.kv_len} keys", f"{self.share:.1%} attend", scale]
        return " · ".join(part for part in parts if part)

    def tile_captions(self) -> list[str]:
        """How many tiles are of each kind, and how many the compiler proves to be; nothing without tiles."""
        if self.tiles is None or self.proven is None:
            return []
        return [
            f"tiles of {self.tile} × {self.tile}: {_counts(self.tiles)}",
            f"proven from the expression: {_counts(self.proven)}",
        ]


def _counts(tiles: npt.NDArray[np.uint8]) -> str:
    full, partial, empty = (int((tiles == kind).sum()) for kind in (FULL, PARTIAL, EMPTY))
    return f"{full} full, {partial} partial, {empty} empty"


def draw(
    variant: Variant,
    params: Mapping[str, Any],
    tensors: Mapping[str, Any],
    geometry: Geometry,
    *,
    cells: int,
    tile: int | None = None,
) -> Picture:
    """Evaluate the mask of ``variant`` and reduce it to at most ``cells`` × ``cells`` cells.

    ``params`` are scalars, or arrays with one value per request; ``tensors`` are arrays. With several branches a pair
    attends if it does in any. Raises CallError where a value is missing or does not fit.
    """
    rows, cols = geometry.qo_len, geometry.kv_len
    step = max(1, -(-max(rows, cols) // max(cells, 1)))
    density = np.zeros((-(-rows // step), -(-cols // step)), np.float32)
    kinds = None if tile is None else _Tiles(rows, cols, tile)
    call = _Call.of(variant, params, tensors, geometry)
    attended = 0
    for first, rows_seen in call.blocks(step):
        attended += int(rows_seen.sum())
        top = first // step
        found = _reduce(rows_seen, step)
        density[top : top + found.shape[0]] = found
        if kinds is not None:
            kinds.add(first, rows_seen)
    title = variant.name + _settings(variant, params, geometry.b)
    if tile is None or kinds is None:
        return Picture(title, geometry, step, density, attended)
    return Picture(title, geometry, step, density, attended, tile, kinds.classify(), call.proven(tile))


def _settings(variant: Variant, params: Mapping[str, Any], b: int) -> str:
    shown = [f"{decl.name} = {_of_request(params[decl.name], b):g}" for decl in variant.params if decl.name in params]
    return f"({', '.join(shown)})" if shown else ""


def _of_request(value: Any, b: int) -> Any:
    array = to_numpy(value)
    return array.reshape(-1)[b if array.size > 1 else 0].item()


def to_numpy(value: Any) -> npt.NDArray[Any]:
    """A scalar, sequence, numpy array, or a torch or cupy tensor of any device, as a numpy array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        return np.asarray(value.numpy())
    if hasattr(value, "get") and hasattr(value, "device"):
        value = value.get()
    return np.asarray(value)


@dataclass(frozen=True)
class _Call:
    """One request and head of a call, whose mask can be evaluated."""

    variant: Variant
    geometry: Geometry
    call: Call

    @classmethod
    def of(cls, variant: Variant, params: Mapping[str, Any], tensors: Mapping[str, Any], geometry: Geometry) -> _Call:
        g = geometry
        arrays = {tensor.name: to_numpy(tensors[tensor.name]) for tensor in variant.tensors}
        shapes = {name: array.shape for name, array in arrays.items()}
        bind_extents(variant, shapes, g.extents())  # says what does not fit in the user's words
        call = make_call(
            variant,
            Sizes(g.batch, g.num_heads, g.num_kv_heads, g.head_dim, g.head_dim_v, g.qo_len, g.kv_len),
            params={decl.name: to_numpy(params[decl.name]) for decl in variant.params},
            tensors=arrays,
            operands={operand.name: np.zeros(0) for operand in variant.operands},
            q_start=g.q_start,
            k_start=g.k_start,
        )
        return cls(variant, geometry, call)

    def blocks(self, step: int) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
        """The mask in blocks of whole cells of rows: (first row, [rows, kv_len])."""
        g = self.geometry
        height = max(1, BLOCK_PAIRS // max(g.kv_len, 1) // step) * step
        for first in range(0, g.qo_len, height):
            rows = range(first, min(first + height, g.qo_len))
            where = Block(g.b, range(g.h, g.h + 1), rows, range(g.kv_len))
            found = np.zeros((len(rows), g.kv_len), np.bool_)
            for branch in self.variant.branches:
                found |= mask(self.call, branch, where)[0]
            yield first, found

    def proven(self, tile: int) -> npt.NDArray[np.uint8]:
        from attncc.viz.proven import proven_tiles

        params = {name: _of_request(value, self.geometry.b) for name, value in self.call.params.items()}
        call, g = self.call, self.geometry
        return proven_tiles(self.variant, params, call.tensors, {**call.extents, **g.extents()}, g, tile)


def _reduce(mask: npt.NDArray[np.bool_], step: int) -> npt.NDArray[np.float32]:
    """The share of true pairs in each cell."""
    sums = _sums(mask, step)
    heights = np.diff([*range(0, mask.shape[0], step), mask.shape[0]])
    widths = np.diff([*range(0, mask.shape[1], step), mask.shape[1]])
    found: npt.NDArray[np.float32] = (sums / np.outer(heights, widths)).astype(np.float32)
    return found


def _sums(mask: npt.NDArray[np.bool_], step: int) -> npt.NDArray[np.int64]:
    if mask.shape[1] == 0:
        return np.zeros((-(-mask.shape[0] // step), 0), np.int64)
    by_row = np.add.reduceat(mask, np.arange(0, mask.shape[1], step), axis=1, dtype=np.int64)
    found: npt.NDArray[np.int64] = np.add.reduceat(by_row, np.arange(0, mask.shape[0], step), axis=0)
    return found


class _Tiles:
    """Counts pairs per tile while blocks of rows come in, which need not end where tiles do."""

    def __init__(self, rows: int, cols: int, tile: int) -> None:
        self.rows, self.cols, self.tile = rows, cols, tile
        self.counts = np.zeros((-(-rows // tile), -(-cols // tile)), np.int64)

    def add(self, first: int, mask: npt.NDArray[np.bool_]) -> None:
        last = first + mask.shape[0]
        for top in range(first // self.tile, -(-last // self.tile)):
            low, high = max(top * self.tile, first), min((top + 1) * self.tile, last)
            self.counts[top] += _sums(mask[low - first : high - first], self.tile).sum(axis=0)

    def classify(self) -> npt.NDArray[np.uint8]:
        heights = np.minimum(self.tile, self.rows - self.tile * np.arange(self.counts.shape[0]))
        widths = np.minimum(self.tile, self.cols - self.tile * np.arange(self.counts.shape[1]))
        kinds = np.full(self.counts.shape, PARTIAL, np.uint8)
        kinds[self.counts == 0] = EMPTY
        kinds[self.counts == np.outer(heights, widths)] = FULL
        return kinds
