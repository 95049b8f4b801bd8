"""The command line as a program: how long it takes, what it imports, pipes, signals, colours."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

MODULES = ("click", "lark", "numpy", "torch", "cupy", "rich", "attncc.codegen", "attncc.reference", "attncc.runtime")
SCRIPT = """
import json, sys
from attncc.cli.main import main
status = main({arguments!r})
print(json.dumps([status, [name for name in {modules!r} if name in sys.modules]]))
"""


def attncc(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "attncc", *arguments]


def environment(**changes: str) -> dict[str, str]:
    quiet = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return {**quiet, **changes}


def imported(*arguments: str) -> tuple[int, list[str]]:
    """The exit status of a command line, and which of MODULES it imported."""
    script = SCRIPT.format(arguments=list(arguments), modules=MODULES)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    status, names = json.loads(run.stdout.splitlines()[-1])
    return status, names


def cpu_seconds(command: Sequence[str]) -> float:
    """The least processor time of three runs: other work on the machine does not count, start-up does."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


@pytest.fixture
def variant(tmp_path: Path) -> str:
    path = tmp_path / "window.attn"
    path.write_text("variant window(w: i32 = 4096) { mask = q >= k and q - k < w }\n")
    return str(path)


def test_version_imports_nothing() -> None:
    assert imported("--version") == (0, [])


def test_check_imports_nothing_that_compiles_or_computes(variant: str) -> None:
    assert imported("check", variant) == (0, ["click"])


def test_fmt_and_explain_import_little(variant: str) -> None:
    assert imported("fmt", variant) == (0, ["click"])
    status, names = imported("explain", "A0101")
    assert (status, set(names) & {"numpy", "torch", "attncc.codegen"}) == (0, set())


def test_version_is_instant() -> None:
    assert cpu_seconds(attncc("--version")) < 0.15


def test_a_cached_compile_is_quick(variant: str) -> None:
    pytest.importorskip("cuda.bindings", reason="the compiler is not installed")
    command = attncc("compile", variant, "--target", "sm_90a")
    subprocess.run(command, check=True, capture_output=True)  # fills the cache
    assert cpu_seconds(command) < 0.5
    status, names = imported("compile", variant, "--target", "sm_90a")
    assert status == 0
    assert not set(names) & {"numpy", "torch", "cupy", "rich"}


def test_the_installed_command_is_the_module(variant: str) -> None:
    run = subprocess.run(attncc("check", variant), capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    run = subprocess.run(attncc("check", variant + "x"), capture_output=True, text=True, check=False)
    assert run.returncode == 1


def test_a_closed_pipe_is_no_error(variant: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        run = subprocess.run(attncc("explain"), stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert run.stderr == ""
    assert run.returncode == 141


def test_interrupting_ends_with_a_line() -> None:
    process = subprocess.Popen(
        attncc("check", "-"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it runs in the background deaf to interrupts, the tests and their children, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(1.0)  # it waits for standard input by then
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert err.strip() == "attncc: interrupted"
    assert process.returncode == 130


def test_colours_follow_the_environment(variant: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.attn"
    wrong.write_text("variant a { mask = q >= }\n")

    def err(**changes: str) -> str:
        run = subprocess.run(attncc("check", str(wrong)), capture_output=True, text=True, env=environment(**changes))
        assert run.returncode == 1
        return run.stderr

    assert "\x1b[" not in err()
    assert "\x1b[1;31m" in err(FORCE_COLOR="1")
    assert "\x1b[" not in err(FORCE_COLOR="1", NO_COLOR="1")


def test_a_slow_command_says_what_it_does(variant: str) -> None:
    arguments = (
        "run",
        variant,
        "--device",
        "cpu",
        "--q-len",
        "5000",
        "--batch",
        "1",
        "--heads",
        "4",
        "--head-dim",
        "32",
    )
    run = subprocess.run(attncc(*arguments), capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert run.stderr == "computing the reference on the CPU ...\n"
