"""Tiles of masks: EMPTY and FULL are always true, and are found wherever the formula shows them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given

from attncc.ir.nodes import Expr
from attncc.passes.canonicalize import simplified
from attncc.passes.classify import Box, Tile, classify
from attncc.passes.tile_program import Environment
from tests import strategies
from tests.evaluator import Point, evaluate
from tests.unit.mask_cases import CASES, EXTENTS, MaskCase, draw_tensor

GROUP = 2
GEOMETRIES = ((60, 60, 0, 0), (33, 97, 64, 0), (50, 60, 25, 200), (40, 64, -20, -31))
# Where every empty tile must be found; the tensors are sorted, as document numbers and positions are.
COMPLETE = {case.name for case in CASES if case.exact} | {"12 shared prefix", "23 permuted"}


def _kind(pairs: np.ndarray) -> Tile:
    return Tile.FULL if pairs.all() else Tile.PARTIAL if pairs.any() else Tile.EMPTY


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tiles_of_the_listed_masks(case: MaskCase) -> None:
    random = np.random.default_rng(3)
    mask = simplified(case.mask)
    for (rows, cols, q_start, k_start), values in product(GEOMETRIES, product(*case.params.values())):
        params = dict(zip(case.params, values, strict=True))
        sizes = {**EXTENTS, "qo_len": rows, "kv_len": cols, "batch": 3, "num_heads": 4}
        tensors = {name: np.sort(draw_tensor(name, sizes, random), axis=-1) for name in case.tensors}
        row, col = np.arange(rows)[:, None], np.arange(cols)[None, :]
        coords = {"row": row, "col": col, "q": q_start + row, "k": k_start + col, "own": row + cols - rows}
        coords |= {"b": np.asarray(1), "hk": np.asarray(1)}
        inputs = {"b": 1, "hk": 1, "q_start": q_start, "k_start": k_start}
        env = Environment(inputs, params, sizes, tensors)
        heads = [
            np.broadcast_to(evaluate(mask, Point({**coords, "h": h}, sizes, params, tensors)), (rows, cols))
            for h in (GROUP, GROUP + 1)
        ]
        truth = np.stack(heads)
        for row_lo, col_lo in product(range(0, rows, 16), range(0, cols, 16)):
            box = Box(row_lo, min(row_lo + 16, rows), col_lo, min(col_lo + 16, cols), GROUP, 2 * GROUP)
            expected = _kind(truth[:, box.row_lo : box.row_hi, box.col_lo : box.col_hi])
            found = classify(mask, env, box)
            assert found in (expected, Tile.PARTIAL), (box, params)
            if case.name in COMPLETE and expected is Tile.EMPTY:
                assert found is Tile.EMPTY, (box, params)


@given(strategies.masks(), strategies.values())
def test_proofs_hold_for_any_mask(mask: Expr, values: strategies.Values) -> None:
    rows, cols = values.extents["qo_len"], values.extents["kv_len"]
    point = Point(values.coords, values.extents, values.params, values.tensors, values.inputs)
    truth = np.broadcast_to(evaluate(mask, point), (rows, cols))
    h = int(values.coords["h"])
    inputs = {
        "b": int(values.coords["b"]),
        "hk": int(values.coords["hk"]),
        "q_start": int(values.coords["q"][0, 0]),
        "k_start": int(values.coords["k"][0, 0]),
    }
    env = Environment(inputs, values.params, values.extents, values.tensors)
    for size in (2, 5):
        for row_lo, col_lo in product(range(0, rows, size), range(0, cols, size)):
            box = Box(row_lo, min(row_lo + size, rows), col_lo, min(col_lo + size, cols), h, h + 1)
            expected = _kind(truth[box.row_lo : box.row_hi, box.col_lo : box.col_hi])
            assert classify(mask, env, box) in (expected, Tile.PARTIAL)
