"""Sigmoid attention (arXiv 2409.04431): no normalisation over the row; bias is -log(length) in the paper."""

from __future__ import annotations

import math

import torch
from demonstrate import LENGTH, demonstrate

import attncc
from attncc import At, hooks, sigmoid


@attncc.variant
def sigmoid_attention(at: At, *, bias: float):
    return hooks(weight=sigmoid(at.logits + bias))


def formula(q, k, v, bias):
    return torch.sigmoid(q @ k.mT / q.shape[-1] ** 0.5 + bias) @ v


if __name__ == "__main__":
    bias = -math.log(LENGTH)
    demonstrate(sigmoid_attention(bias=bias), lambda q, k, v: formula(q, k, v, bias))
