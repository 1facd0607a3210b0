"""Decoding and gradients on a GPU, beside plain torch and whatever peer is installed, all in one run.

Workloads (images x Gaussians, size):
A 800 x 85, 32; B1 64 x 170, 128; B2 64 x 680, 128; C1 256 x 16, 32; C2 256 x 34, 32; D 1000 x 170, 128.

* gsdata: ``kernels.cuda.render`` to float32, bfloat16 and uint8, from floats and from stored codes, and its gradients.
  Device time: a CUDA graph of several calls, each on another set of inputs, between two events, divided by the calls;
  the median of many replays. Call time: the same calls from Python, without a graph.
* torch dense: the package's own ``dense`` backend on the same device, images cut into pieces of the best of several
  sizes, between two events.
* gsplat, if it can be imported and has GaussianImage's 2D functions: projection and rasterisation, image after image.

Floors are computed, not measured: pairs of a pixel and a Gaussian that are left after 8 x 4 tiles without any weight
are dropped; one exponential each forward and one backward at 16 per clock and multiprocessor, 20 other float32
operations each backward at 128; and the bytes that must move at the bandwidth of a large copy measured here.

Without a GPU nothing is measured: ``--dry-run`` runs everything on a CPU, tiny (needs g++), and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gsdata.gaussians import Gaussians
from gsdata.kernels import cuda, cuda_launch, dense
from gsdata.kernels.arguments import Q_MAX
from gsdata.kernels.cuda import Output
from gsdata.kernels.device_codes import DeviceCodes
from gsdata.quantize import fit_quantizers, quantize

SEED = 0
WORKLOADS = {
    "A": (800, 85, 32),
    "B1": (64, 170, 128),
    "B2": (64, 680, 128),
    "C1": (256, 16, 32),
    "C2": (256, 34, 32),
    "D": (1000, 170, 128),
}
TARGETS_US = {("A", "forward float32"): 35, ("A", "forward + backward"): 100, ("D", "forward + backward"): 1000}
PIECES = (1, 4, 16, 64, 256)
"""Candidate piece sizes of the dense form, in images."""
VALUES = ("means", "cholesky", "colors")


def workload(images: int, count: int, side: int, draw: int) -> Gaussians:
    """Random Gaussians as wide as an encoder leaves them (a median of 1.5 px at 32 x 32, as benchmarks/decode_cpu.py)."""
    rng = np.random.default_rng(np.random.SeedSequence([SEED, images, count, side, draw]))
    total, unit = images * count, 1.5 * np.sqrt(85 / count) * side / 32
    scale = np.exp(rng.normal(np.log(unit), 0.5, (total, 2)))
    return Gaussians(
        rng.uniform(-1, 1, (total, 2)).astype(np.float32),
        np.stack([scale[:, 0], rng.normal(0.0, 0.6 * unit, total), scale[:, 1]], 1).astype(np.float32),
        rng.normal(0, 0.3, (total, 3)).astype(np.float32),
        np.full(images, count),
        (side, side),
        background=(0.5, 0.5, 0.5),
    )


class Gpu:
    """Times on the device, with events."""

    def __init__(self, rounds: int) -> None:
        self.device, self.rounds = torch.device("cuda", torch.cuda.current_device()), rounds

    def between_events(self, function: Callable[[], Any], rounds: int) -> list[float]:
        """Microseconds of each of ``rounds`` calls."""
        found = []
        for _ in range(rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            end.synchronize()
            found.append(1000.0 * start.elapsed_time(end))
        return found

    def in_a_graph(self, calls: list[Callable[[], Any]]) -> list[float]:
        """Microseconds per call, from a graph of all of them."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for call in calls:
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [call() for call in calls]
        for _ in range(5):
            graph.replay()
        found = self.between_events(graph.replay, self.rounds)
        del kept
        return [value / len(calls) for value in found]

    def from_python(self, calls: list[Callable[[], Any]]) -> list[float]:
        """Microseconds per call, launched one by one."""

        def every() -> None:
            for call in calls:
                call()

        every()
        return [value / len(calls) for value in self.between_events(every, self.rounds)]

    def hardware(self) -> dict[str, Any]:
        """The device, and the bandwidth of a large copy."""
        found = torch.cuda.get_device_properties(self.device)
        source = torch.empty(1 << 28, dtype=torch.float32, device=self.device)
        target = torch.empty_like(source)
        target.copy_(source)
        took = statistics.median(self.between_events(lambda: target.copy_(source), 20))
        clock_khz = getattr(found, "clock_rate", None)
        if clock_khz is None:
            import cupy

            clock_khz = cupy.cuda.Device(self.device.index).attributes["ClockRate"]
        return {
            "gpu": found.name,
            "multiprocessors": found.multi_processor_count,
            "clock_mhz": clock_khz / 1000,
            "copy_bytes_per_us": 2 * source.nbytes / took,
            "cuda": torch.version.cuda,
        }


