"""``attncc compile``, called in this process: every kind of output, where it goes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attncc.cli.main import OK, USAGE, USER_ERROR, main

pytest.importorskip("cuda.bindings", reason="the compiler is not installed")

SOURCE = "variant tiny(w: i32 = 64) { mask = q >= k and q - k < w }\n"
SHAPE = ["--target", "sm_90a", "--head-dim", "64", "--dtype", "f16"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("source") / "tiny.attn"
    path.write_text(SOURCE)
    return str(path)


def test_every_kind_goes_into_a_folder_by_its_name(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = "ast,ir,cuda,ptx,cubin,manifest,report"
    assert main(["compile", tiny, *SHAPE, f"--emit={kinds}", "-o", str(tmp_path / "out")]) == OK
    stem = "tiny.sm_90a.f16.d64"
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(found) == {
        f"{stem}.{suffix}" for suffix in ("ast.txt", "ir", "cu", "ptx", "cubin", "json", "report.json")
    }
    assert found[f"{stem}.cubin"].startswith(b"\x7fELF")
    assert b".target sm_90a" in found[f"{stem}.ptx"]
    assert b"struct Variant" in found[f"{stem}.cu"]
    assert b"Compare" in found[f"{stem}.ast.txt"]
    assert found[f"{stem}.ir"].startswith(b"variant tiny\n")
    report = json.loads(found[f"{stem}.report.json"])
    assert report["entries"]["main"]["registers"] > 0
    assert capsys.readouterr().out.count(str(tmp_path)) == len(found)


def test_the_other_entries_are_kinds_of_their_own(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", tiny, *SHAPE, "--emit=merge", "-o", str(tmp_path / "merge.cubin")]) == OK
    assert b"attncc_merge" in (tmp_path / "merge.cubin").read_bytes()
    assert main(["compile", tiny, *SHAPE, "--emit=screen", "-o", str(tmp_path / "screen.cubin")]) == 2
    assert "no captured tensor decides" in capsys.readouterr().err
    assert not (tmp_path / "screen.cubin").exists()
    assert main(["compile", tiny, *SHAPE, "--emit=transform", "-o", str(tmp_path / "transform.cubin")]) == 2
    assert "transforms no vector" in capsys.readouterr().err
    assert main(["compile", tiny, *SHAPE, "--emit=biases", "-o", str(tmp_path / "biases.cubin")]) == 2
    assert "adds a bias by key" in capsys.readouterr().err


def test_one_kind_goes_to_a_file_or_to_standard_output(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "kernel.cu"
    assert main(["compile", tiny, *SHAPE, "--emit=cuda", "-o", str(target)]) == OK
    capsys.readouterr()
    assert main(["compile", tiny, *SHAPE, "--emit=cuda", "-o", "-"]) == OK
    assert capsys.readouterr().out == target.read_text()


def test_the_report_says_what_the_manifest_says(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", tiny, *SHAPE, "--emit=manifest"]) == OK
    main_entry = json.loads(capsys.readouterr().out)["manifest"]["entries"]["main"]
    assert main(["compile", tiny, *SHAPE]) == OK
    report = capsys.readouterr().out
    assert f"registers      {main_entry['registers']} a thread" in report
    assert "from the cache" in report


def test_no_cache_keeps_nothing(tiny: str, fresh_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", tiny, *SHAPE, "--no-cache"]) == OK
    assert "from the cache" not in capsys.readouterr().out
    assert not list(fresh_cache.rglob("*.cubin"))


def test_values_of_runtime_parameters_have_no_place_in_a_kernel(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", tiny, *SHAPE, "-D", "w=32"]) == USER_ERROR
    assert "A0504" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--target", "sm_91"], "A0701"),
        (["--dtype", "f64"], "A0702"),
        (["--family", "mma_sm08"], "A0705"),
        (["--head-dim", "2048"], "A0706"),
    ],
)
def test_what_no_kernel_serves_is_refused_by_name(
    arguments: list[str], code: str, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", tiny, *arguments]) == USER_ERROR
    assert f"error[{code}]" in capsys.readouterr().err


def test_the_front_half_exists_for_what_no_kernel_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "later.attn"
    path.write_text("variant later { weight = exp(after(-softplus(logits))) }\n")
    assert main(["compile", str(path), "--emit=ir"]) == OK
    assert capsys.readouterr().out.startswith("variant later\n")
    assert main(["compile", str(path), "--emit=cuda"]) == USER_ERROR
    err = capsys.readouterr().err
    assert "error[A0703]" in err
    assert f"--> {path}:1:26\n" in err  # the first hook that is not served


def test_a_folder_that_cannot_be_made_is_a_users_mistake(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["compile", tiny, "--emit=ir", "-o", str(tmp_path / "file" / "x.ir")]) == USER_ERROR
    assert "error[A0920]" in capsys.readouterr().err
    assert main(["compile", tiny, "--emit=ir,ast", "-o", str(tmp_path / "file")]) == USER_ERROR
    assert "error[A0920]" in capsys.readouterr().err


def test_the_ir_is_printed_after_a_pass_and_passes_are_timed(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    from attncc.ir.text import parse
    from attncc.passes.pipeline import PIPELINE

    assert main(["compile", tiny, "--emit=ir", "--print-ir-after=all", "--time-passes"]) == OK
    err = capsys.readouterr().err
    names = [item.name for item in PIPELINE]
    assert [line.removeprefix("# after ") for line in err.splitlines() if line.startswith("# after ")] == names
    assert parse(err.split(f"# after {names[-1]}\n")[1].split("\n\n")[0] + "\n").name == "tiny"
    assert len([line for line in err.splitlines() if line.endswith(" ms")]) == len(names) + 1
    assert main(["compile", tiny, "--emit=ir", "--print-ir-after", names[0]]) == OK
    assert capsys.readouterr().err.count("# after ") == 1
    assert main(["compile", tiny, "--emit=ir", "--print-ir-after", "nonsense"]) == USAGE
