"""``attncc explain``: the long form of an error code."""

from __future__ import annotations

import click

from attncc.cli import console


@click.command("explain", short_help="Explain an error code at length.")
@click.argument("code", required=False)
@console.error_format_option
def command(code: str | None) -> int:
    """Explain error CODE: what it means, an example that raises it, the example mended. Without CODE, list all."""
    from attncc.diagnostics.catalogue import catalogue

    known = catalogue()
    if code is None:
        for name, entry in known.items():
            print(f"{name}  {entry.title}")
        return 0
    name = _normal(code)
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "`attncc explain` lists all codes."
        raise click.BadParameter(f"there is no error code {code!r}; {hint}", param_hint="CODE")

    from rich.markdown import Markdown

    entry = known[name]
    text = f"# {name}: {entry.title}\n\n{entry.explanation.strip()}\n"
    output = console.rich_console()
    if output.is_terminal:
        output.print(Markdown(text))
    else:
        print(text, end="")  # Markdown is already plain text
    return 0


def _normal(code: str) -> str:
    """``a301``, ``0301``, ``error[A0301]`` all mean A0301."""
    digits = "".join(char for char in code if char.isdigit())
    return f"A{digits:0>4}" if digits else code.upper()
