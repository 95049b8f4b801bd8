"""Every example exists in both forms, and both mean the same: their canonical IR is one text."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attncc
from attncc.binding import VariantFactory
from attncc.ir.text import dump

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(path for path in EXAMPLES.glob("*.attn") if path.with_suffix(".py").exists())
NAMES = {
    *("causal", "window", "gemma2", "alibi", "prefix_lm", "documents", "streaming_llm", "gpt_oss", "t5_bias"),
    *("longformer", "sigmoid", "transfusion", "rope"),
}


@pytest.fixture
def examples_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples import what they share as scripts do, from their own folder."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(EXAMPLES)):
            del sys.modules[name]


def python_variants(path: Path) -> dict[str, VariantFactory[...]]:
    """The variants a Python file declares."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {item.name: item for item in vars(module).values() if isinstance(item, VariantFactory)}


def test_every_promised_example_has_both_forms() -> None:
    assert {path.stem for path in FILES} >= NAMES


@pytest.mark.usefixtures("examples_on_path")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_twins_are_one_variant(path: Path) -> None:
    pytest.importorskip("torch", reason="the examples' mains compute with torch")
    texts, twins = attncc.load(path), python_variants(path.with_suffix(".py"))
    assert set(texts) == set(twins), "the two forms declare different variants"
    for name in texts:
        _, from_text = texts[name].instantiate({})
        _, from_python = twins[name].instantiate({})
        assert dump(from_python) == dump(from_text)
