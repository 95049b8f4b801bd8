"""Screening: the entry ``screen``, before ``main``, where captured tensors decide which tiles a mask leaves empty.

Owns its wrapper text and launch rule. The kernel is ``screen.cuh`` beside this file, and what it writes is read through
``device/screen.cuh``. Knows nothing of the IR.
"""

from typing import Final

from attncc.codegen.families import entries

HEADER: Final = "families/screen.cuh"
THREADS: Final = 512  # screen.cuh has the same
BITMAP_BYTES: Final = 4 * (3 + 2 * 128 + 2)  # ScreenBitmap in device/screen.cuh has the same


def launch_rule(block_m: int, *, per_head: bool, unpacked: bool) -> dict[str, object]:
    """How to launch it: a block for every bitmap.

    ``per_head``: the mask is not the same for all KV heads. ``unpacked``: row tiles may hold one query head each.
    """
    packed = f"ceil_div(max_qo_len * group, {block_m})"
    # Of the two ways to lay rows into tiles, this one never takes fewer.
    tiles = f"max({packed}, ceil_div(max_qo_len, {block_m}) * group)" if unpacked else packed
    return {"grid": [tiles, "num_kv_heads" if per_head else "1", "batch"], "block": THREADS, "smem": 0}


def render_wrapper() -> str:
    """The entry point of the generated text."""
    return entries.wrapper("screen", THREADS, "screening")
