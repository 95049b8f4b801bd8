"""A model of the protocol between the warps of wgmma_sm90: who waits for what, holds what, and may overwrite it.

Every role's steps follow from the items, so a role is a list of steps; what varies is their order, which ``explore``
goes through in full and ``wander`` at random. Written from the loops of families/wgmma_sm90.cuh and wgmma_loaders.cuh;
knows no values, only which item or tile a place holds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

ANYTHING = -1  # a place is read whose content does not count, but nobody may write meanwhile


class Broken(AssertionError):
    """The protocol fails: a place is overwritten in use or used before it is filled, a phase is missed, all wait."""


@dataclass(frozen=True)
class Setup:
    """Sizes of the rings, and what a variant is like: ``steady`` and ``staged`` as in the kernel.

    ``items`` are their numbers of tiles; the next item is wanted ``near`` tiles before an item's end. What hooks
    stage is made before its K has a place, and has ``more_values`` stages than K; what products add where ``added``
    is copied beside K. Each consumer has ``warps``,
    ``helpers`` prepare items, ``stagers`` stage values. ``unguarded`` names barriers that nobody waits for: mistakes
    to be found.
    """

    items: tuple[int, ...]
    consumers: int = 2
    warps: int = 1
    helpers: int = 1
    stagers: int = 1
    stages: int = 2
    q_stages: int = 1
    slots: int = 3
    near: int = 1
    more_values: int = 1
    steady: bool = False
    staged: bool = False
    added: bool = False
    unguarded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Step:
    """What one warp or thread does at once, after ``wait``: (barrier, number of the phase that must have ended).

    ``uses`` are places with what they must hold, until ``done``; ``writes`` likewise. ``copies`` land some time later,
    and only then the barrier's phase may end. ``meets`` is a named barrier it arrives at, ``passes`` one it waits for
    as well.
    """

    wait: tuple[str, int] | None = None
    uses: tuple[tuple[str, int], ...] = ()
    done: tuple[str, ...] = ()
    writes: tuple[tuple[str, int], ...] = ()
    copies: tuple[tuple[str, str, int], ...] = ()
    arrives: str | None = None
    meets: str | None = None
    passes: str | None = None


@dataclass
class _Program:
    steps: list[Step] = field(default_factory=list)

    def add(self, **what: object) -> None:
        self.steps.append(Step(**what))  # type: ignore[arg-type]


def _ring(name: str, number: int, size: int) -> tuple[str, int]:
    """The place or barrier of the ``number``-th turn, and how often the ring came round before."""
    return f"{name}{number % size}", number // size


def programs(setup: Setup) -> dict[str, list[Step]]:
    """The steps of every role."""
    found = {"loader": _loader(setup)}
    for helper in range(setup.helpers):
        found[f"helper {helper}"] = _helper(setup, leads=helper == 0)
    for stager in range(setup.stagers if setup.staged else 0):
        found[f"stager {stager}"] = _stager(setup, leads=stager == 0)
    for group in range(setup.consumers):
        for warp in range(setup.warps):
            found[f"consumer {group}.{warp}"] = _consumer(setup, group)
    bare = setup.unguarded
    return {
        role: [replace(step, wait=None) if step.wait and step.wait[0].rstrip("0123456789") in bare else step
               for step in steps]
        for role, steps in found.items()
    }  # fmt: skip


def _empty(name: str, number: int, size: int) -> tuple[str, int]:
    """What says that a place is free for its ``number``-th use."""
    barrier, turn = _ring(name, number, size)
    return barrier, turn - 1


def _keys(setup: Setup, tile: int) -> tuple[str, int]:
    """Where what hooks stage beside a tile lies, and the tile."""
    return f"keys {tile % (setup.stages + setup.more_values)}", tile


def _copied(setup: Setup, k: str) -> tuple[str, ...]:
    """What the copy engine brings of a tile's K."""
    return (k, f"added {k}") if setup.added else (k,)


