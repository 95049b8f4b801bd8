"""Loop bounds never lose a pair and never call a partial tile full; understood masks get the smallest."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given

from attncc.ir.nodes import Branch, Expr, Input, ParamDecl, Variant
from attncc.ir.types import Type
from attncc.ir.verify import verify
from attncc.passes.canonicalize import canonicalize
from attncc.passes.pipeline import run
from attncc.passes.ranges import tile_program
from attncc.passes.tile_program import OPS, Environment, TileProgram, TileRange
from tests import strategies
from tests.evaluator import Point, evaluate
from tests.unit.mask_cases import CASES, EXTENTS, MaskCase, draw_tensor

GROUP, NUM_KV_HEADS = 2, 2
# qo_len, kv_len, q_start, k_start; None: rows are the newest tokens.
GEOMETRIES = (
    (70, 70, None, 0),
    (33, 97, None, 0),
    (1, 130, None, 0),
    (90, 40, None, 0),
    (50, 60, 25, 200),
    (45, 80, 300, 260),
    (64, 64, -20, -31),
)
TILES = (1, 16, 64)


def _geometries(random: np.random.Generator) -> list[dict[str, int]]:
    found = []
    for qo_len, kv_len, q_start, k_start in GEOMETRIES:
        start = k_start + kv_len - qo_len if q_start is None else q_start
        found.append({"qo_len": qo_len, "kv_len": kv_len, "q_start": start, "k_start": k_start, "b": 1, "batch": 3})
    return found


def _truth(case: MaskCase, geometry: dict[str, int], params: dict[str, int], tensors: dict[str, np.ndarray], h: int):
    row, col = np.arange(geometry["qo_len"])[:, None], np.arange(geometry["kv_len"])[None, :]
    coords = {
        "row": row,
        "col": col,
        "q": geometry["q_start"] + row,
        "k": geometry["k_start"] + col,
        "own": row + geometry["kv_len"] - geometry["qo_len"],
        "b": geometry["b"],
        "h": h,
        "hk": h // GROUP,
    }
    mask = evaluate(case.mask, Point(coords, {**EXTENTS, **geometry}, params, tensors))
    return np.broadcast_to(mask, (geometry["qo_len"], geometry["kv_len"]))


def _check(case: MaskCase, truth: np.ndarray, ranges: list[TileRange], first: int, last: int) -> None:
    """``truth`` [heads, rows of the tile, kv_len] against the ranges of rows [first, last)."""
    covered = np.zeros(truth.shape[-1], bool)
    full = np.zeros(truth.shape[-1], bool)
    end = 0
    for item in ranges:
        assert end <= item.lo < item.hi <= truth.shape[-1], "ranges ascend inside [0, kv_len)"
        end = item.hi
        covered[item.lo : item.hi] = True
        full[item.lo : item.hi] = not item.partial
    seen, all_see = truth.any((0, 1)), truth.all((0, 1))
    assert not (seen & ~covered).any(), f"rows [{first}, {last}) attend columns outside {ranges}"
    assert not (full & ~all_see).any(), f"rows [{first}, {last}) do not attend all of {ranges}"
    if case.exact:
        assert (covered == seen).all(), f"rows [{first}, {last}): {ranges} visits more than {np.flatnonzero(seen)}"
        assert (full == all_see).all(), f"rows [{first}, {last}): {ranges} proves less than {np.flatnonzero(all_see)}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ranges_against_every_pair(case: MaskCase) -> None:
    variant = canonicalize(case.variant())
    verify(variant)
    program = tile_program(variant)
    program = TileProgram.from_json(json.loads(json.dumps(program.to_json())))
    random = np.random.default_rng(7)
    for geometry, values in product(_geometries(random), product(*case.params.values())):
        params = dict(zip(case.params, values, strict=True))
        sizes = {**EXTENTS, **geometry, "num_heads": GROUP * NUM_KV_HEADS}
        tensors = {name: draw_tensor(name, sizes, random) for name in case.tensors}
        heads = np.stack([_truth(case, geometry, params, tensors, h) for h in range(GROUP * NUM_KV_HEADS)])
        for hk, tile in product(range(NUM_KV_HEADS), TILES):
            for row_lo in range(0, geometry["qo_len"], tile):
                row_hi = min(row_lo + tile, geometry["qo_len"])
                inputs = {**geometry, "row_lo": row_lo, "rows": row_hi - row_lo, "hk": hk, "group": GROUP}
                ranges = program.evaluate(Environment(inputs, params, sizes, tensors))
                _check(case, heads[hk * GROUP : hk * GROUP + GROUP, row_lo:row_hi], ranges, row_lo, row_hi)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_programs_stay_small(case: MaskCase) -> None:
    program = tile_program(canonicalize(case.variant()))
    assert len(program.code) <= 120
    assert len(program.cover) <= 4
    assert len(program.full) <= 4


@given(strategies.masks())
def test_no_program_overflows(mask: Expr) -> None:
    """Interval arithmetic over the whole domain of a program stays within 64 bits in every instruction."""
    variant = run(Variant("v", strategies.PARAMS, strategies.TENSORS, branches=(Branch(mask=mask),)))
    _widest(tile_program(variant))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_listed_program_overflows(case: MaskCase) -> None:
    _widest(tile_program(canonicalize(case.variant())))


DOMAIN = {
    "row_lo": (0, 2**28),
    "rows": (1, 2**28),
    "q_start": (-(2**29), 2**29),
    "k_start": (-(2**29), 2**29),
    "hk": (0, 2**14),
    "group": (1, 2**14),
}


def _widest(program: TileProgram) -> None:
    ends: list[tuple[int, int]] = []
    for op, *arguments in program.code:
        if op == "const":
            low = high = arguments[0]
        elif op in ("input", "param", "extent", "load"):
            name = arguments[0]
            length = (0, 2**28) if name in ("qo_len", "kv_len") else (-(2**31), 2**31 - 1)
            low, high = DOMAIN.get(name, length)
        elif op == "select":
            low, high = (pick(ends[i][side] for i in arguments[1:]) for side, pick in ((0, min), (1, max)))
        else:
            x, y = (ends[i] for i in arguments)
            divisors = (-1, 1, *y) if op in ("floordiv", "mod") else y
            corners = [OPS[op](a, b) for a in x for b in divisors]
            low, high = (min(corners), max(corners)) if op != "mod" else (-(2**31), 2**31)
        assert -(2**63) < low <= high < 2**63, (op, arguments)
        ends.append((low, high))


def test_causal_program_is_what_one_would_write() -> None:
    (case,) = (case for case in CASES if case.name == "1 causal")
    program = tile_program(canonicalize(case.variant()))
    names = [instruction[0] for instruction in program.code]
    assert len(program.cover) == len(program.full) == 1
    assert names.count("select") == 0
    assert len(program.code) <= 12


@given(strategies.masks(), strategies.values())
def test_any_mask_is_sound(mask: Expr, values: strategies.Values) -> None:
    variant = run(Variant("v", strategies.PARAMS, strategies.TENSORS, branches=(Branch(mask=mask),)))
    program = tile_program(variant)
    rows, cols = values.extents["qo_len"], values.extents["kv_len"]
    heads = []
    for h in range(2 * int(values.coords["hk"]), 2 * int(values.coords["hk"]) + 2):
        point = Point({**values.coords, "h": h}, values.extents, values.params, values.tensors, values.inputs)
        heads.append(np.broadcast_to(evaluate(mask, point), (rows, cols)))
    truth = np.stack(heads)
    case = MaskCase("random", mask)
    for tile in (1, 3, rows):
        for row_lo in range(0, rows, tile):
            row_hi = min(row_lo + tile, rows)
            inputs = {
                "row_lo": row_lo,
                "rows": row_hi - row_lo,
                "b": int(values.coords["b"]),
                "hk": int(values.coords["hk"]),
                "group": 2,
                "q_start": int(values.coords["q"][0, 0]),
                "k_start": int(values.coords["k"][0, 0]),
            }
            ranges = program.evaluate(Environment(inputs, values.params, values.extents, values.tensors))
            _check(case, truth[:, row_lo:row_hi], ranges, row_lo, row_hi)


def test_branches_share_their_loop() -> None:
    """A column is visited if one branch attends it, and full only if all do."""
    window, causal = (next(case.mask for case in CASES if case.name == name) for name in ("3 symmetric", "1 causal"))
    branches = (Branch("x", mask=causal), Branch("y", mask=window))
    program = tile_program(Variant("v", (ParamDecl("w", Type.I32),), branches=branches, output=Input("out", "x")))
    inputs = {"row_lo": 20, "rows": 4, "b": 0, "hk": 0, "group": 1, "q_start": 0, "k_start": 0}
    found = program.evaluate(Environment(inputs, {"w": 8}, {"qo_len": 64, "kv_len": 64}, {}))
    assert found == [TileRange(0, 15, True), TileRange(15, 21, False), TileRange(21, 32, True)]
