"""What of the benchmarks needs no GPU: exact counts of pairs, the presets, how results are written."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import pytest

from attncc.bench import cases, report
from attncc.bench.cases import Case, make, pairs
from attncc.bench.measure import BASE, OURS, Line
from attncc.bench.peers import PEERS
from attncc.cli.main import main

S, BATCH = 2048, 8


def triangle(n: int) -> int:
    return n * (n + 1) // 2


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("dense", S * S),
        ("key_bias", S * S),
        ("causal", triangle(S)),
        ("alibi", triangle(S)),
        ("window", triangle(S) - triangle(S - cases.WINDOW)),
        ("prefix_lm", triangle(S) + triangle(S // 4 - 1)),
        ("documents", cases.DOCUMENTS * triangle(S // cases.DOCUMENTS)),
        ("document_blocks", cases.DOCUMENTS * (S // cases.DOCUMENTS) ** 2),
    ],
)
def test_pairs_are_counted_exactly(name: str, count: int) -> None:
    case = Case(name, 128, S)
    assert pairs(make(name, case, "cpu"), case) == BATCH * count
    assert pairs(make(name, case, "cpu"), case, tile=300) == BATCH * count


def test_every_case_of_a_preset_can_be_made() -> None:
    for preset in cases.PRESETS.values():
        assert len({case.label for case in preset}) == len(preset)
        for case in preset:
            make(case.variant, case, "cpu")
            assert case.against == BASE or case.against in PEERS
            assert (case.base is not None) == (case.against == BASE)


def line(**changes: Any) -> Line:
    found = Line(
        Case("causal", 128, S, bar=0.9),
        10,
        {OURS: 1e-3, "FLASH": 0.8e-3},
        {"FLASH": 0.8},
        {OURS: 300.0, "FLASH": 375.0},
        {OURS: 3e-3, "FLASH": 3.1e-3},
    )
    return replace(found, **changes)


def test_a_case_below_its_bar_says_so() -> None:
    assert line().met is False
    assert "NO" in report.text(line(), ["FLASH", "cuDNN"])
    assert line(ratios={"FLASH": 0.95}).met is True
    assert line(ratios={}).met is None


def test_the_plot_is_a_drawing_with_a_bar_for_each_ratio() -> None:
    root = ElementTree.fromstring(report.plot([line(), line(ratios={"FLASH": 1.2, "cuDNN": 0.5})]))
    bars = [element for element in root.iter() if element.tag.endswith("rect")]
    assert len(bars) == 1 + 3
    assert [bar.get("fill") for bar in bars].count("#c0392b") == 1


def test_results_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "environment", lambda: {"gpu": "none"})
    data = json.loads(report.to_json(report.document([line()], "quick", 10)))
    (result,) = data["results"]
    assert (result["label"], result["ratio"], result["met"]) == ("causal D128 S2048", 0.8, False)
    assert data["environment"] == {"gpu": "none"}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--preset", "none"], 2, "mma_sm80"),
        (["--peers", "FLASH,none"], 2, "FlashInfer"),
        (["--only", "nothing"], 2, "no case"),
    ],
)
def test_wrong_usage_names_what_there_is(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == status
    assert said in capsys.readouterr().err


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("attncc.cli.environment.gpu_count", lambda: 0)
    assert main(["bench"]) == 1
    assert "A1011" in capsys.readouterr().err
