"""``attncc compile``: a variant to CUDA, PTX, a cubin; and what the compiler thinks of it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from attncc.cli import console
from attncc.cli.files import STDIN, file_errors, read_source, write
from attncc.cli.inputs import COUNT
from attncc.cli.variants import Chosen, choose, constant_option, variant_option

if TYPE_CHECKING:
    from attncc.cache import Cache
    from attncc.codegen.compile import Stages

# What --emit names, with the suffix of its file.
SUFFIXES = {
    "ast": "ast.txt",
    "ir": "ir",
    "cuda": "cu",
    "ptx": "ptx",
    "cubin": "cubin",
    "merge": "merge.cubin",
    "screen": "screen.cubin",
    "transform": "transform.cubin",
    "biases": "biases.cubin",
    "sass": "sass",
    "manifest": "json",
    "report": "report.json",
}
BINARY = ("cubin", "merge", "screen", "transform", "biases")
FRONT = ("ast", "ir")  # need no kernel family, so they exist for variants that none serves
DEFAULT_TARGET = "sm_90a"


def _kinds(_: click.Context, __: click.Parameter, given: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(kind.strip() for kind in given.split(",")))
    for kind in kinds:
        if kind not in SUFFIXES:
            raise click.BadParameter(f"{kind!r} is not one of {', '.join(SUFFIXES)}")
    return kinds


@click.command("compile", short_help="Compile a variant to a kernel.")
@click.argument("file", metavar="FILE")
@variant_option
@constant_option
@click.option("--target", metavar="ARCH", help=f"sm_80, sm_90a, ...  [default: the GPU's, else {DEFAULT_TARGET}]")
@click.option("--dtype", default="bf16", show_default=True, metavar="f16|bf16", help="Of query, key and value.")
@click.option("--head-dim", type=COUNT, default=128, show_default=True, help="Query and key channels.")
@click.option("--head-dim-v", type=COUNT, help="Value channels.  [default: --head-dim]")
@click.option("--family", metavar="NAME", help="Force a kernel family.  [default: the first that serves the variant]")
@click.option("--precise", is_flag=True, help="No approximate functions.")
@click.option("--emit", "kinds", default="report", show_default=True, callback=_kinds, metavar="KIND[,KIND...]",
              help=", ".join(SUFFIXES) + ".")  # fmt: skip
@click.option("-o", "--output", metavar="DIR|FILE|-", help="Where to write; - is standard output.  [default: -]")
@click.option("--print-ir-after", "after", metavar="PASS|all", help="Print the IR after a pass, to standard error.")
@click.option("--time-passes", is_flag=True, help="Print the time of each pass, to standard error.")
@click.option("--no-cache", is_flag=True, help="Compile anew and keep nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Say which family, which cache entry, and why.")
@console.error_format_option
def command(
    file: str,
    name: str | None,
    defines: dict[str, str],
    target: str | None,
    dtype: str,
    head_dim: int,
    head_dim_v: int | None,
    family: str | None,
    precise: bool,
    kinds: tuple[str, ...],
    output: str | None,
    after: str | None,
    time_passes: bool,
    no_cache: bool,
    verbose: bool,
) -> int:
    """Compile FILE's variant for a GPU architecture; no GPU is needed. The result is cached.

    Only `const` parameters are set with -D: the others are arguments of the kernel, and one kernel serves all their
    values, all batch sizes, lengths and numbers of heads. Text goes to standard output unless -o names a file, or a
    folder for several kinds.
    """
    _check_output(kinds, output)
    if kinds == ("ast",):
        return _write(kinds, output, _stem(file), {"ast": _tree(file)})
    chosen = choose(file, name, defines)
    if chosen.given:
        # Values of runtime parameters have no place in a kernel; this says so, in the words of the library.
        chosen.definition.instantiate({**chosen.constants, **dict(_scalars(chosen))})
    if after is not None or time_passes:
        from attncc.cli.passes import watch_passes

        watch_passes(chosen.definition.instantiate(chosen.constants), after, time_passes)
    made: dict[str, str | bytes] = {}
    if "ast" in kinds:
        made["ast"] = _tree(file)
    if "ir" in kinds:
        from attncc.ir.text import dump

        made["ir"] = dump(chosen.variant)
    stem = chosen.variant.name
    if set(kinds) - set(FRONT):
        from attncc.codegen.compile import KernelSpec, stages

        arch = target or _gpu_target() or DEFAULT_TARGET
        spec = KernelSpec(arch, dtype, head_dim, head_dim_v, family=family, precise=precise)
        stem = f"{stem}.{arch}.{dtype}.d{head_dim}" + (f"v{head_dim_v}" if head_dim_v not in (None, head_dim) else "")
        with _cache(no_cache) as cache, console.progress(f"compiling {chosen.variant.name} for {arch}"):
            result = stages(chosen.variant, spec, cache=cache)
            if verbose:
                _say_choice(result)
            on_screen = output is None
            made |= {
                kind: _report(result) if kind == "report" and on_screen else result.emit(kind)
                for kind in kinds
                if kind not in FRONT
            }
            if "screen" in kinds and not made["screen"]:
                raise click.UsageError(f"--emit=screen: no captured tensor decides which tiles {stem} visits")
            if "transform" in kinds and not made["transform"]:
                raise click.UsageError(f"--emit=transform: {stem} transforms no vector before its kernel")
            if "biases" in kinds and not made["biases"]:
                raise click.UsageError(f"--emit=biases: no product of {stem} adds a bias by key")
            if verbose and "cuda" not in kinds:
                _say_made(result)
    return _write(kinds, output, stem, made)


def _scalars(chosen: Chosen) -> Iterator[tuple[str, Any]]:
    for name, value in chosen.given.items():
        yield name, value[0] if isinstance(value, tuple) else value


def _check_output(kinds: tuple[str, ...], output: str | None) -> None:
    """Refuse what cannot be written before anything is compiled."""
    binary = next((kind for kind in kinds if kind in BINARY), None)
    if binary and output is None:
        raise click.UsageError(f"--emit={binary} writes a binary file: name it, or a folder, with -o")
    if output == STDIN and len(kinds) > 1:
        raise click.UsageError("-o - takes one kind of --emit; name a folder for several")
    if output == STDIN and binary and sys.stdout.isatty():
        raise click.UsageError(f"--emit={binary} is binary and would garble the terminal: redirect it, or use -o FILE")


def _stem(file: str) -> str:
    return "stdin" if file == STDIN else os.path.splitext(os.path.basename(file))[0]


def _tree(file: str) -> str:
    from attncc.cli.tree import dump_tree
    from attncc.grammar import parse

    return dump_tree(parse(read_source(file)))


def _gpu_target() -> str | None:
    """The target of the first GPU here, if there is one that attncc has a target for."""
    from attncc.cli.environment import gpus

    found = gpus()
    return found[0].target if found else None


@contextlib.contextmanager
def _cache(no_cache: bool) -> Iterator[Cache | None]:
    """None for the usual cache; an empty one that is thrown away for --no-cache."""
    if not no_cache:
        yield None
        return
    import tempfile
    from pathlib import Path

    from attncc.cache import Cache

    with tempfile.TemporaryDirectory(prefix="attncc-") as folder:
        yield Cache(Path(folder))


def _write(kinds: tuple[str, ...], output: str | None, stem: str, made: dict[str, str | bytes]) -> int:
    folder = (
        output is not None and output != STDIN and (len(kinds) > 1 or output.endswith("/") or os.path.isdir(output))
    )
    if folder:
        assert output is not None
        with file_errors(output):
            os.makedirs(output, exist_ok=True)
    for index, kind in enumerate(kinds):
        value = made[kind]
        data = value.encode() if isinstance(value, str) else value
        if output is None or output == STDIN:
            if len(kinds) > 1:
                print(f"{chr(10) if index else ''}==> {kind} <==", flush=True)
            write(STDIN, data)
            continue
        path = os.path.join(output, f"{stem}.{SUFFIXES[kind]}") if folder else output
        write(path, data)
        print(f"{kind}: {path}")
    return 0


def _report(result: Stages) -> str:
    """The report as a person reads it."""
    data = result.report
    dims = f"head_dim {data['head_dim']}"
    dims += f", head_dim_v {data['head_dim_v']}" if data["head_dim_v"] != data["head_dim"] else ""
    main = data["entries"]["main"]
    smem = main["static_smem"] + main["dynamic_smem"]
    spilled = main["spill_stores"] + main["spill_loads"]
    lines = [
        f"{data['variant']} for {data['target']}, {data['dtype']}, {dims}",
        f"  family         {data['family']}",
        f"  tile           {', '.join(f'{n} {value}' for n, value in data['tile'].items() if 'head_dim' not in n)}",
        f"  threads        {data['threads']} a block",
        f"  registers      {main['registers']} a thread",
        f"  spills         {f'{spilled} bytes a thread' if spilled else 'none'}",
        f"  shared memory  {smem / 1024:.1f} KiB a block",
        f"  cubins         {sum(data['cubin_bytes'].values()) / 1024:.1f} KiB, key {data['key']}",
        f"  time           {data['seconds']:.2f} s{', from the cache' if data['cached'] else ''}",
    ]
    lines += [f"  passed over    {name}: {'; '.join(reasons)}" for name, reasons in data["refused"].items()]
    lines += [f"  warning        {warning}" for warning in data["warnings"]]
    return "\n".join(lines) + "\n"


def _say_choice(result: Stages) -> None:
    for name, reasons in result.choice.refused.items():
        print(f"attncc: {name} does not serve it: {'; '.join(reasons)}", file=sys.stderr)
    print(f"attncc: family {result.choice.family}, {result.choice.config}", file=sys.stderr)
    print(f"attncc: cache entry {result.cache.folder(result.key)}", file=sys.stderr)


def _say_made(result: Stages) -> None:
    from attncc.codegen.select import MISFIT

    if result.settled is not result:
        print(f"attncc: {result.choice.family} does not serve it after all: {MISFIT}", file=sys.stderr)
        print(f"attncc: family {result.artifact.manifest.family}", file=sys.stderr)
    how = "read from the cache" if result.made.cached else "compiled"
    print(f"attncc: {how} in {result.made.seconds:.3f} s", file=sys.stderr)
