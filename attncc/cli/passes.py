"""``--print-ir-after`` and ``--time-passes``: the passes of a compile, watched. To standard error."""

from __future__ import annotations

import sys

import click

from attncc.ir.nodes import Variant
from attncc.ir.text import dump
from attncc.passes.pipeline import PIPELINE, Step, run


def watch_passes(variant: Variant, after: str | None, time_passes: bool) -> None:
    """Run the passes over ``variant`` and print its text after the pass named ``after``, or after each for ``all``."""
    names = [item.name for item in PIPELINE]
    if after is not None and after not in ("all", *names):
        raise click.BadParameter(f"{after!r} is not one of all, {', '.join(names)}", param_hint="--print-ir-after")
    steps: list[Step] = []
    run(variant, PIPELINE, steps.append)
    for step in steps:
        if after in ("all", step.name):
            print(f"# after {step.name}\n{dump(step.variant)}", file=sys.stderr)
    if time_passes:
        width = max(len(step.name) for step in steps)
        for step in steps:
            print(f"{step.name:<{width}}  {step.seconds * 1e3:8.3f} ms", file=sys.stderr)
        print(f"{'all':<{width}}  {sum(step.seconds for step in steps) * 1e3:8.3f} ms", file=sys.stderr)
