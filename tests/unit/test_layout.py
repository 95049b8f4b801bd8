"""grammar/, codegen/ and runtime/ lie at the top of the repository and are packages below attncc, never beside it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

import attncc

TOP_FOLDERS = ("codegen", "grammar", "runtime")


def declared_packages(root: Path) -> set[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    packages: list[str] = project["tool"]["setuptools"]["packages"]
    assert len(packages) == len(set(packages))
    return set(packages)


def packages_on_disk(root: Path) -> set[str]:
    found = set()
    for folder, below, files in os.walk(root / "attncc", followlinks=True):
        below[:] = [name for name in below if name != "__pycache__"]
        if "__init__.py" in files:
            found.add(".".join(Path(folder).relative_to(root).parts))
    return found


@pytest.mark.parametrize("name", TOP_FOLDERS)
def test_the_package_is_a_relative_link_to_the_folder(repo_root: Path, name: str) -> None:
    link = repo_root / "attncc" / name
    assert link.is_symlink()
    assert Path(os.readlink(link)) == Path("..") / name
    assert link.resolve() == repo_root / name


def test_every_package_on_disk_is_shipped(repo_root: Path) -> None:
    assert declared_packages(repo_root) == packages_on_disk(repo_root)


def test_every_python_file_is_in_a_package(repo_root: Path) -> None:
    folders = {path.parent for top in ("attncc", *TOP_FOLDERS) for path in (repo_root / top).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_public_names_resolve() -> None:
    missing = []
    for name in attncc._OWNERS:
        try:
            getattr(attncc, name)
        except (AttributeError, ImportError) as error:
            missing.append(f"{name}: {error}")
    assert not missing


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'atention'"):
        _ = attncc.atention  # type: ignore[attr-defined]
