"""Single images overfitted from three initialisations, as gsd-distill moves its sets: PSNR over the steps.

Each of a few images is fitted alone (images of a set never influence each other), through the quantisers that a file stores with, from

* ``real``: another image of the data, fitted, which is where a distilled image starts from;
* ``warmup``: noise that was fitted to plain grey first;
* ``random``: noise (GSDD, arXiv:2509.26219).

PSNR is that of the uint8 images which the closed file would show. Writes the result and a plot, .svg and .png; it holds no image.
"""

from __future__ import annotations

import argparse
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
from gsdata.budget import default_bits
from gsdata_tools import sources
from gsdata_tools.distillation import SETTLE, WARMUP_STEPS
from gsdata_tools.initialise import noise_set, real_set, solid_warmup
from gsdata_tools.learnable import LEARNING_RATES, LearnableSet, RowAdam
from gsdata_tools.methods import StepOptions, descend
from gsdata_tools.metrics import psnr

STARTS = ("real", "warmup", "random")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """How much is run: the first images of the data, Gaussians of each, steps, steps between two points."""

    data: str = "cifar10"
    images: int = 16
    gaussians: tuple[int, ...] = (22, 42, 85)
    steps: int = 2000
    every: int = 100
    fit_steps: int = 500


QUICKLY = Plan(images=4, gaussians=(22,), steps=100, every=25, fit_steps=100)


def first_set(start: str, images: NDArray[np.uint8], gaussians: int, fit_steps: int, seed: int = 0) -> LearnableSet:
    """Where the images (B, H, W, C) start from; ``real``: each from the one after it."""
    size, channels = (images.shape[1], images.shape[2]), images.shape[3]
    bits = default_bits(size, gaussians)
    counts = np.full(len(images), gaussians)
    if start == "real":
        return real_set(np.roll(images, -1, axis=0), counts, bits, fit_steps, seed, CPU)
    parameters = LearnableSet.from_gaussians(*noise_set(counts, size, channels, bits, seed), CPU)
    if start == "warmup":
        adam = RowAdam({name: 5 * rate for name, rate in LEARNING_RATES.items()})
        adam.attach(parameters)
        solid_warmup(parameters, adam, WARMUP_STEPS)
    return parameters


def overfit(parameters: LearnableSet, images: NDArray[np.uint8], steps: int, every: int) -> list[dict[str, Any]]:
    """Move a set to the images; PSNR of each image in dB at the start, every few steps and at the end."""
    adam = RowAdam(LEARNING_RATES, settle=SETTLE)
    adam.attach(parameters)
    target = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255
    indices = np.arange(len(images))
    rows = parameters.rows(indices)
    options = StepOptions()
    points = [{"step": 0, "psnr": quality(parameters, images)}]
    for step in range(1, steps + 1):
        leaves = parameters.leaves(rows)
        shown = gsdata.render(parameters.stored(leaves, parameters.counts))
        loss = (shown - target).square().sum() / target.square().sum()
        descend(loss, {}, parameters, indices, rows, leaves, adam, options)
        if step % every == 0 or step == steps:
            points.append({"step": step, "psnr": quality(parameters, images)})
    return points


def quality(parameters: LearnableSet, images: NDArray[np.uint8]) -> list[float]:
    """PSNR of each image as the closed file would show it."""
    shown = np.asarray(gsdata.render(parameters.codes().dequantize(), dtype="uint8"))
    return [float(value) for value in psnr(images, shown.transpose(0, 2, 3, 1))]


def plot(result: Path) -> list[Path]:
    """Mean PSNR over the steps, a panel for each number of Gaussians."""
    content = json.loads(result.read_text())
    panels = []
    for gaussians in content["plan"]["gaussians"]:
        curves = []
        for run in content["runs"]:
            if run["gaussians"] == gaussians:
                means = [float(np.mean(point["psnr"])) for point in run["points"]]
                curves.append(Curve(run["start"], [point["step"] for point in run["points"]], means))
        panels.append(Panel(f"{gaussians} Gaussians", "step", "mean PSNR (dB)", curves))
    return draw(result, QUICK if content["quick"] else f"{content['plan']['images']} images, each overfitted", panels)


def main() -> None:
    """Run, write the result, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the JSON file (default: in benchmarks/results/)")
    parser.add_argument("--data", help="other images")
    parser.add_argument("--quick", action="store_true", help="few images and steps: not a result to quote")
    arguments = parser.parse_args()
    named = "overfit_one_image_quick" if arguments.quick else "overfit_one_image"
    output = arguments.output or Path(f"benchmarks/results/{named}.json")
    plan = Plan(**asdict(QUICKLY if arguments.quick else Plan()) | ({"data": arguments.data} if arguments.data else {}))
    data = sources.load(plan.data, limit=plan.images)
    runs = []
    for gaussians in plan.gaussians:
        for start in STARTS:
            parameters = first_set(start, data.images, gaussians, plan.fit_steps)
            points = overfit(parameters, data.images, plan.steps, plan.every)
            runs.append({"start": start, "gaussians": gaussians, "seed": 0, "points": points})
            ends = {"first": float(np.mean(points[0]["psnr"])), "last": float(np.mean(points[-1]["psnr"]))}
            print(json.dumps({"start": start, "gaussians": gaussians} | ends), flush=True)
    result = {
        "command": f"python benchmarks/overfit_one_image.py {' '.join(sys.argv[1:])}".strip(),
        "quick": arguments.quick,
        "plan": asdict(plan),
        "digest": data.digest,
        "runs": runs,
        "versions": versions(),
        "hardware": hardware(),
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    for written in (output, *plot(output)):
        print(written)


if __name__ == "__main__":
    main()
