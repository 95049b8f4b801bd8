"""``attncc viz``: draw a variant's mask in the terminal, as SVG or as PNG."""

from __future__ import annotations

from pathlib import Path

import click

from attncc.cli import console
from attncc.cli.files import STDIN, write
from attncc.cli.inputs import COUNT, POSITION, Shape, input_option, make_tensors, seed_option, shape_options
from attncc.cli.variants import choose, define_option, variant_option

KINDS = ("terminal", "svg", "png")


@click.command("viz", short_help="Draw the mask.")
@click.argument("file", metavar="FILE")
@variant_option
@define_option
@shape_options(q_len=64, batch=1, heads=1, kv_heads=1)
@click.option("--request", "b", type=POSITION, default=0, show_default=True, help="Which request to draw.")
@click.option("--head", "h", type=POSITION, default=0, show_default=True, help="Which query head to draw.")
@click.option("--q-start", type=POSITION, help="Position of the first row.  [default: rows are the newest tokens]")
@click.option("--k-start", type=POSITION, default=0, show_default=True, help="Position of the first key.")
@click.option("--tiles", type=COUNT, help="Classify tiles of N × N pairs.")
@click.option(
    "--style",
    type=click.Choice(("blocks", "braille")),
    default="blocks",
    show_default=True,
    help="Braille has four times the cells.",
)
@click.option("--width", type=COUNT, help="Columns in the terminal, at least 20.  [default: the terminal's]")
@input_option
@seed_option
@click.option("--format", "kind", type=click.Choice(KINDS), help="[default: by the name of -o, else terminal]")
@click.option("-o", "--output", metavar="FILE", help="Where to write; - is standard output.")
@console.error_format_option
def command(
    file: str,
    name: str | None,
    defines: dict[str, str],
    shape: Shape,
    b: int,
    h: int,
    q_start: int | None,
    k_start: int,
    tiles: int | None,
    style: str,
    width: int | None,
    inputs: dict[str, str],
    seed: int,
    kind: str | None,
    output: str | None,
) -> int:
    """Draw which keys (across) each query row (down) of FILE's variant attends.

    Captured tensors come from --input, or are random: conditions are rarely true, integers are four runs. In the
    terminal a cell is drawn if any of its pairs attends.
    """
    chosen = choose(file, name, defines)
    kind = kind or _kind(output)
    with console.progress(f"evaluating the mask of {chosen.variant.name}"):
        from attncc.viz.picture import Geometry, draw

        tensors = make_tensors(chosen.variant, shape, inputs, seed)
        fitted = tensors.shape
        geometry = Geometry.of(
            **{name: value for name, value in vars(fitted).items() if name != "sizes"},
            b=b,
            h=h,
            q_start=q_start,
            k_start=k_start,
        )
        params = chosen.params(fitted.batch)
        cells = _cells(kind, style, width)
        picture = draw(chosen.variant, params, tensors.captured, geometry, cells=cells, tile=tiles)
        if kind == "svg":
            from attncc.viz import svg

            data = svg.render(picture).encode()
        elif kind == "png":
            from attncc.viz import png

            data = png.render(picture)
        else:
            from attncc.viz import terminal

            data = (terminal.render(picture, style=style, color=_colors(output)) + "\n").encode()
    write(output or STDIN, data)
    if output not in (None, STDIN):
        print(f"{output}: {picture.caption()}")
    return 0


def _kind(output: str | None) -> str:
    suffix = Path(output or "").suffix.lower().removeprefix(".")
    return suffix if suffix in KINDS else "terminal"


def _cells(kind: str, style: str, width: int | None) -> int:
    """How many cells the picture may have a side."""
    if kind != "terminal":
        return 512
    import shutil

    from attncc.viz.terminal import MARGIN

    columns = max(width, 20) if width else min(shutil.get_terminal_size((80, 24)).columns, 120)
    return (columns - MARGIN) * (2 if style == "braille" else 1)


def _colors(output: str | None) -> bool:
    import sys

    return output in (None, STDIN) and console.has_colors(sys.stdout)
