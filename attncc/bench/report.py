"""How results are written down: lines for a terminal, JSON with everything needed to repeat them, a plot as SVG."""

from __future__ import annotations

import datetime
import html
import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from attncc import __version__
from attncc.bench.cases import Case, Mean
from attncc.bench.measure import BASE, OURS, Line

_BAR, _GAP, _LEFT, _WIDTH = 14, 6, 250, 420


def header(peers: Sequence[str]) -> str:
    columns = "".join(f"{name:>11}" for name in (OURS, *peers))
    return f"{'case':32}{columns}  TFLOP/s\n{'':32}{'':11}" + "".join(f"{'÷ ours':>11}" for _ in peers)


def text(line: Line, peers: Sequence[str]) -> str:
    """Two lines: TFLOP/s by exact operations and the ratio that counts, then each peer's ratio and its error."""
    rates = "".join(f"{line.tflops[name]:11.0f}" if name in line.tflops else f"{'–':>11}" for name in (OURS, *peers))
    verdict = ""
    if line.ratio is not None:
        base = line.case.base if line.case.against == BASE else None
        against = f"{line.ratio:.3f}" if base is None else f"of {base.label}: {line.ratio:.3f}"
        verdict = f"  {against}"
        if line.met is not None:
            verdict += f" (asked {line.case.bar:.2f}: {'yes' if line.met else 'NO'})"
    ratios = "".join(f"{line.ratios[name]:11.3f}" if name in line.ratios else f"{'':11}" for name in peers)
    errors = ", ".join(f"{name} {value:.1e}" for name, value in line.errors.items())
    return f"{line.label:32}{rates}{verdict}\n{'':32}{'':11}{ratios}  error: {errors}"


@dataclass(frozen=True)
class MeanRatio:
    """A geometric mean of lines' ratios."""

    label: str
    ratio: float
    bar: float

    @property
    def met(self) -> bool:
        return self.ratio >= self.bar

    @property
    def text(self) -> str:
        return f"geometric mean, {self.label}: {self.ratio:.3f} (asked {self.bar:.2f}: {'yes' if self.met else 'NO'})"


def means(lines: Sequence[Line], wanted: Sequence[Mean]) -> list[MeanRatio]:
    """Those of which every case was measured, by the peer that its bar names."""
    ratios = {line.case: line.ratio for line in lines if line.ratio is not None}
    return [
        MeanRatio(mean.label, statistics.geometric_mean(ratios[case] for case in mean.cases), mean.bar)
        for mean in wanted
        if all(case in ratios for case in mean.cases)
    ]


def document(lines: Sequence[Line], means: Sequence[MeanRatio], preset: str, rounds: int) -> dict[str, Any]:
    """Everything, as plain data."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "preset": preset,
        "rounds": rounds,
        "environment": environment(),
        "results": [{**asdict(line), "label": line.case.label, "ratio": line.ratio, "met": line.met} for line in lines],
        "means": [{**asdict(mean), "met": mean.met} for mean in means],
    }


def environment() -> dict[str, str]:
    """The GPU, its driver and what the numbers depend on."""
    import torch

    from attncc.runtime.driver import bindings, call

    found = {"gpu": torch.cuda.get_device_name(), "cuda driver": str(call(bindings().cuDriverGetVersion()))}
    found |= {"attncc": __version__, "python": platform.python_version(), "torch": torch.__version__}
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            found["driver"] = file.readline().partition("x86_64")[2].split()[0]
    except (OSError, IndexError):
        pass
    for name in ("cuda-bindings", "nvidia-cuda-nvrtc", "nvidia-cudnn-cu13", "flash-attn", "flashinfer-python"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def to_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1) + "\n"


def _named(case: Case, competitor: str) -> str:
    return case.base.variant if competitor == BASE and case.base is not None else competitor


def plot(lines: Sequence[Line]) -> str:
    """Bars of the ratios, an SVG: right of the line at 1, ours is faster. A bar that misses what is asked is red."""
    rows = [(line, name, ratio) for line in lines for name, ratio in line.ratios.items()]
    top = max([1.5, *(ratio for _, _, ratio in rows)])
    unit, step = _WIDTH / top, _BAR + _GAP
    height = step * len(rows) + 30
    one = _LEFT + unit
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 60}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for index, (line, name, ratio) in enumerate(rows):
        y = 10 + index * step
        missed = line.met is False and name == line.case.against
        color = "#c0392b" if missed else "#2e86ab"
        label = html.escape(f"{line.label} ÷ {_named(line.case, name)}")
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 11}" text-anchor="end">{label}</text>')
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{ratio * unit:.1f}" height="{_BAR}" fill="{color}"/>')
        parts.append(f'<text x="{_LEFT + ratio * unit + 4:.1f}" y="{y + 11}">{ratio:.2f}</text>')
    parts.append(f'<line x1="{one:.1f}" y1="4" x2="{one:.1f}" y2="{height - 16}" stroke="black" stroke-dasharray="3"/>')
    return "\n".join([*parts, "</svg>", ""])
