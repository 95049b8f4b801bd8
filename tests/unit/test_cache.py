"""The cache under everything that happens to a folder: many processes, kill -9, damage, no permission, no room."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from attncc import cache as module
from attncc.artifact import MANIFEST, ROLES, Artifact, cubin_name
from attncc.cache import Cache, cache_key, cache_root, tree_hash
from tests.unit.artifacts import small

KEY = cache_key("some", "kernel")

# A process that wants KEY and notes every compile as one line of a file.
WORKER = """
import sys, time
from pathlib import Path
from attncc.cache import Cache
from tests.unit.artifacts import small
root, key, notes, seconds = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4])
def make():
    with notes.open("a") as file:
        file.write("made\\n")
    time.sleep(seconds)
    return small(key)
assert Cache(root).get_or_make(key, make) == small(key)
"""

# A process that writes entry after entry until it is killed.
WRITER = """
import sys
from pathlib import Path
from attncc.cache import Cache, cache_key
from tests.unit.artifacts import small
print("ready", flush=True)
for number in range(10**9):
    Cache(Path(sys.argv[1])).put(small(cache_key(str(number)), bytes(200_000)))
"""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def start(code: str, *arguments: object, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def never() -> Artifact:
    raise AssertionError("this kernel is cached")


def test_a_kernel_is_made_once(cache: Cache) -> None:
    assert cache.get(KEY) is None
    assert cache.get_or_make(KEY, lambda: small(KEY)) == small(KEY)
    assert cache.get_or_make(KEY, never) == small(KEY)
    assert cache.entries() == (KEY,)


def test_sixteen_processes_compile_once(cache: Cache, tmp_path: Path, repo_root: Path) -> None:
    notes = tmp_path / "notes"
    workers = [start(WORKER, cache.root, KEY, notes, 0.3, root=repo_root) for _ in range(16)]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    assert notes.read_text() == "made\n"


def test_a_killed_compile_is_taken_over_at_once(cache: Cache, tmp_path: Path, repo_root: Path) -> None:
    notes = tmp_path / "notes"
    holder = start(WORKER, cache.root, KEY, notes, 1000, root=repo_root)
    deadline = time.monotonic() + 60
    while not notes.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    begin = time.monotonic()
    assert cache.get_or_make(KEY, lambda: small(KEY)) == small(KEY)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.011, 0.03, 0.07])
def test_a_killed_writer_leaves_whole_entries_only(cache: Cache, repo_root: Path, delay: float) -> None:
    writer = start(WRITER, cache.root, root=repo_root)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    for key in cache.entries():
        assert sorted(os.listdir(cache.folder(key))) == sorted([MANIFEST, *map(cubin_name, ROLES)])
        assert cache.get(key) == small(key, bytes(200_000))


def test_what_a_dead_writer_left_is_removed(cache: Cache) -> None:
    cache.put(small(KEY))
    left = cache.folder(KEY).with_name(f".{KEY}.left")
    old, fresh = left.with_name(".other.old"), left.with_name(".other.fresh")
    for folder, age in ((left, 3600), (old, 2 * module.STALE_SECONDS), (fresh, 0)):
        folder.mkdir()
        (folder / cubin_name("main")).write_bytes(b"half")
        os.utime(folder, (time.time() - age, time.time() - age))
    cache.put(small(KEY))
    assert [path.exists() for path in (left, old, fresh)] == [False, False, True]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit of the cubin flipped": lambda folder: flip(folder / cubin_name("main")),
    "a bit of the manifest flipped": lambda folder: flip(folder / MANIFEST),
    "the cubin cut off": lambda folder: os.truncate(folder / cubin_name("main"), 100),
    "the cubin empty": lambda folder: os.truncate(folder / cubin_name("main"), 0),
    "the manifest cut off": lambda folder: os.truncate(folder / MANIFEST, 100),
    "the manifest garbage": lambda folder: shutil.copy(__file__, folder / MANIFEST),
    "the cubin gone": lambda folder: (folder / cubin_name("main")).unlink(),
    "the manifest gone": lambda folder: (folder / MANIFEST).unlink(),
    "a bit of the other cubin flipped": lambda folder: flip(folder / cubin_name("merge")),
    "the other cubin gone": lambda folder: (folder / cubin_name("merge")).unlink(),
    "the cubin a folder": lambda folder: replace_by_folder(folder / cubin_name("main")),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_entry_is_rebuilt_and_said(cache: Cache, caplog: pytest.LogCaptureFixture, what: str) -> None:
    cache.put(small(KEY))
    DAMAGE[what](cache.folder(KEY))
    with caplog.at_level(logging.WARNING):
        assert cache.get_or_make(KEY, lambda: small(KEY)) == small(KEY)
    assert "built again" in caplog.text
    assert cache.get_or_make(KEY, never) == small(KEY)
    assert cache.entries() == (KEY,)


def test_a_file_in_place_of_an_entry_is_replaced(cache: Cache) -> None:
    cache.folder(KEY).parent.mkdir(parents=True)
    cache.folder(KEY).write_text("not a folder")
    cache.get_or_make(KEY, lambda: small(KEY))
    assert cache.get_or_make(KEY, never) == small(KEY)


def test_an_entry_under_a_foreign_key_is_not_taken(cache: Cache) -> None:
    cache.put(small("f" * 32))
    cache.folder("f" * 32).rename(cache.folder(KEY))
    assert cache.get(KEY) is None


@pytest.mark.parametrize("below", [".", "kernels"])
def test_a_cache_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, below: str
) -> None:
    """A file where the folder should be: unwritable for every user, root too."""
    cache = Cache(tmp_path / "cache")
    blocked = cache.root / below
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cache.get_or_make(KEY, lambda: small(KEY)) == small(KEY)
    assert caplog.text.count("kernels are not cached") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_still_serves(cache: Cache) -> None:
    cache.put(small(KEY))
    other = cache_key("other")
    cache.folder(KEY).parent.chmod(0o555)
    try:
        assert cache.get_or_make(KEY, never) == small(KEY)
        assert cache.get_or_make(other, lambda: small(other)) == small(other)
    finally:
        cache.folder(KEY).parent.chmod(0o755)


def test_a_full_disk_leaves_nothing_behind(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Artifact, folder: Path) -> None:
        (folder / cubin_name("main")).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Artifact, "write", full)
    assert cache.put(small(KEY)) is False
    assert list((cache.root / "kernels").iterdir()) == []


def test_keys_do_not_run_together() -> None:
    assert cache_key("ab", "c") != cache_key("a", "bc") != cache_key("abc")


def test_the_source_hash_sees_names_and_contents(tmp_path: Path) -> None:
    seen: set[str] = set()
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b.py", "2"), ("a.cuh", "1")):
        folder = tmp_path / f"{len(seen)}" / "codegen"
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
        seen.add(tree_hash(folder))
    assert len(seen) == 4


def test_the_folder_is_the_environment_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("ATTNCC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "attncc"


def test_a_cached_kernel_is_read_within_20_ms(cache: Cache) -> None:
    cache.put(small(KEY, bytes(300_000)))
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        assert cache.get(KEY) is not None
        times.append(time.perf_counter() - begin)
    assert sorted(times)[4] < 0.020


def test_reading_the_cache_loads_nothing_heavy(cache: Cache, repo_root: Path) -> None:
    cache.put(small(KEY))
    code = f"""
import sys
from pathlib import Path
from attncc.cache import Cache
assert Cache(Path({str(cache.root)!r})).get({KEY!r}) is not None
print(*sorted({{name.partition('.')[0] for name in sys.modules}}))
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True)
    assert not {"numpy", "cuda", "cupy", "torch", "lark", "filelock"} & set(run.stdout.split())
