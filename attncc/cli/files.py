"""Files named on the command line: reading them, writing them, and the errors of both. Knows no language."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from attncc.diagnostics import ArtifactError, Source

STDIN = "-"


def read_source(path: str) -> Source:
    """The text of a file, or of standard input for ``-``. Raises ArtifactError A0920 to A0923."""
    if path == STDIN:
        return Source("<stdin>", _decode(sys.stdin.buffer.read(), "<stdin>"))
    with file_errors(path):
        data = Path(path).read_bytes()
    return Source(path, _decode(data, path))


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ArtifactError(
            "A0923",
            f"{name} is not UTF-8 text",
            expected="UTF-8",
            got=f"byte 0x{data[error.start]:02x} in line {line}",
            help="a .attn file is text; save it as UTF-8",
        ) from error


@contextlib.contextmanager
def file_errors(path: str) -> Iterator[None]:
    """Turn what the operating system says about ``path`` into an ArtifactError: A0920, A0921 or A0922."""
    try:
        yield
    except FileNotFoundError as error:
        folder = os.path.dirname(path) or "."
        missing = f"no folder {folder}" if not os.path.isdir(folder) else "no such file"
        raise ArtifactError(
            "A0920", f"cannot open {path}: {missing}", help=_near(path) or "check the name, or use - for standard input"
        ) from error
    except IsADirectoryError as error:
        raise ArtifactError(
            "A0921", f"{path} is a folder", expected="a file", got="a folder", help="name a file in it"
        ) from error
    except OSError as error:
        raise ArtifactError(
            "A0922", f"cannot open {path}: {error.strerror}", help="check its permissions and its folder's"
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
    return f"did you mean {os.path.join(folder, match[0])}?" if match else None


def write(path: str, data: bytes) -> None:
    """Write a file whole or not at all; ``-`` is standard output. Raises ArtifactError A0920 to A0922."""
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
