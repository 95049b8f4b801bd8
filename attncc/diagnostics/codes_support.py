"""Codes A07: what kernels and targets support."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0701": Entry(
        "unknown target",
        """
A target names a GPU architecture as NVRTC does: `sm_80` (A100), `sm_86`, `sm_89` (L40S, RTX 40), `sm_90` and `sm_90a`
(H100, H200), `sm_100` (B200), `sm_120` (RTX 50).

    attncc compile gemma2.attn --target sm90a     # fails
    attncc compile gemma2.attn --target sm_90a    # works
""",
    ),
    "A0702": Entry(
        "no kernel computes in this dtype",
        """
Kernels take query, key and value in `f16` or `bf16`. Convert them, or call with CPU tensors: the reference takes
`f32` and `f64` too.

    attncc.attention(q.float(), k.float(), v.float())             # fails on a GPU
    attncc.attention(q.bfloat16(), k.bfloat16(), v.bfloat16())    # works
""",
    ),
    "A0703": Entry(
        "no kernel family runs this variant",
        """
Every family said no. The message has the reasons of each: hooks it does not run, a head dim or a dtype it has no
configuration for, a target it does not compile for. Nothing is approximated and nothing is left out silently; on CPU
tensors the reference runs every variant, on a GPU none does yet.

    variant peak {
        emit top = rowmax(logits)     # `emit` is not served by any
    }

    attncc compile peak.attn -v       # which families were asked, and what each said
""",
    ),
    "A0704": Entry(
        "the forced family does not run this variant",
        """
`--family` (or `family=`) asks for one family and no other, and that family does not serve the variant, dtype, head dim
or target; the message says which. Leave it out, and the first family that serves everything is taken.
""",
    ),
    "A0705": Entry(
        "unknown kernel family",
        """
The families are listed in the message. `mma_sm80` is the portable one, `wgmma_sm90` is for Hopper (sm_90a).

    attncc compile causal.attn --family mma        # fails
    attncc compile causal.attn --family mma_sm80   # works
""",
    ),
    "A0706": Entry(
        "head dim out of range",
        """
`head_dim` and `head_dim_v` count channels of one head and lie between 1 and 1024. Which of them a kernel serves is the
family's own limit (A0703).
""",
    ),
    "A0707": Entry(
        "no target for this GPU",
        """
Kernels need compute capability 8.0 (Ampere) or later, of a generation attncc has a target for. Move the tensors to the
CPU to run the reference.
""",
    ),
    "A0708": Entry(
        "unknown KV layout",
        """
A kernel is compiled for a kind of layout: `contiguous` is keys and values with strides that a TMA descriptor has, which
is nearly everything, and `strided` those with any other, such as an axis that runs backwards. A call finds its own.
""",
    ),
}
