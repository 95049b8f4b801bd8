"""``attncc fmt``: rewrite files as the language is laid out."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from attncc.cli import console
from attncc.cli.files import STDIN, read_source, write
from attncc.diagnostics import AttnccError


@click.command("fmt", short_help="Format files in place.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--check", is_flag=True, help="Write nothing; exit with status 1 if a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; print what would change.")
@console.error_format_option
@click.pass_obj
def command(format: str, files: tuple[str, ...], check: bool, diff: bool) -> int:
    """Format each FILE in place; - formats standard input to standard output.

    A file is replaced whole or not at all, and only if it changes. A file with a syntax error is left as it is.
    """
    changed = wrong = 0
    for path in files:
        try:
            changed += _format(path, check=check, diff=diff)
        except AttnccError as error:
            console.report(error, format)
            wrong += 1
    if check and changed:
        print(f"{changed} file{'s' if changed != 1 else ''} would be reformatted", file=sys.stderr)
    return 1 if wrong or (check and changed) else 0


def _format(path: str, *, check: bool, diff: bool) -> bool:
    """Format one file; whether it changes."""
    from attncc.grammar import format as format_text

    source = read_source(path)
    text = format_text(source.text, source.name)
    # Bytes are compared: the source has its line ends and its byte order mark normalised already.
    changed = text != source.text if path == STDIN else text.encode() != Path(path).read_bytes()
    if diff:
        if changed:
            print(_diff(source.name, source.text, text), end="")
    elif check:
        if changed:
            print(f"would reformat {source.name}")
    elif path == STDIN:
        write(STDIN, text.encode())
    elif changed:
        write(path, text.encode())
        print(f"reformatted {path}")
    return changed


def _diff(name: str, before: str, after: str) -> str:
    import difflib

    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), name, f"{name} (formatted)"
    )
    return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)
