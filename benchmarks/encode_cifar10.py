"""gsd-encode on the first 1,000 CIFAR-10 test images: PSNR, bytes and speed, of the same run.

Each round is the whole command in a process of its own, as a user would type it; ``seconds`` is what the command reports (all
but compiling the kernels). The files must be equal byte for byte. The encoded images themselves are not kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import hardware, versions

COMMAND = "gsd-encode --data cifar10 --split test --limit 1000 --gaussians 42 -o c.gsd --json --quiet"


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", default="benchmarks/results/encode_cifar10.json")
    arguments = parser.parse_args()
    start = "import sys; from gsdata_tools.encode import main; sys.exit(main())"
    runs, digests = [], set()
    load_before = os.getloadavg()
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", start, *COMMAND.split()[1:]], cwd=folder, stdout=subprocess.PIPE, check=True
            )
            runs.append(json.loads(done.stdout))
            digests.add(hashlib.sha256((Path(folder) / "c.gsd").read_bytes()).hexdigest())
    assert len(digests) == 1, "the same command gave different files"
    result = {
        "command": COMMAND,
        "sha256": digests.pop(),
        "images_per_second_median": statistics.median(run["images_per_second"] for run in runs),
        "runs": runs,
        "load_average_before": load_before,
        "load_average_after": os.getloadavg(),
        "seed": 0,
        "versions": versions(),
        "hardware": hardware(),
    }
    Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: result[key] for key in ("images_per_second_median", "runs")}, indent=2))


if __name__ == "__main__":
    main()
