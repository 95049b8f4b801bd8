"""The claim: on Hopper a variant runs at the speed of plain attention, and plain attention at that of the best kernels.

    python benchmarks/wgmma_sm90.py [--only TEXT] [--peers cuDNN,FA3] [--json FILE] [--plot FILE.svg]

Dense and causal at head dims 64, 128 and 256 and four lengths against cuDNN, and the geometric mean; eight hooks over
plain causal; softcap at head dim 64, a window and documents against cuDNN without them, by exact operations; ragged
batches over padded ones, grouped heads over as many of each, head dims 192 and 128. About four minutes on an H200.
"""

from __future__ import annotations

import sys

from attncc.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--preset", "wgmma_sm90", *sys.argv[1:]]))
