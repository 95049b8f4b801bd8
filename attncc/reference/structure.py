"""Tests with exact answers: inputs from which an output shows what each row saw. Knows no kernel; it is handed one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attncc.reference.call import Sizes
from attncc.reference.rounding import Array

Attention = Callable[[Array, Array, Array], Array]


def keys_seen(attend: Attention, sizes: Sizes, *, seed: int = 0) -> Array:
    """Which keys each row saw, bool [batch, num_heads, qo_len, kv_len].

    K = 0, so every score is 0, and V is an indicator of the key, ``head_dim_v`` keys at a time: the output of a row is
    not 0 in a channel exactly when the row attended that key, unless the variant gives a pair a weight that underflows.
    ``attend`` takes q, k, v as ``attention`` does and gives [batch, qo_len, num_heads, head_dim_v].
    """
    seen = np.zeros((sizes.batch, sizes.num_heads, sizes.qo_len, sizes.kv_len), np.bool_)
    for first, out in _indicators(attend, sizes, seed):
        width = min(sizes.head_dim_v, sizes.kv_len - first)
        seen[..., first : first + width] = (np.moveaxis(out, 1, 2) != 0)[..., :width]
    return seen


def weights_seen(attend: Attention, sizes: Sizes, *, seed: int = 0) -> Array:
    """The weight each row gave each key, [batch, num_heads, qo_len, kv_len], by the same inputs."""
    weights = np.zeros((sizes.batch, sizes.num_heads, sizes.qo_len, sizes.kv_len))
    for first, out in _indicators(attend, sizes, seed):
        width = min(sizes.head_dim_v, sizes.kv_len - first)
        weights[..., first : first + width] = np.moveaxis(out, 1, 2)[..., :width]
    return weights


def _indicators(attend: Attention, sizes: Sizes, seed: int) -> list[tuple[int, Array]]:
    """For each group of keys: its first key, and the output."""
    rng = np.random.default_rng(seed)
    q = rng.integers(-3, 4, (sizes.batch, sizes.qo_len, sizes.num_heads, sizes.head_dim)).astype(np.float32)
    k = np.zeros((sizes.batch, sizes.kv_len, sizes.num_kv_heads, sizes.head_dim), np.float32)
    found = []
    for first in range(0, sizes.kv_len, sizes.head_dim_v):
        v = np.zeros((sizes.batch, sizes.kv_len, sizes.num_kv_heads, sizes.head_dim_v), np.float32)
        for channel in range(min(sizes.head_dim_v, sizes.kv_len - first)):
            v[:, first + channel, :, channel] = 1.0
        found.append((first, np.asarray(attend(q, k, v))))
    return found
