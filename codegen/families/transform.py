"""Transforming: the entry ``transform``, before ``main``, which applies the hooks on query, key and value vectors.

Owns its wrapper text and launch rule, for families whose ``main`` takes vectors as they come. The kernel is
``transform.cuh`` beside this file. Knows nothing of the IR.
"""

from collections.abc import Sequence
from typing import Final

from attncc.codegen.families import entries

HEADER: Final = "families/transform.cuh"
WARPS: Final = 8  # transform.cuh has the same
HEADS: Final = 16  # of a token, to a warp; kRounds * kHeads in transform.cuh
_UNITS: Final = {
    "q": f"max_qo_len * ceil_div(num_heads, {HEADS})",
    "k": f"max_kv_len * ceil_div(num_kv_heads, {HEADS})",
    "v": f"max_kv_len * ceil_div(num_kv_heads, {HEADS})",
}


def launch_rule(operands: Sequence[str]) -> dict[str, object]:
    """How to launch it where ``operands``, of q, k and v in this order, have a hook."""
    units = list(dict.fromkeys(_UNITS[operand] for operand in operands))
    longest = units[0] if len(units) == 1 else f"max({', '.join(units)})"
    return {"grid": [f"ceil_div({longest}, {WARPS})", str(len(operands)), "batch"], "block": 32 * WARPS, "smem": 0}


def render_wrapper() -> str:
    """The entry point of the generated text."""
    return entries.wrapper("transform", 32 * WARPS, "transforming", blocks=4)