def _loader(setup: Setup) -> list[Step]:
    """load_tiles: a tile's K, then the V of the tile before it."""
    program, tile, before = _Program(), 0, -1
    for number, tiles in enumerate((*setup.items, 0)):
        slot, turn = _ring("slot", number, setup.slots)
        program.add(wait=(slot.replace("slot", "slot_full"), turn), uses=((slot, number),))
        for left in range(tiles, 0, -1):
            k = _ring("k", tile, setup.stages)[0]
            program.add(
                wait=_empty("k_empty", tile, setup.stages),
                writes=((f"span {k}", tile),),
                copies=tuple((k.replace("k", "k_full"), place, tile) for place in _copied(setup, k)),
                arrives=k.replace("k", "k_full"),
            )
            if left == min(tiles, setup.near):
                program.add(arrives=_ring("next_wanted", number, 1)[0])
            _load_v(program, setup, before)
            before, tile = tile, tile + 1
        if number == len(setup.items):
            _load_v(program, setup, before)
        program.add(done=(slot,))
    return program.steps


def _load_v(program: _Program, setup: Setup, tile: int) -> None:
    if tile >= 0:
        v = _ring("v", tile, setup.stages)[0]
        full = v.replace("v", "v_full")
        program.add(wait=_empty("v_empty", tile, setup.stages), copies=((full, v, tile),), arrives=full)


def _q(setup: Setup, number: int, group: int) -> tuple[str, int]:
    """A consumer's rows of an item's Q, and how often its stage came round before."""
    stage, turn = number % setup.q_stages, number // setup.q_stages
    return f"q{stage * setup.consumers + group}", turn


def _helper(setup: Setup, leads: bool) -> list[Step]:
    """prepare_items, as one of its warps: the leader fills slots, all load rows and Q."""
    program = _Program()
    for number in range(len(setup.items) + 1):
        slot = _ring("slot", number, setup.slots)[0]
        if leads:
            if number:
                program.add(wait=_ring("next_wanted", number - 1, 1))
            wait = _empty("slot_empty", number, setup.slots)
            program.add(wait=wait, writes=((slot, number),), arrives=slot.replace("slot", "slot_full"))
        program.add(passes="helping")
        stop = number == len(setup.items)
        if not stop:
            rows = ((f"rows {slot}", number), ("sources0", number))
            program.add(uses=((slot, number),), writes=rows if leads else ())
        program.add(passes="helping")
        for group in range(setup.consumers):
            q, turn = _q(setup, number, group)
            copied = () if stop else (("sources0", number),)
            program.add(wait=(q.replace("q", "q_empty"), turn - 1), uses=copied)
            program.add(writes=((q, number),) if leads and not stop else (), done=tuple(name for name, _ in copied))
            program.add(arrives=q.replace("q", "q_full"))
        if stop:
            break
        program.add(done=(slot,))
    return program.steps


def _stager(setup: Setup, leads: bool) -> list[Step]:
    """stage_items, as one of its warps; what the leader writes, all do."""
    program, tile = _Program(), 0
    for number, tiles in enumerate((*setup.items, 0)):
        slot, turn = _ring("slot", number, setup.slots)
        program.add(wait=(slot.replace("slot", "slot_full"), turn), uses=((slot, number),))
        for _ in range(tiles):
            k = _ring("k", tile, setup.stages)[0]
            wait = _empty("k_empty", tile, setup.stages)
            program.add(writes=(_keys(setup, tile),) if leads else ())
            program.add(wait=wait, arrives=k.replace("k", "k_full"))
            tile += 1
        program.add(done=(slot,))
    return program.steps


