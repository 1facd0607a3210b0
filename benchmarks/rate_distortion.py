"""Quality against whole-file bytes: ``.gsd`` beside bfloat16 Gaussians, JPEG, WebP and AVIF.

PSNR and SSIM of the decoded uint8 images (CIFAR-10 and Imagenette-128 test images, three Kodak photographs), and utility: the accuracy,
on real test images, of networks trained on decoded training images. Needs GSDATA_DATA. Every finished point is kept beside the output, so
the same command goes on where it was interrupted; points that other versions of gsdata's sources made are measured again. Writes
the result and a plot of it, .svg and .png. With --quick: few images and points, one seed, another output.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from environment import code_digest, hardware, versions
from gsdata.atomic import write_atomically
from gsdata_tools import metrics, sources
from gsdata_tools.fit import DEFAULT_STEPS, fit_gaussians
from gsdata_tools.source_types import ArraySource
from gsdata_tools.usage import note
from rate_codecs import BF16_BYTES, OPTIONS, QUALITIES, Coded, Images, at_bytes, bf16, gsd, pillow, show, to_bf16
from rate_distortion_plot import plot
from rate_utility import Utility, measure_utility

NOTES = {
    "bytes": "Of whole files on disk, per image. All images of a set are one .gsd file, with labels, class names, header and checksums; "
    "JPEG, WebP and AVIF are one file per image, without labels.",
    "without_container": "WebP without RIFF container, chunk headers, padding and frame header: 30 or 31 bytes of each file.",
    "bf16": "Charged are nine bfloat16 numbers per Gaussian, 18 bytes, and no header, labels or index, which favours it. Its Gaussians "
    "are the float fit that gsd-encode starts from, with the same number of steps.",
    "quality": "Means over the images, of the decoded uint8 pixels. kodim19 is turned on its side: the photographs are one .gsd file.",
    "utility": "Class-balanced training images, encoded and decoded; every set trains for the same steps with the same batches and "
    "augmentation. 'original' are the images before any codec, their bytes those of the uint8 pixels.",
    "beside_webp": "WebP's PSNR at exactly the bytes of each .gsd, linear in the logarithm of the bytes between measured points; "
    "differences are .gsd less WebP, null where WebP reaches no such size. gsd-more is gsd with the options of more_options.",
}


@dataclass(frozen=True)
class Plan:
    """What is measured on one data set.

    Attributes:
        name: the data set.
        images: how many of its test images.
        budgets: --bytes-per-image of the ``.gsd`` files.
        more: those that are also encoded with ``more_options``.
        more_options: more work of gsd-encode for ``more``: longer fits, and more of them.
        steps: --steps of the others; None is the default.
        qualities: of each codec of Pillow.
        utility: see ``Utility``; None leaves it out.
    """

    name: str
    images: int
    budgets: tuple[int, ...]
    more: tuple[int, ...] = ()
    more_options: tuple[str, ...] = ("--steps", "2400", "--tries", "4")
    steps: int | None = None
    qualities: dict[str, tuple[int, ...]] = field(default_factory=lambda: dict(QUALITIES))
    utility: Utility | None = None


@dataclass(frozen=True)
class Fixed:
    """42 Gaussians per image: default settings, and finer ones that are compared with bfloat16 numbers of the same fit."""

    images: int = 500
    gaussians: int = 42
    steps: int = 2400
    settings: tuple[tuple[str, str], ...] = (
        ("8/5/7/7", "0.02"),
        ("8/6/7/7", "0.04"),
        ("9/6/8/8", "0.006"),
        ("9/6/8/8", "0.0054"),
    )
    """--bits and --rate-weight."""
    limits: tuple[int, ...] = (40, 48)


FULL = (
    Plan(
        "cifar10",
        1000,
        (60, 85, 120, 160, 210, 300, 500),
        (120, 210),
        utility=Utility(1000, (120,), steps=150, batch=64),
    ),
    Plan(
        "imagenette-128",
        200,
        (600, 1000, 1800, 3200),
        (1000,),
        utility=Utility(200, (600,), steps=100, batch=32, shrink=2, tests=2000),
    ),
    Plan("kodak", 3, (8000, 16000, 32000, 64000)),
)
FEWER = {"jpeg": (1, 5, 10, 20, 40, 70), "webp": (0, 1, 5, 10, 20, 30, 50, 80), "avif": (5, 20, 40, 60)}
QUICK = (
    Plan(
        "cifar10",
        100,
        (120, 210),
        (120, 210),
        qualities=FEWER,
        utility=Utility(200, (120,), steps=40, batch=64, seeds=1, tests=1000),
    ),
    Plan("imagenette-128", 10, (600, 1800), qualities=FEWER),
    Plan("kodak", 1, (8000, 32000), steps=200, qualities=FEWER),
)
QUICK_FIXED = Fixed(images=50, steps=1200, settings=(("8/6/7/7", "0.04"), ("9/6/8/8", "0.006")))


class Results:
    """Finished points, kept in a file beside the output until all are there.

    Args:
        output: where the whole result will be, and an earlier one may be.
        code: digest of the sources; points of another one are not taken over.
    """

    def __init__(self, output: Path, code: str) -> None:
        self.output, self.code = output, code
        self.partial = output.with_suffix(".partial.json")
        self.points: dict[str, dict[str, Any]] = {}
        self._start = time.monotonic()
        self._known: dict[str, dict[str, Any]] = {}
        for path in (output, self.partial):
            if path.exists():
                held = json.loads(path.read_text())
                if held["code"] == code:
                    self._known |= held["points"]
                else:
                    note(f"{path}: made by other sources of gsdata; everything is measured again")

    def point(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``measure`` returns, or returned for this key before."""
        if key not in self._known:
            self._known[key] = measure()
            self._write(self.partial, {"code": self.code, "points": self._known})
            note(f"{time.monotonic() - self._start:6.0f} s  {key}  {_short(self._known[key])}")
        self.points[key] = self._known[key]
        return self.points[key]

    def finish(self, rest: dict[str, Any]) -> None:
        """Write the whole result: the points that this run asked for, and ``rest``."""
        self._write(self.output, {**rest, "code": self.code, "points": self.points})
        self.partial.unlink(missing_ok=True)

    @staticmethod
    def _write(path: Path, content: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


@dataclass(frozen=True, eq=False)
class Data:
    """Images to measure on, and the options by which ``gsd-encode`` finds the same ones."""

    images: Images
    options: tuple[str, ...]
    digest: str


def load(plan: Plan, folder: Path) -> Data:
    """The test images of a plan; what is no data set of its own is written into ``folder``."""
    if plan.name == "kodak":
        source, _ = sources.find("kodak", None)
        assert not isinstance(source, ArraySource)
        photographs = []
        for _, coded in source.read(np.arange(plan.images)):
            with Image.open(io.BytesIO(coded)) as opened:
                pixels = np.asarray(opened.convert("RGB"))
            photographs.append(np.rot90(pixels) if pixels.shape[0] > pixels.shape[1] else pixels)
        images = np.stack(photographs)
        np.savez(folder / "kodak.npz", x=images)
        digest = sources.digest_of(images, np.full(len(images), -1))
        return Data(images, ("--data", str(folder / "kodak.npz")), digest)
    data = sources.load(plan.name, split="test", limit=plan.images)
    options = ("--data", plan.name, "--split", "test", "--limit", str(plan.images))
    return Data(data.images, options, data.digest)


def measure_distortion(plan: Plan, data: Data, results: Results) -> list[dict[str, Any]]:
    """PSNR and SSIM of every codec on one data set."""
    found = []

    def add(codec: str, setting: int, key: str, make: Callable[[], Coded]) -> None:
        def measure() -> dict[str, Any]:
            coded = make()
            return {
                "data": plan.name,
                "codec": codec,
                "setting": setting,
                "bytes_per_image": coded.bytes_per_image,
                "psnr_mean": float(metrics.psnr(coded.shown, data.images).mean()),
                "ssim_mean": float(metrics.ssim(coded.shown, data.images).mean()),
                **coded.details,
            }

        found.append(results.point(f"{plan.name}-{plan.images}/{codec}/{setting}{key}", measure))

    for codec, qualities in plan.qualities.items():
        for quality in qualities:
            add(codec, quality, "", partial(pillow, codec, data.images, quality))
    steps = plan.steps or DEFAULT_STEPS
    for budget in plan.budgets:
        options = ["--bytes-per-image", str(budget), *(["--steps", str(plan.steps)] if plan.steps else [])]
        add("gsd", budget, f"/{steps}-steps", partial(gsd, data.options, options))
        count = max(1, round(budget / BF16_BYTES))
        add("bf16", count, f"/{steps}-steps", partial(bf16, data.images, count, steps))
    for budget in plan.more:
        options = ["--bytes-per-image", str(budget), *plan.more_options]
        add("gsd-more", budget, "/" + " ".join(plan.more_options), partial(gsd, data.options, options))
    return found


def beside_webp(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each ``.gsd`` the PSNR of WebP at the same bytes, with and without its container, and the differences in dB."""
    rows = []
    for point in points:
        if not point["codec"].startswith("gsd"):
            continue
        row = {
            key: point[key] for key in ("data", "codec", "setting", "bytes_per_image", "psnr_mean", "images_per_second")
        }
        for name, weight in (("webp", "bytes_per_image"), ("webp_without_container", "without_container")):
            curve = [(p[weight], p["psnr_mean"]) for p in points if p["data"] == point["data"] and p["codec"] == "webp"]
            psnr = at_bytes(curve, point["bytes_per_image"])
            row[name] = psnr
            row[f"above_{name}"] = None if psnr is None else point["psnr_mean"] - psnr
        rows.append(row)
    return rows


def measure_fixed(fixed: Fixed, results: Results) -> dict[str, Any]:
    """The default settings, and how near finer bits come to bfloat16 numbers of the same fit."""
    data = load(Plan("cifar10", fixed.images, ()), Path())
    name = f"cifar10-{fixed.images}/{fixed.gaussians}-gaussians"

    def encode(*options: str) -> dict[str, Any]:
        coded = gsd(data.options, ("--gaussians", str(fixed.gaussians), *options))
        return {"psnr_mean": float(metrics.psnr(coded.shown, data.images).mean()), **coded.details}

    def floats() -> dict[str, Any]:
        fitted = fit_gaussians(data.images, fixed.gaussians, steps=fixed.steps)
        return {
            "psnr_mean": float(metrics.psnr(show(to_bf16(fitted)), data.images).mean()),
            "psnr_mean_float32": float(metrics.psnr(show(fitted), data.images).mean()),
            "bits_per_gaussian": 8 * BF16_BYTES,
            "steps": fixed.steps,
        }

    default = results.point(f"{name}/default", encode)
    reference = results.point(f"{name}/bf16/{fixed.steps}-steps", floats)
    runs = [
        results.point(
            f"{name}/{bits}/{weight}/{fixed.steps}-steps",
            partial(encode, "--bits", bits, "--rate-weight", weight, "--steps", str(fixed.steps)),
        )
        for bits, weight in fixed.settings
    ]
    best = {}
    for limit in fixed.limits:
        allowed = [run for run in runs if run["bits_per_gaussian"] <= limit]
        run = max(allowed, key=lambda run: run["psnr_mean"], default=None)
        best[f"at_most_{limit}_bits"] = run and {**run, "above_bf16": run["psnr_mean"] - reference["psnr_mean"]}
    return {"images": fixed.images, "digest": data.digest, "default": default, "bf16": reference, **best}


def _short(point: dict[str, Any]) -> str:
    names = {"bytes_per_image": "bytes", "bits_per_gaussian": "bits", "psnr_mean": "dB", "accuracy": "%"}
    return "  ".join(f"{point[key]:.2f} {unit}" for key, unit in names.items() if key in point)


def main() -> None:
    """Measure, write the results, plot them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="minutes instead of most of an hour; no result to quote")
    parser.add_argument(
        "--output", type=Path, help="default: benchmarks/results/rate_distortion.json, with --quick ..._quick.json"
    )
    arguments = parser.parse_args()
    output = arguments.output or Path(f"benchmarks/results/rate_distortion{'_quick' if arguments.quick else ''}.json")
    plans, fixed = (QUICK, QUICK_FIXED) if arguments.quick else (FULL, Fixed())
    results = Results(output, code_digest())
    start, load_before = time.monotonic(), os.getloadavg()
    points: list[dict[str, Any]] = []
    utility: list[dict[str, Any]] = []
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        for plan in plans:
            data = load(plan, Path(folder))
            digests[plan.name] = {"images": len(data.images), "size": data.images.shape[1:3], "digest": data.digest}
            points += measure_distortion(plan, data, results)
        targets = measure_fixed(fixed, results)
        for plan in plans:
            if plan.utility:
                own = [point for point in points if point["data"] == plan.name]
                utility += measure_utility(plan.name, plan.utility, own, results.point, Path(folder))
    results.finish(
        {
            "command": "python benchmarks/rate_distortion.py" + (" --quick" if arguments.quick else ""),
            "quick": arguments.quick,
            "notes": NOTES,
            "test_images": digests,
            "pillow_options": OPTIONS,
            "beside_webp": beside_webp(points),
            "fixed_gaussians": targets,
            "utility": utility,
            "seconds_of_the_last_part": round(time.monotonic() - start, 1),
            "load_average_before": load_before,
            "load_average_after": os.getloadavg(),
            "versions": versions(),
            "hardware": hardware(),
        }
    )
    plot(output)


if __name__ == "__main__":
    main()
