"""Biasing: the entry ``biases``, before ``main``, which makes the channels of K that add a bias by key.

Owns its wrapper text and launch rule, for families whose products add them. The kernel is ``biases.cuh`` beside this
file, and what it writes lies as ``device/biases.cuh`` says. Knows nothing of the IR.
"""

from typing import Final

from attncc.codegen.families import entries

HEADER: Final = "families/biases.cuh"
THREADS: Final = 128  # biases.cuh has the same


def launch_rule(*, per_head: bool) -> dict[str, object]:
    """How to launch it: a thread for every key. ``per_head``: the channels are not the same for all KV heads."""
    return {
        "grid": [f"ceil_div(max_kv_len, {THREADS})", "num_kv_heads" if per_head else "1", "batch"],
        "block": THREADS,
        "smem": 0,
    }


def render_wrapper() -> str:
    """The entry point of the generated text."""
    return entries.wrapper("biases", THREADS, "biasing")
