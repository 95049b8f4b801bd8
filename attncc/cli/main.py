"""The entry of the command line: which exception becomes which message and which exit status. Knows no command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from attncc import __version__

OK, USER_ERROR, USAGE, INTERNAL, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 70, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line. The status is 0, 1 for a mistake of the user, 2 for wrong usage, 70 for a bug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(given)
        sys.stdout.flush()  # a pipe that is closed must be noticed here, not by the interpreter's shutdown
        return status
    except BrokenPipeError:
        # `attncc ... | head`: nobody listens any more, which is no error of ours to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:  # before click is imported
        print(f"attncc {__version__}")
        return OK

    import click

    from attncc.cli import console
    from attncc.cli.group import attncc
    from attncc.diagnostics import AttnccError, CallError

    if "_ATTNCC_COMPLETE" in os.environ:  # a shell asks how a word may go on
        attncc.main(prog_name="attncc")
    format = console.error_format(arguments)
    try:
        # Not attncc.main(): click would turn a closed pipe into status 1.
        with attncc.make_context("attncc", arguments, obj=format) as context:
            result = attncc.invoke(context)
        return result if isinstance(result, int) else OK
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except AttnccError as error:
        console.report(error, format)
        return USER_ERROR
    except click.UsageError as error:
        console.report_usage(error, format)
        return USAGE
    except click.ClickException as error:
        console.report_usage(error, format)
        return USER_ERROR
    except (click.Abort, KeyboardInterrupt, EOFError):
        print("attncc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except MemoryError as error:
        short = CallError("A0821", "not enough memory", got=str(error) or None, help="use smaller sizes")
        console.report(short, format)
        return USER_ERROR
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get("ATTNCC_TRACEBACK") == "1":
            raise
        console.report_internal(error, format)
        return INTERNAL


if __name__ == "__main__":
    sys.exit(main())
