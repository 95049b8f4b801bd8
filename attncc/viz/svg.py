"""A picture as SVG: runs of equal cells as rectangles, tiles as an overlay, a legend. Text only, no dependencies."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

from attncc.viz.picture import EMPTY, FULL, PARTIAL, Picture

SIDE = 512  # pixels of the longer side
MARGIN, LINE = 40, 18
INK, PAPER = "#1f4e79", "#f4f4f2"
TILES = {
    FULL: ("full: no mask is evaluated", "#2e8b57"),
    PARTIAL: ("partial", "#e08a1e"),
    EMPTY: ("empty: skipped", "#9a9a9a"),
}
_LEVELS = 8


def render(picture: Picture) -> str:
    """The SVG document. The darkness of a cell is the share of its pairs that attend, in eighths, rounded up."""
    rows, cols = picture.density.shape
    unit = SIDE / max(rows, cols, 1)
    width, height = cols * unit, rows * unit
    legend = list(_legend(picture))
    total_w, total_h = max(width, 380) + 2 * MARGIN, height + 2 * MARGIN + LINE * (len(legend) + 1)
    g = picture.geometry
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_w:.0f} {total_h:.0f}" '
        f'width="{total_w:.0f}" height="{total_h:.0f}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(picture.caption())}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<g transform="translate({MARGIN},{MARGIN})">',
        f'<rect width="{width:.2f}" height="{height:.2f}" fill="{PAPER}" stroke="#bbb"/>',
        f'<text x="0" y="-8">{g.k_start}</text>',
        f'<text x="{width:.2f}" y="-8" text-anchor="end">{g.k_start + g.kv_len - 1}</text>',
        f'<text x="{width / 2:.2f}" y="-8" text-anchor="middle">key position</text>',
        f'<text x="-6" y="10" text-anchor="end">{g.q_start}</text>',
        f'<text x="-6" y="{height:.2f}" text-anchor="end">{g.q_start + g.qo_len - 1}</text>',
        f'<g fill="{INK}" shape-rendering="crispEdges">',
        *(
            f'<rect x="{x * unit:.2f}" y="{y * unit:.2f}" width="{length * unit:.2f}" height="{unit:.2f}"'
            + (f' opacity="{level / _LEVELS:g}"' if level < _LEVELS else "")
            + "/>"
            for y, x, length, level in _runs(picture.density)
        ),
        "</g>",
        *_tiles(picture, unit),
        "</g>",
        *(
            f'<g transform="translate({MARGIN},{height + MARGIN + LINE * (i + 1.5):.2f})">{line}</g>'
            for i, line in enumerate(legend)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _runs(density: npt.NDArray[np.float32]) -> Iterator[tuple[int, int, int, int]]:
    """(row, first column, length, level 1 to 8) of every horizontal run of cells that look alike."""
    levels = np.ceil(density * _LEVELS).astype(np.int64)
    for y, line in enumerate(levels):
        edges = np.flatnonzero(np.diff(line)) + 1
        for start, stop in zip([0, *edges], [*edges, len(line)], strict=True):
            if stop > start and line[start]:
                yield y, int(start), int(stop - start), int(line[start])


def _tiles(picture: Picture, unit: float) -> Iterator[str]:
    if picture.tiles is None or picture.tile is None:
        return
    size = picture.tile / picture.step * unit
    g = picture.geometry
    for (i, j), kind in np.ndenumerate(picture.tiles):
        high = min(picture.tile, g.qo_len - i * picture.tile) / picture.step * unit
        wide = min(picture.tile, g.kv_len - j * picture.tile) / picture.step * unit
        yield (
            f'<rect x="{j * size:.2f}" y="{i * size:.2f}" width="{wide:.2f}" height="{high:.2f}" '
            f'fill="{TILES[int(kind)][1]}" fill-opacity="0.18" stroke="{TILES[int(kind)][1]}" stroke-width="0.7"/>'
        )


def _legend(picture: Picture) -> Iterator[str]:
    yield f"<text>{escape(picture.caption())}</text>"
    if picture.tiles is None:
        return
    for caption in picture.tile_captions():
        yield f"<text>{escape(caption)}</text>"
    for text, color in TILES.values():
        yield (
            f'<rect y="-10" width="12" height="12" fill="{color}" fill-opacity="0.3" stroke="{color}"/>'
            f'<text x="18">{escape(text)}</text>'
        )
