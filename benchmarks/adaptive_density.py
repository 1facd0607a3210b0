"""Adaptive density at equal bytes: Gaussians that move during a fit, several fits of an image, and different numbers of them.

Mean PSNR of the uint8 output at exactly the same bytes of the whole file (no labels), for

* ``still``: one fit, every image the same number of Gaussians, which stay where the gradient takes them;
* ``fixed``: the same, but those that matter least move to the largest errors during the fit (the default of --gaussians);
* ``fixed, best of 2``, ``of 3``: of several such fits the best is kept;
* ``adaptive, 2 fits``, ``3 fits``: the fits after the first have more Gaussians where the first one shows that an image needs
  them, and one budget decides which fits are kept (the default of --bytes-per-image is 2).

Where the number is fixed it is the two neighbouring numbers whose files lie around the budget, interpolated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import gsdata
from environment import hardware, versions
from gsdata.budget import Bits, plan
from gsdata_tools import sources
from gsdata_tools.density import Candidates, candidate_factors, spread_counts
from gsdata_tools.fit import DEFAULT_STEPS
from gsdata_tools.metrics import psnr

CASES = (
    ("cifar10", "test", 256, 120.0),
    ("cifar10", "test", 256, 190.0),
    ("imagenette-128", "val", 32, 1300.0),
)
"""Data, split, first images, bytes an image."""


def quality(codes: gsdata.Codes, images: np.ndarray) -> float:
    """Mean PSNR in dB of what a reader shows."""
    shown = np.asarray(gsdata.render(codes.dequantize(), dtype="uint8")).transpose(0, 2, 3, 1)
    return float(np.mean(psnr(images, shown)))


def weigh(codes: gsdata.Codes) -> int:
    """Bytes of the whole file."""
    return len(gsdata.to_bytes(codes))


def fixed(
    images: np.ndarray, budget: int, bits: Bits, guess: int, tries: int, moves: float, seed: int
) -> tuple[float, float]:
    """PSNR at ``budget`` bytes of fits of one number of Gaussians, interpolated; and that number."""
    number, points = guess, {}
    while True:
        if number not in points:
            counts = [np.full(len(images), number)] * tries
            fits = Candidates(images, counts, coding={"bits": bits}, moves=moves, seed=seed)
            codes = fits.pick(fits.best())[0]
            points[number] = (weigh(codes), quality(codes, images))
        weight = points[number][0]
        other = number + (1 if weight <= budget else -1)
        if other in points and (points[other][0] > budget) != (weight > budget):
            break
        number = other if abs(weight - budget) < 1.5 * weight / number else round(number * budget / weight)
    low, high = sorted((number, other))
    share = (budget - points[low][0]) / (points[high][0] - points[low][0])
    return points[low][1] + share * (points[high][1] - points[low][1]), low + share


def adaptive(images: np.ndarray, budget: int, bits: Bits, mean: float, tries: int, seed: int) -> tuple[float, float]:
    """PSNR within ``budget`` bytes of fits of different numbers of Gaussians, and the mean number of those kept."""
    counts = [spread_counts(round(mean * factor * len(images)), len(images)) for factor in candidate_factors(tries)]
    fits = Candidates(images, counts, adapt=True, coding={"bits": bits}, seed=seed)
    codes = fits.pick(fits.best_within(budget, weigh)[0])[0]
    return quality(codes, images), codes.num_gaussians / len(images)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="benchmarks/results/adaptive_density.json")
    parser.add_argument("--limit", type=int, help="fewer images, for a trial")
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for name, split, limit, bytes_per_image in CASES:
        data = sources.load(name, split=split, limit=min(limit, arguments.limit or limit))
        budget = round(bytes_per_image * len(data.images))
        shape = data.images.shape
        planned = plan(budget, 1, images_per_class=len(data.images), size=shape[1:3], channels=shape[3])
        bits, mean = planned.bits, float(planned.gaussians_per_image)
        for what, tries, moves in (
            ("still", 1, 0.0),
            ("fixed", 1, 0.1),
            ("fixed, best of 2", 2, 0.1),
            ("fixed, best of 3", 3, 0.1),
            ("adaptive, 2 fits", 2, 0.1),
            ("adaptive, 3 fits", 3, 0.1),
        ):
            if what.startswith("adaptive"):
                value, number = adaptive(data.images, budget, bits, mean, tries, seed=0)
            else:
                value, number = fixed(data.images, budget, bits, round(mean), tries, moves, seed=0)
                mean = number
            runs.append(
                {
                    "data": name,
                    "images": len(data.images),
                    "digest": data.digest,
                    "bytes_per_image": bytes_per_image,
                    "bits": list(bits),
                }
                | {"what": what, "psnr_mean": value, "gaussians_mean": number}
            )
            print(json.dumps(runs[-1]), flush=True)
    result = {
        "command": "python benchmarks/adaptive_density.py",
        "steps": DEFAULT_STEPS,
        "seed": 0,
        "runs": runs,
        "versions": versions(),
        "hardware": hardware(),
    }
    Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
