"""The kernel cache on disk: one folder a key, written aside and renamed. Knows artifacts, not how they are made.

An entry is there whole or not at all: it is written into a temporary folder, flushed, then renamed. A process that dies
leaves a temporary folder at most, which the next writer of that key removes. A lock per key makes concurrent processes
compile once; it saves work and is not needed for correctness, since a lost rename only means that the other entry is
there already, with the same meaning. What does not match its hashes is moved aside and built again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from attncc.artifact import SCHEMA, Artifact, digest, read
from attncc.diagnostics import ArtifactError

log = logging.getLogger("attncc.cache")

# How long to wait for another process that compiles the same kernel before compiling beside it: it may be stopped.
LOCK_SECONDS = 60.0
STALE_SECONDS = 24 * 3600.0


def cache_root() -> Path:
    """ATTNCC_CACHE_DIR, or the platform's cache folder for this user (~/.cache/attncc)."""
    chosen = os.environ.get("ATTNCC_CACHE_DIR")
    if chosen:
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_cache_dir("attncc", appauthor=False))


def cache_key(*parts: str) -> str:
    """The key of everything that decides a kernel. Parts are length-prefixed, so no two lists of them run together."""
    return digest(b"".join(b"%d:%b" % (len(data), data) for data in (part.encode() for part in (str(SCHEMA), *parts))))


@functools.cache
def tree_hash(*folders: Path, suffixes: tuple[str, ...] = (".py", ".cuh")) -> str:
    """The hash of every source below the folders, by relative name and content; once a process."""
    state = []
    for folder in folders:
        paths = (Path(at) / name for at, _, names in os.walk(folder) for name in names if name.endswith(suffixes))
        for path in sorted(paths):
            state.append(f"{folder.name}/{path.relative_to(folder).as_posix()}")
            state.append(digest(path.read_bytes()))
    return cache_key(*state)


@dataclass(frozen=True)
class Cache:
    """The entries below ``root``. Every method works, without caching, where the folder cannot be written."""

    root: Path

    def folder(self, key: str) -> Path:
        return self.root / "kernels" / key

    def get(self, key: str) -> Artifact | None:
        """The verified entry, or None. A damaged one is moved aside, with a warning in the log."""
        folder = self.folder(key)
        try:
            artifact = read(folder)
        except ArtifactError as error:
            if os.path.lexists(folder):
                log.warning("%s; it is built again", error.message)
                self._discard(folder)
            return None
        if artifact.key != key:
            log.warning("the kernel in %s belongs to key %s; it is built again", folder, artifact.key)
            self._discard(folder)
            return None
        return artifact

    def get_or_make(self, key: str, make: Callable[[], Artifact]) -> Artifact:
        """The entry, made by ``make`` if it is missing: by one process, while others that want it wait."""
        found = self.get(key)
        if found is not None:
            return found
        with self._locked(key):
            found = self.get(key)  # whoever held the lock has made it
            if found is not None:
                return found
            artifact = make()
            self.put(artifact)
            return artifact

    def put(self, artifact: Artifact) -> bool:
        """Store an entry; False where the folder cannot be written, which is logged once a process and root."""
        final = self.folder(artifact.key)
        temporary: Path | None = None
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(artifact.key)
            temporary = Path(tempfile.mkdtemp(prefix=f".{artifact.key}.", dir=final.parent))
            artifact.write(temporary)
            try:
                temporary.rename(final)
            except OSError:
                # NOTES: the only way to lose this race is that an entry of the same key is there, which is as good.
                if not final.is_dir():
                    raise
        except OSError as error:
            _say_unwritable(self.root, error.strerror or str(error))
            return False
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        return True

    def entries(self) -> tuple[str, ...]:
        """The keys that are there, verified or not."""
        try:
            return tuple(sorted(name for name in os.listdir(self.root / "kernels") if not name.startswith(".")))
        except OSError:
            return ()

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """Holds the lock of ``key``, if there can be one. It goes with the process, however that ends."""
        import filelock  # only where a kernel is compiled: an entry that is there takes no lock

        lock = None
        try:
            folder = self.root / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / key, mode=0o666)
            lock.acquire(timeout=LOCK_SECONDS, poll_interval=0.01)
        except filelock.Timeout:
            log.warning("another process has held kernel %s for %.0f s; compiling it here", key, LOCK_SECONDS)
            lock = None
        except OSError as error:
            _say_unwritable(self.root, error.strerror or str(error))
            lock = None
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _sweep(self, key: str) -> None:
        """Remove what dead processes left: temporaries of this key that nobody can be writing, and day-old ones."""
        now = time.time()
        for path in (self.root / "kernels").glob(".*"):
            with contextlib.suppress(OSError):
                age = now - path.stat().st_mtime
                # The key's lock is held here, so a temporary of this key belongs to a dead process, or to one that
                # gave up on the lock; the age keeps the latter safe.
                if age > STALE_SECONDS or (path.name.startswith(f".{key}.") and age > LOCK_SECONDS):
                    shutil.rmtree(path, ignore_errors=True)

    def _discard(self, folder: Path) -> None:
        # Renamed first: another process never sees an entry that is half deleted.
        aside = folder.with_name(f".bad.{folder.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return
        except OSError as error:
            _say_unwritable(self.root, error.strerror or str(error))
            return
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def default_cache() -> Cache:
    """The cache of this process's environment."""
    return Cache(cache_root())


_said: set[Path] = set()


def _say_unwritable(root: Path, reason: str) -> None:
    if root not in _said:
        _said.add(root)
        log.warning(
            "kernels are not cached: %s: %s; set ATTNCC_CACHE_DIR to a folder that can be written", root, reason
        )
