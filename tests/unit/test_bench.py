"""What of the benchmarks needs no GPU: exact counts of pairs, the presets, how results are written."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import pytest
import torch

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
        ("causal_key_bias", triangle(S)),
        ("relative", triangle(S)),
        ("t5_bias", triangle(S)),
        ("documents", cases.DOCUMENTS * triangle(S // cases.DOCUMENTS)),
        ("document_blocks", cases.DOCUMENTS * (S // cases.DOCUMENTS) ** 2),
    ],
)
def test_pairs_are_counted_exactly(name: str, count: int) -> None:
    case = Case(name, 128, S)
    assert pairs(make(name, case, "cpu"), case) == BATCH * count
    assert pairs(make(name, case, "cpu"), case, tile=300) == BATCH * count


def test_packed_documents_are_as_many_pairs_as_requests_of_their_length() -> None:
    for documents in (2, 4):
        packed, apart = Case("documents", 128, S, documents=documents), Case("causal", 128, S // documents)
        assert pairs(make("documents", packed, "cpu"), packed) == pairs(make("causal", apart, "cpu"), apart)


def test_every_case_of_a_preset_can_be_made() -> None:
    for preset in cases.PRESETS.values():
        assert len({case.label for case in preset.cases}) == len(preset.cases)
        assert {case for mean in preset.means for case in mean.cases} <= set(preset.cases)
        for case in preset.cases:
            make(case.variant, case, "cpu")
            if case.stand_in is not None:
                make(case.stand_in, case, "cpu")
            assert case.against == BASE or case.against in PEERS
            assert (case.base is not None) == (case.against == BASE)
            assert sum(case.request_lengths) == case.tokens
            assert min(case.request_lengths) > 0


def test_a_ragged_batch_is_counted_by_its_requests() -> None:
    case = Case("causal", 128, 64, lengths="zipf", tokens=16 * 64)
    assert len(set(case.request_lengths)) > 8
    assert list(case.request_lengths) != sorted(case.request_lengths)
    assert pairs(make("causal", case, "cpu"), case) == sum(map(triangle, case.request_lengths))
    assert pairs(make("dense", case, "cpu"), case) == sum(length**2 for length in case.request_lengths)


def test_random_documents_are_as_many_as_they_say() -> None:
    case = Case("random_documents", 128, S)
    doc = make(case.variant, case, "cpu").bound.tensors["doc"]
    ends = [(row[1:] != row[:-1]).sum() + 1 for row in doc]
    assert max(ends) == 2 * cases.DOCUMENTS
    lengths = [torch.unique_consecutive(row, return_counts=True)[1].tolist() for row in doc]
    assert pairs(make(case.variant, case, "cpu"), case) == sum(triangle(n) for row in lengths for n in row)


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


def test_a_mean_needs_all_its_cases_by_the_peer_of_their_bars() -> None:
    first, second = (
        line(case=Case("causal", 128, n, bar=0.9), ratios={"FLASH": r}) for n, r in ((2048, 0.5), (8192, 2.0))
    )
    mean = cases.Mean("both", (first.case, second.case), 1.1)
    (found,) = report.means([first, second], [mean])
    assert found.ratio == pytest.approx(1.0)
    assert "NO" in found.text
    assert report.means([first], [mean]) == []
    assert report.means([first, line(case=second.case, ratios={"cuDNN": 2.0})], [mean]) == []


def test_the_plot_is_a_drawing_with_a_bar_for_each_ratio() -> None:
    root = ElementTree.fromstring(report.plot([line(), line(ratios={"FLASH": 1.2, "cuDNN": 0.5})]))
    bars = [element for element in root.iter() if element.tag.endswith("rect")]
    assert len(bars) == 1 + 3
    assert [bar.get("fill") for bar in bars].count("#c0392b") == 1


def test_results_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "environment", lambda: {"gpu": "none"})
    data = json.loads(report.to_json(report.document([line()], [report.MeanRatio("all", 0.8, 0.9)], "quick", 10)))
    (result,) = data["results"]
    assert (result["label"], result["ratio"], result["met"]) == ("causal D128 S2048", 0.8, False)
    assert data["environment"] == {"gpu": "none"}
    assert data["means"] == [{"label": "all", "ratio": 0.8, "bar": 0.9, "met": False}]


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
