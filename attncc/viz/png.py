"""A picture as PNG, with Pillow: cells as whole pixels, tiles as an overlay, the caption below."""

from __future__ import annotations

import io

import numpy as np

from attncc.diagnostics import ToolchainError
from attncc.viz.picture import Picture
from attncc.viz.svg import INK, PAPER, SIDE, TILES

MARGIN, LINE = 12, 16


def render(picture: Picture) -> bytes:
    """The PNG file. Raises ToolchainError A1020 without Pillow."""
    try:
        from PIL import Image, ImageColor, ImageDraw
    except ImportError as error:
        raise ToolchainError(
            "A1020",
            "writing PNG needs Pillow, which is not installed",
            expected="pillow 10 or later",
            got="no such package in this environment",
            help="pip install 'attncc[viz]', or write SVG, which needs nothing",
        ) from error

    ink, paper = (np.array(ImageColor.getrgb(name), np.float32) for name in (INK, PAPER))
    colors = paper + picture.density[..., None] * (ink - paper)
    scale = max(1, SIDE // max(*picture.density.shape, 1))
    pixels = np.round(colors).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    lines = [picture.caption(), *picture.tile_captions()]
    width = max(pixels.shape[1], 7 * max(len(line) for line in lines)) + 2 * MARGIN
    image = Image.new("RGB", (width, pixels.shape[0] + 2 * MARGIN + LINE * len(lines)), "white")
    image.paste(Image.fromarray(pixels), (MARGIN, MARGIN))
    if picture.tiles is not None and picture.tile is not None:
        overlay = Image.new("RGBA", image.size, (0, 0, 0, 0))
        pen = ImageDraw.Draw(overlay)
        unit = picture.tile / picture.step * scale
        for (i, j), kind in np.ndenumerate(picture.tiles):
            color = ImageColor.getrgb(TILES[int(kind)][1])
            right = min((j + 1) * unit, pixels.shape[1]) + MARGIN - 1
            bottom = min((i + 1) * unit, pixels.shape[0]) + MARGIN - 1
            box = (j * unit + MARGIN, i * unit + MARGIN, right, bottom)
            pen.rectangle(box, fill=(*color, 40), outline=(*color, 160))
        image = Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")
    pen = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        text = line.replace("×", "x").replace("·", "-")  # Pillow's built-in font is Latin-1 at best
        pen.text((MARGIN, pixels.shape[0] + MARGIN + 4 + LINE * i), text, fill="black")
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
