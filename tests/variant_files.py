"""The acceptance variants under tests/variants, in both forms."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from attncc.grammar import Module, read
from attncc.ir.definition import Definition
from attncc.ir.nodes import Variant

FOLDER = Path(__file__).parent / "variants"
FILES = tuple(sorted(path.stem for path in FOLDER.glob("v*.attn")))


@functools.cache
def module(file: str) -> Module:
    """A file of variants by its name without the ending."""
    return read(FOLDER / f"{file}.attn")


def variant(file: str, name: str) -> Variant:
    """A variant of a file; none of the acceptance variants has constants without a default."""
    return module(file).definitions[name].instantiate()


@functools.cache
def twins(file: str) -> dict[str, Definition]:
    """The Python twins of a file's variants, by name."""
    spec = importlib.util.spec_from_file_location(f"twin_{file}", FOLDER / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    found = {name: getattr(value, "definition", None) for name, value in vars(loaded).items()}
    return {name: value for name, value in found.items() if isinstance(value, Definition)}


def pairs() -> list[tuple[str, str]]:
    """Every (file, variant)."""
    return [(file, name) for file in FILES for name in module(file).definitions]
