"""Plots of the smaller results: panels of curves, no images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

QUICK = "Quick run: not a result to quote"


@dataclass(frozen=True)
class Curve:
    """Points (x, y) under a label, with half the length of an error bar each."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    line: str = "-"


@dataclass(frozen=True)
class Panel:
    """Curves in one pair of axes; ``ticks`` are those of a logarithmic x axis, or None for a linear one; ``ylog`` the same for y."""

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    ticks: Sequence[float] | None = None
    ylog: bool = False


def draw(result: Path, title: str, panels: Sequence[Panel]) -> list[Path]:
    """Draw panels side by side, into an .svg and a .png beside a result; returns both."""
    fonts: Any = {"svg.fonttype": "none", "svg.hashsalt": "gsdata", "font.size": 9, "font.family": "DejaVu Sans"}
    with mpl.rc_context(fonts):
        figure = Figure(figsize=(1 + 4.6 * len(panels), 4), layout="constrained")
        figure.suptitle(title)
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            for curve in panel.curves:
                error = [0.0 if math.isnan(e) else e for e in curve.error] if curve.error else None
                axes.errorbar(curve.x, curve.y, error, label=curve.label, linestyle=curve.line, marker=".", capsize=2)
            axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
            if panel.ticks:
                axes.set_xscale("log")
                axes.set_xticks(panel.ticks)
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            if panel.ylog:
                axes.set_yscale("log")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
        paths = [result.with_suffix(".svg"), result.with_suffix(".png")]
        figure.savefig(paths[0], metadata={"Date": None, "Creator": None})
        figure.savefig(paths[1], dpi=120, metadata={"Software": None})
    return paths
