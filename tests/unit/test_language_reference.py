"""docs/language.md: every example is what the text around it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attncc.diagnostics import AttnccError, Source
from attncc.grammar import format, parse, read
from attncc.grammar.lexer import KEYWORDS, SYMBOLS
from attncc.ir.build import FUNCTIONS
from attncc.ir.nodes import AXES, EXTENTS
from attncc.ir.verify import HOOKS, verify

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "language.md"
TEXT = PAGE.read_text(encoding="utf-8")
SNIPPETS = [
    (TEXT.count("\n", 0, match.start()) + 1, match.group(1), match.group(2))
    for match in re.finditer(r"^```attn(?: error (A\d{4}))?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
]


def lower_all(source: Source) -> None:
    for definition in read(source).definitions.values():
        verify(definition.instantiate())


@pytest.mark.parametrize(("line", "code", "text"), SNIPPETS, ids=[f"line{line}" for line, _, _ in SNIPPETS])
def test_snippet(line: int, code: str | None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks.attn").write_text("mask causal = q >= k\nmask window(w: i32) = q - k < w\n", encoding="utf-8")
    source = Source(f"language.md:{line}", text)
    parse(source)
    assert format(format(text)) == format(text)
    if code is None:
        lower_all(source)
        return
    with pytest.raises(AttnccError) as caught:
        lower_all(source)
    assert caught.value.code == code


def test_every_fence_is_a_snippet() -> None:
    assert TEXT.count("```attn") == len(SNIPPETS) > 25


def test_every_word_of_the_language_is_on_the_page() -> None:
    words = {
        *KEYWORDS,
        *FUNCTIONS,
        *AXES,
        *EXTENTS,
        *(set(HOOKS) - {"sink"}),
        "any",
        "all",
        "sum",
        "softmax",
        "inf",
        "pi",
    }
    missing = {word for word in words if not re.search(rf"(?<!\w){word}(?!\w)", TEXT)}
    assert not missing
    assert not {symbol for symbol in SYMBOLS if symbol not in TEXT}
