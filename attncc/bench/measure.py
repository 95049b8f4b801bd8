"""How time is taken. Clocks move, so what counts is a ratio: competitors run in turns in one process, after two seconds
of load, at least ten rounds, and the median of the ratios of single rounds is given. Data are random (zeros run
faster), and inputs rotate where they would stay in the L2 cache.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attncc.bench.cases import Case, Made, make, pairs
from attncc.bench.peers import PEERS

LOAD_SECONDS = 2.0
SLICE_SECONDS = 0.005  # of one competitor in one round, at least
SAMPLED_ROWS = 64
OURS, BASE = "attncc", "base"

Call = Callable[[], Any]


@dataclass(frozen=True)
class Line:
    """What came of a case. Times are medians in seconds; ``ratios`` the competitor's time to ours, above 1 where ours
    is faster, by exact operations for ``base``; ``errors`` mean ‖err‖₂ ÷ ‖ref‖₂ over sampled rows.
    """

    case: Case
    pairs: int
    seconds: Mapping[str, float]
    ratios: Mapping[str, float]
    tflops: Mapping[str, float]
    errors: Mapping[str, float]

    @property
    def ratio(self) -> float | None:
        """What the bar is held against."""
        return self.ratios.get(self.case.against)

    @property
    def label(self) -> str:
        return self.case.label

    @property
    def met(self) -> bool | None:
        return None if self.case.bar is None or self.ratio is None else self.ratio >= self.case.bar


@dataclass(frozen=True)
class Inputs:
    """[batch, length, heads, channels] each, or [tokens, heads, channels] and where requests begin and end."""

    q: Any
    k: Any
    v: Any
    indptr: Any = None


def run(case: Case, peers: Sequence[str], rounds: int) -> Line:
    """Measure one case. Raises what a competitor raises: one that fails is no peer."""
    import torch

    made = make(case.variant, case, "cuda")
    sets = _inputs(case)
    counted = pairs(made, case)
    calls: dict[str, list[Call]] = {OURS: _ours(made, case, sets)}
    operations = {OURS: _operations(case, counted)}
    if case.base is not None:
        base = make(case.base.variant, case.base, "cuda")
        calls[BASE] = _ours(base, case.base, sets if _shape(case.base) == _shape(case) else _inputs(case.base))
        operations[BASE] = _operations(case.base, pairs(base, case.base))
    stand_in = None if case.stand_in is None else make(case.stand_in, case, "cuda")
    exact = [OURS]
    for name in peers:
        if found := _peer(name, case.variant, made, sets):
            calls[name], operations[name] = found, operations[OURS]
            exact.append(name)
        elif (
            case.stand_in is not None and stand_in is not None and (found := _peer(name, case.stand_in, stand_in, sets))
        ):
            calls[name], operations[name] = found, _operations(case, pairs(stand_in, case))
    errors = _errors(case, made, sets[0], {name: calls[name][0] for name in exact})
    times = _rounds(calls, rounds)
    torch.cuda.synchronize()
    return Line(
        case,
        counted,
        {name: statistics.median(values) for name, values in times.items()},
        {
            name: statistics.median(
                theirs / mine * operations[OURS] / operations[name]
                for mine, theirs in zip(times[OURS], times[name], strict=True)
            )
            for name in calls
            if name != OURS
        },
        {name: operations[name] / statistics.median(values) / 1e12 for name, values in times.items()},
        errors,
    )


def _operations(case: Case, counted: int) -> float:
    return 2.0 * counted * case.num_heads * (case.head_dim + case.value_dim)


def _shape(case: Case) -> tuple[Any, ...]:
    """What inputs depend on."""
    return case.lengths, case.tokens, case.length, case.num_heads, case.num_kv_heads, case.head_dim, case.value_dim


def _inputs(case: Case) -> list[Inputs]:
    """As many sets of q, k and v as keep K and V of one from being in the L2 cache when its turn comes again."""
    import torch

    ragged = case.lengths != "padded"
    tokens = (sum(case.request_lengths),) if ragged else (case.batch, case.length)
    indptr = (
        torch.tensor([0, *itertools.accumulate(case.request_lengths)], dtype=torch.int32).cuda() if ragged else None
    )
    generator = torch.Generator("cuda").manual_seed(0)

    def made(heads: int, channels: int) -> Any:
        return torch.randn((*tokens, heads, channels), generator=generator, device="cuda").bfloat16()

    cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 * 2**20)
    size = 2 * math.prod(tokens) * case.num_kv_heads * (case.head_dim + case.value_dim)
    return [
        Inputs(
            made(case.num_heads, case.head_dim),
            made(case.num_kv_heads, case.head_dim),
            made(case.num_kv_heads, case.value_dim),
            indptr,
        )
        for _ in range(max(1, -(-4 * cache // size)))
    ]


def _ours(made: Made, case: Case, sets: Sequence[Inputs]) -> list[Call]:
    import attncc

    compiled: Any = functools.partial(attncc.attention, variant=made.bound)
    if case.family is not None:
        bound = made.bound
        compiled = attncc.compile(bound, head_dim=case.head_dim, head_dim_v=case.value_dim, family=case.family)
    longest = max(case.request_lengths)
    ragged: dict[str, Any] = {"max_qo_len": longest, "max_kv_len": longest}

    def call(each: Inputs) -> Call:
        if each.indptr is None:
            return lambda: compiled(each.q, each.k, each.v)
        return lambda: compiled(each.q, each.k, each.v, qo_indptr=each.indptr, kv_indptr=each.indptr, **ragged)

    return [call(each) for each in sets]


def _peer(name: str, computed: str, made: Made, sets: Sequence[Inputs]) -> list[Call]:
    """A peer's calls, or none where it cannot compute this; none of them takes a ragged batch."""
    found = [PEERS[name](computed, made, each.q, each.k, each.v) if each.indptr is None else None for each in sets]
    usable = [call for call in found if call is not None]
    return usable if len(usable) == len(found) and _works(usable[0]) else []


