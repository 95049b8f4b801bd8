"""Which values are kept by diagonal: all of a dear one, none of a cheap one, nothing that differs along it."""

from __future__ import annotations

import pytest

from attncc import grammar
from attncc.diagnostics import Source
from attncc.ir.text import dump
from attncc.ir.types import Type
from attncc.passes.canonicalize import canonicalize
from attncc.passes.diagonals import diagonals

CASES = {
    "a table": ("table: f32[num_heads, n]", "score + 2.0 * table[h, q - k]", "all but score"),
    "a table by batch": ("table: f32[batch, n]", "score + table[b, row - col]", "all but score"),
    "of every pair": ("table: f32[qo_len, n]", "score + table[row, q - k]", ""),
    "alibi": ("slopes: f32[num_heads]", "score + slopes[h] * (k - q)", ""),
    "a power of the score": ("", "pow(score, q - k)", ""),
    "a remainder": ("n: i32", "score + f32((q - k) % n)", "all but score"),
    "a shift": ("", "score + f32((q - k) // 8)", ""),
    "beside a row": ("n: i32", "score + f32((q - k) % n + row)", "the remainder"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept(name: str) -> None:
    parameters, logits, kept = CASES[name]
    text = f"variant v({parameters}) {{ logits = {logits} }}"
    variant = canonicalize(grammar.read(Source("v.attn", text)).definitions["v"].instantiate())
    root = variant.branches[0].logits
    assert root is not None
    found = diagonals([root], variant)
    if kept == "all but score":
        assert found == [operand for operand in root.operands if "score" not in repr(operand)]
    elif kept == "the remainder":
        assert [node.type for node in found] == [Type.I32]
        assert "row" not in repr(found[0])
    else:
        assert found == []


def test_a_mask_is_kept_as_a_whole() -> None:
    text = "variant v(n: i32) { mask = q >= k and (q - k) % n == 0 }"
    variant = canonicalize(grammar.read(Source("v.attn", text)).definitions["v"].instantiate())
    mask = variant.branches[0].mask
    assert mask is not None
    assert diagonals([mask], variant) == [mask], dump(variant)
