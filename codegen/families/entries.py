"""The entries of a kernel's text: ``main``, and beside it ``merge`` and what runs before it. Owns their symbols.

Each can be compiled alone, so that a machine does them at once. Knows no family.
"""

from collections.abc import Mapping
from typing import Final

from attncc.artifact import ROLES, Role

SYMBOLS: Final[Mapping[Role, str]] = {role: f"attncc_{role}" for role in ROLES}
_MACRO: Final = "ONLY_ENTRY"  # the place of the only entry wanted, from 1


def alone(role: Role) -> str:
    """The flag with which NVRTC sees no other entry."""
    return f"--define-macro={_MACRO}={ROLES.index(role) + 1}"


def wrapper(role: Role, threads: int, namespace: str, blocks: int | None = None) -> str:
    """The entry point of a role that all families share; ``Params``, ``Config`` and ``Variant`` stand above it.

    ``blocks``: how many a multiprocessor runs at once, so that a thread may have as many registers as that leaves.
    """
    bounds = str(threads) if blocks is None else f"{threads}, {blocks}"
    return (
        f'extern "C" __global__ void __launch_bounds__({bounds})\n'
        f"{SYMBOLS[role]}(const __grid_constant__ Params params) {{\n"
        "  attncc::follow_grids();\n"
        f"  attncc::{namespace}::run_block<Config, Variant>(params);\n"
        "}\n"
    )


def render(wrappers: Mapping[Role, str]) -> str:
    """The wrappers as one text, each of which stands where it is wanted alone or nothing is said."""
    parts = [
        f"#if !defined({_MACRO}) || {_MACRO} == {ROLES.index(role) + 1}\n{text}#endif\n"
        for role, text in wrappers.items()
    ]
    return "\n".join(parts)
