"""The protocol between the warps of wgmma_sm90, as a model: nobody waits for ever, nothing is overwritten in use."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.unit.wgmma_protocol import Broken, Setup, explore, wander

MODES = {"plain": {}, "steady": {"steady": True}, "staged": {"staged": True}}
MODES["both"] = {**MODES["steady"], **MODES["staged"]}
MODES["added"] = {**MODES["steady"], "added": True}
BARRIERS = ("slot_full", "slot_empty", "q_full", "q_empty", "k_full", "k_empty", "v_full", "v_empty")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("items", "q_stages"), [((), 1), ((1,), 2), ((1, 1, 1, 1), 1), ((1, 1, 1), 2), ((2, 1), 1), ((1, 3), 1)]
)
def test_every_order_of_the_roles_ends(items: tuple[int, ...], q_stages: int, mode: str) -> None:
    """Items of one tile and of several, two consumers by turns, copies that land at any time."""
    assert explore(Setup(items, q_stages=q_stages, **MODES[mode])) > len(items)


@pytest.mark.parametrize("seed", range(40))
def test_some_orders_of_larger_rings_end(seed: int) -> None:
    dice = random.Random(seed)
    setup = Setup(
        tuple(dice.choice((1, 1, 2, 5)) for _ in range(dice.randint(0, 6))),
        consumers=dice.randint(1, 3),
        warps=dice.randint(1, 2),
        helpers=dice.randint(1, 2),
        stagers=dice.randint(1, 2),
        stages=dice.randint(2, 4),
        q_stages=dice.randint(1, 2),
        slots=dice.randint(2, 4),
        near=dice.randint(1, 4),
        **MODES[dice.choice(tuple(MODES))],
    )
    wander(setup, range(3))


def test_one_slot_is_too_few() -> None:
    """An item waits for the next one's Q before its own output is stored, and that for the slot."""
    with pytest.raises(Broken, match="everyone waits"):
        explore(Setup((2,), slots=1))
    explore(Setup((1, 1, 1, 2), slots=2))


def test_a_tile_that_may_be_done_again_needs_a_second_stage() -> None:
    with pytest.raises(Broken, match="everyone waits"):
        explore(Setup((2,), stages=1, steady=True))


def test_values_made_before_their_key_has_a_place_need_a_stage_of_their_own() -> None:
    with pytest.raises(Broken, match=r"^keys \d"):
        explore(Setup((3,), staged=True, more_values=0))


@pytest.mark.parametrize("barrier", BARRIERS)
def test_no_barrier_is_waited_for_in_vain(barrier: str) -> None:
    """Without one of the waits, some order of the same roles goes wrong."""
    setup = Setup((1, 2, 1, 1), q_stages=1, staged=True)
    with pytest.raises(Broken):
        wander(replace(setup, unguarded=frozenset({barrier})), range(40))
    wander(setup, range(10))
