"""What decided the encoder's defaults: bits against Gaussians at about equal bytes, and the search for codes against rounding.

The first 128 CIFAR-10 test images, default steps, whole files with labels; PSNR is the mean over images of the uint8 output.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import gsdata
from environment import hardware, versions
from gsdata.budget import Bits
from gsdata_tools import sources
from gsdata_tools.fit import DEFAULT_STEPS, fit_images
from gsdata_tools.metrics import psnr
from gsdata_tools.search import DEFAULT_SWEEPS

CASES = (
    (42, Bits(8, 6, 7, 7)),
    (48, Bits(7, 6, 6, 6)),
    (51, Bits(7, 5, 6, 6)),
    (62, Bits(6, 5, 5, 5)),
    (42, Bits(7, 5, 6, 6)),
    (24, Bits(7, 5, 6, 6)),
)
"""Gaussians of an image, and bits; the first four weigh about the same."""


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="benchmarks/results/encode_choices.json")
    arguments = parser.parse_args()
    data = sources.load("cifar10", split="test", limit=128)
    runs: list[dict[str, Any]] = []
    for count, bits in CASES:
        for sweeps in (0, DEFAULT_SWEEPS):
            codes = fit_images(data.images, count, sweeps=sweeps, bits=bits).codes
            file = gsdata.to_bytes(codes, labels=data.labels, classes=data.classes)
            shown = np.asarray(gsdata.render(codes.dequantize(), dtype="uint8")).transpose(0, 2, 3, 1)
            runs.append(
                {
                    "gaussians": count,
                    "bits": list(bits),
                    "codes": "search" if sweeps else "rounded",
                    "psnr_mean": float(np.mean(psnr(data.images, shown))),
                    "bytes_per_image": len(file) / len(data.images),
                    "bits_per_gaussian": len(file) * 8 / codes.num_gaussians,
                }
            )
            print(json.dumps(runs[-1]), flush=True)
    result = {
        "command": "python benchmarks/encode_choices.py",
        "images": len(data.images),
        "digest": data.digest,
        "steps": DEFAULT_STEPS,
        "seed": 0,
        "runs": runs,
        "versions": versions(),
        "hardware": hardware(),
    }
    Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
