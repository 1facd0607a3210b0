"""The plot of a result of ``rate_distortion.py``: ``python benchmarks/rate_distortion_plot.py RESULT.json`` draws it again.

A panel for each data set, PSNR against bytes per image, and for each that networks were trained on. Curves only: it shows no image.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

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
    "gsd-more": Style(".gsd, more work", "#12439b", "--", 1.5, "D"),
}
TITLES = {"cifar10": "CIFAR-10, 32 x 32", "imagenette-128": "Imagenette, 128 x 128", "kodak": "Kodak, 768 x 512"}
_SUBS = {
    "cifar10": (1, 1.5, 2, 3, 5, 7),
    "imagenette-128": (1, 1.5, 2, 3, 5, 7),
    "kodak": (1, 2, 3, 5),
}  # ticks there is room for
_PANELS = ("cifar10", "imagenette-128", "kodak")
_BARE_SHARE = 0.08  # of the smallest .gsd: below it, a curve without 30 bytes of container would hide the one with them
_SIZE = (11.5, 7.6)  # inches
_GAP = 0.055  # of the panel's height, between two labels

Curve = list[tuple[float, float]]


def plot(result: Path) -> list[Path]:
    """Draw a result; returns the .svg and the .png, which lie beside it."""
    content = json.loads(result.read_text())
    fonts: Any = {"svg.fonttype": "none", "svg.hashsalt": "gsdata", "font.size": 9, "font.family": "DejaVu Sans"}
    with mpl.rc_context(fonts):
        figure = Figure(figsize=_SIZE, layout="constrained")
        utility = {
            name: [row for row in content["utility"] if row["data"] == name] for name in ("cifar10", "imagenette-128")
        }
        trained = [name for name, own in utility.items() if own]
        last = [f"utility {trained[0]}", f"utility {trained[-1]}"]  # the same twice is one wide panel
        rows: list[Any] = [[_PANELS[0]] * 2 + [_PANELS[1]] * 2, [_PANELS[2]] * 2 + last]
        axes = figure.subplot_mosaic(rows)
        for name in _PANELS:
            _distortion(axes[name], name, content)
        for name in trained:
            _utility(axes[f"utility {name}"], name, utility[name])
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
    _axis(axes, low, high, _SUBS[name])
    seen = {codec: within(curve, low, high) for codec, curve in curves.items()}
    heights = [y for curve in seen.values() for _, y in curve]
    space = (max(heights) - min(heights)) * 0.04
    axes.set_ylim(min(heights) - space, max(heights) + space)
    _name(axes, seen)


def _utility(axes: Axes, name: str, rows: Sequence[dict[str, Any]]) -> None:
    coded = [row for row in rows if row["codec"] != "original"]
    axes.set_title(f"Utility: {TITLES[name].split(',')[0]}", loc="left", fontweight="bold", fontsize=10)
    axes.set_ylabel(f"test accuracy, {rows[0]['images']:,} training images (%)")
    curves: dict[str, Curve] = {}
    for codec, style in STYLES.items():
        own = sorted((row for row in coded if row["codec"] == codec), key=lambda row: row["bytes_per_image"])
        if own:
            curves[codec] = [(row["bytes_per_image"], row["accuracy"]["mean"]) for row in own]
            x, y = zip(*curves[codec], strict=True)
            error = [row["accuracy"]["std"] or 0 for row in own]
            axes.errorbar(x, y, error, fmt="none", ecolor=style.color, elinewidth=1, alpha=0.45)
    _draw(axes, curves)
    weights = [row["bytes_per_image"] for row in coded]
    _axis(axes, min(weights) / 1.3, max(weights) * 1.7, (1, 2, 5))
    height = next(row["accuracy"]["mean"] for row in rows if row["codec"] == "original")
    axes.axhline(height, color="#333333", linewidth=1, linestyle=(0, (1, 2)))
    text: dict[str, Any] = {
        "xycoords": axes.get_yaxis_transform(),
        "textcoords": "offset points",
        "fontsize": 8,
        "color": "#333333",
    }
    axes.annotate("uncoded", (0.02, height), (0, 3), **text)
    _name(axes, curves)


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
                markerfacecolor="white" if style.line == "--" else style.color, zorder={"gsd": 3, "gsd-more": 4}.get(codec, 2),
            )  # fmt: skip


def _name(axes: Axes, curves: dict[str, Curve]) -> None:
    """Write the name of each curve: right of the panel, or above its last point if that is far from there but leaves room."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    along = {codec: math.log(curve[-1][0] / left) / math.log(right / left) for codec, curve in curves.items() if curve}
    ends = sorted(
        (curves[codec][-1][1], codec) for codec, share in along.items() if share > (0.88 if codec == "gsd-more" else 0)
    )
    heights = spread([(y - bottom) / (top - bottom) for y, _ in ends], _GAP)
    for (_, codec), height in zip(ends, heights, strict=True):
        style = STYLES[codec]
        weight = "bold" if codec == "gsd" else "normal"
        place: dict[str, Any] = {"xycoords": "axes fraction", "va": "center", "annotation_clip": False}
        axes.annotate(style.label, (1.015, height), color=style.color, fontsize=8.5, fontweight=weight, **place)
    if 0.35 < along.get("gsd-more", 0) <= 0.88:  # the others of its panels go on to the right
        style = STYLES["gsd-more"]
        axes.annotate(
            style.label, curves["gsd-more"][-1], (-7, 7), textcoords="offset points", ha="right", color=style.color, fontsize=8.5
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


def _axis(axes: Axes, low: float, high: float, subs: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("bytes per image, whole files")
    axes.xaxis.set_major_locator(FixedLocator([sub * 10.0**power for power in range(7) for sub in subs]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a result of benchmarks/rate_distortion.py")
    for written in plot(parser.parse_args().result):
        print(written)
