"""Small calls of every example, for compute-sanitizer: each tool watches every access, so shapes are tiny.

    compute-sanitizer --tool memcheck --error-exitcode 1 python tests/gpu/sanitized.py [--family NAME] [EXAMPLE...]

Allocations bypass PyTorch's pool, so that an access past a tensor leaves its allocation.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import attncc
from attncc.bench import cases
from tests.gpu.attention_cases import ARGUMENTS, TORCH, Sizes, example, on_device

ROWS, COLS, HEADS, KV_HEADS = (37, 0, 5), (70, 9, 0), 4, 2


def given(name: str, head_dim: int) -> dict[str, object]:
    rng = np.random.default_rng(3)
    if name == "rope":
        turn = rng.uniform(0, 6.3, (128, head_dim))
        return {"c": np.cos(turn).astype(np.float32), "s": np.sin(turn).astype(np.float32)}
    if name == "sigmoid":
        return {"bias": -3.0}
    return dict(ARGUMENTS[name](rng, Sizes(max(ROWS), max(COLS), ROWS, COLS, len(ROWS), KV_HEADS), HEADS))


def padded(
    name: str,
    dtype: str,
    head_dim: int,
    splits: int,
    family: str | None,
    *,
    rows: tuple[int, ...] = ROWS,
    cols: tuple[int, ...] = COLS,
    kv_heads: int = KV_HEADS,
) -> None:
    q = torch.randn(len(rows), max(rows), HEADS, head_dim, device="cuda").to(TORCH[dtype])
    k, v = (torch.randn(len(rows), max(cols), kv_heads, head_dim, device="cuda").to(TORCH[dtype]) for _ in range(2))
    if name == "key_bias":
        bound = cases.causal_key_bias(bias=torch.randn(len(rows), max(cols), device="cuda"))
    else:
        bound = example(name)(**{key: on_device(value) for key, value in given(name, head_dim).items()})
    lens = {"qo_lens": torch.tensor(rows, dtype=torch.int32), "kv_lens": torch.tensor(cols, dtype=torch.int32)}
    call = attncc.compile(bound, dtype=dtype, head_dim=head_dim, family=family)
    call(q, k, v, num_splits=splits, **{key: value.cuda() for key, value in lens.items()})


def ragged(name: str, dtype: str, head_dim: int, family: str | None) -> None:
    q = torch.randn(sum(ROWS), HEADS, head_dim, device="cuda").to(TORCH[dtype])
    k, v = (torch.randn(sum(COLS), KV_HEADS, head_dim, device="cuda").to(TORCH[dtype]) for _ in range(2))
    indptr = [torch.tensor([0, *np.cumsum(lens)], dtype=torch.int32, device="cuda") for lens in (ROWS, COLS)]
    bound = example(name)(**{key: on_device(value) for key, value in given(name, head_dim).items()})
    call = attncc.compile(bound, dtype=dtype, head_dim=head_dim, family=family)
    call(q, k, v, qo_indptr=indptr[0], kv_indptr=indptr[1], max_qo_len=max(ROWS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family")
    parser.add_argument("examples", nargs="*", default=[*ARGUMENTS, "rope", "sigmoid", "key_bias"])
    options = parser.parse_args()
    for name in options.examples:
        for number, (dtype, head_dim) in enumerate([("bf16", 64), ("f16", 128)]):
            padded(name, dtype, head_dim, 1 + number, options.family)
    if "window" in options.examples:  # a head a tile: rows enough for the first and the last tile to be one step
        padded("window", "bf16", 64, 1, options.family, rows=(200,), cols=(230,), kv_heads=HEADS)
    for name in {"causal", "rope", "sigmoid"} & set(options.examples):
        ragged(name, "bf16", 80, options.family)
    torch.cuda.synchronize()
    print("every call returned")


if __name__ == "__main__":
    main()
