"""Each acceptance variant in Python is the one in the language: their canonical IR prints equal."""

from __future__ import annotations

import pytest

from attncc.ir.text import dump
from attncc.passes.canonicalize import canonicalize
from tests.variant_files import FILES, module, pairs, twins, variant


def test_there_are_45() -> None:
    assert [int(file[1:3]) for file in FILES] == list(range(1, 46))


@pytest.mark.parametrize(("file", "name"), pairs(), ids=lambda value: value)
def test_twin(file: str, name: str) -> None:
    assert dump(canonicalize(twins(file)[name].instantiate())) == dump(canonicalize(variant(file, name)))


@pytest.mark.parametrize("file", FILES)
def test_no_twin_without_text(file: str) -> None:
    assert twins(file).keys() == module(file).definitions.keys()
