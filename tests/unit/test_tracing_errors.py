"""Each file of tests/errors/python is one mistake; the error it ends in stands beside it, to the caret.

``python tests/unit/test_tracing_errors.py`` writes the expected texts anew.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from attncc.diagnostics import AttnccError
from attncc.diagnostics.catalogue import catalogue
from attncc.diagnostics.render import plain

ROOT = Path(__file__).resolve().parents[2]
CASES = sorted((ROOT / "tests/errors/python").glob("*.py"))


def error_of(case: Path) -> AttnccError:
    try:
        runpy.run_path(str(case))
    except AttnccError as error:
        return error
    raise AssertionError(f"{case.name} raises no error")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_mistake(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    error = error_of(case)
    assert plain(error) + "\n" == case.with_suffix(".txt").read_text()
    assert error.code in catalogue()
    assert error.help


if __name__ == "__main__":
    for case in CASES:
        case.with_suffix(".txt").write_text(plain(error_of(case)) + "\n")
