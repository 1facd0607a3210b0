"""Decoding and gradients on the CPU, beside what a user would have instead, all in one run.

Contenders, decoding 800 images of 85 Gaussians at 32 x 32 (or the first images of ``--gsd FILE``):

* gsdata: ``gsdata.render`` of NumPy Gaussians, to float32 and to uint8;
* torch dense, textbook: the broadcast expression that one writes down from the equation, in float32;
* torch dense, gsdata: the package's own ``dense`` backend, which is faster than the textbook's;
* Pillow: the same images as JPEG, quality 90, from bytes in memory to one uint8 array.

Gradients: forward and backward through torch, all parameters, gsdata against autograd of both dense forms.
Dense forms get the best of several chunk sizes, found before the timed rounds; their gradients are taken chunk by chunk
as well. Rounds interleave the contenders, so that a busy moment hits all of them; ratios are of medians.
Extra memory: a fresh process warms up on one image, resets the kernel's peak counter (Linux, /proc/self/clear_refs),
takes the gradients of the whole batch, and reports VmHWM less VmRSS before, results and gradients included.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import gsdata
from environment import hardware, versions
from gsdata.gaussians import Gaussians

SEED = 0
PAUSE = 0.3
"""Seconds before each timed call."""
CHUNKS = (1, 2, 4, 8, 16, 32, 64, 200)
"""Candidate chunk sizes of the dense forms, in images."""


def workload(images: int, count: int, side: int) -> Gaussians:
    """Random Gaussians as wide as those that an encoder leaves in 32 x 32 images (median 1.5 px, keyed by SEED)."""
    rng = np.random.default_rng(np.random.SeedSequence([SEED, images, count, side]))
    total = images * count
    scale = np.exp(rng.normal(np.log(1.5), 0.5, (total, 2)))
    cholesky = np.stack([scale[:, 0], rng.normal(0.0, 0.9, total), scale[:, 1]], 1)
    return Gaussians(
        rng.uniform(-1, 1, (total, 2)).astype(np.float32),
        cholesky.astype(np.float32),
        rng.normal(0, 0.3, (total, 3)).astype(np.float32),
        np.full(images, count),
        (side, side),
        background=(0.5, 0.5, 0.5),
    )


def textbook(batch: Gaussians) -> torch.Tensor:
    """The dense sum as one writes it down, for equal counts: q from the inverse matrix, exp, threshold, product."""
    height, width = batch.size
    n = int(batch.counts[0])
    l11, l21, l22 = batch.cholesky.view(-1, n, 3).unbind(-1)
    sxx, sxy, syy = l11 * l11 + 1 / 12, l11 * l21, l21 * l21 + l22 * l22 + 1 / 12
    det = sxx * syy - sxy * sxy
    mean = (batch.means.view(-1, n, 2) + 1) / 2
    dx = torch.arange(width) + 0.5 - mean[..., :1] * width
    dy = torch.arange(height) + 0.5 - mean[..., 1:] * height
    dx, dy = dx[:, :, None, :], dy[:, :, :, None]
    i11, i12, i22 = ((v / det)[..., None, None] for v in (syy, -sxy, sxx))
    w = torch.relu(torch.exp(-0.5 * (i11 * dx * dx + 2 * i12 * dx * dy + i22 * dy * dy)) - 2**-10) / (1 - 2**-10)
    colors = batch.colors.view(-1, n, 3) * (l11 * l22 * det.rsqrt())[..., None]
    return torch.einsum("bnhw,bnc->bchw", w, colors) + torch.tensor(batch.background)[:, None, None]


def package_dense(batch: Gaussians) -> torch.Tensor:
    """The package's own dense backend."""
    image: torch.Tensor = gsdata.render(batch, backend="dense")
    return image


def pieces(batch: Gaussians, images: int) -> list[Gaussians]:
    """The batch cut into batches of ``images`` images."""
    return [batch.select(np.arange(i, min(i + images, batch.num_images))) for i in range(0, batch.num_images, images)]


def decode_dense(render: Callable[[Gaussians], torch.Tensor], parts: list[Gaussians]) -> torch.Tensor:
    """Render part after part, without gradients, into one tensor."""
    with torch.no_grad():
        return torch.cat([render(part) for part in parts])


