"""Which masks get a screen, and what of them it reads."""

from __future__ import annotations

import pytest

from attncc import grammar
from attncc.codegen.emit.positions import positions
from attncc.diagnostics import Source
from attncc.ir.nodes import Expr, Load
from attncc.ir.walk import walk
from attncc.passes.pipeline import run
from attncc.passes.screen import MAX_KEYS, Operation, Screen, screen

TENSORS = """doc: i32[batch, kv_len], keep: bool[batch, kv_len], seen: bool[num_heads, kv_len], w: i32[num_heads],
    n: i32, t: f32[batch, kv_len], pairs: bool[qo_len, kv_len],
    chosen: i32[batch, kv_len, slots], lo: i32[batch, qo_len]"""


def of(mask: str) -> Screen | None:
    text = f"variant v({TENSORS}) {{ mask = {mask} }}"
    variant = run(grammar.read(Source("v.attn", text)).definitions["v"].instantiate())
    expr = variant.branches[0].mask
    assert expr is not None
    return screen(positions(expr))


def tensors(exprs: tuple[Expr, ...]) -> set[str]:
    return {node.tensor for expr in exprs for node in walk(expr) if isinstance(node, Load)}


@pytest.mark.parametrize(
    ("mask", "rows", "keys"),
    [
        ("doc[b, own] == doc[b, col] and q >= k", {"doc"}, {"doc"}),
        ("q >= k and keep[b, col]", set(), {"keep"}),
        ("k < lo[b, row]", {"lo"}, set()),
        ("q >= k and q - k < w[h]", {"w"}, set()),
        ("not (t[b, col] > t[b, own])", {"t"}, {"t"}),
        ("doc[b, col] == 3 and pairs[row, col]", set(), {"doc"}),  # the second half is unknown, the first is not
        ("any(chosen[b, own, i] == 1 for i in slots) or doc[b, col] < q", {"chosen"}, {"doc"}),
    ],
)
def test_captured_values_by_row_and_by_column(mask: str, rows: set[str], keys: set[str]) -> None:
    found = of(mask)
    assert found is not None
    assert (tensors(found.rows), tensors(found.keys)) == (rows, keys)


@pytest.mark.parametrize(
    "mask",
    [
        "q >= k",  # ranges know all of it
        "q // n == k // n",
        "q - k < w[hk]",  # one value an item: ranges read it
        "pairs[row, col]",
        "seen[h, col]",
        "q >= k and (pairs[row, col] or keep[b, col])",  # always possible
        "keep[b, col] or pairs[row, col]",
        "any(chosen[b, col, i] == 1 for i in slots)",  # too dear for every column
    ],
)
def test_masks_without(mask: str) -> None:
    assert of(mask) is None


def test_values_are_read_once_and_coordinates_not_at_all() -> None:
    found = of("(doc[b, own] == doc[b, col] or doc[b, col] < 0) and q - k < n and abs(q - k) >= 1")
    assert found is not None
    assert len(found.keys) == len(found.rows) == 1


def test_operations_stand_after_what_they_read() -> None:
    found = of("(doc[b, own] == doc[b, col] or doc[b, col] < 0) and q - k < n")
    assert found is not None
    seen: set[int] = set()
    for operation in found.operations:
        assert all(id(operand) in seen for operand in operation.operands if isinstance(operand, Operation))
        seen.add(id(operation))
    assert found.operations[-1] is found.root


def test_a_mask_over_too_many_values_has_none() -> None:
    terms = " and ".join(f"doc[b, col] % {i + 2} == row % {i + 2}" for i in range(MAX_KEYS + 1))
    assert of(terms) is None
