"""The plot of a result of ``rate_distortion.py``: ``python benchmarks/rate_distortion_plot.py RESULT.json`` draws it again.

One panel per data set, PSNR against bytes per image, and one of utility. Curves only: it shows no image.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter


class Style(NamedTuple):
    """How a codec is drawn; ``bytes`` is the field of its points that is plotted."""

    label: str
    color: str
    line: str = "-"
    width: float = 1.5
    marker: str = ""
    bytes: str = "bytes_per_image"


STYLES = {
    "jpeg": Style("JPEG", "#8a8a8a"),
    "avif": Style("AVIF", "#8e5bb5"),
    "webp": Style("WebP", "#2a9d64"),
    "webp-bare": Style("WebP less container", "#2a9d64", ":", bytes="without_container"),
    "bf16": Style("bf16 Gaussians", "#d9761a", marker="s"),
    "gsd": Style(".gsd", "#12439b", width=2.6, marker="o"),
    "gsd-more": Style(".gsd, more steps", "#12439b", "--", 1.5, "D"),
}
TITLES = {"cifar10": "CIFAR-10, 32×32", "imagenette-128": "Imagenette, 128×128", "kodak": "Kodak, 768×512"}
_PANELS = ("cifar10", "imagenette-128", "kodak")
_BARE_SHARE = 0.05  # of the smallest .gsd: below it, a curve without 30 bytes of container would hide the one with them
_MARGIN, _GAP = 1.6, 0.052  # of the largest .gsd is still drawn; of the panel's height lies between two labels

Curve = list[tuple[float, float]]


def plot(result: Path) -> list[Path]:
    """Draw a result; returns the .svg and the .png, which lie beside it."""
    content = json.loads(result.read_text())
    fonts = {"svg.fonttype": "none", "svg.hashsalt": "gsdata", "font.size": 9, "font.family": "DejaVu Sans"}
    with mpl.rc_context(fonts):
        figure = Figure(figsize=(10.5, 7.6), layout="constrained")
        axes = figure.subplots(2, 2).ravel()
        for panel, name in zip(axes, _PANELS, strict=False):
            _distortion(panel, name, content)
        _utility(axes[3], content["utility"])
        figure.suptitle(
            "Quick run: not a result to quote" if content["quick"] else "Quality of images against their bytes on disk",
            fontsize=12,
        )
        paths = [result.with_suffix(".svg"), result.with_suffix(".png")]
        figure.savefig(paths[0], metadata={"Date": None, "Creator": None})
        figure.savefig(paths[1], dpi=130, metadata={"Software": None})
    return paths


def _distortion(axes: Axes, name: str, content: dict[str, Any]) -> None:
    points = [p for p in content["points"].values() if p.get("data") == name and "psnr_mean" in p]
    ours = [p["bytes_per_image"] for p in points if p["codec"].startswith("gsd")]
    images = content["test_images"][name]["images"]
    axes.set_title(f"{TITLES[name]}: {images:,} image{'s' * (images > 1)}", loc="left", fontweight="bold", fontsize=10)
    axes.set_ylabel("PSNR (dB)")
    low, high = min(ours) / 1.12, max(ours) * _MARGIN
    curves: dict[str, Curve] = {}
    for codec, style in STYLES.items():
        base = codec.removesuffix("-bare")
        if codec != base and min(ours) * _BARE_SHARE > 30:
            continue
        curve = sorted((p[style.bytes], p["psnr_mean"]) for p in points if p["codec"] == base)
        curves[codec] = [point for point in curve if low <= point[0] <= high]
    _draw(axes, curves, (low, high))


def _utility(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Accuracies; the data sets lie apart on the axis of bytes, so one panel holds all."""
    axes.set_title("Utility: a network trained on the decoded images", loc="left", fontweight="bold", fontsize=10)
    axes.set_ylabel("accuracy on real test images (%)")
    coded = [row for row in rows if row["codec"] != "original"]
    names = list(dict.fromkeys(row["data"] for row in coded))
    low, high = min(row["bytes_per_image"] for row in coded), max(row["bytes_per_image"] for row in coded)
    for name in names:
        own = [row for row in coded if row["data"] == name]
        ends = min(row["bytes_per_image"] for row in own) / 1.06, max(row["bytes_per_image"] for row in own) * 1.06
        curves = {}
        for codec, style in STYLES.items():
            mine = sorted((row["bytes_per_image"], row["accuracy"]["mean"], row["accuracy"]["std"] or 0) for row in own if row["codec"] == codec)
            curves[codec] = [(x, mean) for x, mean, _ in mine]
            if mine:
                x, mean, std = zip(*mine, strict=True)
                axes.errorbar(x, mean, std, fmt="none", ecolor=style.color, elinewidth=1, alpha=0.45)
        _draw(axes, curves, None)
        for row in rows:
            if row["data"] == name and row["codec"] == "original":
                mean = row["accuracy"]["mean"]
                axes.plot(ends, (mean, mean), color="#333333", linewidth=1, linestyle=(0, (1, 2)))
                text = f"{TITLES[name].split(',')[0]}, {row['images']:,} images before any codec"
                axes.annotate(text, (ends[0], mean), xytext=(0, 4), textcoords="offset points", fontsize=8, color="#333333")
    _axis(axes, (low / 1.12, high * _MARGIN))


def _draw(axes: Axes, curves: dict[str, Curve], limits: tuple[float, float] | None) -> None:
    """Draw curves and name each at its right end."""
    for codec, curve in curves.items():
        style = STYLES[codec]
        if curve:
            x, y = zip(*curve, strict=True)
            face = "white" if style.line == "--" else style.color
            marker = style.marker or ("o" if len(curve) == 1 else "")
            axes.plot(
                x, y, style.line, color=style.color, linewidth=style.width, marker=marker, markersize=4.5, markerfacecolor=face
            )  # fmt: skip
    if limits:
        _axis(axes, limits)
    bottom, top = axes.get_ylim()
    ends = sorted(((curve[-1], codec) for codec, curve in curves.items() if curve), key=lambda end: end[0][1])
    heights = spread([(y - bottom) / (top - bottom) for (_, y), _ in ends], _GAP)
    for ((x, y), codec), height in zip(ends, heights, strict=True):
        style = STYLES[codec]
        axes.annotate(
            style.label, (x, y), xytext=(7, (height - (y - bottom) / (top - bottom)) * _panel_points(axes)), textcoords="offset points",
            color=style.color, fontsize=8.5, fontweight="bold" if codec == "gsd" else "normal", va="center", annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights moved apart until neighbours are at least ``gap`` from each other, around where they were."""
    groups: list[list[float]] = []  # sum of wished heights of the first label, number of labels
    for height in heights:
        groups.append([height, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] + groups[-2][1] * gap > groups[-1][0] / groups[-1][1]:
            total, number = groups.pop()
            before = groups[-1][1]
            groups[-1] = [groups[-1][0] + total - number * before * gap, before + number]
    return [total / number + place * gap for total, number in groups for place in range(int(number))]


def _panel_points(axes: Axes) -> float:
    """Height of a panel in points."""
    figure = axes.get_figure()
    assert figure is not None
    return 72 * 7.6 * 0.40


def _axis(axes: Axes, limits: tuple[float, float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_xlabel("bytes per image, whole files")
    subs = (1, 2, 3, 5) if limits[1] / limits[0] > 8 else (1, 1.5, 2, 3, 4, 5, 7)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    for written in plot(Path(sys.argv[1])):
        print(written)
