"""Combining partial states, the entry ``merge`` that families with splits share. Owns its wrapper text and launch rule.

The kernel is ``merge.cuh`` beside this file. Knows nothing of the IR and nothing of who wrote the states.
"""

from typing import Final

from attncc.codegen.families import entries

WARPS: Final = 4  # each combines one row of one head; merge.cuh has the same


def launch_rule() -> dict[str, object]:
    """How to launch ``attncc_merge``: grid expressions over the Launch block's fields, threads, dynamic bytes."""
    return {"grid": [f"ceil_div(max_qo_len * num_heads, {WARPS})", "1", "batch"], "block": 32 * WARPS, "smem": 0}


def render_wrapper() -> str:
    """The entry point of the generated text."""
    return entries.wrapper("merge", 32 * WARPS, "merge")
