"""CIFAR-10 distilled into the bytes of IPC 1 by distribution matching, and what a network learns from it beside its baselines.

Two commands, each resumable: gsd-distill dm, then gsd-eval with random real images of the same bytes as .gsd, WebP and JPEG. Both
reports go into the result, and the distilled file beside it. A file that is there already is evaluated as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import gsdata
from environment import hardware, versions

DISTILL = "gsd-distill dm --data cifar10 --ipc 1 --iterations {iterations} -o c10.gsd"
EVALUATE = "gsd-eval c10.gsd --data cifar10 --seeds 3 --baselines random-gsd,webp,jpeg -o c10-eval.json"
MODULES = {"gsd-distill": "distill", "gsd-eval": "evaluate", "gsd-experts": "experts"}


def run(command: str, folder: Path) -> None:
    """Run one of our commands in a folder, continuing what an earlier run left."""
    name, *rest = command.split()
    start = f"import sys; from gsdata_tools.{MODULES[name]} import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", start, *rest, "--resume"], cwd=folder, check=True)


def main() -> None:
    """Distil, evaluate, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("distilled"), help="where the commands run")
    parser.add_argument("--iterations", type=int, default=2400, help="of gsd-distill")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/distill_cifar10.json"))
    parser.add_argument("--remark", default="", help="what a reader of the result must know of this run")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    distill = DISTILL.format(iterations=arguments.iterations)
    path = arguments.folder / "c10.gsd"
    if not path.exists() or path.with_suffix(".ckpt").exists():
        run(distill, arguments.folder)
    if not (arguments.folder / "c10-eval.json").exists():
        run(EVALUATE, arguments.folder)
    with gsdata.open(path) as file:
        file.verify()
        table = file.byte_table()
        content: dict[str, Any] = {
            "sha256": file.sha256,
            "bytes": {
                "payload": table.payload,
                "labels": table.labels,
                "index": table.index,
                "overhead": table.overhead,
                "total": table.total,
            },
            "images": file.images,
            "gaussians": file.gaussian_count,
            "provenance": file.provenance,
        }
    report = json.loads(path.with_suffix(".json").read_text())
    result = {
        "commands": [distill, EVALUATE],
        "remark": arguments.remark,
        "file": content,
        "distill": {key: value for key, value in report.items() if key != "log"},
        "evaluate": json.loads((arguments.folder / "c10-eval.json").read_text()),
        "load_average_after": os.getloadavg(),
        "versions": versions(),
        "hardware": hardware(),
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    shutil.copyfile(path, arguments.output.with_name("cifar10_ipc1_dm.gsd"))
    print(json.dumps({"bytes": content["bytes"], "accuracy": result["evaluate"]["accuracy"]}, indent=2))


if __name__ == "__main__":
    main()
