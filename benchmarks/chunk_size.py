"""What chunks of different sizes cost: the codes of one file, written again with other chunk sizes.

The file of the committed results: gsd-encode --data cifar10 --split test --limit 1000 --gaussians 22 -o c.gsd
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from pathlib import Path

import numpy
import zstandard

import gsdata


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a .gsd file with hard labels or none")
    parser.add_argument("--output", default="benchmarks/results/chunk_size.json")
    options = parser.parse_args()
    file = gsdata.open(options.file)
    runs = []
    for images in (64, 128, 256, 512, 1024):
        data = gsdata.to_bytes(
            file.codes(),
            labels=None if file.label_kind == "none" else file.labels,
            classes=file.classes,
            recipe=file.recipe,
            provenance=file.provenance,
            metadata=file.metadata,
            chunk_images=images,
        )
        budget = gsdata.open(data).byte_table()
        runs.append({"chunk_images": images, "bytes": len(data), **dataclasses.asdict(budget)})
    result = {
        "command": "gsd-encode --data cifar10 --split test --limit 1000 --gaussians 22 -o c.gsd; "
        "python benchmarks/chunk_size.py c.gsd",
        "images": file.images,
        "gaussians": file.gaussian_count,
        "provenance": file.provenance,
        "versions": {
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "zstandard": zstandard.__version__,
            "zstd": ".".join(map(str, zstandard.ZSTD_VERSION)),
        },
        "runs": runs,
    }
    Path(options.output).write_text(json.dumps(result, indent=2, default=str) + "\n")
    print(json.dumps(runs, indent=2))


if __name__ == "__main__":
    main()
