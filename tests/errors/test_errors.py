"""Each mistake beside this file, and what a user sees of it. ``ATTNCC_UPDATE_GOLDEN=1`` rewrites the expected texts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attncc.diagnostics import AttnccError
from attncc.diagnostics.render import plain
from attncc.grammar import read
from attncc.ir.extents import channel_lengths

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("A*.attn"))


def check(path: str) -> None:
    """Read a file, instantiate everything in it, and measure its channel vectors as a compile for head_dim 128 does."""
    for definition in read(path).definitions.values():
        variant = definition.instantiate()
        for _, expr in variant.roots():
            channel_lengths(expr, variant, {"head_dim": 128, "head_dim_v": 128})


def mistake(path: str) -> AttnccError:
    with pytest.raises(AttnccError) as caught:
        check(path)
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_mistake_is_shown_exactly(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    error = mistake(case.name)
    shown = plain(error) + "\n"
    expected = case.with_suffix(".txt")
    if os.environ.get("ATTNCC_UPDATE_GOLDEN"):
        expected.write_text(shown, encoding="utf-8")
    assert shown == expected.read_text(encoding="utf-8")
    assert case.name.startswith(error.code)
    assert error.help
    assert error.expected
    assert error.got
    assert error.span is not None or error.code == "A0105"


def test_there_are_enough_mistakes() -> None:
    assert len(CASES) >= 45
