"""``attncc run`` on the CPU: inputs from files and at random, what it prints, what it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attncc.cli.main import OK, USAGE, USER_ERROR, main
from attncc.reference.rounding import to_bf16

ALIBI = (
    "variant alibi(slopes: f32[num_heads], scale: f32 = 1.0) {\n    logits = scale * score + slopes[h] * (k - q)\n}\n"
)
SMALL = ["--q-len", "9", "--kv-len", "13", "--heads", "4", "--head-dim", "16", "--device", "cpu"]


@pytest.fixture
def alibi(tmp_path: Path) -> str:
    path = tmp_path / "alibi.attn"
    path.write_text(ALIBI)
    return str(path)


def test_the_result_of_given_tensors_is_the_formula(alibi: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((1, n, heads, 16), np.float32) for n, heads in ((9, 4), (13, 2), (13, 2)))
    slopes = np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    inputs = []
    for name, array in {"q": q, "k": k, "v": v, "slopes": slopes}.items():
        np.save(tmp_path / f"{name}.npy", array)
        inputs += ["--input", f"{name}={tmp_path / name}.npy"]
    out = tmp_path / "out.npy"
    assert main(["run", alibi, "--device", "cpu", "-D", "scale=2", *inputs, "-o", str(out)]) == OK
    q, k, v = (to_bf16(x).astype(np.float64).swapaxes(1, 2) for x in (q, k, v))
    k, v = k.repeat(2, axis=1), v.repeat(2, axis=1)
    distance = np.arange(13) - (np.arange(9)[:, None] + 4)
    logits = 2 * (q @ k.swapaxes(2, 3)) / 4 + slopes[:, None, None] * distance
    p = np.exp(logits - logits.max(-1, keepdims=True))
    expected = (p / p.sum(-1, keepdims=True)) @ v
    np.testing.assert_allclose(np.load(out), expected.swapaxes(1, 2), atol=1e-5)


def test_it_says_what_ran_and_how_far_the_dtype_is(alibi: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", alibi, *SMALL]) == OK
    out = capsys.readouterr().out
    assert out.startswith("alibi(scale=1.0, slopes=f32[4])\n")
    assert "bf16: q [2, 9, 4, 16], k [2, 13, 4, 16], v [2, 13, 4, 16]" in out
    assert "cpu: the reference in float64" in out
    assert "op by op in bf16" in out


def test_the_same_seed_gives_the_same_numbers(alibi: str, tmp_path: Path) -> None:
    results = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["run", alibi, *SMALL, "--seed", seed, "-o", str(tmp_path / f"{name}.npy")]) == OK
        results.append(np.load(tmp_path / f"{name}.npy"))
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_safetensors_by_key(alibi: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numpy_io = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    path = tmp_path / "model.safetensors"
    numpy_io.save_file({"a.slopes": np.zeros(4, np.float32), "b": np.zeros(3, np.float16)}, path)
    assert main(["run", alibi, *SMALL, "--input", f"slopes={path}:a.slopes"]) == OK
    assert main(["run", alibi, *SMALL, "--input", f"slopes={path}"]) == USER_ERROR
    assert "one of a.slopes, b" in capsys.readouterr().err
    assert main(["run", alibi, *SMALL, "--input", f"slopes={path}:b"]) == USER_ERROR
    assert "num_heads = 4" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00v\x00{", b"not an array", b"PK\x03\x04"])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_damaged_tensor_file_is_named(
    content: bytes, suffix: str, alibi: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    assert main(["run", alibi, *SMALL, "--input", f"slopes={path}"]) == USER_ERROR
    err = capsys.readouterr().err
    assert "error[A0921]" in err
    assert str(path) in err


def test_missing_things_are_named(alibi: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", alibi, *SMALL, "--input", f"slopes={tmp_path}/none.npy"]) == USER_ERROR
    assert "error[A0920]" in capsys.readouterr().err
    needs = tmp_path / "needs.attn"
    needs.write_text('variant needs(n: i32) { require n > 3, "n is large"; mask = k < n }\n')
    assert main(["run", str(needs), *SMALL]) == USER_ERROR
    assert "-D n=128" in capsys.readouterr().err
    assert main(["run", str(needs), *SMALL, "-D", "n=2"]) == USER_ERROR
    assert "n is large" in capsys.readouterr().err
    assert main(["run", str(needs), *SMALL, "-D", "n=4,5"]) == OK
    starts = tmp_path / "starts.attn"
    starts.write_text("variant starts(f: f32[kv_len]) { logits = score + f[k] }\n")
    assert main(["run", str(starts), *SMALL]) == OK
    assert main(["run", str(starts), *SMALL, "--q-start", "3"]) == USAGE
    assert "takes no --q-start" in capsys.readouterr().err


def test_emitted_values_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "entropy.attn"
    path.write_text("variant entropy { emit entropy = lse - expect(logits) }\n")
    assert main(["run", str(path), *SMALL]) == OK
    assert "entropy [2, 9, 4]: " in capsys.readouterr().out


@pytest.mark.parametrize(("spoil", "status"), [(0.0, OK), (0.03, USER_ERROR), (float("nan"), USER_ERROR)])
def test_a_kernel_that_disagrees_is_told_and_fails(
    spoil: float, status: int, alibi: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In place of a GPU: the reference itself, rounded, with one row spoiled."""
    from attncc.cli import gpu
    from attncc.reference import attention

    def compute(bound: Any, tensors: Any, dtype: str, *_: object) -> gpu.Computed:
        q, k, v = (tensors.vectors[name] for name in ("q", "k", "v"))
        result = attention(bound.variant, q, k, v, params=bound.params, tensors=bound.tensors)
        out = to_bf16(result.out)
        out[1, 4, 2] *= 1 + spoil
        return gpu.Computed("alibi.fake", out, result.lse, 0.125)

    monkeypatch.setattr(gpu, "compute", compute)
    assert main(["run", alibi, *SMALL[:-1], "gpu"]) == status
    out = capsys.readouterr().out
    assert "gpu: alibi.fake, 0.125 ms a launch" in out
    assert ("DISAGREES with the reference: worst row" in out) == (status != OK)
    assert "agrees with the reference: lse" in out