def _works(call: Call) -> bool:
    """Whether a peer can compute this here: backends refuse head dims and GPUs by raising."""
    import torch

    try:
        call()
        torch.cuda.synchronize()
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return False
    return True


def _rounds(calls: Mapping[str, Sequence[Call]], rounds: int) -> dict[str, list[float]]:
    import torch

    deadline = time.monotonic() + LOAD_SECONDS
    while time.monotonic() < deadline:
        for found in calls.values():
            for call in found:
                call()
        torch.cuda.synchronize()
    repeats = {}
    for name, found in calls.items():
        once = _seconds(found, len(found))
        repeats[name] = max(len(found), min(100, int(SLICE_SECONDS / once) + 1))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, found in calls.items():
            times[name].append(_seconds(found, repeats[name]))
    return times


def _seconds(calls: Sequence[Call], repeats: int) -> float:
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for index in range(repeats):
        calls[index % len(calls)]()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / repeats


def _errors(case: Case, made: Made, inputs: Inputs, calls: Mapping[str, Call]) -> dict[str, float]:
    """The newest rows of the first request, against the float64 reference over all its keys."""
    import numpy as np

    from attncc.reference import attention
    from attncc.runtime.calls import plain

    bound = made.bound if made.bound is not None else plain()
    length = case.request_lengths[0]
    rows = min(SAMPLED_ROWS, length)

    def first(tensor: Any) -> Any:
        request = tensor[:1] if inputs.indptr is None else tensor[None, :length]
        return request.double().cpu().numpy()

    q, k, v = (first(tensor).astype(np.float32) for tensor in (inputs.q, inputs.k, inputs.v))
    captured = {}
    for tensor in bound.variant.tensors:
        values = bound.tensors[tensor.name].cpu().numpy()
        captured[tensor.name] = values[:1] if "batch" in str(tensor.dims[0]) else values
    ref = attention(bound.variant, q[:, -rows:], k, v, params=bound.params, tensors=captured).out[0]
    norms = np.sqrt((ref**2).sum(-1))
    found = {}
    for name, call in calls.items():
        out = first(call())[0, -rows:]
        found[name] = float((np.sqrt(((out - ref) ** 2).sum(-1)) / np.maximum(norms, 1e-30)).mean())
    return found
