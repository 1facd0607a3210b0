"""How many images a class should have when the bytes do not change: gsd-distill dm and gsd-eval, at one budget.

For each number of images per class, two sets of the same bytes: real images that are merely fitted (no iterations), which GSDD
(arXiv:2509.26219, Fig. 6) proposes as a cheap way to choose the number, and the distilled one. Every finished file and evaluation stays in --folder, so the
same command goes on where it was interrupted; those that other options or other sources of gsdata made are made again. Writes
the result and a plot, .svg and .png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gsdata
from distill_cifar10 import run
from drawing import QUICK, Curve, Panel, draw
from environment import code_digest, hardware, versions


@dataclass(frozen=True)
class Sweep:
    """What is measured.

    Attributes:
        images_per_class: those that are tried.
        iterations: of the distilled sets.
        distill: more words of gsd-distill dm.
        evaluate: words of gsd-eval.
    """

    images_per_class: tuple[int, ...]
    iterations: int
    distill: str
    evaluate: str


FULL = Sweep((1, 2, 5, 10, 20, 40, 80, 160), 1000, "--data cifar10 --ipc 1", "--data cifar10 --seeds 3")
SMALL = Sweep(
    (1, 5, 10, 20, 40),
    100,
    "--data mnist --limit 5000 --ipc 1 --convention uint8 --augment color_crop_cutout_scale_rotate --choose random "
    "--pretrain 2 60 --fit-steps 200 --model ConvNet-D2",
    "--data mnist --seeds 3 --steps 100",
)
QUICKLY = Sweep(
    (1, 10, 40, 160),
    6,
    "--data mnist --limit 2000 --ipc 1 --augment color_crop_cutout_scale_rotate --choose random --batch-real 64 "
    "--fit-steps 30 --networks random --model ConvNet-D2",
    "--data mnist --limit 500 --seeds 1 --steps 20",
)


def commands(sweep: Sweep, images: int, iterations: int, stem: str) -> tuple[str, str]:
    """The two commands of one set, which write ``stem``.gsd and ``stem``-eval.json."""
    return (
        f"gsd-distill dm {sweep.distill} --images-per-class {images} --iterations {iterations} -o {stem}.gsd",
        f"gsd-eval {stem}.gsd {sweep.evaluate} -o {stem}-eval.json",
    )


def stem_of(sweep: Sweep, images: int, iterations: int, code: str) -> str:
    """Name of a set's files, another one for other options or other sources of gsdata."""
    said = "\n".join([*commands(sweep, images, iterations, ""), code])
    return f"{images}-{iterations}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def measure(sweep: Sweep, images: int, iterations: int, folder: Path, code: str) -> dict[str, Any]:
    """Make and evaluate one set, as far as that is not done."""
    stem = stem_of(sweep, images, iterations, code)
    path, report = folder / f"{stem}.gsd", folder / f"{stem}-eval.json"
    distill, evaluate = commands(sweep, images, iterations, stem)
    if not path.exists() or path.with_suffix(".ckpt").exists():
        run(distill, folder)
    if not report.exists() or report.with_suffix(".ckpt").exists():
        run(evaluate, folder)
    evaluated = json.loads(report.read_text())
    with gsdata.open(path) as file:
        gaussians = file.gaussian_count
    return {
        "images_per_class": images,
        "iterations": iterations,
        "bytes": path.stat().st_size,
        "gaussians_per_image": gaussians / evaluated["images"],
        "accuracy": evaluated["accuracy"],
        "seconds": json.loads(path.with_suffix(".json").read_text())["seconds"],
        "evaluated": {
            key: evaluated[key] for key in ("sha256", "images", "model", "steps", "batch_size", "seed", "test")
        },
        "commands": [distill, evaluate],
    }


def plot(result: Path) -> list[Path]:
    """Accuracy against images per class, of fitted and of distilled sets."""
    content = json.loads(result.read_text())
    curves = []
    for iterations in sorted({row["iterations"] for row in content["runs"]}):
        rows = sorted(
            (row for row in content["runs"] if row["iterations"] == iterations), key=lambda row: row["images_per_class"]
        )
        spread = [row["accuracy"]["std"] or 0.0 for row in rows]
        label = f"distilled, {iterations:,} steps" if iterations else "fitted real images"
        x, y = [row["images_per_class"] for row in rows], [row["accuracy"]["mean"] for row in rows]
        curves.append(Curve(label, x, y, spread))
    ticks = content["sweep"]["images_per_class"]
    title = QUICK if content["quick"] else f"{max(row['bytes'] for row in content['runs']):,} bytes at most"
    return draw(result, title, [Panel("", "images per class", "test accuracy (%)", curves, ticks)])


def main() -> None:
    """Measure, write the result, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("sweep"), help="where the commands run and leave their files"
    )
    parser.add_argument("--output", type=Path, help="the JSON file (default: in benchmarks/results/)")
    parser.add_argument("--images-per-class", type=int, nargs="+", metavar="N", help="other numbers")
    parser.add_argument("--iterations", type=int, help="another number of steps of the distilled sets")
    parser.add_argument("--quick", action="store_true", help="MNIST, few steps, one seed: not a result to quote")
    parser.add_argument("--small", action="store_true", help="5,000 digits of MNIST at 7,840 bytes, for two cores")
    arguments = parser.parse_args()
    sweep, scale = (QUICKLY, "_quick") if arguments.quick else (SMALL, "_small") if arguments.small else (FULL, "")
    named = f"sweep_images_per_class{scale}"
    output = arguments.output or Path(f"benchmarks/results/{named}.json")
    chosen = asdict(sweep)
    if arguments.images_per_class:
        chosen["images_per_class"] = tuple(arguments.images_per_class)
    if arguments.iterations:
        chosen["iterations"] = arguments.iterations
    sweep = Sweep(**chosen)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = []
    code = code_digest()
    for images in sweep.images_per_class:
        for iterations in (0, sweep.iterations):
            runs.append(measure(sweep, images, iterations, arguments.folder, code))
            kept = {key: runs[-1][key] for key in ("images_per_class", "iterations", "bytes", "accuracy")}
            print(json.dumps(kept), flush=True)
    best = {
        ("distilled" if iterations else "fitted"): max(
            (row for row in runs if row["iterations"] == iterations), key=lambda row: row["accuracy"]["mean"]
        )["images_per_class"]
        for iterations in (0, sweep.iterations)
    }
    result = {
        "command": f"python benchmarks/sweep_images_per_class.py {' '.join(sys.argv[1:])}".strip(),
        "quick": arguments.quick,
        "sweep": asdict(sweep),
        "best_images_per_class": best,
        "runs": runs,
        "load_average_after": os.getloadavg(),
        "code": code,
        "versions": versions(),
        "hardware": hardware(),
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    for written in (output, *plot(output)):
        print(written)


if __name__ == "__main__":
    main()
