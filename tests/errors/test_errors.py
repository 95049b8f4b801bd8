"""Each mistake beside this file, and what a user sees of it. ``ATTNCC_UPDATE_GOLDEN=1`` rewrites the expected texts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attncc.diagnostics import AttnccError
from attncc.diagnostics.render import plain
from attncc.grammar import read

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("A*.attn"))


def mistake(path: str) -> AttnccError:
    """The error of reading a file and instantiating everything in it."""
    with pytest.raises(AttnccError) as caught:
        for definition in read(path).definitions.values():
            definition.instantiate()
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
