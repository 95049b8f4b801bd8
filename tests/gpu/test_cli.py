"""The command line on a GPU: the kernel computes, is timed, and agrees with the reference; the examples do, too."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from attncc.cli.main import OK, USER_ERROR, main

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ARGUMENTS = {
    "prefix_lm": ["-D", "prefix=70,25"],
    "gemma2": ["-D", "w=64"],
    "t5_bias": ["--size", "buckets=32"],
    "sigmoid": ["-D", "bias=-5"],
}
SERVED = (
    *("alibi", "causal", "documents", "gemma2", "gpt_oss", "longformer", "prefix_lm", "streaming_llm", "t5_bias"),
    *("transfusion", "window", "rope", "sigmoid"),
)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("name", SERVED)
def test_run_computes_the_kernel_and_agrees(
    name: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(EXAMPLES / f"{name}.attn"), "--device", "gpu", "--dtype", dtype, "--kv-len", "333"]
    if name == "rope":  # a rotation keeps the norm of a vector; random tables would not
        turn = np.random.default_rng(0).uniform(0, 6.3, (512, 128))
        for tensor, table in (("c", np.cos(turn)), ("s", np.sin(turn))):
            np.save(tmp_path / f"{tensor}.npy", table.astype(np.float32))
            arguments += ["--input", f"{tensor}={tmp_path / tensor}.npy"]
    status = main([*arguments, *ARGUMENTS.get(name, ())])
    out = capsys.readouterr().out
    assert status == OK, out
    assert re.search(rf"gpu: {name}\w*\.(wgmma_sm90|mma_sm80)\.sm_\w+\.{dtype}\.d128\.\w+, [\d.]+ ms", out)
    assert out.count("\nagrees with the reference: ") == (1 if name == "sigmoid" else 2)  # rows, LSE


def test_run_refuses_what_no_kernel_serves(capsys: pytest.CaptureFixture[str]) -> None:
    stick_breaking = ROOT / "tests" / "variants" / "v42_stick_breaking.attn"
    assert main(["run", str(stick_breaking), "--device", "gpu"]) == USER_ERROR
    assert "error[A0703]" in capsys.readouterr().err


@pytest.mark.parametrize("name", SERVED)
def test_an_example_runs_its_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert ended.value.code is None, out
    assert "kernel, torch.bfloat16: the worst row is" in out


def test_env_lists_the_gpu_and_nothing_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == OK
    data = json.loads(capsys.readouterr().out)
    assert data["gpus"][0]["memory"] > 2**30
    assert data["gpus"][0]["target"].startswith("sm_")
    assert data["problems"] == []
    assert data["can_run"]
