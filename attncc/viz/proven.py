"""What the compiler proves about the tiles of a mask, without evaluating it: the tile program, row tile by row tile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from attncc.ir.nodes import Variant
from attncc.passes.ranges import tile_program
from attncc.passes.tile_program import Environment
from attncc.viz.picture import EMPTY, FULL, PARTIAL, Geometry


def proven_tiles(
    variant: Variant,
    params: Mapping[str, int | bool],
    tensors: Mapping[str, npt.NDArray[Any]],
    extents: Mapping[str, int],
    geometry: Geometry,
    tile: int,
) -> npt.NDArray[np.uint8]:
    """EMPTY where a kernel skips a tile, FULL where it evaluates no mask, PARTIAL elsewhere; [row tiles, KV tiles]."""
    g = geometry
    program = tile_program(variant)
    kinds = np.full((-(-g.qo_len // tile), -(-g.kv_len // tile)), EMPTY, np.uint8)
    group = g.num_heads // g.num_kv_heads
    for i in range(kinds.shape[0]):
        inputs = {
            "row_lo": i * tile,
            "rows": min(tile, g.qo_len - i * tile),
            "b": g.b,
            "hk": g.h // group,
            "group": group,
            "q_start": g.q_start,
            "k_start": g.k_start,
        }
        for found in program.evaluate(Environment(inputs, params, extents, tensors)):
            for j in range(found.lo // tile, -(-found.hi // tile)):
                whole = found.lo <= j * tile and min((j + 1) * tile, g.kv_len) <= found.hi
                kinds[i, j] = FULL if whole and not found.partial else PARTIAL
    return kinds
