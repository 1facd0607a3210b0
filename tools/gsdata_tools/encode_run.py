"""The body of ``gsd-encode``: from parsed options to the closed file and what was measured on it."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gsdata
from gsdata import Codes, GsdFile, Recipe
from gsdata.atomic import write_atomically
from gsdata.budget import Bits, default_bits, plan
from gsdata.errors import BudgetError
from gsdata.streams import MAX_COUNT
from gsdata_tools import cli, encode_budget, fit, metrics, search
from gsdata_tools.blocks import Progress
from gsdata_tools.density import Candidates
from gsdata_tools.source_parts import ImageParts
from gsdata_tools.sources import ImageSet, load

SCHEMA = "gsd-encode/1"
_SAMPLE_STEPS = 150
_PROBE_IMAGES, _PROBE_STEPS = 8, 30
_SAFETY = 0.6  # of the time left is planned for the fit: steps grow slower as Gaussians grow, and files must be written
_BATCH_PIXELS = 1 << 22


def compile_kernels() -> None:
    """Run every kernel once on next to nothing, so that compiling them counts as no image's time."""
    images = np.zeros((1, 2, 2, 3), np.uint8)
    decoded(fit.fit_images(images, 1, steps=1, sweeps=1, threads=1).codes)


def encode(
    arguments: argparse.Namespace, output: cli.Output, deadline: cli.Deadline
) -> tuple[dict[str, Any], cli.Checkpoint]:
    """Fit, write, open again and measure. The checkpoint is for the caller to delete when its last file is written."""
    data = load(arguments.data, split=arguments.split, limit=arguments.limit, size=arguments.size)
    options = resolved_options(arguments, data.images.shape[1:3])
    checkpoint = cli.Checkpoint(output.ckpt, {**options, "digest": data.digest}, resume=output.resuming)
    run = Run(data, options, checkpoint, arguments.threads, arguments.quiet)
    run.plan_steps(deadline)
    try:
        codes = run.codes()
    except BudgetError:
        if not output.resuming:  # nothing to resume: the same command can only fail again
            checkpoint.delete()
        raise
    content = run.file(codes)
    write_atomically(output.gsd, content)
    with gsdata.open(output.gsd) as file:
        report, shown = measure(file, data.images)
    report = {"schema": SCHEMA, **report, "steps": run.steps}
    _preview(shown, data, output)
    return report, checkpoint


