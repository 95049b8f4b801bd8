"""The GPUs kernels are compiled for, by name. What a family can do on one is the family's own table."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass

from attncc.diagnostics import UnsupportedError


@dataclass(frozen=True)
class Target:
    """One ``--gpu-architecture`` and the compute capability it is for."""

    arch: str
    capability: tuple[int, int]

    @property
    def specific(self) -> bool:
        """Whether the cubin runs on this very architecture only (``a``: wgmma, tcgen05)."""
        return self.arch.endswith("a")


TARGETS = {
    target.arch: target
    for target in (
        Target("sm_80", (8, 0)),
        Target("sm_86", (8, 6)),
        Target("sm_89", (8, 9)),
        Target("sm_90", (9, 0)),
        Target("sm_90a", (9, 0)),
        Target("sm_100", (10, 0)),
        Target("sm_120", (12, 0)),
    )
}


def target(arch: str) -> Target:
    """The target of that name. Raises UnsupportedError A0701 with the nearest name."""
    found = TARGETS.get(arch)
    if found is None:
        near = difflib.get_close_matches(arch, TARGETS, n=1)
        raise UnsupportedError(
            "A0701",
            f"unknown target `{arch}`",
            expected=", ".join(TARGETS),
            got=arch,
            help=f"did you mean `{near[0]}`?" if near else "name the GPU's architecture: sm_90a for H100 and H200",
        )
    return found


@functools.cache
def best(capability: tuple[int, int]) -> str:
    """The target for a GPU of this compute capability: the specific one where there is one, else the newest that runs.

    A cubin runs on a GPU of the same major and of a minor at least its own (Programming Guide, "Binary Compatibility").
    Raises UnsupportedError A0707 for GPUs older than sm_80 or of an unknown major.
    """
    runs = [t for t in TARGETS.values() if t.capability[0] == capability[0] and t.capability[1] <= capability[1]]
    exact = [t for t in runs if t.capability == capability]
    choice = exact or [t for t in runs if not t.specific]
    if not choice:
        raise UnsupportedError(
            "A0707",
            f"this GPU has compute capability {capability[0]}.{capability[1]}, which attncc has no target for",
            expected="compute capability 8.0 or later: " + ", ".join(TARGETS),
            got=f"{capability[0]}.{capability[1]}",
            help="call it with CPU tensors to run the reference instead",
        )
    return max(choice, key=lambda t: (t.capability, t.specific)).arch