class DryRun:
    """The same questions, answered on a CPU in no time that means anything."""

    device = torch.device("cpu")

    def in_a_graph(self, calls: list[Callable[[], Any]]) -> list[float]:
        """Wall-clock microseconds of one call of each."""
        found = []
        for call in calls:
            start = time.perf_counter()
            call()
            found.append(1e6 * (time.perf_counter() - start))
        return found

    from_python = in_a_graph

    def between_events(self, function: Callable[[], Any], rounds: int) -> list[float]:
        """Wall-clock microseconds of one call."""
        return self.in_a_graph([function])

    def hardware(self) -> dict[str, Any]:
        """Numbers to divide by."""
        return {"gpu": "none", "multiprocessors": 1, "clock_mhz": 1000.0, "copy_bytes_per_us": 1000.0}


def pairs_left(batch: Gaussians, images: int = 16) -> float:
    """Pairs of a pixel and a Gaussian in 8 x 4 tiles that have any weight, from the first images, for all of them."""
    height, width = batch.size
    some = batch.select(np.arange(min(images, batch.num_images)))
    a, b, c = some.cholesky.astype(np.float64).T
    sxx, sxy, syy = a * a + 1 / 12, a * b, b * b + c * c + 1 / 12
    det = sxx * syy - sxy * sxy
    mean = (some.means.astype(np.float64) + 1) / 2
    dx = np.arange(width) + 0.5 - mean[:, :1] * width
    dy = np.arange(height) + 0.5 - mean[:, 1:] * height
    touched = 0
    for row in range(len(a)):
        x, y = dx[row][None, :], dy[row][:, None]
        inside = (syy[row] * x * x - 2 * sxy[row] * x * y + sxx[row] * y * y) / det[row] < Q_MAX
        tall, wide = -(-height // 4) * 4, -(-width // 8) * 8
        padded = np.zeros((tall, wide), bool)
        padded[:height, :width] = inside
        touched += 32 * int(padded.reshape(tall // 4, 4, wide // 8, 8).any((1, 3)).sum())
    return touched * batch.num_images / some.num_images


def floors(batch: Gaussians, hardware: dict[str, Any]) -> dict[str, float]:
    """Microseconds that no implementation of this sum can beat on this device; the docstring above says why."""
    pairs = pairs_left(batch)
    clocks_per_us = hardware["multiprocessors"] * hardware["clock_mhz"]
    values = 4 * (2 + 3 + batch.channels) * batch.num_gaussians
    image = batch.num_images * batch.channels * batch.size[0] * batch.size[1]
    bandwidth = hardware["copy_bytes_per_us"]
    exponentials = pairs / 16 / clocks_per_us
    backward = max(exponentials, pairs * 20 / 128 / clocks_per_us, (2 * values + 4 * image) / bandwidth)
    found = {
        f"forward {name}": max(exponentials, (values + size * image) / bandwidth)
        for name, size in (("float32", 4), ("bfloat16", 2), ("uint8", 1))
    }
    return found | {"forward + backward": found["forward float32"] + backward, "pairs_left": pairs}


def leaves(batch: Gaussians) -> Gaussians:
    """The batch with values that have gradients."""
    return replace(batch, **{name: getattr(batch, name).detach().requires_grad_() for name in VALUES})


def both_ways(render: Callable[[Gaussians], torch.Tensor], batch: Gaussians, grad: torch.Tensor) -> Any:
    """Forward and backward."""
    return torch.autograd.grad(render(batch), [getattr(batch, name) for name in VALUES], grad)


def measure_own(clock: Any, batches: list[Gaussians], codes: list[DeviceCodes], grads: list[torch.Tensor]) -> Any:
    """Device time and call time of every variant of gsdata's kernels, with every run."""
    variants: dict[str, list[Callable[[], Any]]] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.uint8):
        output = Output(dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        variants[f"forward {name}"] = [lambda b=b, o=output: cuda.render(b, None, None, o) for b in batches]
        variants[f"from codes {name}"] = [lambda c=c, o=output: c.render(None, None, o) for c in codes]
    trained = [leaves(batch) for batch in batches]
    variants["forward + backward"] = [
        lambda b=b, g=g: both_ways(cuda.render, b, g) for b, g in zip(trained, grads, strict=True)
    ]
    return {
        name: {"device_us": clock.in_a_graph(calls), "call_us": clock.from_python(calls)}
        for name, calls in variants.items()
    }


def measure_pieces(
    clock: Any, render: Callable[[Gaussians], Any], batch: Gaussians, grad: torch.Tensor, rounds: int
) -> dict[str, Any]:
    """The best piece size of the dense form, and every run with it; None where no size fits the memory."""
    tried: dict[str, dict[int, float]] = {"forward float32": {}, "forward + backward": {}}
    runs: dict[str, Any] = {}
    for name, took in tried.items():

        def step(pieces: list[tuple[Gaussians, torch.Tensor]], kind: str = name) -> None:
            for part, part_grad in pieces:
                if kind == "forward float32":
                    with torch.no_grad():
                        render(part)
                else:
                    both_ways(render, part, part_grad)

        best: tuple[float, Callable[[], None]] | None = None
        for size in [size for size in PIECES if size <= batch.num_images]:
            cuts = [np.arange(i, min(i + size, batch.num_images)) for i in range(0, batch.num_images, size)]
            pieces = [(leaves(batch.select(cut)), grad[cut[0] : cut[-1] + 1]) for cut in cuts]
            try:
                step(pieces)
                took[size] = min(clock.between_events(lambda p=pieces: step(p), 2))
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                continue
            if best is None or took[size] < best[0]:
                best = took[size], lambda p=pieces: step(p)
        runs[name] = None if best is None else clock.between_events(best[1], rounds)
    return {"device_us": runs, "piece_sizes_tried": tried}


def gsplat_render(batch: Gaussians) -> torch.Tensor:
    """GaussianImage's sum over 2D Gaussians, image after image (its pixels have no filter of their own).

    Raises:
        ImportError: no gsplat here, or one without these functions.
    """
    from gsplat.project_gaussians_2d import project_gaussians_2d
    from gsplat.rasterize_sum import rasterize_gaussians_sum

    height, width = batch.size
    blocks = (-(-width // 16), -(-height // 16), 1)
    background = torch.tensor(batch.background, device=batch.means.device)
    images = []
    for first, last in zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True):
        means, cholesky = batch.means[first:last], batch.cholesky[first:last]
        projected = project_gaussians_2d(means, cholesky, height, width, blocks)
        opacity = means.new_ones((last - first, 1))
        colors = batch.colors[first:last]
        images.append(
            rasterize_gaussians_sum(*projected, colors, opacity, height, width, 16, 16, background=background)
        )
    return torch.stack(images).permute(0, 3, 1, 2)


def measure(clock: Any, name: str, shape: tuple[int, int, int], sets: int, hardware: dict[str, Any]) -> dict[str, Any]:
    """Everything about one workload."""
    host = [workload(*shape, draw) for draw in range(sets)]
    batches = [batch.torch(clock.device) for batch in host]
    grads = [torch.randn((batch.num_images, 3, *batch.size), device=clock.device) for batch in batches]
    codes = [DeviceCodes.from_codes(quantize(batch, fit_quantizers(batch)), clock.device) for batch in host]
    few = replace(batches[0].select([0, 1]))
    with torch.no_grad():
        difference = float((cuda.render(few) - dense.render(few)).abs().max())
    bound = floors(host[0], hardware)
    own = measure_own(clock, batches, codes, grads)
    medians = {kind: statistics.median(runs["device_us"]) for kind, runs in own.items()}
    contenders: dict[str, Any] = {"torch dense": measure_pieces(clock, dense.render, batches[0], grads[0], 5)}
    try:
        with torch.no_grad():
            gsplat_render(few)
        contenders["gsplat"] = measure_pieces(clock, gsplat_render, batches[0], grads[0], 5)
    except Exception as error:  # whatever keeps a peer from running is recorded, and ends nothing
        contenders["gsplat"] = {"not measured": f"{type(error).__name__}: {error}"}
    ratios = {
        f"{kind}: {peer} over gsdata": statistics.median(runs) / medians[kind]
        for peer, found in contenders.items()
        for kind, runs in found.get("device_us", {}).items()
        if runs is not None
    }
    ratios |= {
        f"{kind}: from codes over from floats": medians[f"from codes {kind}"] / medians[f"forward {kind}"]
        for kind in ("float32", "bfloat16", "uint8")
    }
    return {
        "workload": {"images": shape[0], "gaussians": shape[1], "side": shape[2], "input_sets": sets},
        "largest_difference_to_dense": difference,
        "bytes_on_device": {"codes": codes[0].nbytes, "floats": 4 * 8 * host[0].num_gaussians},
        "floor_us": bound,
        "median_device_us": medians,
        "median_call_us": {kind: statistics.median(runs["call_us"]) for kind, runs in own.items()},
        "fraction_of_floor": {kind: bound[kind] / medians[kind] for kind in medians if kind in bound},
        "targets_us": {kind: us for (of, kind), us in TARGETS_US.items() if of == name},
        "ratios": ratios,
        "runs_us": own,
        "contenders": contenders,
    }


def report(name: str, found: dict[str, Any]) -> None:
    """One workload for people."""
    print(f"{name}: {found['workload']}")
    for kind, median in found["median_device_us"].items():
        floor = found["floor_us"].get(kind)
        beside = "" if floor is None else f"   floor {floor:8.1f} us ({100 * floor / median:.0f} % of it reached)"
        target = found["targets_us"].get(kind)
        print(f"  {kind:22} {median:10.1f} us{beside}" + (f"   target {target} us" if target else ""))
    for kind, ratio in found["ratios"].items():
        print(f"  {kind:52} {ratio:8.2f} x")


def main() -> int:
    """Measure, print and write the results; 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=50, help="replays of each graph")
    parser.add_argument("--sets", type=int, default=8, help="sets of inputs that the calls of a graph take in turn")
    parser.add_argument("--output", default="benchmarks/results/decode_gpu.json")
    parser.add_argument("--dry-run", action="store_true", help="everything, tiny, on the CPU; writes nothing")
    arguments = parser.parse_args()
    clock: Any
    if arguments.dry_run:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        import shim

        cuda_launch.LAUNCHERS["cpu"] = shim.ShimLauncher()
        clock = DryRun()
        shapes = {name: (2, WORKLOADS[name][1] // 8, WORKLOADS[name][2] // 4) for name in arguments.workloads}
        arguments.sets = 2
    elif not torch.cuda.is_available():
        print("no CUDA device: nothing to measure (--dry-run tries this script without one)", file=sys.stderr)
        return 2
    elif why := cuda_launch.problem():
        print(why, file=sys.stderr)
        return 2
    else:
        clock = Gpu(arguments.rounds)
        shapes = {name: WORKLOADS[name] for name in arguments.workloads}
    from environment import hardware, versions

    found_hardware = clock.hardware()
    result: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/decode_gpu.py", *sys.argv[1:]]),
        "seed": SEED,
        "versions": versions(),
        "hardware": hardware() | found_hardware,
        "workloads": {},
    }
    for name, shape in shapes.items():
        result["workloads"][name] = measure(clock, name, shape, arguments.sets, found_hardware)
        report(name, result["workloads"][name])
    text = json.dumps(result, indent=1)
    if arguments.dry_run:
        print("dry run on a CPU: none of these numbers means anything", file=sys.stderr)
    else:
        Path(arguments.output).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
