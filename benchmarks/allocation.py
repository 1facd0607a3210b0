"""What ``gsdata.budget`` plans with: PSNR and coded bits per Gaussian, for several counts of Gaussians and widths of codes.

Test images of CIFAR-10 and validation images of Imagenette at 128x128, default steps. Every count is fitted once; every width
then gets its own quantisers and search for codes. Bits are those of the payload (what grows with Gaussians) of one file.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import gsdata
from environment import hardware, versions
from gsdata.budget import Bits, coded_bits, default_bits
from gsdata.quantize import fit_quantizers, quantize
from gsdata_tools import sources
from gsdata_tools.fit import DEFAULT_STEPS, fit_gaussians
from gsdata_tools.metrics import psnr
from gsdata_tools.search import COVERAGE, improve_codes

SETS = (
    ("cifar10", {"split": "test", "limit": 256}, (8, 16, 23, 42, 64, 96)),
    ("imagenette-128", {"split": "val", "limit": 12, "size": 128}, (85, 170, 300, 600, 1100)),
)
SHAPES_AND_COLORS = ((4, 5, 5), (4, 5, 6), (5, 5, 5), (5, 5, 6), (5, 6, 6), (5, 6, 7), (6, 6, 6), (6, 7, 7), (6, 7, 8))
"""Bits of a log-scale, the shear and a colour channel; each with three widths of positions."""
EVERY = 1.25
"""Bytes per image of neighbouring entries of the best widths are this factor apart."""


def measure(name: str, options: dict[str, Any], counts: tuple[int, ...]) -> dict[str, Any]:
    """All runs of one set of images, and which widths were best at which bytes."""
    data = sources.load(name, **options)
    size, channels = data.images.shape[1:3], data.images.shape[3]
    runs: list[dict[str, Any]] = []
    for count in counts:
        fitted = fit_gaussians(data.images, count)
        usual = round(math.log2(20 * math.sqrt(count)))
        for means, (scales, shear, colors) in product((usual - 1, usual, usual + 1), SHAPES_AND_COLORS):
            bits = Bits(means, scales, shear, colors)
            quantizers = fit_quantizers(
                fitted, means_bits=means, scales_bits=scales, shear_bits=shear, colors_bits=colors, coverage=COVERAGE
            )
            codes, _, _ = improve_codes(data.images, quantize(fitted, quantizers))
            payload = gsdata.open(gsdata.to_bytes(codes)).byte_table().payload
            shown = np.asarray(gsdata.render(codes.dequantize(), dtype="uint8")).transpose(0, 2, 3, 1)
            runs.append(
                {
                    "gaussians": count,
                    "bits": list(bits),
                    "psnr_mean": float(np.mean(psnr(data.images, shown))),
                    "payload_per_image": payload / len(data.images),
                    "bits_per_gaussian": payload * 8 / codes.num_gaussians,
                    "planned": coded_bits(bits, size, count, channels),
                }
            )
            print(json.dumps(runs[-1]), flush=True)
    shape = list(data.images.shape[1:])
    return {
        "data": name, "options": options, "digest": data.digest, "shape": shape, "runs": runs, "best": best(runs, size)
    }  # fmt: skip


def model(sets: list[dict[str, Any]]) -> dict[str, Any]:
    """``gsdata.budget.CODED_BITS`` by least squares over all runs, and how far off that is, as parts of the bits."""
    rows, bits = [], []
    for measured in sets:
        height, width, channels = measured["shape"]
        for run in measured["runs"]:
            means, scales, shear, colors = run["bits"]
            logs = (math.log2(run["gaussians"]), math.log2(height * width), 1)
            rows.append((2 * means, 2 * scales, shear, channels * colors, *logs))
            bits.append(run["bits_per_gaussian"])
    found = np.linalg.lstsq(np.array(rows, np.float64), np.array(bits), rcond=None)[0]
    off = np.abs(np.array(rows) @ found / bits - 1)
    return {"coded_bits": found.round(3).tolist(), "mean_off": float(off.mean()), "most_off": float(off.max())}


def best(runs: list[dict[str, Any]], size: tuple[int, int]) -> list[dict[str, Any]]:
    """The widths of highest PSNR at some bytes per image, beside those planned; each is interpolated between its counts."""
    curves = {}
    for bits in sorted({tuple(run["bits"]) for run in runs}):
        own = [run for run in runs if tuple(run["bits"]) == bits]
        places = np.log([run["payload_per_image"] for run in own])
        curves[bits] = places, [run["psnr_mean"] for run in own], np.log([run["gaussians"] for run in own])
    low = min(points[0][0] for points in curves.values())
    high = max(points[0][-1] for points in curves.values())
    table: list[dict[str, Any]] = []
    for place in np.arange(low, high, math.log(EVERY)):
        inside = [bits for bits, points in curves.items() if points[0][0] <= place <= points[0][-1]]
        quality = {bits: float(np.interp(place, *curves[bits][:2])) for bits in inside}
        counts = {bits: float(np.exp(np.interp(place, *curves[bits][::2]))) for bits in inside}
        ranked = sorted(inside, key=lambda bits: -quality[bits])[:4]
        planned = [bits for bits in inside if default_bits(size, counts[bits]) == bits]
        if not planned or max(counts[ranked[0]], counts[planned[0]]) > runs[-1]["gaussians"] * 0.95:
            continue
        shown = [(bits, quality[bits], counts[bits]) for bits in (planned[0], *ranked)]
        rows = [{"bits": list(bits), "psnr_mean": psnr_mean, "gaussians": n} for bits, psnr_mean, n in shown]
        table.append({"payload_per_image": math.exp(place), "planned": rows[0], "best": rows[1:]})
    return table


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="benchmarks/results/allocation.json")
    arguments = parser.parse_args()
    sets = [measure(*one) for one in SETS]
    result = {
        "command": "python benchmarks/allocation.py",
        "steps": DEFAULT_STEPS,
        "seed": 0,
        "model": model(sets),
        "sets": sets,
        "versions": versions(),
        "hardware": hardware(),
    }
    Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
