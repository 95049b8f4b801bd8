"""mma_sm80 beside PyTorch's SDPA on this GPU: first that they agree, then TFLOP/s, measured alternately.

    python benchmarks/first_kernel.py [--rounds 10] [--head-dims 64,128] [--lengths 2048,8192]

bf16, forward, batch x length = 16384 tokens, heads x head_dim = 2048. Clocks move, so the ratio is what counts: the
median over rounds of ours against the peer of the same round, after two seconds of load.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import attncc

TOKENS, WIDTH = 16384, 2048
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PEERS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "FLASH": SDPBackend.FLASH_ATTENTION}

Call = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Shape:
    head_dim: int
    length: int
    causal: bool

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """q, k, v in [batch, len, heads, dim]."""
        shape = (TOKENS // self.length, self.length, WIDTH // self.head_dim, self.head_dim)
        generator = torch.Generator("cuda").manual_seed(0)
        return tuple(torch.randn(shape, generator=generator, device="cuda").bfloat16() for _ in range(3))

    @property
    def flops(self) -> float:
        """Four per channel and attended pair."""
        return 4.0 * TOKENS * self.length * WIDTH * (0.5 if self.causal else 1.0)


def calls(shape: Shape) -> dict[str, Call]:
    """The same attention by attncc and by each peer that takes it."""
    q, k, v = shape.tensors
    variant = attncc.load(EXAMPLES / "causal.attn").causal() if shape.causal else None
    hnd = [tensor.transpose(1, 2) for tensor in (q, k, v)]

    def peer(backend: SDPBackend) -> Call:
        def call() -> torch.Tensor:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(*hnd, is_causal=shape.causal).transpose(1, 2)

        return call

    return {
        "attncc": lambda: attncc.attention(q, k, v, variant),
        **{name: peer(backend) for name, backend in PEERS.items()},
    }


def seconds(call: Call, repeats: int) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / repeats


def check(shape: Shape, found: dict[str, Call]) -> float:
    """The largest difference from a peer, in units of the peer's largest value."""
    ours, theirs = found["attncc"]().float(), found["cuDNN"]().float()
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if not error < 0.02:
        sys.exit(f"attncc and cuDNN disagree at {shape}: {error:.3f}")
    return error


def measure(found: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        for call in found.values():
            call()
        torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, call in found.items():
            times[name].append(seconds(call, 5))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--head-dims", default="64,128")
    parser.add_argument("--lengths", default="2048,8192")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16, {TOKENS} tokens, TFLOP/s (median)")
    print(f"{'':24}{'attncc':>8}{'cuDNN':>8}{'FLASH':>8}{'/cuDNN':>8}{'/FLASH':>8}{'error':>10}")
    for head_dim in map(int, arguments.head_dims.split(",")):
        for length in map(int, arguments.lengths.split(",")):
            for causal in (False, True):
                shape = Shape(head_dim, length, causal)
                found = calls(shape)
                error = check(shape, found)
                times = measure(found, arguments.rounds)
                rates = [shape.flops / statistics.median(times[name]) / 1e12 for name in found]
                ratios = [
                    statistics.median(peer / ours for ours, peer in zip(times["attncc"], times[name], strict=True))
                    for name in PEERS
                ]
                label = f"D {head_dim} S {length} {'causal' if causal else 'dense'}"
                numbers = "".join(f"{rate:8.0f}" for rate in rates) + "".join(f"{ratio:8.2f}" for ratio in ratios)
                print(f"{label:24}{numbers}{error:10.1e}", flush=True)


if __name__ == "__main__":
    main()