def _consumer(setup: Setup, group: int) -> list[Step]:
    """multiply_items, one warp: what is held between its waits, and given back."""
    program = _Program()
    of_tile = [number for number, tiles in enumerate(setup.items) for _ in range(tiles)]
    count, turns = len(of_tile), setup.consumers > 1
    k_of = [_ring("k", tile, setup.stages) for tile in range(count + 1)]
    v_of = [_ring("v", tile, setup.stages) for tile in range(count)]

    def q_of(number: int) -> tuple[str, int]:
        return _q(setup, number, group)

    def slot_of(number: int) -> str:
        return _ring("slot", number, setup.slots)[0]

    def full(of: tuple[str, int], name: str) -> tuple[str, int]:
        return of[0].replace(name, f"{name}_full"), of[1]

    def held_q(number: int) -> tuple[str, str]:
        return slot_of(number), f"rows {slot_of(number)}"

    program.add(wait=full(q_of(0), "q"), uses=((slot_of(0), 0),))
    if not count:
        return program.steps
    program.add(uses=((f"rows {slot_of(0)}", 0), (q_of(0)[0], 0)))
    if turns and group == setup.consumers - 1:
        program.add(meets="turn 0")
    keys = (_keys(setup, 0),) if setup.staged else ()
    first = tuple((place, 0) for place in _copied(setup, k_of[0][0]))
    program.add(wait=full(k_of[0], "k"), uses=(*first, (f"span {k_of[0][0]}", 0), *keys))
    for tile in range(count):
        number, k = of_tile[tile], k_of[tile][0]
        last = tile + 1 == count or of_tile[tile + 1] != number
        opens = tile == 0 or of_tile[tile - 1] != number
        ends = tile + 1 == count
        given = (*_copied(setup, k), f"span {k}", *((_keys(setup, tile)[0],) if setup.staged else ()))
        if not setup.steady and not setup.staged:
            program.add(done=given, arrives=k.replace("k", "k_empty"))
        q_given = {"done": (q_of(number)[0],), "arrives": q_of(number)[0].replace("q", "q_empty")}
        q_late = setup.steady and setup.q_stages > 1
        if last and not q_late:
            program.add(**q_given)
        if setup.staged and not setup.steady:
            program.add(done=given, arrives=k.replace("k", "k_empty"))
        following = k_of[tile + 1][0]
        keys = (_keys(setup, tile + 1),) if setup.staged and not ends else ()
        next_k: dict[str, object] = {
            "wait": full(k_of[tile + 1], "k"),
            "uses": (
                *((place, tile + 1) for place in _copied(setup, following)),
                (f"span {following}", tile + 1),
                *keys,
            ),
        }
        if opens and tile > 0:  # the output of the item before, once its last product is there
            program.add(done=held_q(number - 1), arrives=slot_of(number - 1).replace("slot", "slot_empty"))
        if not last:
            program.add(**next_k)
        else:
            q, slot = q_of(number + 1), slot_of(number + 1)
            what = () if ends else ((f"rows {slot}", number + 1),)
            program.add(wait=full(q, "q"), uses=((slot, number + 1), (q[0], ANYTHING if ends else number + 1), *what))
            if not ends:
                program.add(**next_k)
        if tile > 0:
            v = v_of[tile - 1][0]
            program.add(done=(v,), arrives=v.replace("v", "v_empty"))
        if setup.steady:
            program.add(done=given, arrives=k.replace("k", "k_empty"))
        if turns:
            program.add(passes=f"turn {group}")
        if ends:  # a product of a stage that nobody writes
            program.add(uses=tuple((place, ANYTHING) for place in _copied(setup, following)))
        program.add(wait=full(v_of[tile], "v"), uses=((v_of[tile][0], tile),))
        if turns:
            program.add(meets=f"turn {(group + 1) % setup.consumers}")
        if last and q_late:
            program.add(**q_given)
        if ends:
            program.add(done=(*_copied(setup, following), q_of(number + 1)[0]))
    program.add(done=held_q(of_tile[-1]), arrives=slot_of(of_tile[-1]).replace("slot", "slot_empty"))
    return program.steps


