"""``attncc bench``: measure kernels beside their peers on this GPU, by a fixed protocol."""

from __future__ import annotations

import click

from attncc.cli import console
from attncc.cli.files import write
from attncc.cli.inputs import COUNT


@click.command("bench", short_help="Measure kernels beside other implementations.")
@click.option("--preset", default="quick", show_default=True, metavar="NAME", help="quick, mma_sm80 or wgmma_sm90.")
@click.option("--only", default="", metavar="TEXT", help="Only the cases whose label contains TEXT.")
@click.option("--peers", metavar="NAME[,NAME...]",
              help="FLASH, cuDNN, Flex, FA3, FA4, FlashInfer.  [default: all installed but Flex]")  # fmt: skip
@click.option("--rounds", type=COUNT, default=10, show_default=True, help="Rounds in which everyone takes a turn.")
@click.option("--json", "json_file", metavar="FILE", help="Write results and versions.")
@click.option("--plot", "plot_file", metavar="FILE.svg", help="Draw the ratios.")
@console.error_format_option
def command(
    preset: str, only: str, peers: str | None, rounds: int, json_file: str | None, plot_file: str | None
) -> int:
    """Measure a preset's cases: attncc and its peers in turns in one process, after two seconds of load.

    A ratio is the peer's time to ours, the median over rounds; above 1, ours is faster. Errors are mean row norms
    against a float64 reference. The exit status is 1 if a case misses the ratio that the preset asks for.
    """
    from attncc.bench.cases import PRESETS
    from attncc.bench.peers import DEFAULT, PEERS

    if preset not in PRESETS:
        raise click.UsageError(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    chosen = tuple(name.strip() for name in peers.split(",")) if peers else DEFAULT
    for name in chosen:
        if name not in PEERS:
            raise click.UsageError(f"no peer {name!r}; there are {', '.join(PEERS)}")
    cases = [case for case in PRESETS[preset].cases if only in case.label]
    if not cases:
        raise click.UsageError(f"no case of {preset} contains {only!r}")
    _require_gpu()

    from attncc.bench import report
    from attncc.bench.measure import run

    print(", ".join(f"{name} {value}" for name, value in report.environment().items()))
    print(report.header(chosen))
    lines = []
    for case in cases:
        line = run(case, chosen, rounds)
        lines.append(line)
        print(report.text(line, chosen), flush=True)
    means = report.means(lines, PRESETS[preset].means)
    for mean in means:
        print(mean.text)
    if json_file is not None:
        write(json_file, report.to_json(report.document(lines, means, preset, rounds)).encode())
    if plot_file is not None:
        write(plot_file, report.plot(lines).encode())
    missed = [line.label for line in lines if line.met is False] + [mean.label for mean in means if not mean.met]
    if missed:
        print(f"{len(missed)} of {len(lines) + len(means)} below what is asked: {', '.join(missed)}")
    return 1 if missed else 0


def _require_gpu() -> None:
    """Raises ToolchainError A1011 without a GPU, A1012 without a torch that uses it."""
    from attncc.cli.environment import gpu_count
    from attncc.diagnostics import ToolchainError

    if gpu_count() == 0:
        raise ToolchainError(
            "A1011",
            "there is no GPU here",
            expected="an NVIDIA GPU and its driver",
            got="none",
            help="measure on a machine that has one",
        )
    try:
        import torch

        usable = torch.cuda.is_available()
    except ImportError:
        usable = False
    if not usable:
        raise ToolchainError(
            "A1012",
            "the peers are measured through torch",
            expected="torch with CUDA",
            got="no such torch in this environment",
            help="install torch with CUDA",
        )
