"""What mypy says of programs that use the Python front end: nothing of right ones, the mistake of wrong ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """\
from __future__ import annotations

import numpy as np

import attncc
from attncc import (
    F32, I32, At, Const, Hooks, Key, Query, Tensor, UInt32, Value, any_over, branch, dot, hooks, max, rowmax, softmax,
    sum_over, tanh, where,
)


def window(at: At, size: Value | float) -> Value:
    return (at.q >= at.k) & (at.q - at.k < size)


@attncc.variant
def gemma2(at: At, *, softcap: float = 50.0, size: int = 4096) -> Hooks:
    return hooks(logits=softcap * tanh(at.score / softcap), mask=window(at, size))


@attncc.variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"]) -> Hooks:
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q), mask=at.q >= at.k)


@attncc.variant
def everything(
    at: At,
    *,
    q_pe: Query[Tensor, "num_heads, 64"],
    k_pe: Key[Tensor, "1, 64"],
    sets: I32[Tensor, "num_heads, n"],
    n: Const[int] = 3,
    flag: Const[bool] = True,
    cap: float | Tensor = 1.0,
    bits: UInt32 = 3,
) -> Hooks:
    half = at.head_dim // 2
    mask = any_over(sets.shape[1], lambda i: sets[at.h, i] == at.k)
    for i in range(n):
        mask = mask & (at.q != i) & (1 < at.q)
    x = branch(query=at.query[:half], mask=mask if flag else True)
    return hooks(
        score=at.sm_scale * (dot(at.query, at.key) + dot(q_pe, k_pe)),
        logits=where(bits == 2, cap * at.score / cap, max(at.score, 2)),
        normalize=softmax(sink=sum_over(n, lambda i: 1.0 * i)),
        branches={"x": x},
        output=at.branch("x").out,
        emit={"top": rowmax(at.branch("x").logits)},
    )


array = np.zeros(8, np.float32)
bound = gemma2(softcap=30.0)
gemma2()
alibi(slopes=array)
everything(q_pe=array, k_pe=array, sets=array, cap=array, n=4)
attncc.load("gemma2.attn").gemma2(softcap=30.0)
"""

MISTAKES = """
gemma2(sofcap=30.0)  # Unexpected keyword argument "sofcap" for "__call__" of "VariantFactory"; did you mean "softcap"?
gemma2(softcap="30")  # incompatible type "str"; expected "float"
gemma2(30.0)  # Too many positional arguments
alibi()  # Missing named argument "slopes"
alibi(slopes=3.0)  # incompatible type "float"; expected "Tensor"
attncc.vriant  # Module has no attribute "vriant"
attncc.tahn  # Module has no attribute "tahn"
def misspelt(at: At) -> Value: return at.scroe  # "At" has no attribute "scroe"; maybe "score"?
hooks(maks=True)  # expected "Never"
hooks(mask="q >= k")  # incompatible type "str"
def wrong(at: At) -> float: return at.score  # Incompatible return value type
def number(at: At) -> float: return float(at.score)  # incompatible type "Value"
"""


def mypy(folder: Path, program: str) -> list[str]:
    (folder / "program.py").write_text(program)
    arguments = ["--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context", "program.py"]
    options = ["--python-version", "3.11", "--cache-dir", str(folder / "cache"), "--config-file", os.devnull]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *arguments],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    return result.stdout.splitlines()


def test_mypy_accepts_what_is_right_and_names_what_is_not(tmp_path: Path) -> None:
    mistakes = [line.split("  # ") for line in MISTAKES.strip().split("\n")]
    first = len(PROGRAM.splitlines()) + 1
    found = mypy(tmp_path, PROGRAM + "\n".join(code for code, _ in mistakes) + "\n")
    errors = {int(line.split(":")[1]): line for line in found if ": error:" in line}
    assert [line for number, line in errors.items() if number < first] == []
    for number, (_, message) in enumerate(mistakes, first):
        assert message in errors.get(number, f"no error at {number}"), found
