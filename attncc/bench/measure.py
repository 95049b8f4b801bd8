"""How time is taken. Clocks move, so what counts is a ratio: competitors run in turns in one process, after two seconds
of load, at least ten rounds, and the median of the ratios of single rounds is given. Data are random (zeros run
faster), and inputs rotate where they would stay in the L2 cache.
"""

from __future__ import annotations

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
    def met(self) -> bool | None:
        return None if self.case.bar is None or self.ratio is None else self.ratio >= self.case.bar


def run(case: Case, peers: Sequence[str], rounds: int) -> Line:
    """Measure one case. Raises what a competitor raises: one that fails is no peer."""
    import torch

    device = "cuda"
    made = make(case.variant, case, device)
    sets = _inputs(case)
    ours = [_ours(made, case.family, *tensors) for tensors in sets]
    calls: dict[str, list[Call]] = {OURS: ours}
    counts = {OURS: pairs(made, case)}
    if case.base is not None:
        base = make(case.base, case, device)
        calls[BASE] = [_ours(base, case.family, *tensors) for tensors in sets]
        counts[BASE] = pairs(base, case)
    for name in peers:
        found = [PEERS[name](case.variant, made, *tensors) for tensors in sets]
        usable = [call for call in found if call is not None]
        if len(usable) == len(found) and _works(usable[0]):
            calls[name], counts[name] = usable, counts[OURS]
    errors = _errors(case, made, sets[0], {name: found[0] for name, found in calls.items() if name != BASE})
    times = _rounds(calls, rounds)
    torch.cuda.synchronize()
    operations = {name: 4.0 * counts[name] * case.heads * case.head_dim for name in calls}
    return Line(
        case,
        counts[OURS],
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


def _inputs(case: Case) -> list[tuple[Any, Any, Any]]:
    """As many sets of q, k and v as keep K and V of one from being in the L2 cache when its turn comes again."""
    import torch

    shape = (case.batch, case.length, case.heads, case.head_dim)
    generator = torch.Generator("cuda").manual_seed(0)

    def made() -> Any:
        return torch.randn(shape, generator=generator, device="cuda").bfloat16()

    cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 * 2**20)
    size = 2 * 2 * case.batch * case.length * case.heads * case.head_dim
    return [(made(), made(), made()) for _ in range(max(1, -(-4 * cache // size)))]


def _ours(made: Made, family: str | None, q: Any, k: Any, v: Any) -> Call:
    import attncc

    if family is None:
        return lambda: attncc.attention(q, k, v, made.bound)
    compiled = attncc.compile(made.bound, head_dim=q.shape[-1], family=family)
    return lambda: compiled(q, k, v)


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


def _errors(case: Case, made: Made, tensors: Sequence[Any], calls: Mapping[str, Call]) -> dict[str, float]:
    """The newest rows of the first request, against the float64 reference over all its keys."""
    import numpy as np

    from attncc.reference import attention
    from attncc.runtime.calls import plain

    bound = made.bound if made.bound is not None else plain()
    rows = min(SAMPLED_ROWS, case.length)
    q, k, v = (tensor[:1].float().cpu().numpy() for tensor in tensors)
    captured = {}
    for tensor in bound.variant.tensors:
        values = bound.tensors[tensor.name].cpu().numpy()
        captured[tensor.name] = values[:1] if "batch" in str(tensor.dims[0]) else values
    ref = attention(bound.variant, q[:, -rows:], k, v, params=bound.params, tensors=captured).out[0]
    norms = np.sqrt((ref**2).sum(-1))
    found = {}
    for name, call in calls.items():
        out = call()[0, -rows:].double().cpu().numpy()
        found[name] = float((np.sqrt(((out - ref) ** 2).sum(-1)) / np.maximum(norms, 1e-30)).mean())
    return found
