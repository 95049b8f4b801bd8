"""What the command line writes beside its results: errors, progress, colours. Standard error, except for colours."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from attncc.diagnostics import AttnccError

FORMATS = ("text", "json")
PATIENCE = 0.8  # seconds before a command says what it is doing

error_format_option = click.option(
    "--error-format",
    type=click.Choice(FORMATS),
    envvar="ATTNCC_ERROR_FORMAT",
    expose_value=False,
    help="How errors are written to standard error: as text, or one JSON object a line.",
)


def error_format(arguments: Sequence[str]) -> str:
    """The error format of a command line, known before it is parsed: parsing may fail, too."""
    for index, argument in enumerate(arguments):
        if argument == "--":
            break
        name, _, value = argument.partition("=")
        if name == "--error-format":
            value = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            return value if value in FORMATS else "text"
    chosen = os.environ.get("ATTNCC_ERROR_FORMAT", "text")
    return chosen if chosen in FORMATS else "text"


def has_colors(stream: IO[str]) -> bool:
    """Whether to write colours: to a terminal that has them, unless NO_COLOR is set (no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def rich_console(stream: IO[str] | None = None) -> Console:
    """A rich console on ``stream`` (standard output) that follows ``has_colors``."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream
    colors = has_colors(stream)
    return Console(file=stream, force_terminal=colors, no_color=not colors, highlight=False, soft_wrap=not colors)


def report(error: AttnccError, format: str) -> None:
    """Write a user's mistake: rustc's shape, or JSON."""
    if format == "json":
        _json(error.to_json())
        return
    from attncc.diagnostics.render import colored, plain

    print(colored(error) if has_colors(sys.stderr) else plain(error), file=sys.stderr)
    if has_colors(sys.stderr):
        print(f"\x1b[2mattncc explain {error.code} says more\x1b[0m", file=sys.stderr)


def report_usage(error: click.ClickException, format: str) -> None:
    """Write a mistake in the command line itself."""
    if format == "json":
        _json({"code": "usage", "kind": type(error).__name__, "message": error.format_message()})
    else:
        error.show(sys.stderr)


def report_internal(error: Exception, format: str) -> None:
    """Write a bug of ours: short, with how to see more."""
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    help = "set ATTNCC_TRACEBACK=1 to see where it happened, and please report it with the command and its files"
    if format == "json":
        _json({"code": "internal", "kind": type(error).__name__, "message": message, "help": help})
        return
    print(f"attncc: internal error: {message}", file=sys.stderr)
    print(f"Sorry: this is a bug in attncc, not a mistake of yours; {help}.", file=sys.stderr)


def _json(data: dict[str, Any]) -> None:
    print(json.dumps(data, ensure_ascii=False), file=sys.stderr)


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Say what takes long, once it does: a spinner on a terminal, one plain line elsewhere. Standard error."""
    lock = threading.Lock()
    shown: list[Any] = []
    finished = False

    def show() -> None:
        with lock:
            if finished:
                return
            if not has_colors(sys.stderr):
                print(f"{text} ...", file=sys.stderr, flush=True)
                return
            from rich.status import Status

            status = Status(text, console=rich_console(sys.stderr))
            status.start()
            shown.append(status)

    timer = threading.Timer(PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            finished = True
            for status in shown:
                status.stop()
