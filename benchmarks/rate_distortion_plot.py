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
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from rate_codecs import at_bytes


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
TITLES = {"cifar10": "CIFAR-10, 32 x 32", "imagenette-128": "Imagenette, 128 x 128", "kodak": "Kodak, 768 x 512"}
_PANELS = ("cifar10", "imagenette-128", "kodak")
_BARE_SHARE = 0.08  # of the smallest .gsd: below it, a curve without 30 bytes of container would hide the one with them
_SIZE = (10.5, 7.6)  # inches
_GAP = 0.055  # of the panel's height, between two labels

Curve = list[tuple[float, float]]


def plot(result: Path) -> list[Path]:
    """Draw a result; returns the .svg and the .png, which lie beside it."""
    content = json.loads(result.read_text())
    fonts: Any = {"svg.fonttype": "none", "svg.hashsalt": "gsdata", "font.size": 9, "font.family": "DejaVu Sans"}
    with mpl.rc_context(fonts):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots(2, 2).ravel()
        for panel, name in zip(axes, _PANELS, strict=False):
            _distortion(panel, name, content)
        _utility(axes[3], content["utility"])
        figure.suptitle(
            "Quick run: not a result to quote"
            if content["quick"]
            else "Image quality and training utility against bytes on disk",
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
    low, high = min(ours) / 1.05, max(ours) * 1.05
    curves: dict[str, Curve] = {}
    for codec, style in STYLES.items():
        base = codec.removesuffix("-bare")
        if codec == base or min(ours) * _BARE_SHARE < 30:
            curves[codec] = sorted((p[style.bytes], p["psnr_mean"]) for p in points if p["codec"] == base)
    _draw(axes, curves)
    _axis(axes, low, high)
    seen = {codec: within(curve, low, high) for codec, curve in curves.items()}
    heights = [y for curve in seen.values() for _, y in curve]
    space = (max(heights) - min(heights)) * 0.04
    axes.set_ylim(min(heights) - space, max(heights) + space)
    _name(axes, seen)


def _utility(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Accuracies; the data sets lie apart on the axis of bytes, so one panel holds all."""
    axes.set_title("Utility: a network trained on the decoded images", loc="left", fontweight="bold", fontsize=10)
    axes.set_ylabel("accuracy on real test images (%)")
    coded = [row for row in rows if row["codec"] != "original"]
    names = list(dict.fromkeys(row["data"] for row in coded))
    ends: dict[str, Curve] = {}
    for name in names:
        own = [row for row in coded if row["data"] == name]
        curves = {}
        for codec, style in STYLES.items():
            mine = sorted((row for row in own if row["codec"] == codec), key=lambda row: row["bytes_per_image"])
            if mine:
                curves[codec] = ends[codec] = [(row["bytes_per_image"], row["accuracy"]["mean"]) for row in mine]
                error = [row["accuracy"]["std"] or 0 for row in mine]
                x, y = zip(*curves[codec], strict=True)
                axes.errorbar(x, y, error, fmt="none", ecolor=style.color, elinewidth=1, alpha=0.45)
        _draw(axes, curves)
        for row in rows:
            if row["data"] == name and row["codec"] == "original":
                left, right = (bound(r["bytes_per_image"] for r in own) for bound in (min, max))
                height = row["accuracy"]["mean"]
                axes.plot((left, right), (height, height), color="#333333", linewidth=1, linestyle=(0, (1, 2)))
                text = f"{TITLES[name].split(',')[0]}, {row['images']:,} images, uncoded"
                axes.annotate(
                    text, (left, height), xytext=(0, 4), textcoords="offset points", fontsize=8, color="#333333"
                )
    weights = [row["bytes_per_image"] for row in coded]
    _axis(axes, min(weights) / 1.1, max(weights) * 1.1)
    _name(axes, ends)


def within(points: Curve, low: float, high: float) -> Curve:
    """The part of a curve between two weights, cut there; between points it is straight over the logarithm of the bytes."""
    cut = [(end, at_bytes(points, end)) for end in (low, high)]
    return sorted([point for point in points if low < point[0] < high] + [(x, y) for x, y in cut if y is not None])


def _draw(axes: Axes, curves: dict[str, Curve]) -> None:
    for codec, curve in curves.items():
        style = STYLES[codec]
        if curve:
            axes.plot(
                *zip(*curve, strict=True), style.line, color=style.color, linewidth=style.width, markersize=4.5,
                marker=style.marker or ("o" if len(curve) == 1 else ""),
                markerfacecolor="white" if style.line == "--" else style.color, zorder=3 if style.marker == "o" else 2,
            )  # fmt: skip


def _name(axes: Axes, curves: dict[str, Curve]) -> None:
    """Write the name of each curve beside its right end, right of the panel."""
    bottom, top = axes.get_ylim()
    ends = sorted((curve[-1][1], codec) for codec, curve in curves.items() if curve)
    heights = spread([(y - bottom) / (top - bottom) for y, _ in ends], _GAP)
    for (_, codec), height in zip(ends, heights, strict=True):
        axes.annotate(
            STYLES[codec].label, (1.015, height), xycoords="axes fraction", va="center", fontsize=8.5,
            color=STYLES[codec].color, fontweight="bold" if codec == "gsd" else "normal", annotation_clip=False,
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


def _axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("bytes per image, whole files")
    subs = (1, 2, 3, 5) if high / low > 10 else (1, 1.5, 2, 3, 4, 5, 7)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    for written in plot(Path(sys.argv[1])):
        print(written)
