"""Sets of 20,000 and 100,000 images in shards: is memory flat, and does every image come once, shuffled, over two processes?

* CIFAR-10's training images, twice where more than 50,000 are needed, are encoded by ``gsd-encode --shards`` in two processes. Two Gaussians and ten steps
  an image: the point is how many there are, not how they look.
* 200 images of Imagenette at 128 x 128 are encoded once, with 32 Gaussians and 10 steps. A group of 1,000 images, each of them five times, is then
  written again and again by ``ShardWriter``, which copies codes and quantises nothing. It is read at 32 x 32.

Each set is read through ``GaussianShards`` and ``DataLoader``, in shuffled order, by two processes, which write down the key and the label of every
image; all are compared with what the shards hold. The larger sets are read once more by two processes with two workers each.
Memory is the kernel's peak (VmHWM) of each process, at its end: Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from environment import hardware, versions

SIZES = (20_000, 100_000)
QUICK = (2_000, 10_000)
SHARD_IMAGES = 5_000
WORLD = 2
ENCODE = ["--gaussians", "2", "--steps", "10", "--bits", "7/5/6/6", "--quiet"]
ENCODE_LARGE = ["--limit", "200", "--shards", "1", "--gaussians", "32", "--steps", "10", "--quiet"]
GROUP = 1_000
BATCH = 256
FLAT = 0.05


def peak_mebibytes() -> float:
    """The most memory that this process has had resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)


# --- what the processes do that are measured ------------------------------------------------------------------------------


def encode(report: Path, *arguments: str) -> None:
    """``gsd-encode``, as one of the processes of torchrun."""
    from gsdata_tools.encode import main as gsd_encode

    assert gsd_encode(list(arguments)) == 0
    report.with_suffix(f".{os.environ.get('RANK', '0')}").write_text(json.dumps({"peak_mib": peak_mebibytes()}))


def repeat(report: Path, source: str, folder: str, times: str) -> None:
    """Write a group of ``GROUP`` images of a set ``times`` times."""
    from gsdata.shards import ShardSet, ShardWriter

    start = time.perf_counter()
    (file,) = ShardSet(source).files()
    group = file.subset(np.arange(GROUP) % len(file))
    with ShardWriter(folder, "train") as writer:
        for _ in range(int(times)):
            writer.add(group)
    report.write_text(json.dumps({"peak_mib": peak_mebibytes(), "seconds": round(time.perf_counter() - start, 3)}))


def read(report: Path, folder: str, workers: str, epoch: str, window: str) -> None:
    """One epoch of one process; keys and labels go to a file, so that they take no memory here."""
    import torch
    from torch.utils.data import DataLoader

    from gsdata.wds import GaussianShards

    torch.set_num_threads(1)
    start = time.perf_counter()
    data = GaussianShards(folder, size=32, shuffle=True, seed=0, window=int(window), keys=True, output="uint8")
    data.set_epoch(int(epoch))
    seen, first = 0, 0.0
    with report.with_suffix(".keys").open("w") as file:
        for images, labels, keys in DataLoader(data, batch_size=BATCH, num_workers=int(workers)):
            first = first or time.perf_counter() - start
            assert len(images) == len(labels) == len(keys)
            seen += len(images)
            file.writelines(f"{key} {label}\n" for key, label in zip(keys, labels.tolist(), strict=True))
    assert seen == len(data)
    seconds = time.perf_counter() - start
    result: dict[str, Any] = {
        "images": seen,
        "seconds": round(seconds, 3),
        "first_batch_seconds": round(first, 3),
        "peak_mib": peak_mebibytes(),
    }
    if int(workers):
        result["peak_worker_mib"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1)
    report.write_text(json.dumps(result))


# --- what is done with them -----------------------------------------------------------------------------------------------


def start(job: str, report: Path, *words: object, **environment: str) -> subprocess.Popen[bytes]:
    """A process of this script that does ``job``."""
    command = [sys.executable, __file__, "--job", job, str(report), *map(str, words)]
    return subprocess.Popen(command, env={**os.environ, **environment})


def finish(*processes: subprocess.Popen[bytes]) -> None:
    """Wait for all, and end if one failed."""
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"a process ended with {codes}")


