"""``attncc check``: is every variant of a file well formed? Loads nothing that compiles or computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from attncc.cli import console
from attncc.cli.files import STDIN
from attncc.cli.variants import constant_option, constants_of, definitions
from attncc.diagnostics import AttnccError

if TYPE_CHECKING:
    from attncc.ir.definition import Definition


@click.command("check", short_help="Check a file: errors point at the source.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@constant_option
@click.option("--print-ir", is_flag=True, help="Also print the canonical IR of every variant.")
@console.error_format_option
@click.pass_obj
def command(format: str, files: tuple[str, ...], defines: dict[str, str], print_ir: bool) -> int:
    """Check every variant of each FILE (- reads standard input) and say what it declares.

    The exit status is 1 if anything is wrong. All variants are checked, also after a mistake in one.
    """
    wrong = 0
    for path in files:
        try:
            found = definitions(path)
        except AttnccError as error:
            console.report(error, format)
            wrong += 1
            continue
        lines: list[str] = []
        mistakes = 0
        for definition in found.values():
            try:
                lines.extend(_check(definition, defines, print_ir))
            except AttnccError as error:
                console.report(error, format)
                mistakes += 1
        wrong += mistakes
        name = "<stdin>" if path == STDIN else path
        variants = f"{len(found)} variant{'s' if len(found) != 1 else ''}" if found else "no variants"
        print(f"{name}: {variants}, {f'{mistakes} wrong' if mistakes else 'ok'}")
        for line in lines:
            print(f"  {line}".rstrip())
    return 1 if wrong else 0


def _check(definition: Definition, defines: dict[str, str], print_ir: bool) -> list[str]:
    from attncc.cli.signature import signature
    from attncc.passes.canonicalize import canonicalize

    constants = constants_of(definition, defines)
    missing = [decl.name for decl in definition.constants if decl.default is None and decl.name not in constants]
    if missing:
        # Not a mistake of the file; but without a value there is nothing to check.
        settings = " ".join(f"-D {name}=..." for name in missing)
        return [f"{definition.name}: not checked, since it needs {settings}"]
    variant = canonicalize(definition.instantiate(constants))
    lines = [signature(definition, variant)]
    if print_ir:
        from attncc.ir.text import dump

        lines.extend(f"  {line}" for line in dump(variant).splitlines())
    return lines
