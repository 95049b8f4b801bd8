"""Drawing masks: what a picture holds, and what its three forms show of it."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attncc.cli.main import OK, main
from attncc.diagnostics import CallError, Source
from attncc.grammar import read
from attncc.ir.nodes import Variant
from attncc.viz import picture, png, svg, terminal
from attncc.viz.picture import EMPTY, FULL, PARTIAL, Geometry, Picture

WINDOW = "variant window(w: i32) { mask = q >= k and q - k < w }"
DOCUMENTS = "variant documents(doc: i32[batch, kv_len]) { mask = doc[b, own] == doc[b, col] and q >= k }"


def variant(text: str) -> Variant:
    (definition,) = read(Source("<test>", text)).definitions.values()
    return definition.instantiate()


def window(n: int, w: int) -> np.ndarray[Any, Any]:
    i = np.arange(n)
    return (i[:, None] >= i) & (i[:, None] - i < w)


def draw(text: str, geometry: Geometry, cells: int = 4096, tile: int | None = None, **values: Any) -> Picture:
    made = variant(text)
    params = {decl.name: values[decl.name] for decl in made.params}
    tensors = {tensor.name: values[tensor.name] for tensor in made.tensors}
    return picture.draw(made, params, tensors, geometry, cells=cells, tile=tile)


def test_a_picture_at_full_size_is_the_mask() -> None:
    found = draw(WINDOW, Geometry.of(qo_len=50), w=7)
    assert found.step == 1
    np.testing.assert_array_equal(found.density == 1, window(50, 7))
    np.testing.assert_array_equal(found.density == 0, ~window(50, 7))
    assert found.attended == window(50, 7).sum()


@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_cells_hold_the_share_of_their_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "BLOCK_PAIRS", block)  # blocks of rows end at cells, not at tiles
    found = draw(WINDOW, Geometry.of(qo_len=50), cells=8, tile=16, w=20)
    mask, step = window(50, 20), 7
    assert found.step == step
    for i, j in np.ndindex(found.density.shape):
        cell = mask[i * step : (i + 1) * step, j * step : (j + 1) * step]
        assert found.density[i, j] == pytest.approx(cell.mean())
    assert found.tiles is not None
    for i, j in np.ndindex(found.tiles.shape):
        tile = mask[i * 16 : (i + 1) * 16, j * 16 : (j + 1) * 16]
        assert found.tiles[i, j] == (FULL if tile.all() else PARTIAL if tile.any() else EMPTY)


@pytest.mark.parametrize("w", [1, 20, 33, 500])
def test_what_is_proven_of_a_tile_is_true(w: int) -> None:
    found = draw(WINDOW, Geometry.of(qo_len=100, kv_len=150), tile=16, w=w)
    assert found.proven is not None
    assert found.tiles is not None
    assert ((found.proven == found.tiles) | (found.proven == PARTIAL)).all()
    assert (found.proven == EMPTY).sum() == (found.tiles == EMPTY).sum()


def test_a_request_and_its_parameters_and_tensors() -> None:
    doc = np.array([[0] * 10, [0] * 4 + [1] * 6], np.int32)
    geometry = Geometry.of(qo_len=6, kv_len=10, batch=2, b=1)
    found = draw(DOCUMENTS, geometry, doc=doc)
    own = np.arange(6) + 4
    expected = (doc[1][own][:, None] == doc[1]) & (own[:, None] >= np.arange(10))
    np.testing.assert_array_equal(found.density == 1, expected)
    assert geometry.q_start == 4
    per_request = draw(WINDOW, Geometry.of(qo_len=6, batch=2, b=1), w=np.array([1, 3], np.int32))
    np.testing.assert_array_equal(per_request.density == 1, window(6, 3))


def test_branches_show_what_any_of_them_sees() -> None:
    text = "variant two { branch x { mask = k == q }; branch y { mask = k == 0 }; output = x.out - y.out }"
    found = draw(text, Geometry.of(qo_len=5))
    np.testing.assert_array_equal(found.density == 1, np.eye(5, dtype=bool) | (np.arange(5) == 0))
    assert draw("variant plain { logits = 2.0 * score }", Geometry.of(qo_len=5)).share == 1.0


def test_a_tensor_that_does_not_fit_is_named() -> None:
    with pytest.raises(CallError, match="`doc` of `documents` has the wrong size on axis 1") as caught:
        draw(DOCUMENTS, Geometry.of(qo_len=6), doc=np.zeros((1, 5), np.int32))
    assert caught.value.code == "A0810"


# Forms ----------------------------------------------------------------------------------------------------------------


def cells_of_blocks(text: str) -> np.ndarray[Any, Any]:
    """The cells a half-block drawing shows."""
    lines = [match[1] for match in re.finditer(r"^[ \d]{6} │(.*)│$", text, flags=re.MULTILINE)]
    rows = [[char in upper for char in line] for line in lines for upper in ("▀█", "▄█")]
    return np.array(rows)


def cells_of_braille(text: str) -> np.ndarray[Any, Any]:
    lines = [match[1] for match in re.finditer(r"^[ \d]{6} │(.*)│$", text, flags=re.MULTILINE)]
    found = np.zeros((4 * len(lines), 2 * len(lines[0])), bool)
    # Unicode numbers the dots down the left column, then the right, the fourth row last.
    places = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
    for y, line in enumerate(lines):
        for x, char in enumerate(line):
            for dot, (i, j) in enumerate(places):
                found[4 * y + i, 2 * x + j] = bool((ord(char) - 0x2800) >> dot & 1)
    return found


def test_the_terminal_shows_every_cell_in_both_styles() -> None:
    found = draw(WINDOW, Geometry.of(qo_len=21), w=5)
    blocks = cells_of_blocks(terminal.render(found, color=False))
    np.testing.assert_array_equal(blocks[:21], window(21, 5))
    assert not blocks[21:].any()
    braille = cells_of_braille(terminal.render(found, style="braille", color=False))
    np.testing.assert_array_equal(braille[:21, :21], window(21, 5))


def test_the_terminal_names_positions_and_tiles() -> None:
    found = draw(WINDOW, Geometry.of(qo_len=32, kv_len=48, k_start=100), tile=16, w=100)
    text = terminal.render(found, color=False)
    assert text.splitlines()[0].split() == ["100", "147"]
    assert "\n   147 │" in text
    assert "tiles of 16 × 16: 3 full, 2 partial, 1 empty" in text
    assert "proven from the expression: 3 full, 2 partial, 1 empty" in text
    assert "\x1b[" not in text
    painted = terminal.render(found, color=True)
    assert re.sub(r"\x1b\[\d*m", "", painted) == text
    assert "\x1b[34m" in painted


def test_svg_covers_what_attends() -> None:
    found = draw(WINDOW, Geometry.of(qo_len=40), tile=8, w=9)
    root = ElementTree.fromstring(svg.render(found))
    space = "{http://www.w3.org/2000/svg}"
    rects = [r for group in root.iter(f"{space}g") if group.get("fill") == svg.INK for r in group.iter(f"{space}rect")]
    unit = svg.SIDE / 40
    area = sum(float(rect.get("width", 0)) * float(rect.get("height", 0)) for rect in rects) / unit**2
    assert area == pytest.approx(window(40, 9).sum(), rel=1e-2)
    colors = [rect.get("fill") for rect in root.iter(f"{space}rect") if rect.get("fill-opacity") == "0.18"]
    assert found.tiles is not None
    assert len(colors) == found.tiles.size
    assert colors.count(svg.TILES[EMPTY][1]) == (found.tiles == EMPTY).sum()


def test_png_has_a_pixel_for_every_cell() -> None:
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    found = draw(WINDOW, Geometry.of(qo_len=40), w=9)
    image = np.asarray(pillow.open(io.BytesIO(png.render(found))).convert("L"))
    scale = svg.SIDE // 40
    pixels = image[png.MARGIN + scale // 2 :: scale, png.MARGIN + scale // 2 :: scale][:40, :40]
    np.testing.assert_array_equal(pixels < 128, window(40, 9))


def test_a_long_mask_is_drawn_in_bounded_memory() -> None:
    found = draw(WINDOW, Geometry.of(qo_len=6000), cells=100, w=600)
    assert found.density.shape == (100, 100)
    assert found.attended == 600 * 6000 - 600 * 599 // 2


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "documents.attn"
    path.write_text(DOCUMENTS)
    return str(path)


def test_viz_draws_in_the_terminal(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["viz", file, "--q-len", "24", "--width", "60"]) == OK
    out = capsys.readouterr().out
    shown = cells_of_blocks(out)
    assert shown.shape == (24, 24)
    assert shown.diagonal().all()
    assert not np.triu(shown, 1).any()
    assert not shown[-1, 0]  # the random documents are several


def test_viz_writes_the_form_its_file_name_says(file: str, tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for name, start in (("m.svg", b"<svg "), ("m.png", b"\x89PNG"), ("m.txt", b" ")):
        assert main(["viz", file, "--tiles", "16", "-o", str(tmp_path / name)]) == OK
        assert (tmp_path / name).read_bytes().startswith(start)


def test_viz_takes_tensors_from_files(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "doc.npy", np.repeat(np.arange(3), 8)[None].astype(np.int64))
    assert main(["viz", file, "--q-len", "24", "--input", f"doc={tmp_path}/doc.npy"]) == OK
    shown = cells_of_blocks(capsys.readouterr().out)
    np.testing.assert_array_equal(shown, np.kron(np.eye(3), np.tril(np.ones((8, 8)))).astype(bool))
