"""Who is measured beside attncc: other implementations of the same attention, each where it is installed and can.

A peer is a function of the inputs and the variant that gives a call, or None where it cannot compute this. Tensors are
[batch, len, heads, dim]; a call returns that layout too.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from attncc.bench.cases import Made

Call = Callable[[], Any]
Maker = Callable[[str, Made, Any, Any, Any], Call | None]


def _sdpa(backend: str) -> Maker:
    """PyTorch's scaled_dot_product_attention, held to one backend."""

    def make(name: str, made: Made, q: Any, k: Any, v: Any) -> Call | None:
        if name not in ("dense", "causal"):
            return None
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        query, key, value = (tensor.transpose(1, 2) for tensor in (q, k, v))

        def call() -> Any:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                out = scaled_dot_product_attention(
                    query, key, value, is_causal=name == "causal", enable_gqa=q.shape[2] != k.shape[2]
                )
            return out.transpose(1, 2)

        return call

    return make


@functools.cache
def _compiled_flex() -> Any:
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _flex(name: str, made: Made, q: Any, k: Any, v: Any) -> Call | None:
    if name != "dense" and made.score_mod is None and made.mask_mod is None:
        return None
    from torch.nn.attention.flex_attention import create_block_mask

    hnd: Any = [tensor.transpose(1, 2) for tensor in (q, k, v)]
    mask = None
    if made.mask_mod is not None:
        mask = create_block_mask(made.mask_mod, q.shape[0], None, q.shape[1], k.shape[1], device=q.device)
    compiled = _compiled_flex()
    grouped = q.shape[2] != k.shape[2]
    return lambda: compiled(*hnd, score_mod=made.score_mod, block_mask=mask, enable_gqa=grouped).transpose(1, 2)


def _flash_package(module: str) -> Maker:
    """FlashAttention-3 and -4: ``flash_attn_func`` of their own packages."""

    def make(name: str, made: Made, q: Any, k: Any, v: Any) -> Call | None:
        if name not in ("dense", "causal"):
            return None
        try:
            function = importlib.import_module(module).flash_attn_func
        except (ImportError, AttributeError):
            return None

        def call() -> Any:
            found = function(q, k, v, causal=name == "causal")
            return found[0] if isinstance(found, tuple) else found

        return call

    return make


def _flashinfer(name: str, made: Made, q: Any, k: Any, v: Any) -> Call | None:
    if name not in ("dense", "causal") or v.shape[-1] != q.shape[-1]:
        return None
    try:
        flashinfer = importlib.import_module("flashinfer")
    except ImportError:
        return None
    import torch

    batch, length, heads, dim = q.shape
    workspace = torch.empty(256 * 2**20, dtype=torch.uint8, device=q.device)
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD")
    indptr = torch.arange(0, batch + 1, device=q.device, dtype=torch.int32) * length
    wrapper.plan(indptr, indptr, heads, k.shape[2], dim, causal=name == "causal", q_data_type=q.dtype)
    flat = [tensor.flatten(0, 1) for tensor in (q, k, v)]
    return lambda: wrapper.run(*flat).view(batch, length, heads, -1)


PEERS: Mapping[str, Maker] = {
    "FLASH": _sdpa("FLASH_ATTENTION"),
    "cuDNN": _sdpa("CUDNN_ATTENTION"),
    "Flex": _flex,
    "FA3": _flash_package("flash_attn_interface"),
    "FA4": _flash_package("flash_attn.cute"),
    "FlashInfer": _flashinfer,
}
DEFAULT = ("FLASH", "cuDNN", "FA3", "FA4", "FlashInfer")  # FlexAttention compiles for seconds each time it is new
