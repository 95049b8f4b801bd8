"""Drawing masks: in a terminal, as SVG, as PNG. Knows the IR and the reference's evaluator, nothing of kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attncc.binding import BoundVariant
    from attncc.viz.picture import Picture

__all__ = ["draw_mask", "show"]


def draw_mask(bound: BoundVariant, *, cells: int = 512, tile: int | None = None, **shape: int) -> Picture:
    """The mask of a bound variant for one request and head: see ``attncc.viz.picture.draw`` for ``shape``.

    Raises CallError where a parameter or tensor does not fit.
    """
    from attncc.viz.picture import Geometry, draw

    geometry = Geometry.of(**shape)
    return draw(bound.variant, bound.params, bound.tensors, geometry, cells=cells, tile=tile)


def show(bound: BoundVariant, *, file: Any = None, tile: int | None = None, **shape: int) -> None:
    """Print the mask of a bound variant, as wide as the terminal is; of ``shape`` only ``qo_len`` has no default."""
    import shutil
    import sys

    from attncc.viz import terminal

    stream = sys.stdout if file is None else file
    width = min(shutil.get_terminal_size((80, 24)).columns, 100)
    print(terminal.render(draw_mask(bound, cells=width - terminal.MARGIN, tile=tile, **shape)), file=stream)