def gradients(render: Callable[[Gaussians], torch.Tensor], parts: list[Gaussians], grads: list[torch.Tensor]) -> float:
    """Forward and backward of every part; the sum of the gradients with respect to the means (so all is computed)."""
    total = 0.0
    for part, grad in zip(parts, grads, strict=True):
        leaves = {name: getattr(part, name).detach().requires_grad_() for name in ("means", "cholesky", "colors")}
        found = torch.autograd.grad(render(replace(part, **leaves)), list(leaves.values()), grad)
        total += float(found[0].sum())
    return total


def pillow_decode(files: list[bytes]) -> np.ndarray:
    """JPEG bytes to one uint8 array (n, H, W, 3)."""
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])


def pillow_threads(files: list[bytes], threads: int, pool: ThreadPoolExecutor) -> np.ndarray:
    """``pillow_decode`` on several threads (Pillow releases the GIL)."""
    if threads == 1:
        return pillow_decode(files)
    step = -(-len(files) // (4 * threads))
    return np.concatenate(list(pool.map(pillow_decode, [files[i : i + step] for i in range(0, len(files), step)])))


def seconds(function: Callable[[], Any]) -> float:
    """How long one call takes, once the threads of the call before have gone to sleep: idle OpenMP threads spin."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def set_threads(threads: int) -> None:
    """Threads of gsdata and torch alike."""
    os.environ["GSDATA_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def best_chunk(
    make: Callable[[int], Callable[[], Any]], batch: Gaussians, limit: int = 200
) -> tuple[int, dict[int, float]]:
    """The fastest chunk size in a few tries of each, and what they took."""
    took = {}
    for images in [c for c in CHUNKS if c <= min(batch.num_images, limit)]:
        function = make(images)
        took[images] = min(seconds(function) for _ in range(3))
    return min(took, key=lambda images: took[images]), took


def contenders(
    batch: Gaussians, threads: int, files: list[bytes]
) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """What is timed, by name, and the chunk sizes that were tried."""
    tensors = batch.torch()
    grad = torch.rand((batch.num_images, 3, *batch.size), generator=torch.Generator().manual_seed(SEED)) - 0.5
    pool = ThreadPoolExecutor(max(threads, 1))
    found: dict[str, Callable[[], Any]] = {
        "decode gsdata float32": lambda: gsdata.render(batch),
        "decode gsdata uint8": lambda: gsdata.render(batch, dtype=np.uint8),
        "decode pillow jpeg q90": lambda: pillow_threads(files, threads, pool),
        "gradients gsdata": lambda: gradients(gsdata.render, [tensors], [grad]),
    }
    tried: dict[str, Any] = {}

    def add(kind: str, name: str, render: Callable[[Gaussians], torch.Tensor]) -> None:
        def make(images: int) -> Callable[[], Any]:
            parts = pieces(tensors, images)
            if kind == "decode":
                return lambda: decode_dense(render, parts)
            grads = list(grad.split(images))
            return lambda: gradients(render, parts, grads)

        images, took = best_chunk(make, batch)
        tried[f"{kind} {name}"] = {"best_images": images, "seconds": took}
        found[f"{kind} {name}"] = make(images)

    for kind in ("decode", "gradients"):
        if len(set(batch.counts.tolist())) == 1 and batch.antialias == "box-normalized":
            add(kind, "torch dense, textbook", textbook)
        add(kind, "torch dense, gsdata", package_dense)
    return found, tried


def measure(batch: Gaussians, threads: int, rounds: int, files: list[bytes]) -> dict[str, Any]:
    """Time every contender in interleaved rounds."""
    set_threads(threads)
    functions, tried = contenders(batch, threads, files)
    for function in functions.values():
        function()
    runs: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            runs[name].append(seconds(function))
    medians = {name: statistics.median(values) for name, values in runs.items()}
    ratios = {
        f"{kind}: gsdata over {name.removeprefix(kind + ' ')}": medians[name] / medians[own]
        for kind, own in (("decode", "decode gsdata float32"), ("gradients", "gradients gsdata"))
        for name in medians
        if name.startswith(kind) and "gsdata" not in name.removeprefix(kind).split(",")[0]
    }
    ratios["decode: gsdata uint8 over pillow jpeg q90"] = (
        medians["decode pillow jpeg q90"] / medians["decode gsdata uint8"]
    )
    return {
        "threads": threads,
        "images_per_second": {name: batch.num_images / value for name, value in medians.items()},
        "median_seconds": medians,
        "ratios": ratios,
        "chunk_sizes_tried": tried,
        "runs_seconds": runs,
    }


def memory_of_gradients(arguments: argparse.Namespace, contender: str) -> dict[str, Any]:
    """Peak extra memory of one contender, from a process of its own."""
    command = [sys.executable, __file__, "--memory", contender, "--images", str(arguments.images)]
    command += ["--gaussians", str(arguments.gaussians), "--side", str(arguments.side)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def report_memory(arguments: argparse.Namespace) -> None:
    """What the process of ``memory_of_gradients`` runs."""
    set_threads(1)
    batch = workload(arguments.images, arguments.gaussians, arguments.side).torch()
    render = {"gsdata": gsdata.render, "textbook": textbook, "dense": package_dense}[arguments.memory]
    grad = torch.rand((batch.num_images, 3, *batch.size)) - 0.5
    gradients(render, [batch.select([0])], [grad[:1]])
    Path("/proc/self/clear_refs").write_text("5")
    before = status_bytes("VmRSS")
    gradients(render, [batch], [grad])
    print(json.dumps({"before_bytes": before, "extra_bytes": status_bytes("VmHWM") - before}))


def check_equal(batch: Gaussians) -> float:
    """The largest difference between the contenders' images: they compute the same thing."""
    images = gsdata.render(batch)
    difference = 0.0
    for part, expected in zip(pieces(batch.torch(), 16), np.split(images, range(16, len(images), 16)), strict=True):
        with torch.no_grad():
            for render in (textbook, package_dense):
                difference = max(difference, float(np.abs(render(part).numpy() - expected).max()))
    return difference


def jpeg_files(batch: Gaussians) -> list[bytes]:
    """The rendered images as JPEG, quality 90."""
    files = []
    for image in gsdata.render(batch, dtype=np.uint8).transpose(0, 2, 3, 1):
        data = io.BytesIO()
        Image.fromarray(image).save(data, "JPEG", quality=90)
        files.append(data.getvalue())
    return files


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsd", help="decode the first images of this file, not random Gaussians")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--gaussians", type=int, default=85)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", default="benchmarks/results/decode_cpu.json")
    parser.add_argument("--memory", choices=["gsdata", "textbook", "dense"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        report_memory(arguments)
        return
    if arguments.gsd:
        file = gsdata.open(arguments.gsd)
        batch = file.gaussians(np.arange(min(arguments.images, file.images)))
    else:
        batch = workload(arguments.images, arguments.gaussians, arguments.side)
    difference = None if arguments.gsd else check_equal(batch)
    files = jpeg_files(batch)
    load_before = os.getloadavg()
    result = {
        "command": " ".join(["python", "benchmarks/decode_cpu.py", *sys.argv[1:]]),
        "workload": {
            "images": batch.num_images,
            "gaussians_per_image": batch.num_gaussians / batch.num_images,
            "size": batch.size,
            "source": arguments.gsd or f"random, seed {SEED}",
            "jpeg_bytes_per_image": sum(map(len, files)) / len(files),
        },
        "seed": SEED,
        "largest_difference": difference,
        "versions": versions(),
        "hardware": hardware(),
        "load_average_before": load_before,
        "measurements": [measure(batch, threads, arguments.rounds, files) for threads in arguments.threads],
        "load_average_after": os.getloadavg(),
        "memory_of_gradients": {
            "method": "VmHWM after clear_refs less VmRSS before, own process, results included, the whole batch at once",
            **{name: memory_of_gradients(arguments, name) for name in ("gsdata", "textbook", "dense")},
        },
    }
    Path(arguments.output).write_text(json.dumps(result, indent=2) + "\n")
    for measured in result["measurements"]:
        print(f"{measured['threads']} thread(s)")
        for name, rate in measured["images_per_second"].items():
            print(f"  {name:36} {rate:10.0f} images/s")
        for name, ratio in measured["ratios"].items():
            print(f"  {name:54} {ratio:6.1f} x")
    for name, memory in result["memory_of_gradients"].items():
        if name != "method":
            print(f"extra memory of gradients, {name}: {memory['extra_bytes'] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
