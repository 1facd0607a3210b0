"""What keeps Gaussians inside the image: means that start at its edge and beyond, several weights of the boundary loss, with and without clamp.

Each run fits synthetic images for 1,000 steps as gsd-distill moves its sets: through the quantisers, by the same optimiser, under
the same regularisation, from noise (GSDD's random start) whose means are moved to the edge or beyond. The loss is the squared error over that of a black image, so it is
about 1 at first, as that of trajectory matching is. Counted are Gaussians whose centre is outside at the end, and those that gsd-distill's
monitor calls escaped: outside, or without a gradient. Needs no data. Writes the result and a plot, .svg and .png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gsdata
from drawing import QUICK, Curve, Panel, draw
from environment import hardware, versions
from gsdata_tools.distillation import SETTLE
from gsdata_tools.initialise import noise_set
from gsdata_tools.learnable import LEARNING_RATES, LearnableSet, RowAdam
from gsdata_tools.methods import StepOptions, descend
from gsdata_tools.monitors import examine

STARTS = {"inside": (0.0, 0.9), "at the edge": (0.99, 1.0), "beyond": (1.0, 1.3)}
"""Least and largest distance of a mean from the centre, along the axis of its own on which it is farthest."""
BITS = (7, 5, 6, 6)


@dataclass(frozen=True)
class Plan:
    """How much is run: images of a side, Gaussians of each, steps, steps between two counts, weights, seeds."""

    images: int = 24
    side: int = 32
    gaussians: int = 24
    steps: int = 1000
    every: int = 100
    weights: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
    seeds: int = 3


QUICKLY = Plan(images=6, weights=(0.0, 0.1), seeds=1)


def pictures(number: int, side: int, seed: int) -> NDArray[np.float32]:
    """(B, 3, side, side) in [0, 1]: coloured half planes and discs, which reach over the edges."""
    draws = np.random.default_rng([seed, 11])
    y, x = (np.mgrid[:side, :side] + 0.5) * (2 / side) - 1
    shown = np.empty((number, 3, side, side), np.float32)
    for picture in shown:
        picture[:] = draws.random((3, 1, 1))
        for _ in range(4):
            angle, offset = draws.uniform(0, 2 * np.pi), draws.uniform(-0.8, 0.8)
            plane = np.cos(angle) * x + np.sin(angle) * y > offset
            cx, cy, radius = draws.uniform(-1.1, 1.1), draws.uniform(-1.1, 1.1), draws.uniform(0.2, 0.7)
            for shape in (plane, np.hypot(x - cx, y - cy) < radius):
                picture[:, shape] = 0.5 * picture[:, shape] + 0.5 * draws.random((3, 1))
    return shown


def place(means: NDArray[np.float32], least: float, most: float, seed: int) -> NDArray[np.float32]:
    """Means (G, 2) in [-1, 1], moved away from the centre so that the larger of |x| and |y| is between two distances."""
    draws = np.random.default_rng([seed, 12])
    axis = np.abs(means).argmax(axis=1)
    moved = means.copy()
    rows = np.arange(len(means))
    side = np.where(means[rows, axis] < 0, -1.0, 1.0)
    moved[rows, axis] = side * draws.uniform(least, most, len(means))
    return moved


def stress(plan: Plan, start: str, weight: float, clamp: bool, seed: int) -> dict[str, Any]:
    """One run; returns its settings, its counts over the steps, and the PSNR at its end."""
    counts = np.full(plan.images, plan.gaussians)
    gaussians, quantizers = noise_set(counts, (plan.side, plan.side), 3, BITS, seed)
    parameters = LearnableSet.from_gaussians(gaussians, quantizers, torch.device("cpu"))
    parameters.means = torch.from_numpy(place(parameters.means.numpy(), *STARTS[start], seed))
    adam = RowAdam(LEARNING_RATES, settle=SETTLE)
    adam.attach(parameters)
    target = torch.from_numpy(pictures(plan.images, plan.side, seed))
    options = StepOptions(seed=seed, boundary=weight, clamp=clamp)
    indices = np.arange(plan.images)
    rows = parameters.rows(indices)
    history = [count(parameters, adam, 0)]
    for step in range(1, plan.steps + 1):
        leaves = parameters.leaves(rows)
        shown = gsdata.render(parameters.stored(leaves, parameters.counts))
        loss = (shown - target).square().sum() / target.square().sum()
        descend(loss, {}, parameters, indices, rows, leaves, adam, options)
        if step % plan.every == 0 or step == plan.steps:
            history.append(count(parameters, adam, step))
    with torch.no_grad():
        shown = gsdata.render(parameters.stored(parameters.leaves(rows), parameters.counts)).clamp(0, 1)
        errors = (shown - target).square().flatten(1).mean(dim=1)
    psnr = float((-10 * errors.log10()).mean())
    settings = {"start": start, "weight": weight, "clamp": clamp, "seed": seed}
    return settings | {"history": history, "psnr": psnr}


def count(parameters: LearnableSet, adam: RowAdam, step: int) -> dict[str, int]:
    """Gaussians outside the image, and what the monitor says."""
    outside = int((parameters.means.abs() > 1).any(dim=1).sum())
    return {"step": step, "outside": outside} | examine(parameters, adam).counts()


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Percent of all Gaussians outside and escaped at the end, the mean over seeds, for each setting."""
    rows = []
    for start, clamp, weight in itertools.product(STARTS, (True, False), sorted({run["weight"] for run in runs})):
        own = [run for run in runs if (run["start"], run["clamp"], run["weight"]) == (start, clamp, weight)]
        ends = [run["history"][-1] for run in own]
        share = {
            kind: float(np.mean([100 * e[kind] / e["gaussians"] for e in ends])) for kind in ("outside", "escaped")
        }
        rows.append({"start": start, "clamp": clamp, "weight": weight} | share)
        rows[-1]["psnr"] = float(np.mean([run["psnr"] for run in own]))
    return rows


