"""A picture as text: half blocks (a cell is half a character) or Braille (an eighth), with a frame and a caption."""

from __future__ import annotations

import os
import sys

import numpy as np
import numpy.typing as npt

from attncc.viz.picture import EMPTY, FULL, Picture

MARGIN = 8  # columns that the row numbers and the frame take
_HALVES = " ▀▄█"
# The dots of a Braille character in reading order: Unicode standard, block U+2800, bit of (row, column).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_TILE_COLORS = {EMPTY: "2", FULL: "34"}  # partial tiles keep the terminal's own colour


def render(picture: Picture, *, style: str = "blocks", color: bool | None = None) -> str:
    """The picture as lines of text. ``style`` is ``blocks`` or ``braille``; a cell shows if any of its pairs attends.

    ``color`` paints full tiles and shades cells that attend in part; by default it follows the terminal.
    """
    painted = _terminal_has_colors() if color is None else color
    cells = picture.density > 0
    lines = _braille(cells) if style == "braille" else _blocks(cells)
    per_line = 4 if style == "braille" else 2
    width = len(lines[0]) if lines else 0
    if painted and picture.tiles is not None:
        lines = [_paint(line, picture, i * per_line, 2 if style == "braille" else 1) for i, line in enumerate(lines)]
    last_key = str(picture.geometry.k_start + picture.geometry.kv_len - 1)
    first_key = str(picture.geometry.k_start)
    head = " " * MARGIN + first_key + last_key.rjust(max(width - len(first_key), 0)) if width > 4 else ""
    numbered = []
    for i, line in enumerate(lines):
        row = i * per_line * picture.step
        last = i == len(lines) - 1
        label = picture.geometry.q_start + (picture.geometry.qo_len - 1 if last else row)
        numbered.append(f"{label if i % 8 == 0 or last else '':>{MARGIN - 2}} │{line}│")
    frame = " " * (MARGIN - 1)
    below = [picture.caption(), *picture.tile_captions()]
    body = [head] if head else []
    return "\n".join(
        [*body, f"{frame}┌{'─' * width}┐", *numbered, f"{frame}└{'─' * width}┘", *(f"{frame} {t}" for t in below)]
    )


def _terminal_has_colors() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _pad(cells: npt.NDArray[np.bool_], rows: int, cols: int) -> npt.NDArray[np.bool_]:
    return np.pad(cells, ((0, -cells.shape[0] % rows), (0, -cells.shape[1] % cols)))


def _blocks(cells: npt.NDArray[np.bool_]) -> list[str]:
    padded = _pad(cells, 2, 1).astype(np.uint8)
    codes = padded[0::2] + 2 * padded[1::2]
    return ["".join(_HALVES[code] for code in row) for row in codes]


def _braille(cells: npt.NDArray[np.bool_]) -> list[str]:
    padded = _pad(cells, 4, 2)
    codes = np.zeros((padded.shape[0] // 4, padded.shape[1] // 2), np.uint32)
    for i, dots in enumerate(_DOTS):
        for j, bit in enumerate(dots):
            codes += np.uint32(bit) * padded[i::4, j::2]
    return ["".join(chr(0x2800 + code) for code in row) for row in codes]


def _paint(line: str, picture: Picture, cell_row: int, cells_per_char: int) -> str:
    """One line with its full tiles coloured; a character that reaches over two tiles takes the colour of the first."""
    assert picture.tiles is not None
    assert picture.tile is not None
    tile_row = cell_row * picture.step // picture.tile
    painted, current = [], ""
    for i, char in enumerate(line):
        tile_col = i * cells_per_char * picture.step // picture.tile
        inside = tile_row < picture.tiles.shape[0] and tile_col < picture.tiles.shape[1]
        style = _TILE_COLORS.get(int(picture.tiles[tile_row, tile_col]), "") if inside else ""
        if style != current:
            painted.append("\x1b[0m" + (f"\x1b[{style}m" if style else ""))
            current = style
        painted.append(char)
    return "".join(painted) + ("\x1b[0m" if current else "")
