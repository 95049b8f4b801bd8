"""docs/ir.md names every node and pass, and its text parses, round-trips and bounds loops as it says."""

from __future__ import annotations

import re
from pathlib import Path

from attncc.ir import nodes, text
from attncc.ir.verify import verify
from attncc.passes.pipeline import PIPELINE
from attncc.passes.ranges import tile_program
from attncc.passes.tile_program import Environment

PAGE = (Path(__file__).parents[2] / "docs" / "ir.md").read_text(encoding="utf-8")


def test_every_node_and_pass_is_listed() -> None:
    kinds = [name for name, kind in vars(nodes).items() if isinstance(kind, type) and issubclass(kind, nodes.Expr)]
    kinds = [name for name in kinds if not name.startswith("_") and name != "Expr"]
    assert len(kinds) == 14
    declarations = ["Tensor", "ParamDecl", "Require", "Operand", "Emit", "Branch", "RowReduction", "Variant"]
    missing = [name for name in (*kinds, *declarations) if not re.search(rf"\b{name}\b", PAGE)]
    assert missing == []
    assert [item.name for item in PIPELINE if f"| `{item.name}` |" not in PAGE] == []


def test_the_text_is_a_variant_and_its_ranges_are_as_written() -> None:
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    source = next(block for block in blocks if block.startswith("variant"))
    variant = text.parse(source)
    verify(variant)
    assert text.dump(variant) == source
    written = dict(
        re.findall(r"^(cover|full) +\[(.*)\)$", next(b for b in blocks if b.startswith("cover")), re.MULTILINE)
    )
    inputs = {"row_lo": 300, "rows": 16, "b": 0, "hk": 0, "group": 1, "q_start": 70, "k_start": 20}
    names = {**inputs, "w": 100}
    (lo, hi), (full_lo, full_hi) = (
        [
            sum(
                int(sign + "1") * (names[t] if t in names else int(t)) for sign, t in re.findall(r"([+-]?) ?(\w+)", end)
            )
            for end in written[kind].split(", ")
        ]
        for kind in ("cover", "full")
    )
    found = tile_program(variant).evaluate(Environment(inputs, {"w": 100}, {"qo_len": 400, "kv_len": 10**6}, {}))
    assert [(item.lo, item.hi, item.partial) for item in found] == [
        (lo, full_lo, True),
        (full_lo, full_hi, False),
        (full_hi, hi, True),
    ]
