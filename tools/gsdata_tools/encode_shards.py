"""``gsd-encode --shards``: images into the tars of a sharded set (docs/shards.md), a group of images in memory at a time.

Groups are encoded one after the other, each as ``gsd-encode`` would encode its images alone, but with the number of steps, the widths of the
codes, the draws, the recipe and the provenance of the whole set. Several processes each encode every so many-th shard. What was finished
is kept in ``DIR.ckpt/``: blocks of a group, then the group, until its shard is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gsdata
from gsdata import shards
from gsdata.atomic import write_atomically
from gsdata.errors import BudgetError, GsdError
from gsdata_tools import cli, ranks
from gsdata_tools.encode_run import SCHEMA, Run, compile_kernels, header_of, quality, resolved_options
from gsdata_tools.source_parts import ImageParts, Survey
from gsdata_tools.sources import ImageSet

GROUP_BYTES = 64 << 20
"""Pixels of a group, at most, unless it is one image."""


def encode_shards(arguments: argparse.Namespace, deadline: cli.Deadline) -> int:
    """Encode, write and report; returns the exit code."""
    folder, ckpt = check_folder(arguments.output, arguments.force, arguments.resume)
    ranks.join("cpu")
    compile_kernels()
    begun = time.monotonic()
    data = ImageParts(arguments.data, split=arguments.split, limit=arguments.limit, size=arguments.size)
    if arguments.shards > len(data):
        raise cli.UsageError(
            f"--shards {arguments.shards}: there are {len(data):,} images; ask for at most so many shards"
        )
    ranks.wait()  # until every process has looked at what is there, before the first one changes it
    run = _ShardedRun(arguments, data, folder, ckpt, deadline)
    with cli.Progress(run.share * run.tries, "fits", arguments.quiet) as progress:
        for number in ranks.own(range(arguments.shards)):
            run.encode_shard(number, progress)
    ranks.wait()
    if ranks.first():
        _report(arguments, run, time.monotonic() - begun)
    ranks.wait()
    return 0


def check_folder(output: Path, force: bool, resume: bool) -> tuple[Path, Path]:
    """The folder to write shards into, and that of what is not finished; what is in it is looked at when the split is known.

    Raises:
        UsageError: it cannot be written, or is left over from a stopped run.
    """
    if output.suffix == ".gsd" or not output.name or output.name == "..":
        raise cli.UsageError(f"-o {output}: with --shards this is a folder, such as shards/")
    if output.exists() and not output.is_dir():
        raise cli.UsageError(f"-o {output}: is a file; --shards needs a folder")
    if not output.parent.is_dir():
        raise cli.UsageError(f"-o {output}: there is no folder {output.parent}; make it first")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise cli.UsageError(f"-o {output}: the folder is not writable")
    ckpt = output.with_name(f"{output.name}.ckpt")
    if ckpt.exists() and not (force or resume):
        raise cli.UsageError(f"{ckpt} is left over from a stopped run: --resume continues it, --force starts again")
    return output, ckpt


class _ShardedRun:
    """A run of one process: what all share, and the shards that it encodes."""

    def __init__(
        self, arguments: argparse.Namespace, data: ImageParts, folder: Path, ckpt: Path, deadline: cli.Deadline
    ) -> None:
        self.arguments, self.data, self.folder = arguments, data, folder
        self.survey: Survey
        self.options: dict[str, Any] = {}
        self._ckpt, self._deadline = ckpt, deadline
        begun = ranks.from_first(self._begin)[1]
        self.survey = Survey(tuple(begun["shape"]), begun["digest"], tuple(begun["mean"]), tuple(begun["std"]))
        self.options = begun["options"]
        self.tries = int(self.options["tries"])
        self.checkpoint = cli.Checkpoint(ckpt, begun["identity"], resume=True)
        self.header = header_of(data, len(data), self.survey.mean, self.survey.std, self.options, self.survey.digest)
        threads = arguments.threads or (
            max(1, (os.cpu_count() or 1) // ranks.on_this_machine()) if ranks.world() > 1 else None
        )
        self.threads: int | None = threads
        self.share = sum(
            last - first for number in ranks.own(range(arguments.shards)) for first, last in self.bounds(number)
        )
        self._done = 0

    def _begin(self) -> ranks.State:
        """What the first process finds out and decides for all: it reads every image once, and clears away what is to be overwritten."""
        arguments, data = self.arguments, self.data
        old = shards.shards_named(self.folder, data.split)
        resuming = arguments.resume and self._ckpt.is_dir()
        if old and not (arguments.force or resuming):
            finished = f", and there is no {self._ckpt} to resume from" if arguments.resume else ""
            raise cli.UsageError(f"{old[0]} exists already{finished}; --force overwrites it")
        with cli.Progress(len(data), "images read", arguments.quiet) as progress:
            self.survey = data.survey(progress.update)
        self.options = resolved_options(arguments, self.survey.shape)
        identity = self.options | {"shards": arguments.shards, "split": data.split, "digest": self.survey.digest}
        checkpoint = cli.Checkpoint(self._ckpt, identity, resume=resuming)
        start = Run(self._part(0, self.bounds(0)[0][1]), self.options, checkpoint, arguments.threads, arguments.quiet)
        # What a Run would choose for its own images is chosen once for all groups.
        start.plan_steps(self._deadline, -(-len(data) // ranks.world()))
        self.folder.mkdir(exist_ok=True)
        saved = set(checkpoint.names())
        done = [number for number in range(arguments.shards) if f"{number:06d}-done" in saved]
        # A resumed run too may be about to overwrite an older set: it was killed before it came to this.
        for path in {*old} - {shards.shard_path(self.folder, data.split, number) for number in done}:
            path.unlink()
        survey = {
            "shape": self.survey.shape,
            "digest": self.survey.digest,
            "mean": self.survey.mean,
            "std": self.survey.std,
        }
        options = self.options | {"steps": start.steps, "bits": list(start.bits)}
        return {}, {**survey, "options": options, "identity": identity}

    def bounds(self, number: int) -> list[tuple[int, int]]:
        """First image, and the one after the last, of each group of a shard."""
        total, count = len(self.data), self.arguments.shards
        first, last = total * number // count, total * (number + 1) // count
        height, width, channels = self.survey.shape
        most = max(1, min(shards.GROUP_IMAGES, GROUP_BYTES // (height * width * channels)))
        groups = -(-(last - first) // most)
        ends = [first + (last - first) * group // groups for group in range(groups + 1)]
        return list(itertools.pairwise(ends))

    def encode_shard(self, number: int, progress: cli.Progress) -> None:
        """Encode and write a shard, unless that was done."""
        path, bounds, name = (
            shards.shard_path(self.folder, self.data.split, number),
            self.bounds(number),
            f"{number:06d}",
        )
        if f"{name}-done" in self.checkpoint.names() and path.exists() and self._is_good(path, bounds):
            self._done += bounds[-1][1] - bounds[0][0]
            progress.update(self._done * self.tries)
            return
        images = [last - first for first, last in bounds]
        frame = shards.shard_size(self.data.split, number, images, [0] * len(bounds), self.arguments.shards)
        extra = -(-frame // len(bounds)) + 511  # of each group: its share of the tar around it
        figures = [
            self._encode_group(f"{name}-{group:04d}", first, last, extra, progress)
            for group, (first, last) in enumerate(bounds)
        ]
        totals = {
            "psnr": sum(of_group["psnr"] for of_group in figures),
            "psnr_min": min(of_group["psnr_min"] for of_group in figures),
            "ssim": sum(of_group["ssim"] for of_group in figures),
            "gaussians": sum(of_group["gaussians"] for of_group in figures),
        }

        def groups() -> Iterator[bytes]:
            for group in range(len(bounds)):
                yield self.checkpoint.load(f"{name}-{group:04d}-group")[0]["gsd"].tobytes()

        shards.write_shard(self.folder, self.data.split, number, images, groups(), shards=self.arguments.shards)
        self.checkpoint.save(f"{name}-done", {}, totals)
        self._forget(f"{name}-", keep=f"{name}-done")

    def figures(self, number: int) -> dict[str, Any]:
        """What was measured on a finished shard: sums over its images, and the lowest PSNR."""
        return self.checkpoint.load(f"{number:06d}-done")[1]

    def _encode_group(self, name: str, first: int, last: int, extra: int, progress: cli.Progress) -> dict[str, Any]:
        """Encode a group and keep it in the checkpoint; returns what was measured on it."""
        state = f"{name}-group"
        if state not in self.checkpoint.names():
            data, before = self._part(first, last), self._done * self.tries
            run = Run(
                data,
                self.options,
                self.checkpoint,
                self.threads,
                self.arguments.quiet,
                name=f"{name}-",
                first=first,
                extra_bytes=extra,
                header=self._header(first, last),
                progress=lambda done, psnr: progress.update(before + done, psnr=psnr),
            )
            try:
                content = run.file(run.codes())
            except BudgetError:
                if not any(saved.endswith(("-group", "-done")) for saved in self.checkpoint.names()):
                    self.checkpoint.delete()  # nothing to resume: the same command can only fail again
                    with contextlib.suppress(OSError):
                        self.folder.rmdir()
                raise
            file = gsdata.open(content)
            psnr, ssim, _ = quality(file, data.images)
            figures = {
                "psnr": float(psnr.sum()),
                "psnr_min": float(psnr.min()),
                "ssim": float(ssim.sum()),
                "gaussians": file.gaussian_count,
            }
            self.checkpoint.save(state, {"gsd": np.frombuffer(content, np.uint8)}, figures)
            self._forget(f"{name}-", keep=state)
        self._done += last - first
        progress.update(self._done * self.tries)
        return self.checkpoint.load(state)[1]

    def _part(self, first: int, last: int) -> ImageSet:
        return self.data.read(first, last, self.survey)

    def _header(self, first: int, last: int) -> dict[str, Any]:
        provenance = self.header["provenance"] | {"part": {"first": first, "images": last - first}}
        return self.header | {"provenance": provenance}

    def _is_good(self, path: Path, bounds: list[tuple[int, int]]) -> bool:
        """Whether a finished shard is whole, and what this run would write."""
        try:
            found = shards.ShardSet(path)
            for file, (first, last) in zip(found.files(), bounds, strict=True):
                file.verify()
                wanted = self._header(first, last)
                own, expected = ({**p, "versions": None} for p in (file.provenance, wanted["provenance"]))
                labels = self.data.labels[first:last]
                if own != expected or file.recipe != wanted["recipe"] or not np.array_equal(file.labels, labels):
                    raise GsdError(f"{file.path}: of another run")
        except (GsdError, ValueError, OSError) as error:
            cli.note(f"{error}; {path.name} is encoded again")
            return False
        return True

    def _forget(self, prefix: str, keep: str) -> None:
        for name in self.checkpoint.names():
            if name.startswith(prefix) and name != keep:
                self.checkpoint.remove(name)


def _report(arguments: argparse.Namespace, run: _ShardedRun, seconds: float) -> None:
    """Say what was made, beside the shards and on standard output; then the checkpoint is not needed any more."""
    number, name = len(run.data), run.data.split
    sums = [run.figures(shard) for shard in range(arguments.shards)]
    size = sum(path.stat().st_size for path in shards.shards_named(run.folder, name))
    gaussians = sum(of_shard["gaussians"] for of_shard in sums)
    report = {
        "schema": SCHEMA,
        "images": number,
        "shards": arguments.shards,
        "psnr_mean": sum(of_shard["psnr"] for of_shard in sums) / number,
        "psnr_min": min(of_shard["psnr_min"] for of_shard in sums),
        "ssim_mean": sum(of_shard["ssim"] for of_shard in sums) / number,
        "bytes_total": size,
        "bits_per_gaussian": size * 8 / max(1, gaussians),
        "gaussians": gaussians,
        "steps": run.options["steps"],
        "processes": ranks.world(),
        "seconds": round(seconds, 6),
        "images_per_second": round(number / seconds, 3),
    }
    write_atomically(run.folder / f"{name}.json", (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    run.checkpoint.delete()
    if arguments.json:
        cli.write_json(report)
    elif not arguments.quiet:
        cli.note(
            f"{run.folder}: {number:,} images in {arguments.shards} shards, {size:,} bytes, {report['psnr_mean']:.2f} dB, "
            f"{report['bits_per_gaussian']:.2f} bits per Gaussian, {report['images_per_second']:.1f} images/s"
        )
