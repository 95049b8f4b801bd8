"""The command line, called in this process: what each command prints, writes and returns."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from attncc.cli.main import INTERNAL, OK, USAGE, USER_ERROR, main

GEMMA2 = """\
mask causal = q >= k

# Gemma-2
variant gemma2(softcap: f32 = 50.0, w: i32 = 4096) {
    logits = softcap * tanh(score / softcap)
    mask   = causal and q - k < w
}
"""
TWO = "variant a { mask = q >= k }\nvariant b(n: i32, const c: i32) { mask = k < n + c }\n"


@pytest.fixture
def gemma2(tmp_path: Path) -> str:
    path = tmp_path / "gemma2.attn"
    path.write_text(GEMMA2)
    return str(path)


@pytest.fixture
def two(tmp_path: Path) -> str:
    path = tmp_path / "two.attn"
    path.write_text(TWO)
    return str(path)


def give_stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


# check ----------------------------------------------------------------------------------------------------------------


def test_check_lists_every_variant_with_its_signature(gemma2: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", gemma2]) == OK
    out = capsys.readouterr().out
    assert out.splitlines() == [
        f"{gemma2}: 1 variant, ok",
        "  gemma2(softcap: f32 = 50.0, w: i32 = 4096): logits, mask",
    ]


def test_check_reads_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give_stdin(monkeypatch, GEMMA2)
    assert main(["check", "-"]) == OK
    assert capsys.readouterr().out.startswith("<stdin>: 1 variant, ok")


def test_check_reports_every_wrong_variant_of_every_file(
    gemma2: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.attn"
    wrong.write_text(
        "variant a { mask = score > 0 }\nvariant b { logits = score + true }\nvariant c { mask = q >= k }\n"
    )
    assert main(["check", str(wrong), gemma2]) == USER_ERROR
    out, err = capsys.readouterr()
    assert err.count("error[A0") == 2
    assert f"{wrong}:1:20" in err
    assert f"{wrong}: 3 variants, 2 wrong" in out
    assert "  c(): mask" in out
    assert f"{gemma2}: 1 variant, ok" in out


def test_check_says_which_constant_it_needs(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", two]) == OK
    assert "b: not checked, since it needs -D c=..." in capsys.readouterr().out
    assert main(["check", two, "-D", "c=3"]) == OK
    assert "b(const c: i32, n: i32): mask" in capsys.readouterr().out


def test_check_prints_the_canonical_ir(gemma2: str, capsys: pytest.CaptureFixture[str]) -> None:
    from attncc.ir.text import parse

    assert main(["check", gemma2, "--print-ir"]) == OK
    lines = capsys.readouterr().out.splitlines()[2:]
    assert parse("\n".join(line.removeprefix("    ") for line in lines) + "\n").name == "gemma2"


def test_errors_as_json_have_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.attn"
    path.write_text("variant a {\n    mask = q >= \n}\n")
    for arguments in (["--error-format=json", "check", str(path)], ["check", "--error-format", "json", str(path)]):
        assert main(arguments) == USER_ERROR
        (line,) = capsys.readouterr().err.splitlines()
        error = json.loads(line)
        assert error["code"].startswith("A01")
        assert error["span"]["file"] == str(path)
        assert error["help"]


def test_the_error_format_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("ATTNCC_ERROR_FORMAT", "json")
    assert main(["check", str(tmp_path / "none.attn")]) == USER_ERROR
    assert json.loads(capsys.readouterr().err)["code"] == "A0112"


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_its_neighbour(gemma2: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", gemma2.replace("gemma2", "gema2")]) == USER_ERROR
    assert f"did you mean `{gemma2}`?" in capsys.readouterr().err


@pytest.mark.parametrize("make", ["folder", "latin1", "unreadable"])
def test_a_bad_file_is_a_users_mistake(make: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.attn"
    if make == "folder":
        path.mkdir()
    elif make == "latin1":
        path.write_bytes(b"# caf\xe9\nvariant a { mask = q >= k }\n")
    else:
        path.write_text("variant a { mask = q >= k }\n")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user reads every file")
    for command in ("check", "compile", "viz", "run", "fmt"):
        assert main([command, str(path)]) == USER_ERROR
        err = capsys.readouterr().err
        assert "error[A01" in err
        assert str(path) in err


def test_several_variants_need_a_name(two: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("compile", "viz", "run"):
        assert main([command, two]) == USER_ERROR
        err = capsys.readouterr().err
        assert "A0807" in err
        assert "a, b" in err
    assert main(["viz", two, "--variant", "aa"]) == USER_ERROR
    assert "did you mean `a`?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-D", "sofcap=30"], "did you mean `softcap`?"),
        (["-D", "w=1.5"], "`w` is i32"),
        (["-D", "softcap=abc"], "`softcap` is f32"),
        (["-D", "w=99999999999"], "2147483647"),
        (["-D", "w=1,2,3"], "3 values for 1 request"),
        (["--heads", "3", "--kv-heads", "2"], "query heads do not divide"),
        (["--request", "1"], "there is no request 1"),
        (["--input", "doc=x.npy"], "no tensor `doc`"),
    ],
)
def test_wrong_values_are_named(
    arguments: list[str], expected: str, gemma2: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["viz", gemma2, *arguments]) == USER_ERROR
    assert expected in capsys.readouterr().err


# Status ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["chek"],
        ["check"],
        ["check", "--no-such-option", "x"],
        ["viz", "x.attn", "-D", "novalue"],
        ["compile", "x.attn", "--emit=elf"],
        ["compile", "x.attn", "--emit=cubin"],
        ["compile", "x.attn", "--emit=ptx,cuda", "-o", "-"],
        ["run", "x.attn", "-o", "x.txt"],
        ["run", "x.attn", "--size", "kv_len=3"],
        ["viz", "x.attn", "--q-start", "99999999999"],
        ["explain", "A9999"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == USAGE
    assert "Usage: attncc" in capsys.readouterr().err
    assert main(["--error-format=json", *arguments]) == USAGE
    assert json.loads(capsys.readouterr().err)["code"] == "usage"


def test_a_bug_is_status_70_without_a_traceback(
    gemma2: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("attncc.cli.check.definitions", broken)
    assert main(["check", gemma2]) == INTERNAL
    err = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: division by zero" in err
    assert "ATTNCC_TRACEBACK=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("ATTNCC_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["check", gemma2])


def test_too_large_a_size_is_a_users_mistake(gemma2: str, capsys: pytest.CaptureFixture[str]) -> None:
    huge = ["--batch", "100000", "--q-len", "1000000", "--heads", "1000", "--head-dim", "1024"]
    assert main(["run", gemma2, "--device", "cpu", *huge]) == USER_ERROR
    assert "error[A0821]: not enough memory" in capsys.readouterr().err


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    from attncc.cli.group import COMMANDS

    assert main(["--help"]) == OK
    overview = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in overview
        assert main([name, "--help"]) == OK
        assert f"Usage: attncc {name}" in capsys.readouterr().out


# fmt ------------------------------------------------------------------------------------------------------------------


def test_fmt_rewrites_only_what_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messy, tidy = tmp_path / "messy.attn", tmp_path / "tidy.attn"
    messy.write_text("variant a{mask=q>=k}")
    messy.chmod(0o640)
    tidy.write_text("variant a { mask = q >= k }\n")
    before = tidy.stat().st_mtime_ns
    assert main(["fmt", "--check", str(messy), str(tidy)]) == USER_ERROR
    assert messy.read_text() == "variant a{mask=q>=k}"
    assert main(["fmt", "--diff", str(messy)]) == OK
    assert "+variant a { mask = q >= k }\n" in capsys.readouterr().out
    assert main(["fmt", str(messy), str(tidy)]) == OK
    assert messy.read_text() == tidy.read_text()
    assert messy.stat().st_mode & 0o777 == 0o640
    assert tidy.stat().st_mtime_ns == before
    assert main(["fmt", "--check", str(messy), str(tidy)]) == OK
    assert sorted(path.name for path in tmp_path.iterdir()) == ["messy.attn", "tidy.attn"]


def test_fmt_of_crlf_text_changes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dos.attn"
    path.write_bytes(b"variant a {\r\n    mask = q >= k\r\n}\r\n")
    assert main(["fmt", "--check", str(path)]) == USER_ERROR
    assert main(["fmt", str(path)]) == OK
    assert path.read_bytes() == b"variant a {\n    mask = q >= k\n}\n"


def test_fmt_leaves_a_wrong_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.attn"
    path.write_text("variant a{mask=q>=}")
    assert main(["fmt", str(path)]) == USER_ERROR
    assert f"{path}:1:" in capsys.readouterr().err
    assert path.read_text() == "variant a{mask=q>=}"


def test_fmt_filters_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    give_stdin(monkeypatch, "variant a{mask=q>=k}")
    assert main(["fmt", "-"]) == OK
    assert capsys.readouterr().out == "variant a { mask = q >= k }\n"


# explain and env ------------------------------------------------------------------------------------------------------


def test_explain_knows_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    from attncc.diagnostics.catalogue import catalogue

    assert main(["explain"]) == OK
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(catalogue())
    assert len(listed) >= 40
    for code in listed:
        assert main(["explain", code]) == OK
        assert capsys.readouterr().out.startswith(f"# {code}: ")


def test_explain_takes_a_code_in_any_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    for spelling in ("a302", "302", "error[A0302]"):
        assert main(["explain", spelling]) == OK
        assert capsys.readouterr().out.startswith("# A0302: ")


def test_env_as_text_and_json_say_the_same(fresh_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == OK
    data = json.loads(capsys.readouterr().out)
    assert data["cache"]["folder"] == str(fresh_cache)
    assert data["cache"]["kernels"] == 0
    assert data["packages"]["numpy"]
    assert data["families"]["wgmma_sm90"] == ["sm_90a"]
    assert {"sm_80", "sm_90a"} <= set(data["families"]["mma_sm80"])
    assert data["can_compile"] in (True, False)
    assert main(["env"]) == OK
    text = capsys.readouterr().out
    assert str(fresh_cache) in text
    assert "wgmma_sm90: sm_90a\n" in text
    assert f"compile: {'yes' if data['can_compile'] else 'no'}" in text
    for problem in data["problems"]:
        assert problem["what"] in text
        assert problem["help"] in text


def test_env_names_a_cupy_of_the_wrong_cuda_major(monkeypatch: pytest.MonkeyPatch) -> None:
    from attncc.cli import environment
    from attncc.codegen import toolchain

    gpu = environment.Gpu("H200", 141 << 30, "9.0", "sm_90a")
    wheel = toolchain.Wheel("cupy-cuda13x", "13.6.0", Path("/site"))
    monkeypatch.setattr(toolchain, "wheels", lambda: {wheel.name: wheel})
    (problem,) = environment._running_problems({"torch": "2.9.0"}, (12, 4), (gpu,))
    assert "cupy-cuda13x is for CUDA 13, and the driver supports CUDA 12.4" in problem.what
    assert "pip uninstall cupy-cuda13x" in problem.help
    assert "attncc[cuda12]" in problem.help
    assert environment._running_problems({"torch": "2.9.0"}, (13, 0), (gpu,)) == []
    both = {name: toolchain.Wheel(name, "13.6.0", Path("/site")) for name in ("cupy-cuda12x", "cupy-cuda13x")}
    monkeypatch.setattr(toolchain, "wheels", lambda: both)
    (problem,) = environment._running_problems({"torch": "2.9.0"}, (13, 0), (gpu,))
    assert "overwrite each other" in problem.what
