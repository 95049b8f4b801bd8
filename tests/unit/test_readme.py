"""What the README names exists: the files it links to, the make targets, the extras."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def readme(repo_root: Path) -> str:
    return (repo_root / "README.md").read_text(encoding="utf-8")


def test_links_lead_somewhere(repo_root: Path, readme: str) -> None:
    targets = {target for target in re.findall(r"\]\(([^)#]+)", readme) if "://" not in target}
    assert targets
    assert not [target for target in sorted(targets) if not (repo_root / target).exists()]


def test_make_targets_exist(repo_root: Path, readme: str) -> None:
    named = set(re.findall(r"^\s*make ([a-z-]+)|`make ([a-z-]+)", readme, flags=re.MULTILINE))
    makefile = (repo_root / "Makefile").read_text(encoding="utf-8")
    rules = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert {"demo", "test"} <= {first or second for first, second in named} <= rules


def test_extras_exist(repo_root: Path, readme: str) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {extra for group in re.findall(r"pip install '[^'\[]*\[([^\]]+)\]'", readme) for extra in group.split(",")}
    assert named
    assert named <= set(project["optional-dependencies"])
