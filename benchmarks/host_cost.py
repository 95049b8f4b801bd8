"""The claim: a call like an earlier one costs the host at most 25 µs.

    python benchmarks/host_cost.py [--repeats 2000]

Calls are so small that the GPU keeps up, and none is waited for. Where kernels copy through TMA descriptors, those
of keys and values at new addresses are encoded: a plan keeps the last few hundred. The least median of ten rounds
is given: what a call costs where nothing else runs on its core.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import attncc

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LIMIT = 25.0  # microseconds


def calls() -> dict[str, Callable[[], Any]]:
    """Calls by what they give besides q, k and v."""
    q = torch.randn(2, 16, 8, 64, device="cuda").bfloat16()
    k, v = (torch.randn(2, 64, 2, 64, device="cuda").bfloat16() for _ in range(2))
    out = torch.empty_like(q)
    gemma2 = attncc.load(EXAMPLES / "gemma2.attn").gemma2
    bound = gemma2(softcap=30.0, w=32)
    alibi = attncc.load(EXAMPLES / "alibi.attn").alibi(slopes=torch.ones(8, device="cuda"))
    lens = torch.full((2,), 64, dtype=torch.int32, device="cuda")
    indptr = torch.tensor([0, 16, 32], dtype=torch.int32, device="cuda")
    others = itertools.cycle([(torch.randn_like(k), torch.randn_like(v)) for _ in range(8)])
    memory = torch.randn(8 * 600 + k.numel(), device="cuda").bfloat16()
    places = itertools.cycle([memory[8 * i :][: k.numel()].view(k.shape) for i in range(600)])  # more than a plan keeps
    return {
        "nothing": lambda: attncc.attention(q, k, v),
        "out": lambda: attncc.attention(q, k, v, out=out),
        "gemma2": lambda: attncc.attention(q, k, v, bound),
        "gemma2, bound anew": lambda: attncc.attention(q, k, v, gemma2(softcap=30.0, w=32)),
        "alibi, lse": lambda: attncc.attention(q, k, v, alibi, return_lse=True),
        "kv_lens": lambda: attncc.attention(q, k, v, bound, kv_lens=lens),
        "ragged, out": lambda: attncc.attention(
            q[0], k[0], v[0], bound, qo_indptr=indptr[:2], kv_indptr=indptr[:2], out=out[0]
        ),
        "other k, v": lambda: attncc.attention(q, *next(others)),
        "k, v never seen": lambda: attncc.attention(q, next(places), next(places)),
        "two splits, out": lambda: attncc.attention(q, k, v, num_splits=2, out=out),
        "SDPA": lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q),
    }


def microseconds(call: Callable[[], Any], repeats: int) -> float:
    call()
    rounds = []
    for _ in range(10):
        torch.cuda.synchronize()
        times = []
        for _ in range(repeats // 10):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        rounds.append(statistics.median(times))
    return min(rounds) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    repeats = parser.parse_args().repeats
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, µs of host time a call")
    found = {name: microseconds(call, repeats) for name, call in calls().items()}
    for name, cost in found.items():
        print(f"{name:20}{cost:8.1f}")
    return int(found["gemma2"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
