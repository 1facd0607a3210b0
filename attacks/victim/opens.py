"""The process that opens the files: opens.py BYTES FILE... prints a line of JSON for each (see victim)."""

from __future__ import annotations

import json
import resource
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

import gsdata


def use(path: str) -> str:
    """Do with a file what a training script would, short of rendering; says what it held."""
    with gsdata.open(path) as file:
        file.verify()
        codes = file.codes()
        values = codes.dequantize()
        if not all(np.isfinite(part).all() for part in (values.means, values.cholesky, values.colors)):
            raise AssertionError("values that are not finite")
        if len(file.labels) != file.images or (len(file.labels) and int(file.labels.max()) >= max(1, file.class_count)):
            raise AssertionError("labels that are out of range")
        if file.byte_table().total != Path(path).stat().st_size:
            raise AssertionError("bytes that are not accounted for")
        repr(file), file.recipe, file.metadata, file.provenance, file.content_id, file.sha256
        return f"read: {file.images} images, {file.gaussian_count} Gaussians"


def main(space: int, paths: list[str]) -> None:
    """Open every file, each with its own peak of memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        limit = pages * resource.getpagesize() + space
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for path in paths:
        tracemalloc.start()
        start = time.process_time()
        try:
            said, error = use(path), False
        except gsdata.GsdError as refusal:
            said, error = f"{type(refusal).__name__}: {str(refusal).replace(path, 'FILE')}", True
        result = {"said": said, "error": error, "lines": len(said.splitlines())}
        result |= {"peak": tracemalloc.get_traced_memory()[1], "seconds": time.process_time() - start}
        tracemalloc.stop()
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
