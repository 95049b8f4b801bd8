"""Everything the README and the guide to a kernel show is run: commands of console and sh blocks, and Python."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from attncc.cli.environment import gpu_count

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "how-a-kernel-is-made.md").read_text(encoding="utf-8")
# Not run here: these set up environments and run everything; tests/unit/test_readme.py checks what they name.
ELSEWHERE = ("make ", "pip install ")


@dataclass(frozen=True)
class Block:
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command line, and what the README says it prints (None where it does not say)."""

    line: str
    output: str | None


def blocks(text: str = README) -> list[Block]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found]


def commands(text: str = README) -> list[Command]:
    found = []
    for block in blocks(text):
        if block.language == "console":
            for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                line, _, output = part.partition("\n")
                found.append(Command(line, output))
        elif block.language == "sh":
            lines = [line for line in block.text.splitlines() if line and not line.startswith(ELSEWHERE)]
            found.extend(Command(line, None) for line in lines)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's own gemma2.attn, and an `attncc` that is this checkout's."""
    path = tmp_path_factory.mktemp("readme")
    (source,) = [block.text for block in blocks() if "variant gemma2(" in block.text]
    (path / "gemma2.attn").write_text(source, encoding="utf-8")
    (path / "bin").mkdir()
    program = path / "bin" / "attncc"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m attncc "$@"\n')
    program.chmod(0o755)
    return path


def environment(folder: Path) -> Mapping[str, str]:
    unset = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "ATTNCC_ERROR_FORMAT")
    quiet = {name: value for name, value in os.environ.items() if name not in unset}
    return {**quiet, "PATH": f"{folder / 'bin'}:{quiet['PATH']}"}


def alike(text: str) -> list[str]:
    """The lines of an output without what differs from one machine and one compiler to the next."""
    text = re.sub(r"\bkey [0-9a-f]{32}\b", "key", text)
    text = re.sub(r"^(\s+(?:tile|spills|time) ).*$|^.* \.\.\.$", r"\1", text, flags=re.MULTILINE)
    text = re.sub(r"\d+(\.\d+)?(e-\d+)?", "#", text)
    return sorted(" ".join(line.split()) for line in text.splitlines() if line.strip())


def test_the_readme_shows_every_command() -> None:
    from attncc.cli.group import COMMANDS

    shown = {match for command in commands() for match in re.findall(r"attncc (\w+)", command.line)}
    assert shown == set(COMMANDS)


@pytest.mark.parametrize(
    "command", [*commands(), *commands(GUIDE)], ids=lambda command: command.line.split("#")[0].strip()
)
def test_a_command_prints_what_is_shown(command: Command, folder: Path) -> None:
    if "attncc compile" in command.line:
        pytest.importorskip("cuda.bindings", reason="the compiler is not installed")
    run = subprocess.run(
        ["bash", "-c", command.line], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
    if "attncc bench" in command.line and not gpu_count():
        assert (run.returncode, "A1011" in run.stderr) == (1, True)
        return
    wrong = "attncc check -" in command.line
    assert run.returncode == (1 if wrong else 0), run.stderr
    if command.output:
        # What a user sees is both streams; which line of which comes first is not promised.
        assert alike(run.stdout + run.stderr) == alike(command.output)


def test_the_guide_shows_the_code_that_is_generated(folder: Path) -> None:
    (variant,) = [block.text for block in blocks(GUIDE) if not block.language]
    assert variant == (folder / "gemma2.attn").read_text(encoding="utf-8")
    line = "attncc compile gemma2.attn --emit=cuda"
    assert line in GUIDE
    run = subprocess.run(line.split(), cwd=folder, env=environment(folder), capture_output=True, text=True, check=True)
    made = {" ".join(text.split()) for text in run.stdout.splitlines()}
    shown = [
        " ".join(text.split()) for block in blocks(GUIDE) if block.language == "cpp" for text in block.text.splitlines()
    ]
    assert len(shown) > 10
    assert [text for text in shown if text not in made] == []


def test_the_environment_variables_are_those_the_code_reads() -> None:
    files = [path for top in ("attncc", "codegen", "grammar", "runtime") for path in (ROOT / top).rglob("*.py")]
    read = {name for path in files for name in re.findall(r"\bATTNCC_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    assert set(re.findall(r"^\| `(ATTNCC_[A-Z_]+)`", README, flags=re.MULTILINE)) == read


def test_the_drawing_is_exact(folder: Path) -> None:
    (command,) = [c for c in commands() if "viz" in c.line and c.output and "┌" in c.output]
    run = subprocess.run(
        ["bash", "-c", command.line], cwd=folder, env=environment(folder), capture_output=True, text=True, check=True
    )
    assert run.stdout == command.output


def test_the_python_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(folder)
    texts = [block.text for block in blocks() if block.language == "python" and "attncc" in block.text]
    assert len(texts) == 3
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (1, 4, 33, 64), "k": (1, 2, 33, 64), "v": (1, 2, 33, 64)}
    names = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    # The tracer reads the source of what it traces: the snippets become one file, as a reader would have it.
    path = folder / "snippets.py"
    path.write_text("\n".join(texts), encoding="utf-8")
    values = {**names, "slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), values)
    assert values["out"].shape == shapes["q"]
    assert values["lse"].shape == shapes["q"][:3]


def test_the_diagonals_are_as_drawn() -> None:
    from attncc.diagnostics import Source
    from attncc.grammar import read
    from attncc.reference import Sizes, attended

    (drawn,) = [block.text for block in blocks() if "(is_causal=True)" in block.text]
    rows = [re.findall("[■□]", line) for line in drawn.splitlines()[1:]]

    for column, mask in enumerate(("q >= k", "row >= col")):
        (definition,) = read(Source("<test>", f"variant x {{ mask = {mask} }}")).definitions.values()
        found = attended(definition.instantiate(), sizes=Sizes(1, 1, 1, 8, 8, 2, 5))[0, 0]
        assert [[cell == "■" for cell in row[5 * column : 5 * column + 5]] for row in rows] == found.tolist()
