"""The wheel and the sdist hold the whole package, and a clean environment runs the command line from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import attncc

pytestmark = pytest.mark.slow

LINKED = ("codegen", "grammar", "runtime")


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked(root: Path, *folders: str) -> list[Path]:
    """Repository-relative paths that git tracks and that exist, links included."""
    listing = run("git", "ls-files", "-z", *folders, cwd=root)
    return [Path(name) for name in listing.split("\0") if name and os.path.lexists(root / name)]


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel, made from the sdist, made from a copy of the tracked files alone: leftovers here cannot help."""
    if not (repo_root / ".git").exists():
        pytest.skip("not a git checkout: the tracked files are unknown")
    source = tmp_path_factory.mktemp("source")
    for path in tracked(repo_root):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repo_root / path, source / path, follow_symlinks=False)
    dist = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source, cwd=source)
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and with our dependencies linked in from the one that runs the tests."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    paths = {"base": str(venv), "platbase": str(venv)}
    site = Path(sysconfig.get_path("purelib", scheme="venv", vars=paths))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        ours = "attncc" in entry.name or entry.suffix == ".pth" or entry.name == "__pycache__"
        if not ours and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    run(sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--no-index", "--no-deps",
        built.wheel, cwd=venv.parent)  # fmt: skip
    return venv


def test_the_wheel_holds_every_tracked_file(repo_root: Path, built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        held = set(wheel.namelist())
    expected = set()
    for path in tracked(repo_root, "attncc", *LINKED):
        if not (repo_root / path).is_symlink():
            expected.add(str(path if path.parts[0] == "attncc" else "attncc" / path))
    assert len(expected) > 10
    assert expected - held == set()
    assert {name for name in held if not name.startswith("attncc-")} - expected == set()


def test_the_wheel_brings_one_top_level_name(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"attncc"}


def test_the_sdist_holds_every_tracked_file_of_the_package(repo_root: Path, built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    paths = tracked(repo_root, "attncc", *LINKED)
    assert {str(path) for path in paths if not (repo_root / path).is_symlink()} - held == set()


def test_the_installed_package_is_the_wheel(environment: Path, tmp_path: Path) -> None:
    code = (
        "import attncc, importlib.util as u\n"
        "print(attncc.__file__)\n"
        f"print([name for name in {LINKED!r} if u.find_spec(name) is not None])"
    )
    file, leaked = run(environment / "bin" / "python", "-c", code, cwd=tmp_path).splitlines()
    assert Path(file).is_relative_to(environment)
    assert leaked == "[]"


def test_the_command_line_prints_its_version(environment: Path, tmp_path: Path) -> None:
    assert attncc.__version__ in run(environment / "bin" / "attncc", "--version", cwd=tmp_path).split()


def test_the_command_line_compiles(repo_root: Path, environment: Path, tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="no NVRTC: the compile extra is not installed")
    shutil.copy2(repo_root / "examples" / "causal.attn", tmp_path)
    cubin = tmp_path / "causal.cubin"
    run(environment / "bin" / "attncc", "compile", "causal.attn", "--target", "sm_90a", "--emit=cubin", "-o", cubin,
        cwd=tmp_path)  # fmt: skip
    assert cubin.read_bytes().startswith(b"\x7fELF")
