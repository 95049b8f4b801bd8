"""The table of commands. A command's module is imported when it is called, or when its help is shown."""

from __future__ import annotations

import importlib

import click

from attncc import __version__
from attncc.cli.console import error_format_option

# In the order of `attncc --help`: how a variant comes to be, then what helps on the way.
COMMANDS = ("check", "viz", "run", "compile", "bench", "fmt", "explain", "env")


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"attncc.cli.{name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="attncc %(version)s")
@error_format_option
def attncc() -> None:
    """Compile attention variants to CUDA kernels.

    FILE is a .attn file, or - for standard input. `attncc COMMAND --help` says more about a command.
    """