# Running -------------------------------------------------------------------------------------------------------------

Barrier = tuple[int, int, int]  # phases ended, arrivals, copies under way
Meeting = tuple[int, int]  # of a named barrier: how often it was passed, a bit for each role that has come since
Place = tuple[int | None, int]  # what it holds, None while it is written; by how many it is held
Copy = tuple[int, int, int]  # barrier, place, value
# Where every role is, and twice as much where it has come to a named barrier and waits there; what that came to.
State = tuple[tuple[int, ...], tuple[Barrier, ...], tuple[Meeting, ...], tuple[Place, ...], frozenset[Copy]]


class Model:
    """A setup's roles, and the moves of a state."""

    def __init__(self, setup: Setup) -> None:
        roles = programs(setup)
        consumers = setup.consumers * setup.warps
        expected: dict[str, int] = {}
        for name, size, arrivals in (
            ("slot_full", setup.slots, 1),
            ("slot_empty", setup.slots, consumers),
            ("q_full", setup.q_stages * setup.consumers, setup.helpers),
            ("q_empty", setup.q_stages * setup.consumers, setup.warps),
            ("k_full", setup.stages, 1 + (setup.stagers if setup.staged else 0)),
            ("k_empty", setup.stages, consumers),
            ("v_full", setup.stages, 1),
            ("v_empty", setup.stages, consumers),
            ("next_wanted", 1, 1),
        ):
            expected |= {f"{name}{index}": arrivals for index in range(size)}
        meetings = {"helping": setup.helpers, **{f"turn {group}": 2 * setup.warps for group in range(setup.consumers)}}
        self.names, self.expected, self.all = list(expected), list(expected.values()), list(meetings.values())
        barriers, named = ({name: i for i, name in enumerate(names)} for names in (expected, meetings))
        self.places = [f"{part}{slot}" for slot in range(setup.slots) for part in ("slot", "rows slot")]
        self.places += [f"q{stage}" for stage in range(setup.q_stages * setup.consumers)] + ["sources0"]
        self.places += [f"{part}{stage}" for stage in range(setup.stages) for part in ("k", "added k", "span k", "v")]
        self.places += [f"keys {stage}" for stage in range(setup.stages + setup.more_values)]
        place = {name: index for index, name in enumerate(self.places)}
        self.roles = list(roles)
        self.steps = [
            [
                (
                    None if step.wait is None else (barriers[step.wait[0]], step.wait[1]),
                    None if step.meets is None and step.passes is None else named[step.meets or step.passes or ""],
                    step.passes is not None,
                    [place[name] for name in step.done],
                    [(place[name], value) for name, value in step.uses],
                    [(place[name], value) for name, value in step.writes]
                    + [(place[n], None) for _, n, _ in step.copies],
                    [(barriers[barrier], place[name], value) for barrier, name, value in step.copies],
                    None if step.arrives is None else barriers[step.arrives],
                )
                for step in steps
            ]
            for steps in roles.values()
        ]

    @property
    def start(self) -> State:
        return (
            (0,) * len(self.steps),
            ((0, 0, 0),) * len(self.expected),
            ((0, 0),) * len(self.all),
            ((ANYTHING, 0),) * len(self.places),
            frozenset(),
        )

    def ended(self, state: State) -> bool:
        return not state[4] and all(at == 2 * len(steps) for at, steps in zip(state[0], self.steps, strict=True))

    def moves(self, state: State) -> list[tuple[int, State]]:
        """What may come next, and whose move it is: -1 where a copy lands. Raises Broken."""
        found = [(-1, self._land(state, copy)) for copy in state[4]]
        for role, steps in enumerate(self.steps):
            if state[0][role] < 2 * len(steps):
                after = self._step(state, role)
                if after is not None:
                    found.append((role, after))
        if not found and not self.ended(state):
            stuck = [
                name for name, at, steps in zip(self.roles, state[0], self.steps, strict=True) if at < 2 * len(steps)
            ]
            raise Broken(f"everyone waits: {', '.join(stuck)}")
        return found

    def _land(self, state: State, copy: Copy) -> State:
        index, place, value = copy
        at, barriers, named, places, landing = state
        phases, arrived, copies = barriers[index]
        settled = self._settled(index, phases, arrived, copies - 1)
        held = places[place][1]
        return at, _put(barriers, index, settled), named, _put(places, place, (value, held)), landing - {copy}

    def _settled(self, index: int, phases: int, arrived: int, copies: int) -> Barrier:
        if arrived > self.expected[index]:
            raise Broken(f"{self.names[index]}: more arrivals than a phase expects")
        return (phases + 1, 0, 0) if arrived == self.expected[index] and copies == 0 else (phases, arrived, copies)

    def _step(self, state: State, role: int) -> State | None:
        """The state after the role's next step, or None where it must wait."""
        at, barriers, named, places, landing = state
        wait, meeting, passes, done, uses, writes, copies, arrives = self.steps[role][at[role] // 2]
        if wait is not None:
            index, phase = wait
            phases = barriers[index][0]
            if phases % 2 == phase % 2:  # as mbarrier.try_wait.parity answers
                return None
            if phases != phase + 1:
                raise Broken(f"{self.names[index]}: phase {phase} is waited for, and {phases} have ended")
        if meeting is not None:
            passed, here = named[meeting]
            if at[role] % 2 == 0:  # it comes
                if here >> role & 1:
                    raise Broken("one arrives twice at a named barrier")
                here |= 1 << role
                complete = here.bit_count() == self.all[meeting]
                named = _put(named, meeting, (passed + 1, 0) if complete else (passed, here))
                if passes and not complete:
                    return _put(at, role, at[role] + 1), barriers, named, places, landing
            elif here >> role & 1:
                return None
        if done or uses or writes:
            changed = list(places)
            for place in done:
                changed[place] = (changed[place][0], changed[place][1] - 1)
            for place, wanted in uses:
                value, held = changed[place]
                if value is None or wanted not in (ANYTHING, value):
                    raise Broken(f"{self.places[place]} holds {value} where {wanted} is used")
                changed[place] = (value, held + 1)
            for place, value in writes:
                if changed[place][1]:
                    raise Broken(f"{self.places[place]} is overwritten while it is used")
                changed[place] = (value, 0)
            places = tuple(changed)
        for index, place, value in copies:
            phases, arrived, under_way = barriers[index]
            barriers = _put(barriers, index, (phases, arrived, under_way + 1))
            landing = landing | {(index, place, value)}
        if arrives is not None:
            phases, arrived, under_way = barriers[arrives]
            barriers = _put(barriers, arrives, self._settled(arrives, phases, arrived + 1, under_way))
        return _put(at, role, at[role] // 2 * 2 + 2), barriers, named, places, landing


T = TypeVar("T")


def _put(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])


def explore(setup: Setup, most: int = 400_000) -> int:
    """Every order in which the roles may move; how many states there are. Raises Broken."""
    model = Model(setup)
    seen, todo = {model.start}, [model.start]
    while todo:
        for _, after in model.moves(todo.pop()):
            if after not in seen:
                seen.add(after)
                todo.append(after)
        assert len(seen) <= most, "more states than expected"
    return len(seen)


def wander(setup: Setup, seeds: Sequence[int]) -> None:
    """Some orders, at random: each role and the copy engine as quick as that order's dice say. Raises Broken."""
    model = Model(setup)
    for seed in seeds:
        dice = random.Random(seed)
        rates = [dice.choice((1.0, 1.0, 0.02)) for _ in (*model.steps, "copies")]
        state = model.start
        while not model.ended(state):
            found = model.moves(state)
            ((_, state),) = dice.choices(found, [rates[role] for role, _ in found])