def plot(result: Path) -> list[Path]:
    """Escaped Gaussians against the weight, a panel for each start."""
    content = json.loads(result.read_text())
    panels = []
    for start in STARTS:
        curves = []
        for clamp, kind in itertools.product((True, False), ("escaped", "outside")):
            rows = [row for row in content["summary"] if (row["start"], row["clamp"]) == (start, clamp)]
            label = f"{kind}, {'clamp' if clamp else 'no clamp'}"
            # Weights are not evenly spaced, and 0 has no logarithm: they are drawn in order.
            line = "-" if kind == "escaped" else ":"
            curves.append(Curve(label, range(len(rows)), [row[kind] for row in rows], line=line))
        said = ", ".join(f"{weight:g}" for weight in content["plan"]["weights"])
        panels.append(
            Panel(f"means start {start}", f"weight of the boundary loss: {said}", "% of all Gaussians", curves)
        )
    return draw(result, QUICK if content["quick"] else f"After {content['plan']['steps']:,} steps", panels)


def main() -> None:
    """Run, write the result, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the JSON file (default: in benchmarks/results/)")
    parser.add_argument("--quick", action="store_true", help="few images and weights, one seed: not a result to quote")
    arguments = parser.parse_args()
    named = "boundary_stress_quick" if arguments.quick else "boundary_stress"
    output = arguments.output or Path(f"benchmarks/results/{named}.json")
    plan = QUICKLY if arguments.quick else Plan()
    runs = []
    for start, weight, clamp, seed in itertools.product(STARTS, plan.weights, (True, False), range(plan.seeds)):
        runs.append(stress(plan, start, weight, clamp, seed))
        last = runs[-1]["history"][-1]
        print(json.dumps({"start": start, "weight": weight, "clamp": clamp} | last), flush=True)
    result = {
        "command": f"python benchmarks/boundary_stress.py {' '.join(sys.argv[1:])}".strip(),
        "quick": arguments.quick,
        "plan": asdict(plan),
        "summary": summary(runs),
        "runs": runs,
        "versions": versions(),
        "hardware": hardware(),
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    for written in (output, *plot(output)):
        print(written)


if __name__ == "__main__":
    main()
