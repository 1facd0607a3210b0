"""What the codes of sets of several sizes take: zstd for each stream, zstd for all of them, rANS without and with contexts; and decoding speed.

The files come from gsd-encode (42 Gaussians, default bits; the 10,000 images with few steps, to save time):

    gsd-encode --data cifar10 --split test --limit 1000 --gaussians 42 -o c1000.gsd
    gsd-encode --data cifar10 --split test --gaussians 42 --steps 150 -o c10000.gsd
    python benchmarks/stream_coding.py c1000.gsd c10000.gsd

Sets of 50, 200 and 1,000 images are the first ones of the first file. The old layout (format 0.1: a zstd section and 28 bytes of table for each stream)
is computed here. Decoding is measured in processes of their own on one thread, in raw bytes of sections per second, by the clock and by CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import zstandard

import gsdata
from environment import hardware, versions
from gsdata import rans, streams
from gsdata.container import SECTION
from gsdata.file import GsdFile
from gsdata.rans import coder, fitting
from gsdata.writing import LEVEL

DECODE = """
import json, sys, time
{numba}
import gsdata

def raw():
    chunks = gsdata.open({path!r})._chunks
    return sum(len(data) for raw in chunks.raws(range(len(chunks)), ("gaussians",)) for data in raw.values())

def codes():
    gsdata.open({path!r}).codes()

times = []
for _ in range({runs}):
    for work in (raw, codes):
        wall, cpu = time.perf_counter(), time.thread_time()
        work()
        times.append((work.__name__, time.perf_counter() - wall, time.thread_time() - cpu))
print(json.dumps([raw(), times]))
"""
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def sizes(file: GsdFile) -> dict[str, Any]:
    """Stored bytes of the Gaussians' section and of the whole file, coded in four ways."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False, write_content_size=True)

    def zstd(raw: bytes) -> int:
        return min(len(compressor.compress(raw)), len(raw))

    found = dict.fromkeys(("zstd_per_stream", "zstd_joint", "rans", "rans_contexts"), 0)
    extra = 0
    chunks = file._chunks
    for chunk, raw in enumerate(chunks.raws(range(len(chunks)))):
        data, layout = raw["gaussians"], chunks.layouts(chunk)["gaussians"]
        at = 0
        for _, bits in layout.streams:
            size = streams.planes(bits) * layout.count
            found["zstd_per_stream"] += zstd(data[at : at + size])
            at += size
        extra += SECTION.size * (len(layout.streams) - 1)
        found["zstd_joint"] += zstd(data)
        found["rans"] += len(rans.encode(data, layout, {}))
        found["rans_contexts"] += len(rans.encode(data, layout, streams.CONTEXTS))
    stored = sum(s.stored_size for s in file.sections if s.name == "gaussians")
    rest = file.byte_table().total - stored
    rates = [rate for rate in file.stream_rates() if rate.section == "gaussians"]
    entropies = sum(rate.codes * rate.entropy for rate in rates) / 8
    return {
        "images": len(file),
        "gaussians": file.gaussian_count,
        "order_0_entropies_bytes": entropies,
        "section_bytes": found,
        "section_to_entropies": {name: size / entropies for name, size in found.items()},
        "file_bytes": {name: rest + size + (extra if name == "zstd_per_stream" else 0) for name, size in found.items()},
        "written_file_bytes": file.byte_table().total,
        "streams": {rate.name: [rate.entropy, rate.coded] for rate in rates},
    }


def speed(path: Path, numba: bool, runs: int) -> dict[str, float]:
    """MB/s of raw bytes of the Gaussians' sections, from disk to raw codes and to the arrays of ``Codes``; the best of the runs.

    By the clock, and by the CPU time of the one thread, which other work on the machine disturbs less.
    """
    code = DECODE.format(numba="import numba" if numba else "", runs=runs, path=str(path))
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    size, times = json.loads(run.stdout)
    found = {"raw_bytes": size}
    for work, name in (("raw", "to_raw_codes"), ("codes", "to_code_arrays")):
        for column, clock in ((1, "wall"), (2, "cpu")):
            seconds = [row[column] for row in times if row[0] == work]
            found[f"{name}_mb_per_s_{clock}"] = size / min(seconds) / 1e6
            found[f"{name}_mb_per_s_{clock}_median"] = size / statistics.median(seconds) / 1e6
    return found


def choices(files: list[GsdFile], many: GsdFile) -> dict[str, Any]:
    """What two choices of the writer are worth: smoothed log-weights, and a lane for every 256 codes instead of 512."""

    def coded(file: GsdFile) -> list[tuple[bytes, rans.Layout, bytes]]:
        chunks = file._chunks
        layouts = [chunks.layouts(chunk)["gaussians"] for chunk in range(len(chunks))]
        raws = [raw["gaussians"] for raw in chunks.raws(range(len(chunks)), ("gaussians",))]
        return [(rans.encode(raw, part, streams.CONTEXTS), part, raw) for raw, part in zip(raws, layouts, strict=True)]

    def total(file: GsdFile) -> int:
        return sum(len(data) for data, _, _ in coded(file))

    def seconds(sections: list[tuple[bytes, rans.Layout, bytes]]) -> float:
        jobs = [(data, layout, "") for data, layout, _ in sections]
        times = []
        for _ in range(7):
            start = time.perf_counter()
            assert rans.decode(jobs) == [raw for _, _, raw in sections]
            times.append(time.perf_counter() - start)
        return min(times)

    found: dict[str, Any] = {"images": [len(file) for file in files], "default": [total(file) for file in files]}
    sections = coded(many)
    with mock.patch.object(fitting, "_smooth", lambda counts: fitting._nearest(counts[None])[0]):
        found["nearest_log_weights"] = [total(file) for file in files]
    with mock.patch.multiple(coder, _WRITTEN_LANE_BITS=6, _CODES_PER_LANE=512):
        found["half_the_lanes"] = [total(file) for file in files]
        slower = coded(many)
    found["numpy_speed_by_lanes"] = seconds(slower) / seconds(sections)
    return found


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("thousand", type=Path, help="a .gsd of 1,000 images")
    parser.add_argument("many", type=Path, help="a .gsd of 10,000 images")
    parser.add_argument("--runs", type=int, default=15, help="decodings to take the best of")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/stream_coding.json"))
    options = parser.parse_args()
    thousand, many = gsdata.open(options.thousand), gsdata.open(options.many)
    sets = [sizes(thousand.subset(range(count))) for count in (50, 200)]
    sets += [sizes(thousand), sizes(many)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.gsd"
        many.save(path)
        result = {
            "remark": "Images of CIFAR-10's test split, 42 Gaussians each. The sets of 50 and 200 images are subsets of the 1,000 (their headers name the "
            "file that they were taken from); the 10,000 images were fitted with few steps: see provenance. Speeds: one thread, the best of the runs.",
            "sets": sets,
            "choices": choices([thousand.subset(range(50)), thousand], many),
            "decode_10000": {name: speed(path, name == "numba", options.runs) for name in ("numpy", "numba")},
            "provenance": [thousand.provenance, many.provenance],
            "versions": versions(),
            "hardware": hardware(),
            "load_average_after": os.getloadavg(),
        }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({"sets": sets, "choices": result["choices"], "decode_10000": result["decode_10000"]}, indent=2))


if __name__ == "__main__":
    main()
