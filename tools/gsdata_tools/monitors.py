"""What goes wrong with Gaussians while a set is trained: counted, warned of, drawn, and repaired with ``--recycle``.

The failures are those that GSDD (arXiv:2509.26219) names: Gaussians that leave the image or get no gradient any more, long thin
ones, and ones that no longer add anything that can be seen. The first and the last kind are *dead*: nothing brings them
back, and their bytes are lost until they start again elsewhere.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata.atomic import write_atomically
from gsdata.gaussians import ANTIALIAS_MODES
from gsdata.kernels.arguments import VARIANCE
from gsdata_tools.learnable import LearnableSet, RowAdam, drop, ranks, split

EVERY = 100
"""Steps between two counts."""
NEEDLE = 10.0
"""Ratio of the axes above which a Gaussian is a needle."""
VANISHED = 1e-3
"""Part of the median gradient below which a Gaussian is left behind."""
GROWTH = 0.01
"""A kind has grown when it has more by this part of all Gaussians than at the last warning."""
_BOX = VARIANCE[ANTIALIAS_MODES.index("box-normalized")]
KINDS = {
    "escaped": "outside the image, or without a gradient",
    "needles": f"one axis more than {NEEDLE:g} times the other",
    "collapsed": "adding less than half a quantisation step",
}


@dataclass(frozen=True, eq=False)
class Health:
    """Which Gaussians of a set have failed, (G,) bool each.

    Attributes:
        escaped: centre outside the image; or gradients of every attribute below ``VANISHED`` of the median of the set, as the
            optimiser remembers them (about its last hundred steps). Gaussians that made no step yet are not judged by that.
        needles: standard deviations along the axes of its ellipse differ by more than ``NEEDLE``.
        collapsed: adds less than half a quantisation step of the colours to any pixel at the reference size.
    """

    escaped: NDArray[np.bool_]
    needles: NDArray[np.bool_]
    collapsed: NDArray[np.bool_]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Escaped or collapsed."""
        return self.escaped | self.collapsed

    def counts(self) -> dict[str, int]:
        """How many Gaussians there are, and of each kind of failure."""
        return {"gaussians": len(self.escaped)} | {kind: int(getattr(self, kind).sum()) for kind in KINDS}


def examine(parameters: LearnableSet, adam: RowAdam) -> Health:
    """Find the failed Gaussians of a set by its parameters and by what its optimiser remembers of their gradients."""
    scales = torch.exp2(parameters.log_scales.double())
    l11, l22, l21 = scales[:, 0], scales[:, 1], parameters.shear[:, 0].double()
    trace, root = l11**2 + l21**2 + l22**2, l11 * l22
    # The larger eigenvalue of L L^T over the root of the determinant is the ratio of the standard deviations.
    ratio = (trace / 2 + (trace**2 / 4 - root**2).clamp_min(0).sqrt()) / root

    peak = (parameters.colors * parameters.opacities).abs().amax(dim=1).double()
    if parameters.antialias == "box-normalized":
        widened = root**2 + _BOX * trace + _BOX**2
        peak = peak * root / widened.sqrt()
    colors = parameters.quantizers.colors
    half_step = (colors.high - colors.low) / (2**colors.bits - 1) / 2

    outside = (parameters.means.abs() > 1).any(dim=1)
    return Health(
        (outside | _vanished(adam)).cpu().numpy(),
        (ratio > NEEDLE).cpu().numpy(),
        (peak < half_step).cpu().numpy(),
    )


def _vanished(adam: RowAdam) -> torch.Tensor:
    """(G,) rows whose every attribute has hardly any gradient, among those that have made a step."""
    assert adam.steps is not None
    stepped = adam.steps[:, 0] > 0
    largest = torch.zeros_like(adam.steps[:, 0])
    for second in adam.second.values():
        size = (second / (1.0 - adam.betas[1] ** adam.steps.clamp_min(1))).mean(dim=1).sqrt()
        if stepped.any() and (median := size[stepped].median()) > 0:
            largest = torch.maximum(largest, size / median)
    return stepped & (largest < VANISHED)


def recycle(parameters: LearnableSet, adam: RowAdam, dead: NDArray[np.bool_]) -> int:
    """Drop the Gaussians that ``dead`` marks and split as many of the most important others; their moments start from zero.

    An image of dead ones alone keeps the most important of them. Returns how many were dropped.
    """
    image = np.repeat(np.arange(len(parameters.counts)), parameters.counts)
    alive = np.bincount(image[~dead], minlength=len(parameters.counts)) > 0
    dropped = np.flatnonzero(dead & (alive[image] | (ranks(parameters) > 0)))
    if len(dropped):
        drop(parameters, adam, dropped)
        split(parameters, adam, len(dropped))
    return len(dropped)


def warning(history: Sequence[dict[str, int]], recycles: bool = False) -> str:
    """One line if a kind of failure has grown since the last warning, or since the first count; "" if none has.

    Args:
        history: all counts up to now, each ``Health.counts()`` with its ``iteration``.
        recycles: whether dead Gaussians are re-seeded anyway.
    """
    grown = []
    for kind, meaning in KINDS.items():
        before = history[0][kind]
        for entry in history[1:]:
            warned = entry[kind] > before + GROWTH * entry["gaussians"]
            if warned and entry is history[-1]:
                grown.append(f"{before:,} to {entry[kind]:,} {kind} ({meaning})")
            before = entry[kind] if warned else before
    if not grown:
        return ""
    last = history[-1]
    advice = "" if recycles else "; --recycle re-seeds escaped and collapsed ones"
    return f"iteration {last['iteration']}: of {last['gaussians']:,} Gaussians, from {', '.join(grown)}{advice}"


def draw(history: Sequence[dict[str, int]], path: Path) -> bool:
    """Write a PNG of the counts over the iterations; returns False, and writes nothing, where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = [entry["iteration"] for entry in history]
    for kind, meaning in KINDS.items():
        share = [100 * entry[kind] / max(entry["gaussians"], 1) for entry in history]
        axes.plot(steps, share, marker=".", label=f"{kind}: {meaning}")
    axes.set(xlabel="iteration", ylabel="% of all Gaussians")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    write_atomically(path, stream.getvalue())
    return True
