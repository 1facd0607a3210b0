"""What the search for codes should pay for bits: PSNR at equal bytes of the whole file for several ``--rate-weight``.

``gsd-encode --bytes-per-image B --rate-weight X`` on the first images of CIFAR-10's test and Imagenette's validation split. Files are a
little below the budget, by different amounts; the PSNR is corrected to the budget by what more bytes gave on those images.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from environment import hardware, versions

CASES = (
    ("--data cifar10 --split test --limit 500", 500, (120, 210)),
    ("--data imagenette-128 --split val --limit 32", 32, (1000, 1300)),
)
"""Images, how many, two sizes in bytes per image."""
WEIGHTS = (0.0, 0.02, 0.05, 0.08, 0.15)
START = "import sys; from gsdata_tools.encode import main; sys.exit(main())"


def encode(options: str, folder: Path) -> dict[str, Any]:
    """The report of one gsd-encode."""
    command = [
        sys.executable,
        "-c",
        START,
        *options.split(),
        "-o",
        str(folder / "x.gsd"),
        "--json",
        "--quiet",
        "--force",
    ]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="benchmarks/results/rate_weight.json")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for images, number, sizes in CASES:
            reports = {
                (size, weight): encode(f"{images} --bytes-per-image {size} --rate-weight {weight}", Path(folder))
                for size in sizes
                for weight in WEIGHTS
            }
            for weight in WEIGHTS:
                low, high = (reports[size, weight] for size in sizes)
                slope = (high["psnr_mean"] - low["psnr_mean"]) / math.log(high["bytes_total"] / low["bytes_total"])
                for size in sizes:
                    report = reports[size, weight]
                    corrected = report["psnr_mean"] + slope * math.log(size * number / report["bytes_total"])
                    rows.append(
                        {"images": images, "bytes_per_image": size, "rate_weight": weight, "psnr_at_budget": corrected}
                        | {key: report[key] for key in ("psnr_mean", "bytes_total", "gaussians")}
                    )
                    print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": "python benchmarks/rate_weight.py",
        "runs": rows,
        "versions": versions(),
        "hardware": hardware(),
    }
    Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
