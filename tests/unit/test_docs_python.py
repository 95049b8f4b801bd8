"""docs/python.md: its programs run in the order of the page; those marked as failing end in the code they name."""

from __future__ import annotations

import linecache
import re
from pathlib import Path
from typing import Any

import pytest

from attncc.diagnostics import AttnccError
from attncc.diagnostics.render import plain

BLOCK = re.compile(r"^```(\w*)( fails (A\d{4}))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GEMMA2 = "variant gemma2(softcap: f32 = 50.0) { logits = softcap * tanh(score / softcap); mask = q >= k }\n"


def run(text: str, namespace: dict[str, Any], name: str) -> None:
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    exec(compile(text, name, "exec"), namespace)


def test_the_page_holds(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gemma2.attn").write_text(GEMMA2)
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((repo_root / "docs/python.md").read_text(encoding="utf-8"))
    namespace: dict[str, Any] = {"__name__": "page"}
    shown = None
    for number, (language, _, code, text) in enumerate(blocks):
        if code:
            with pytest.raises(AttnccError) as caught:
                run(text, namespace, "window.py")
            assert caught.value.code == code
            shown = plain(caught.value)
        elif language == "python":
            run(text, namespace, f"block {number}")
        elif text.startswith("error["):
            assert text.rstrip("\n") == shown
    assert sum(language == "python" for language, *_ in blocks) >= 7


def test_the_page_names_every_function(repo_root: Path) -> None:
    from attncc.ir.build import FUNCTIONS

    text = (repo_root / "docs/python.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\w+", text))
    assert set(FUNCTIONS) - {"bool"} <= named
