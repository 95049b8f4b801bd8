"""Files named on the command line: reading them, writing them, and the errors of both. Knows no language."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attncc.diagnostics import ArtifactError, AttnccError, Source

STDIN = "-"


def read_source(path: str) -> Source:
    """The text of a ``.attn`` file, or of standard input for ``-``. Raises LanguageError A0105, A0108 or A0112."""
    from attncc.grammar.imports import decode_source, read_source

    if path == STDIN:
        return decode_source("<stdin>", sys.stdin.buffer.read())
    try:
        return read_source(path)
    except AttnccError as error:
        if not os.path.exists(path):
            error.help = _near(path) or error.help
        raise


@contextlib.contextmanager
def file_errors(path: str) -> Iterator[None]:
    """Turn what the operating system says about ``path`` into ArtifactError A0920."""
    try:
        yield
    except OSError as error:
        folder = os.path.dirname(path) or "."
        missing = isinstance(error, FileNotFoundError) and not os.path.isdir(folder)
        raise ArtifactError(
            "A0920",
            f"cannot open `{path}`",
            expected="a file that can be opened",
            got=f"no folder {folder}" if missing else error.strerror or type(error).__name__,
            help=_near(path) or "check the name, and the permissions of the file and its folder",
        ) from error


def _near(path: str) -> str | None:
    """A file beside ``path`` of nearly its name."""
    import difflib

    folder = os.path.dirname(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return None
    match = difflib.get_close_matches(os.path.basename(path), names, n=1, cutoff=0.75)
    if not match or match[0] == os.path.basename(path):
        return None
    return f"did you mean `{os.path.join(folder, match[0])}`?"


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all; ``-`` is standard output. Raises ArtifactError A0920."""
    if path == STDIN:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with file_errors(path):
        target = Path(os.path.realpath(path))  # a link stays a link
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if target.exists() and not target.is_file():  # /dev/null, a named pipe: nothing to replace
            target.write_bytes(data)
            return
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, _mode(target))
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise


def _mode(path: Path) -> int:
    """The permissions of the file that is replaced, or those a new file would get."""
    if path.exists():
        return path.stat().st_mode & 0o7777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
