"""Combining partial states, the entry ``merge`` that families with splits share. Owns its wrapper text and launch rule,
and how it shares a text with the entry ``main``: each can be compiled alone, so that a machine does both at once.

The kernel is ``merge.cuh`` beside this file. Knows nothing of the IR and nothing of who wrote the states.
"""

from typing import Final

ENTRIES: Final = {"merge": "attncc_merge"}
# By entry, what leaves the other one out of the text. Without either a text has both.
ALONE: Final = {"main": "ATTNCC_ONLY_MAIN", "merge": "ATTNCC_ONLY_MERGE"}
WARPS: Final = 4  # each combines one row of one head; merge.cuh has the same


def launch_rule() -> dict[str, object]:
    """How to launch ``attncc_merge``: grid expressions over the Launch block's fields, threads, dynamic bytes."""
    return {"grid": [f"ceil_div(max_qo_len * num_heads, {WARPS})", "1", "batch"], "block": 32 * WARPS, "smem": 0}


def render_wrappers(main: str) -> str:
    """Both entry points of a generated text; ``Params``, ``Config`` and ``Variant`` are defined above them."""
    return (
        f"#ifndef {ALONE['merge']}\n{main}#endif\n\n#ifndef {ALONE['main']}\n"
        f'extern "C" __global__ void __launch_bounds__({32 * WARPS})\n'
        f"{ENTRIES['merge']}(const Params* __restrict__ params) {{\n"
        "  attncc::merge::run_block<Config, Variant>(*params);\n"
        "}\n"
        "#endif\n"
    )
