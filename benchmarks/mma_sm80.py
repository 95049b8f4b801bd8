"""The claim: mma_sm80 keeps up with FlashAttention-2 on the same instruction, and a hook costs what it computes.

    python benchmarks/mma_sm80.py [--only TEXT] [--peers FLASH,cuDNN,Flex] [--json FILE] [--plot FILE.svg]

Dense and causal at head dims 64, 128 and 256 against PyTorch's FLASH_ATTENTION; ALiBi, key bias, prefix-LM, a sink and
softcap against the same kernel without them; documents and a window against causal, by exact operations. About two
minutes on an H200.
"""

from __future__ import annotations

import sys

from attncc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--preset", "mma_sm80", *sys.argv[1:]]))
