"""``attncc env``: what this machine has for compiling and running, what is missing, and how to get it."""

from __future__ import annotations

import click

from attncc.cli import console


@click.command("env", short_help="Show versions, GPUs, the cache, and what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@console.error_format_option
def command(as_json: bool) -> int:
    """Show the versions of what attncc uses, the GPUs, the kernel cache, what is missing and how to get it."""
    import dataclasses
    import json

    from attncc.cli.environment import inspect

    found = inspect()
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
        return 0
    rows = [("attncc", f"{found.attncc}  ({found.location})"), ("python", found.python), ("platform", found.platform)]
    rows += [(name, version or "not installed") for name, version in found.packages.items()]
    rows.append(("driver", found.driver or "no NVIDIA driver"))
    for index, gpu in enumerate(found.gpus):
        rows.append((f"GPU {index}", f"{gpu.name}, {gpu.memory / 2**30:.0f} GiB, {gpu.capability} → {gpu.target}"))
    rows += [
        (f"kernels {index}", f"{name}: {', '.join(on)}") for index, (name, on) in enumerate(found.families.items())
    ]
    rows.append(("cache", f"{found.cache.folder}  ({found.cache.summary()})"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    print()
    for problem in found.problems:
        print(f"missing: {problem.what}")
        print(f"   help: {problem.help}")
    print(f"compile: {'yes' if found.can_compile else 'no'}   run on a GPU: {'yes' if found.can_run else 'no'}")
    return 0
