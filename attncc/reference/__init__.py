"""The reference: what a variant means, evaluated with numpy; it knows the IR and nothing of kernels."""

from __future__ import annotations

from attncc.reference.attention import Result, attended, attention
from attncc.reference.call import Sizes

__all__ = ["Result", "Sizes", "attended", "attention"]
