"""How many parts the keys of one launch are cut into. Integers only: the same sizes give the same parts, always.

A launch has a block for each tile of packed query rows, KV head and request. Where those do not fill the GPU and there
are many keys, each block takes a part of them, and `merge` combines the parts' states in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from attncc.runtime.layouts import Shapes

# A part is at least so many KV tiles: below that, writing and merging its f32 state costs more than it saves.
MIN_TILES = 4
MAX_SPLITS = 128


@dataclass(frozen=True)
class Splits:
    """``count`` parts of ``cols`` keys each, a multiple of the kernel's tile; count 1 is no split."""

    count: int
    cols: int


def choose(shapes: Shapes, *, block_m: int, block_n: int, blocks: int, wanted: int | None = None) -> Splits:
    """The parts for a launch on a GPU that runs ``blocks`` blocks at once; ``wanted`` overrides their number.

    A split is never empty: of many wanted, as many are made as there are KV tiles.
    """
    kv_tiles = max(_ceil_div(shapes.kv_len, block_n), 1)
    if wanted is None:
        wanted = _fill(shapes, block_m, kv_tiles, blocks)
    tiles = _ceil_div(kv_tiles, max(min(wanted, kv_tiles), 1))
    return Splits(_ceil_div(kv_tiles, tiles), tiles * block_n)


def _fill(shapes: Shapes, block_m: int, kv_tiles: int, blocks: int) -> int:
    """As many parts as give every place of the GPU a block, and no more: a second wave would wait for the first."""
    if shapes.qo_tokens:  # ragged: no more row tiles than all tokens fill, and one begun for each request
        row_tiles = min(_ceil_div(shapes.qo_tokens * shapes.group, block_m) + shapes.batch, _padded(shapes, block_m))
    else:
        row_tiles = _padded(shapes, block_m)
    work = max(row_tiles * shapes.num_kv_heads, 1)
    if work * 5 >= blocks * 4:
        return 1
    return max(1, min(blocks // work, kv_tiles // MIN_TILES, MAX_SPLITS))


def _padded(shapes: Shapes, block_m: int) -> int:
    return shapes.batch * _ceil_div(shapes.qo_len * shapes.group, block_m)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
