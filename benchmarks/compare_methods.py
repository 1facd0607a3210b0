"""The three losses of gsd-distill at one budget, from one first set: what each adds to real images that are merely fitted.

A part of CIFAR-10 in the bytes that its images would take as uint8 at IPC 1: gsd-experts, then gsd-distill dm (without steps: the first
set), dm, dc and tm, and gsd-eval of each file; the first set beside random real images of the same bytes. Small on purpose, for two cores: settings
are first choices, and methods do not get equal time. Every finished file and evaluation stays in --folder, so the same
command goes on where it was interrupted; remove the folder when the code has changed. Writes the result.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill_cifar10 import run
from environment import code_digest, hardware, versions


@dataclass(frozen=True)
class Comparison:
    """What is run.

    Attributes:
        data: words that say which real images all commands get.
        experts: words of gsd-experts.
        common: words of every gsd-distill.
        methods: for each name, the verb and its words.
        evaluate: words of every gsd-eval.
        baselines: beside the first set.
    """

    data: str
    experts: str
    common: str
    methods: dict[str, str]
    evaluate: str
    baselines: str


FULL = Comparison(
    data="--data cifar10 --limit 5000",
    experts="--experts 4 --epochs 12 --momentum 0.9",
    common="--ipc 1 --convention uint8 --choose random",
    methods={
        "first set": "dm --iterations 0",
        "dm": "dm --iterations 500",
        "dc": "dc --iterations 300",
        "tm": "tm --expert-dir experts --syn-steps 8 --batch-syn 50 --expert-epochs 1 --iterations 250",
    },
    evaluate="--data cifar10 --seeds 3 --steps 200",
    baselines="--baselines random-gsd,webp,jpeg",
)
QUICKLY = Comparison(
    data="--data mnist --limit 1000",
    experts="--experts 1 --epochs 2 --augment none --model ConvNet-D2",
    common="--ipc 1 --convention uint8 --choose random --augment none --fit-steps 30 --model ConvNet-D2",
    methods={
        "first set": "dm --iterations 0",
        "dm": "dm --iterations 4 --batch-real 64 --networks random",
        "dc": "dc --iterations 4 --batch-real 64",
        "tm": "tm --expert-dir experts --syn-steps 2 --batch-syn 20 --expert-epochs 1 --iterations 4",
    },
    evaluate="--data mnist --limit 500 --seeds 1 --steps 20",
    baselines="--baselines webp",
)


def finished(path: Path) -> bool:
    """Whether an output is there and no run has to go on."""
    return path.exists() and not path.with_suffix(".ckpt").exists()


def measure(comparison: Comparison, folder: Path) -> list[dict[str, Any]]:
    """Run everything, as far as that is not done; a row for each method."""
    if not finished(folder / "experts"):
        run(f"gsd-experts {comparison.data} {comparison.experts} -o experts", folder)
    rows = []
    for name, words in comparison.methods.items():
        stem = name.replace(" ", "-")
        verb, _, rest = words.partition(" ")
        baselines = f" {comparison.baselines}" if name == "first set" else ""
        commands = [
            f"gsd-distill {verb} {comparison.data} {comparison.common} {rest} -o {stem}.gsd",
            f"gsd-eval {stem}.gsd {comparison.evaluate}{baselines} -o {stem}-eval.json",
        ]
        for command, output in zip(commands, (f"{stem}.gsd", f"{stem}-eval.json"), strict=True):
            if not finished(folder / output):
                run(command, folder)
        report = json.loads((folder / f"{stem}.json").read_text())
        evaluated = json.loads((folder / f"{stem}-eval.json").read_text())
        rows.append(
            {
                "name": name,
                "commands": commands,
                "distill": {key: value for key, value in report.items() if key != "log"},
                "evaluate": evaluated,
            }
        )
        print(f"{name}: {report['bytes_total']} bytes, accuracy {evaluated['accuracy']}", flush=True)
    return rows


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("methods"), help="where the commands run")
    parser.add_argument("--output", type=Path, help="the JSON file (default: in benchmarks/results/)")
    parser.add_argument("--remark", default="", help="what a reader of the result must know of this run")
    parser.add_argument("--quick", action="store_true", help="MNIST, few steps, one seed: not a result to quote")
    arguments = parser.parse_args()
    named = "compare_methods_quick" if arguments.quick else "compare_methods"
    output = arguments.output or Path(f"benchmarks/results/{named}.json")
    comparison = QUICKLY if arguments.quick else FULL
    arguments.folder.mkdir(parents=True, exist_ok=True)
    result = {
        "command": f"python benchmarks/compare_methods.py {' '.join(sys.argv[1:])}".strip(),
        "quick": arguments.quick,
        "remark": arguments.remark,
        "comparison": asdict(comparison),
        "experts": f"gsd-experts {comparison.data} {comparison.experts} -o experts",
        "methods": measure(comparison, arguments.folder),
        "load_average_after": os.getloadavg(),
        "code": code_digest(),
        "versions": versions(),
        "hardware": hardware(),
    }
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(output)


if __name__ == "__main__":
    main()