def measure(file: GsdFile, images: NDArray[np.uint8]) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Compare a file with the images that it was made from; returns the numbers and the decoded images (B, H, W, C)."""
    psnr, ssim, shown = quality(file, images)
    size = Path(file.path).stat().st_size
    report = {
        "images": len(images),
        "psnr_mean": float(psnr.mean()),
        "psnr_min": float(psnr.min()),
        "ssim_mean": float(ssim.mean()),
        "bytes_total": size,
        "bits_per_gaussian": size * 8 / max(1, file.gaussian_count),
        "gaussians": file.gaussian_count,
    }
    return report, shown


def quality(
    file: GsdFile, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint8]]:
    """PSNR and SSIM of each image of a file that was made from ``images``, and the decoded images (B, H, W, C)."""
    batch = max(1, _BATCH_PIXELS // images[0].size)
    shown = np.concatenate(
        [decoded(file.codes(np.arange(i, min(i + batch, len(images))))) for i in range(0, len(images), batch)]
    )
    return metrics.psnr(shown, images), metrics.ssim(shown, images), shown


def decoded(codes: Codes) -> NDArray[np.uint8]:
    """What a reader shows for codes: (B, H, W, C) uint8."""
    return np.ascontiguousarray(gsdata.render(codes.dequantize(), dtype="uint8").transpose(0, 2, 3, 1))


class Run:
    """One encoding: the images, what was asked for, and where finished work is kept.

    Args:
        data: the images.
        options: see ``resolved_options``.
        checkpoint: keeps finished blocks.
        threads: None for as many as the kernels use.
        quiet: no progress.
        name: prefix of what the checkpoint keeps.
        first: number of the first image in a larger set, for the draws.
        extra_bytes: that the images cost beside the file, charged to the budget.
        header: recipe and provenance, where they are not of these images alone.
        progress: is told how many fits of images are done, instead of a progress display of its own.
    """

    def __init__(
        self,
        data: ImageSet,
        options: dict[str, Any],
        checkpoint: cli.Checkpoint,
        threads: int | None,
        quiet: bool,
        *,
        name: str = "",
        first: int = 0,
        extra_bytes: int = 0,
        header: dict[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.data = data
        self.options = options
        self.checkpoint = checkpoint
        self.threads = threads
        self.quiet = quiet
        self.steps = int(options["steps"])
        self.tries = int(options["tries"])
        self._name, self._first, self._extra_bytes, self._progress = name, first, extra_bytes, progress
        bytes_per_image = options["bytes_per_image"]
        total = 0.0 if bytes_per_image is None else bytes_per_image * len(data.images)
        if total >= 2**63:
            raise cli.UsageError(f"--bytes-per-image {bytes_per_image:g}: more bytes than any file has; ask for fewer")
        self.budget = None if bytes_per_image is None else math.floor(total + 1e-9)
        self.bits = (
            Bits(*options["bits"])
            if options["bits"]
            else default_bits((data.images.shape[1], data.images.shape[2]), self._guess())
        )
        self._extras = header

    def plan_steps(self, deadline: cli.Deadline, number: int | None = None) -> None:
        """Steps that the time allows for ``number`` images (None: these), by a trial; what an earlier part of this run chose stays."""
        if "plan" in self.checkpoint.names():
            self.steps = int(self.checkpoint.load("plan")[1]["steps"])
            return
        if deadline.remaining() < math.inf:
            images = self.data.images
            few = images[np.linspace(0, len(images) - 1, min(_PROBE_IMAGES, len(images))).astype(np.int64)]
            start = time.monotonic()
            fit.fit_gaussians(few, self._guess(), steps=_PROBE_STEPS, threads=self.threads)
            spent = (time.monotonic() - start) / (len(few) * _PROBE_STEPS) * (number or len(images)) * self.tries
            possible = max(1, int(_SAFETY * deadline.remaining() / max(spent, 1e-9)))
            if possible < self.steps:
                cli.note(
                    f"the time limit allows {possible} of {self.steps} steps; --steps {possible} gives the same file"
                )
                self.steps = possible
        self.checkpoint.save("plan", {}, {"steps": self.steps})

    def codes(self) -> Codes:
        """The codes to store: a fixed number of Gaussians, or what the budget holds."""
        images = self.data.images
        if self.budget is None:
            counts = np.full(len(images), self.options["gaussians"], np.int64)
            candidates = self._fit([counts] * self.tries, "")
            return candidates.pick(candidates.best())[0]
        quick = min(self.steps, _SAMPLE_STEPS)

        rate_weight = self.options["rate_weight"]

        def sample_fit(chosen: NDArray[np.int64], counts: NDArray[np.int64]) -> search.FitResult:
            seed = self.options["seed"]
            return fit.fit_images(
                images[chosen], counts, steps=quick, seed=seed, bits=self.bits, rate_weight=rate_weight,
                image_keys=self._first + chosen,
                threads=self.threads,
            )  # fmt: skip

        def improve(codes: Codes) -> tuple[Codes, NDArray[np.float32]]:
            return search.improve_codes(images, codes, sweeps=2, rate_weight=rate_weight, threads=self.threads)[:2]

        return encode_budget.fit_to_budget(
            images,
            self.budget,
            self.bits,
            tries=self.tries,
            measure=lambda codes: len(self.file(codes)) + self._extra_bytes,
            measure_sample=lambda codes, chosen: len(self.file(codes, chosen)),
            sample_fit=sample_fit,
            fit=self._fit,
            improve=improve,
        )

    def file(self, codes: Codes, chosen: NDArray[np.int64] | None = None) -> bytes:
        """The bytes of the file with these codes (of the images at ``chosen``)."""
        if self._extras is None:
            self._extras = self.header()
        labels = self.data.labels if chosen is None else self.data.labels[chosen]
        classes = self.data.classes
        content: bytes = gsdata.to_bytes(codes, labels=labels if classes else None, classes=classes, **self._extras)
        return content

    def _fit(self, counts: Sequence[NDArray[np.int64]], name: str) -> Candidates:
        def fitted(progress: Progress) -> Candidates:
            return Candidates(
                self.data.images,
                counts,
                adapt=self.budget is not None,
                coding={"rate_weight": self.options["rate_weight"], "bits": self.bits},
                progress=progress,
                name=self._name + name,
                first_key=self._first,
                steps=self.steps,
                seed=self.options["seed"],
                store=self.checkpoint,
                threads=self.threads,
            )

        if self._progress is not None:
            return fitted(self._progress)
        with cli.Progress(len(self.data.images) * len(counts), "fits", self.quiet) as shown:
            return fitted(lambda done, psnr: shown.update(done, psnr=psnr))

    def _guess(self) -> int:
        """Gaussians of an image, before anything was fitted."""
        if self.budget is None:
            return int(self.options["gaussians"])
        number, height, width, channels = self.data.images.shape
        bits = Bits(*self.options["bits"]) if self.options["bits"] else None
        try:
            made = plan(self.budget, 1, images_per_class=number, size=(height, width), channels=channels, bits=bits)
        except BudgetError:
            return 1
        return made.gaussians_per_image

    def header(self) -> dict[str, Any]:
        """Recipe and provenance of these images."""
        values = self.data.images.reshape(-1, self.data.images.shape[3])
        mean = values.mean(axis=0, dtype=np.float64) / 255
        std = values.std(axis=0, dtype=np.float64) / 255
        options = self.options | {"steps": self.steps, "bits": list(self.bits)}
        return header_of(self.data, len(self.data.images), mean.tolist(), std.tolist(), options, self.data.digest)


def header_of(
    data: ImageSet | ImageParts,
    number: int,
    mean: Sequence[float],
    std: Sequence[float],
    options: dict[str, Any],
    digest: str,
) -> dict[str, Any]:
    """Recipe and provenance of a set of ``number`` images with this mean and standard deviation (0 to 1) of each channel."""
    recipe = Recipe(
        value_space="srgb-unit",
        mean=tuple(round(m, 6) for m in mean),
        std=tuple(round(s, 6) or 1.0 for s in std),
        clamp=True,  # the fit's error is that of clamped images
    )
    provenance = {
        "tool": "gsd-encode",
        "source": {"name": data.name, "split": data.split, "images": number, "sha256": digest},
        "seed": options["seed"],
        "options": {key: value for key, value in options.items() if value is not None and key != "seed"},
        # Where torch is loaded, it is for meeting other processes: nothing is computed with it.
        "versions": {name: version for name, version in cli.record_versions().items() if name != "torch"},
        "initialised_from_real": True,
    }
    return {"recipe": recipe, "provenance": provenance}


def resolved_options(arguments: argparse.Namespace, shape: Sequence[int]) -> dict[str, Any]:
    """What decides the content of a file of images of ``shape`` (H, W), resolved."""
    gaussians = arguments.gaussians
    if gaussians is None and arguments.bytes_per_image is None:
        gaussians = fit.default_count((shape[0], shape[1]))
    if gaussians is not None and gaussians > MAX_COUNT:
        raise BudgetError(f"--gaussians {gaussians}: an image holds at most {MAX_COUNT}")
    size = arguments.size
    return {
        "gaussians": gaussians,
        "bytes_per_image": arguments.bytes_per_image,
        "steps": arguments.steps,
        "tries": arguments.tries or (1 if arguments.bytes_per_image is None else 2),
        "bits": list(arguments.bits) if arguments.bits else None,
        "rate_weight": arguments.rate_weight,
        "size": list(size) if isinstance(size, tuple) else size,
        "limit": arguments.limit,
        "seed": arguments.seed,
    }


def _preview(shown: NDArray[np.uint8], data: ImageSet, output: cli.Output) -> None:
    from gsdata_tools.preview import contact_sheet

    contact_sheet(shown, data.labels, data.classes, output.png)
