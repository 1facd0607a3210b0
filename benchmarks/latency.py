"""Latency of the renderer on the CPU against torch's dense sum, from one image a call to a thousand, with and without gradients.

The contenders, the random Gaussians and the interleaved rounds are those of ``decode_cpu.py``. Writes the result and a plot, .svg and
.png. On a GPU: ``decode_gpu.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from decode_cpu import SEED, check_equal, jpeg_files, measure, workload
from drawing import QUICK, Curve, Panel, draw
from environment import hardware, versions

BATCHES = (1, 4, 16, 64, 256, 1000)
NAMES = {"gsdata float32": "gsdata", "torch dense, textbook": "torch, textbook", "torch dense, gsdata": "torch, tuned"}
"""Contenders of decoding and what the plot calls them; those of gradients are named alike, gsdata without its type."""


def plot(result: Path) -> list[Path]:
    """Milliseconds of a call against its images, a panel for decoding and one for gradients."""
    content = json.loads(result.read_text())
    panels = []
    for kind, title in (("decode", "decoding"), ("gradients", "forward and backward")):
        curves = []
        for name, label in NAMES.items():
            key = f"{kind} {name}" if kind == "decode" else f"gradients {name.removesuffix(' float32')}"
            y = [1000 * row["median_seconds"][key] for row in content["runs"]]
            curves.append(Curve(label, [row["images"] for row in content["runs"]], y))
        ticks = [row["images"] for row in content["runs"]]
        panels.append(Panel(title, "images of a call", "milliseconds of a call", curves, ticks, ylog=True))
    workload = content["workload"]
    title = QUICK if content["quick"] else f"{workload['gaussians']} Gaussians, {workload['side']} px, CPU"
    return draw(result, title, panels)


def main() -> None:
    """Measure, write the result, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=85)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="the JSON file (default: in benchmarks/results/)")
    parser.add_argument("--quick", action="store_true", help="two batch sizes, three rounds: not a result to quote")
    arguments = parser.parse_args()
    output = arguments.output or Path(f"benchmarks/results/latency{'_quick' if arguments.quick else ''}.json")
    rows: list[dict[str, Any]] = []
    load_before = os.getloadavg()
    for images in BATCHES[1:3] if arguments.quick else BATCHES:
        batch = workload(images, arguments.gaussians, arguments.side)
        difference = check_equal(batch)
        measured = measure(batch, arguments.threads, 3 if arguments.quick else arguments.rounds, jpeg_files(batch))
        rows.append({"images": images, "largest_difference": difference} | measured)
        print(json.dumps({"images": images, "ratios": measured["ratios"]}), flush=True)
    result = {
        "command": " ".join(["python", "benchmarks/latency.py", *sys.argv[1:]]),
        "quick": arguments.quick,
        "seed": SEED,
        "workload": {"gaussians": arguments.gaussians, "side": arguments.side},
        "runs": rows,
        "load_average_before": load_before,
        "load_average_after": os.getloadavg(),
        "versions": versions(),
        "hardware": hardware(),
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    for written in (output, *plot(output)):
        print(written)


if __name__ == "__main__":
    main()
