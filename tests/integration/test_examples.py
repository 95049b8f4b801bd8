"""Every example runs, draws its mask and agrees with its own formula; the demo does what the README says of it."""

from __future__ import annotations

import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHARED = {"demo", "demonstrate"}
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in SHARED)
VARIANTS = (
    *("alibi", "causal", "documents", "gemma2", "gpt_oss", "longformer", "prefix_lm", "rope"),
    *("sigmoid", "streaming_llm", "t5_bias", "transfusion", "window"),
)


def test_every_example_has_both_forms() -> None:
    assert tuple(NAMES) == VARIANTS
    assert sorted(path.stem for path in EXAMPLES.glob("*.attn")) == sorted([*NAMES, "masks"])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_agrees_with_its_formula(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert ended.value.code is None, out
    assert "│█" in out
    assert "from the formula" in out


@pytest.mark.parametrize("name", ["alibi", "gpt_oss", "sigmoid"])
def test_an_example_notices_a_wrong_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: one row of one head that is 3 % too small is enough."""
    import attncc

    exact = attncc.attention

    def spoiled(*arguments: object, **options: object) -> torch.Tensor:
        out = exact(*arguments, **options)
        out[0, 0, 7] *= 0.97
        return out

    monkeypatch.setattr(attncc, "attention", spoiled)
    monkeypatch.setattr("attncc.viz.show", lambda *_, **__: None)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "demonstrate", raising=False)
    with pytest.raises(SystemExit, match="they disagree"):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_an_example_runs_as_a_program() -> None:
    run = subprocess.run([sys.executable, str(EXAMPLES / "causal.py")], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "from the formula" in run.stdout


def test_the_demo_compiles_draws_and_computes() -> None:
    pytest.importorskip("cuda.bindings", reason="the compiler is not installed")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([sys.executable, str(EXAMPLES / "demo.py")], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (run.returncode, run.stderr) == (0, "")
    for name in ("causal", "gemma2", "alibi"):
        for target in ("sm_80", "sm_90a"):
            (row,) = [line for line in run.stdout.splitlines() if f" {name} " in line and f" {target} " in line]
            assert "KiB" in row
            assert "bytes" in row
            assert " s " in row
    assert run.stdout.count(" agrees with plain numpy") == 3
    assert "│█▄" in run.stdout
    # Ten seconds on two idle cores; processor time, since other tests run beside this one.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 12