def cifar_folder(folder: Path, images: int) -> Path:
    """A folder that looks like CIFAR-10 with as many training batches as ``images`` takes, by links."""
    source = Path(os.environ["GSDATA_DATA"]) / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "batches.meta.txt").symlink_to(source / "batches.meta.txt")
    for number in range(-(-images // 10_000)):
        (folder / f"data_batch_{number + 1}.bin").symlink_to(source / f"data_batch_{number % 5 + 1}.bin")
    return folder


def encoded_by_two(folder: Path, images: int) -> dict[str, Any]:
    """Encode so many images of CIFAR-10 in two processes."""
    data, report = cifar_folder(folder.with_suffix(".data"), images), folder.with_suffix(".report")
    shards = max(1, images // SHARD_IMAGES)
    words = ["--data", data, "--limit", images, "--shards", shards, *ENCODE, "-o", folder]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(WORLD)]
    subprocess.run([*command, __file__, "--job", "encode", str(report), *map(str, words)], check=True)
    told = json.loads((folder / "train.json").read_text())
    peaks = [json.loads(report.with_suffix(f".{rank}").read_text())["peak_mib"] for rank in range(WORLD)]
    kept = (
        "images",
        "shards",
        "processes",
        "bytes_total",
        "psnr_mean",
        "gaussians",
        "steps",
        "seconds",
        "images_per_second",
    )
    return {"arguments": " ".join(["--limit", str(images), "--shards", str(shards), *ENCODE]), "peak_mib": peaks} | {
        key: told[key] for key in kept
    }


def repeated(folder: Path, images: int, source: Path) -> dict[str, Any]:
    """A set of so many images that are those of ``source`` again and again."""
    report = folder.with_suffix(".report")
    finish(start("repeat", report, source, folder, images // GROUP))
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    return {"images": images, "bytes_total": size} | json.loads(report.read_text())


def read_by_two(folder: Path, workers: int, epoch: int, window: int) -> dict[str, Any]:
    """Read an epoch in two processes and compare what came with what is there."""
    from gsdata.shards import ShardSet

    reports = [folder.with_name(f"{folder.name}-read-{workers}-{rank}.json") for rank in range(WORLD)]
    places = [{"RANK": str(rank), "WORLD_SIZE": str(WORLD)} for rank in range(WORLD)]
    finish(
        *(
            start("read", report, folder, workers, epoch, window, **place)
            for report, place in zip(reports, places, strict=True)
        )
    )
    runs = [json.loads(report.read_text()) for report in reports]
    shards = ShardSet(folder)
    expected = [
        f"{group.key}/{image} {label}"
        for group, file in zip(shards.groups, shards.files(), strict=True)
        for image, label in enumerate(file.labels.tolist())
    ]
    seen = [line for report in reports for line in report.with_suffix(".keys").read_text().splitlines()]
    place = {key: number for number, key in enumerate(expected)}
    numbers = [place.get(key, -1) for key in seen]
    neighbours = sum(after == before + 1 for before, after in itertools.pairwise(numbers))
    lengths = [run["images"] for run in runs]
    return {
        "images": len(expected),
        "workers": workers,
        "epoch": epoch,
        "window": window,
        "images_of_processes": lengths,
        "lost": len(set(expected) - set(seen)),
        "seen_twice": len(seen) - len(set(seen)),
        "unknown": numbers.count(-1),
        "lengths_differ_by": max(lengths) - min(lengths),
        "followed_by_their_neighbour": round(neighbours / len(seen), 6),
        "images_per_second": round(len(seen) / max(run["seconds"] for run in runs), 1),
        "first_batch_seconds": [run["first_batch_seconds"] for run in runs],
        "peak_mib": [run["peak_mib"] for run in runs],
        "peak_worker_mib": [run.get("peak_worker_mib") for run in runs],
    }


def growth(of_sizes: list[dict[str, Any]]) -> float:
    """By which share the highest peak of the larger set is above that of the smaller one."""
    small, large = (run["peak_mib"] if isinstance(run["peak_mib"], list) else [run["peak_mib"]] for run in of_sizes)
    return round(max(large) / max(small) - 1, 4)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]:,} and {QUICK[1]:,} images instead")
    parser.add_argument("--output", default="benchmarks/results/large_set.json")
    arguments = parser.parse_args()
    if not os.environ.get("GSDATA_DATA"):
        parser.error("export GSDATA_DATA=DIR, with cifar-10-batches-bin and imagenette-128 in it")
    # A window that the smaller set cannot fill would show as growth.
    sizes, window = (QUICK, 1) if arguments.quick else (SIZES, 8)
    load_before = os.getloadavg()
    sets: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        small = root / "imagenette"
        words = [
            "--data",
            "imagenette-128",
            "--split",
            "val",
            "--limit",
            1000,
            "--shards",
            1,
            *ENCODE_LARGE,
            "-o",
            small,
        ]
        finish(start("encode", root / "imagenette.report", *words))
        makers = {
            "cifar10, encoded": encoded_by_two,
            "imagenette-128, repeated": lambda folder, images: repeated(folder, images, small),
        }
        for number, (what, make) in enumerate(makers.items()):
            written, found = [], []
            for images in sizes:
                folder = root / f"set{number}-{images}"
                written.append(make(folder, images))
                found.append(read_by_two(folder, workers=0, epoch=0, window=window))
                print(json.dumps({what: [written[-1], found[-1]]}), flush=True)
            with_workers = read_by_two(folder, workers=2, epoch=1, window=window)
            print(json.dumps(with_workers), flush=True)
            sets[what] = {
                "written": written,
                "read": found,
                "read_with_workers": with_workers,
                "memory_growth_written": growth(written),
                "memory_growth_read": growth(found),
            }
    every = [run for one in sets.values() for run in [*one["read"], one["read_with_workers"]]]
    growths = [one[key] for one in sets.values() for key in ("memory_growth_written", "memory_growth_read")]
    result = {
        "command": "python benchmarks/large_set.py" + (" --quick" if arguments.quick else ""),
        "sets": sets,
        "met": {
            "no image lost, seen twice or unknown": all(
                not run["lost"] + run["seen_twice"] + run["unknown"] for run in every
            ),
            "processes differ by at most one image": all(run["lengths_differ_by"] <= 1 for run in every),
            f"peak memory grows by at most {FLAT:.0%}": max(growths) <= FLAT,
        },
        "load_average_before": load_before,
        "load_average_after": os.getloadavg(),
        "seed": 0,
        "versions": versions(),
        "hardware": hardware(),
    }
    Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({"met": result["met"], "memory": growths}, indent=2))
    if not all(result["met"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        {"encode": encode, "repeat": repeat, "read": read}[sys.argv[2]](Path(sys.argv[3]), *sys.argv[4:])
    else:
        main()
