"""The catalogue of error codes: complete, and its examples do what they say."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from attncc.diagnostics import AttnccError, Source
from attncc.diagnostics.catalogue import Entry, catalogue
from attncc.grammar import read
from attncc.ir.extents import channel_lengths

ROOT = Path(__file__).resolve().parent.parent.parent
LANGUAGE = re.compile(r"A0[1-5]\d\d")
EXAMPLE = re.compile(r"^```attn( fails)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRIES = [(code, entry) for code, entry in catalogue().items() if LANGUAGE.fullmatch(code)]

# Codes whose mistake is not a text of its own: bytes, files, huge inputs, values given from outside, and IR text.
WITHOUT_FAILING_EXAMPLE = {"A0105", "A0108", "A0112", "A0307", "A0504", "A0507", "A0509"}


def check(text: str) -> None:
    """Read a text and everything that instantiating and compiling its variants would check."""
    for definition in read(Source("example.attn", text)).definitions.values():
        variant = definition.instantiate()
        for _, expr in variant.roots():
            channel_lengths(expr, variant, {"head_dim": 128, "head_dim_v": 128})


def sources() -> list[Path]:
    """The Python files of the package; its folders that lie at the top of the repository are links."""
    found = []
    for folder, _, names in os.walk(ROOT / "attncc", followlinks=True):
        found.extend(Path(folder, name) for name in names if name.endswith(".py"))
    return found


def test_every_code_in_the_source_has_an_entry_with_text() -> None:
    used: dict[str, str] = {}
    for path in sources():
        if path.name.startswith("codes_"):
            continue
        for code in re.findall(r"[\"'`](A\d{4})[\"'`]", path.read_text(encoding="utf-8")):
            used[code] = path.name
    missing = {code: name for code, name in used.items() if code not in catalogue()}
    assert not missing
    assert len(used) > 60


def test_entries_have_texts() -> None:
    for code, entry in catalogue().items():
        assert re.fullmatch(r"A\d{4}", code)
        assert entry.title
        assert len(entry.explanation.split()) >= 8, code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the examples import."""
    (tmp_path / "lib").mkdir()
    for name in ("masks.attn", "lib/masks.attn"):
        (tmp_path / name).write_text("mask causal = q >= k\nvariant windowed { mask = causal }\n", encoding="utf-8")
    (tmp_path / "circle.attn").write_text('from "circle.attn" import something\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("code", "entry"), ENTRIES, ids=[code for code, _ in ENTRIES])
@pytest.mark.usefixtures("folder")
def test_examples_fail_and_are_mended(code: str, entry: Entry) -> None:
    examples = [(bool(mark), text) for mark, text in EXAMPLE.findall(entry.explanation)]
    for fails, text in examples:
        if fails:
            with pytest.raises(AttnccError) as caught:
                check(text)
            assert caught.value.code == code
        else:
            check(text)
    if code not in WITHOUT_FAILING_EXAMPLE:
        assert {fails for fails, _ in examples} == {True, False}
