"""What each technique of a distilled set is worth: gsd-distill dm with one of them changed at a time, at equal bytes.

* ``opacity``: colours alone are trained, without the second factor that opacity is;
* ``quantisation``: bfloat16's widths (10/8/8/8 bits) instead of the planned ones, so fewer Gaussians;
* ``boundary``: neither loss nor clamp;
* ``antialiasing``: the set is trained and stored without a prefilter; ``no normalisation``: with the prefilter as in GSDD (``box``);
* ``warmup``, ``random``: other initialisations.

Each set is evaluated by gsd-eval. Files and evaluations stay in --folder, and those that are there are not made again. Writes the
result and a plot, .svg and .png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill_cifar10 import run as run_command
from drawing import QUICK, Curve, Panel, draw
from environment import code_digest, hardware, versions
from gsdata.atomic import write_atomically
from gsdata.gaussians import Antialias
from gsdata_tools import distill
from gsdata_tools.cli import Checkpoint
from gsdata_tools.distillation import Distillation
from gsdata_tools.distilling import close


@dataclass(frozen=True)
class Plan:
    """What all sets share: words of gsd-distill dm and of gsd-eval, and the seeds of the sets."""

    distill: str
    evaluate: str
    seeds: int


FULL = Plan("--data cifar10 --ipc 1 --iterations 1000", "--data cifar10 --seeds 3", 3)
QUICKLY = Plan(
    "--data mnist --limit 600 --bytes 6000 --images-per-class 4 --iterations 3 --augment color_crop_cutout_scale_rotate "
    "--choose random --batch-real 32 --fit-steps 30 --networks random --model ConvNet-D2",
    "--data mnist --limit 300 --seeds 1 --steps 15",
    1,
)


def no_opacity(run: Distillation) -> None:
    """Opacities stay 1."""
    run.adam.rates = {**run.adam.rates, "opacities": 0.0}


def filtered(mode: Antialias) -> Callable[[Distillation], None]:
    """Train and store with another prefilter; the first set is what it was."""

    def change(run: Distillation) -> None:
        run.parameters.antialias = mode

    return change


CHANGES: dict[str, tuple[str, Callable[[Distillation], None] | None]] = {
    "all": ("", None),
    "opacity": ("", no_opacity),
    "quantisation": ("--bits 10,8,8,8", None),
    "boundary": ("--boundary 0 --no-clamp", None),
    "antialiasing": ("", filtered("none")),
    "no normalisation": ("", filtered("box")),
    "warmup": ("--init warmup", None),
    "random": ("--init random", None),
}
"""Words that are added to the command line, and what is changed before the first step."""


def make(words: str, change: Callable[[Distillation], None] | None, path: Path) -> dict[str, Any]:
    """Distil one set in this process; returns what a result says of it."""
    arguments = distill._parser().parse_args(["dm", *words.split(), "--quiet", "-o", str(path)])
    run = Distillation(arguments)
    checkpoint = Checkpoint(path.with_suffix(".ckpt"), {"words": words}, resume=False)
    run.start(checkpoint)
    if change:
        change(run)
    for _ in range(arguments.iterations):
        run.step()
    write_atomically(path, close(run))
    checkpoint.delete()
    return {
        "bytes": path.stat().st_size,
        "images": len(run.labels),
        "gaussians": run.parameters.num_gaussians,
        "monitors": run.monitors[-1],
    }


def measure(plan: Plan, name: str, seed: int, folder: Path, code: str) -> dict[str, Any]:
    """Make and evaluate one set, as far as that is not done."""
    added, change = CHANGES[name]
    words = f"{plan.distill} {added} --seed {seed}".replace("  ", " ")
    digest = hashlib.sha256(f"{name}\n{words}\n{plan.evaluate}\n{code}".encode()).hexdigest()[:8]
    path = folder / f"{name.replace(' ', '-')}-{seed}-{digest}.gsd"
    said, report = path.with_suffix(".json"), path.with_name(f"{path.stem}-eval.json")
    if not said.exists():
        made = make(words, change, path)
        write_atomically(said, json.dumps(made).encode())
    evaluate = f"gsd-eval {path.name} {plan.evaluate} -o {report.name}"
    if not report.exists() or report.with_suffix(".ckpt").exists():
        run_command(evaluate, folder)
    accuracy = json.loads(report.read_text())["accuracy"]
    row = {"change": name, "seed": seed, "options": words, "evaluate": evaluate, "accuracy": accuracy}
    return row | json.loads(said.read_text())


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation over the sets of the mean accuracy of each, and the difference to ``all``."""
    rows = []
    for name in CHANGES:
        values = [run["accuracy"]["mean"] for run in runs if run["change"] == name]
        if values:
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            rows.append({"change": name, "accuracy": float(np.mean(values)), "std": spread})
            rows[-1]["difference"] = rows[-1]["accuracy"] - rows[0]["accuracy"]
    return rows


def plot(result: Path) -> list[Path]:
    """Accuracy of each set."""
    content = json.loads(result.read_text())
    rows = content["summary"]
    curves = [Curve(row["change"], [place], [row["accuracy"]], [row["std"] or 0.0]) for place, row in enumerate(rows)]
    title = QUICK if content["quick"] else "One technique changed at a time, equal bytes"
    return draw(result, title, [Panel("", "as in the legend", "test accuracy (%)", curves)])


def main() -> None:
    """Measure, write the result, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("ablation"), help="where files and evaluations stay")
    parser.add_argument("--output", type=Path, help="the JSON file (default: in benchmarks/results/)")
    parser.add_argument("--only", nargs="+", choices=tuple(CHANGES)[1:], metavar="CHANGE", help="some changes only")
    parser.add_argument("--quick", action="store_true", help="MNIST, few steps, one seed: not a result to quote")
    arguments = parser.parse_args()
    named = "ablation_quick" if arguments.quick else "ablation"
    output = arguments.output or Path(f"benchmarks/results/{named}.json")
    plan = QUICKLY if arguments.quick else FULL
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = []
    code = code_digest()
    for name in ["all", *(arguments.only or tuple(CHANGES)[1:])]:
        for seed in range(plan.seeds):
            runs.append(measure(plan, name, seed, arguments.folder, code))
            print(json.dumps({key: runs[-1][key] for key in ("change", "seed", "bytes", "accuracy")}), flush=True)
    result = {
        "command": f"python benchmarks/ablation.py {' '.join(sys.argv[1:])}".strip(),
        "quick": arguments.quick,
        "plan": asdict(plan),
        "summary": summary(runs),
        "runs": runs,
        "code": code,
        "versions": versions(),
        "hardware": hardware(),
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    for written in (output, *plot(output)):
        print(written)


if __name__ == "__main__":
    main()
