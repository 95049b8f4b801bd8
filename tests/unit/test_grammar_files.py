"""Files and imports: where a path leads, what is read once, and what happens when it cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attncc.diagnostics import LanguageError, Source
from attncc.grammar import read
from attncc.grammar.lexer import MAX_CHARACTERS
from attncc.ir.nodes import Expr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "lib" / "masks.attn", 'from "base/causal.attn" import causal\nmask near(w) = causal and q - k < w\n'
    )
    write(tmp_path / "lib" / "base" / "causal.attn", "mask causal = q >= k\n")
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def mask(source: Source | Path, **search: list[Path]) -> Expr:
    value = read(source, **search).definitions["v"].instantiate().branches[0].mask  # type: ignore[arg-type]
    assert value is not None
    return value


def error(source: Source | Path) -> LanguageError:
    with pytest.raises(LanguageError) as caught:
        read(source)
    return caught.value


NEAR = mask(Source("<stdin>", "variant v { mask = q >= k and q - k < 4 }"))


def test_paths_are_relative_to_the_importing_file(folder: Path) -> None:
    file = write(folder / "deep" / "v.attn", 'from "../lib/masks.attn" import near\nvariant v { mask = near(4) }')
    assert mask(file) is NEAR
    assert mask(Path("deep/v.attn")) is NEAR


def test_standard_input_imports_from_the_working_folder(folder: Path) -> None:
    assert mask(Source("<stdin>", 'import "lib/masks.attn" as m\nvariant v { mask = m.near(4) }')) is NEAR


def test_aliases_and_names_that_were_imported_themselves(folder: Path) -> None:
    text = 'from "lib/masks.attn" import near as n, causal as c\nvariant v { mask = c and q - k < 4 }'
    assert mask(Source("<stdin>", text)) is NEAR


def test_search_folders_come_after_the_own_folder(folder: Path) -> None:
    write(folder / "other" / "lib" / "masks.attn", "mask near(w) = false\n")
    text = 'from "lib/masks.attn" import near\nvariant v { mask = near(4) }'
    assert mask(Source("<stdin>", text), search=[folder / "other"]) is NEAR
    (folder / "lib" / "masks.attn").unlink()
    assert mask(Source("<stdin>", text), search=[folder / "other"]) is not NEAR


def test_an_imported_definition_sees_its_own_file(folder: Path) -> None:
    text = 'from "lib/masks.attn" import near\nmask causal = row >= col\nvariant v { mask = near(4) }'
    assert mask(Source("<stdin>", text)) is NEAR


def test_a_file_reached_on_two_ways_is_no_circle(folder: Path) -> None:
    imports = 'from "lib/masks.attn" import near\nfrom "lib/base/causal.attn" import causal\n'
    text = imports + "variant v { mask = near(4) and causal }"
    assert mask(Source("<stdin>", text)) is not NEAR


def test_a_circle_shows_every_step(folder: Path) -> None:
    for name, following in (("a", "b"), ("b", "c"), ("c", "a")):
        write(folder / f"{name}.attn", f'from "{following}.attn" import x\n')
    found = error(Path("a.attn"))
    assert found.code == "A0207"
    assert found.got == "a.attn -> b.attn -> c.attn -> a.attn"
    assert [str(note.span) for note in found.notes] == ["a.attn:1:6", "b.attn:1:6"]
    assert error(write(folder / "self.attn", 'import "self.attn" as s\n')).code == "A0207"


def test_an_error_in_an_imported_file_points_there(folder: Path) -> None:
    write(folder / "lib" / "base" / "causal.attn", "mask causal = q >=\n")
    found = error(Source("<stdin>", 'from "lib/masks.attn" import near\n'))
    assert found.code == "A0101"
    assert found.span is not None
    assert found.span.source.name == os.path.join("lib", "base/causal.attn")


def test_a_long_chain_of_imports_is_refused(folder: Path) -> None:
    for i in range(100):
        write(folder / f"f{i}.attn", f'from "f{i + 1}.attn" import x\n')
    assert error(Path("f0.attn")).code == "A0107"


def test_unreadable_files(folder: Path) -> None:
    assert error(Path("missing.attn")).code == "A0112"
    assert error(folder).code == "A0112"
    assert error(Path("nul\0.attn")).code == "A0112"
    assert error(Source("<stdin>", 'import "lib" as m')).code == "A0208"
    assert error(Source("<stdin>", 'import "" as m')).code == "A0208"
    assert error(Source("<stdin>", 'import "nul\0.attn" as m')).code in ("A0102", "A0208")


def test_encodings(folder: Path) -> None:
    text = "# Größe\r\nvariant v {\r\n    mask = q >= k and\r\n        q - k < 4\r\n}\r\n"
    for encoding in ("utf-8", "utf-8-sig"):
        (folder / "v.attn").write_bytes(text.encode(encoding))
        assert mask(Path("v.attn")) is NEAR
    for encoding in ("utf-16", "latin-1"):
        (folder / "v.attn").write_bytes(text.encode(encoding))
        assert error(Path("v.attn")).code == "A0105"


def test_large_files_are_refused_before_they_are_read(folder: Path) -> None:
    assert error(Source("<stdin>", "#" * (MAX_CHARACTERS + 1))).code == "A0108"
    (folder / "large.attn").write_bytes(b"#" * (8 * MAX_CHARACTERS))
    assert error(Path("large.attn")).code == "A0108"
    if os.path.exists("/dev/zero"):
        assert error(Path("/dev/zero")).code == "A0108"
