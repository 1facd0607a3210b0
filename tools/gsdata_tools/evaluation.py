"""The runs behind ``gsd-eval``: networks trained on a file and on baselines of its weight, all tested on the same images.

Each finished run is a state in the checkpoint, so that an interrupted evaluation loses at most the run it was in. What a baseline
is stored with (quality, Gaussians per image) is chosen by short trainings that are tested on held-out *training* images; the
test images decide nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gsdata
from gsdata_tools import baselines, cli
from gsdata_tools.baselines import Pool
from gsdata_tools.sources import ImageSet
from gsdata_tools.train import Normalization, Protocol, TrainingSet, accuracy, seconds_per_step, train
from gsdata_tools.usage import UsageError

SCHEMA = "gsd-eval/1"
SEARCH_STEPS = (30, 200)
"""The trainings that choose a baseline's setting make a third of the steps of the file's, but within these bounds."""


class _TimeUp(Exception):  # noqa: N818 (it is no error: what is finished is reported)
    pass


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        protocol: how networks are trained.
        model: which networks.
        seeds: one run each.
        baselines: names, as in ``baselines.NAMES``.
        normalization: the same for every set and for the test images.
        device: ``cpu`` or ``cuda``.
    """

    protocol: Protocol
    model: str
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    normalization: Normalization
    device: str


def training_set(file: gsdata.GsdFile) -> TrainingSet:
    """All images of a file at its reference size, with soft labels where it has them."""
    rendered = torch.from_numpy(np.asarray(gsdata.render(file.gaussians())))
    soft = file.soft_labels
    return TrainingSet(rendered, torch.from_numpy(file.labels if soft is None else soft))


def normalization_of(file: gsdata.GsdFile) -> Normalization:
    """What the file's recipe says, else the statistics of the file's own images."""
    recipe = file.recipe
    if recipe.mean is not None and recipe.std is not None and len(recipe.mean) == file.channels:
        return Normalization(recipe.mean, recipe.std)
    images = np.asarray(gsdata.render(file.gaussians(), dtype="uint8"))
    return Normalization.of(images.transpose(0, 2, 3, 1))


class Evaluation:
    """All runs of one ``gsd-eval``.

    Args:
        file: the file under test, with labels.
        test: images that every network is tested on.
        pool: real training images for baselines; None without baselines.
        plan: see ``Plan``.
        checkpoint: keeps finished runs; those that it holds are not repeated.
        deadline: no run goes on after it.
        quiet: no progress.
    """

    def __init__(
        self,
        file: gsdata.GsdFile,
        bytes_total: int,
        test: ImageSet,
        pool: Pool | None,
        plan: Plan,
        checkpoint: cli.Checkpoint,
        deadline: cli.Deadline,
        quiet: bool = False,
    ) -> None:
        self.file, self.bytes_total, self.test, self.pool, self.plan = file, bytes_total, test, pool, plan
        self.checkpoint, self.deadline, self.quiet = checkpoint, deadline, quiet
        self.finished: dict[str, dict[str, Any]] = {
            name: checkpoint.load(name)[1] for name in (checkpoint.names() if checkpoint.resuming else [])
        }
        self.steps = plan.protocol.total_steps(len(file))
        self.search_steps = min(self.steps, max(SEARCH_STEPS[0], min(SEARCH_STEPS[1], self.steps // 3)))
        self.complete = False
        self._done = 0
        self._progress: cli.Progress | None = None
        threads = {int(state["threads"]) for state in self.finished.values()}
        if threads:  # results depend on the thread count, so a resumed evaluation keeps the one it began with
            torch.set_num_threads(min(threads))

    def settings(self, name: str) -> tuple[int, ...]:
        """What a baseline is searched over."""
        return baselines.settings_of(name, self.file.size)

    def total_steps(self) -> int:
        """Training steps of all runs."""
        searches = sum(len(self.settings(name)) for name in self.plan.baselines)
        return self.steps * len(self.plan.seeds) * (1 + len(self.plan.baselines)) + self.search_steps * searches

    def cost(self) -> str:
        """What the evaluation will take, measured on a few steps of training."""
        shape = (self.file.channels, *self.file.size)
        each = seconds_per_step(self.plan.protocol, self.plan.model, shape, self.file.class_count, self.plan.device)
        runs = len(self.plan.seeds) * (1 + len(self.plan.baselines))
        return (
            f"protocol {self.plan.protocol.name}: {runs} trainings of {self.steps:,} steps and searches, "
            f"{self.total_steps():,} steps in all; at {1000 * each:.0f} ms a step about "
            f"{cli.clock(each * self.total_steps())} (h:mm:ss or m:ss)"
        )

    def run(self) -> dict[str, Any]:
        """Make all runs that are not finished yet, as far as time allows, and report.

        Raises:
            UsageError: the time did not suffice for a single run.
        """
        with cli.Progress(self.total_steps(), "gsd-eval", self.quiet) as progress:
            self._progress = progress
            try:
                self._all_runs()
                self.complete = True
            except _TimeUp:
                pass
        if not self._accuracies("file"):
            raise UsageError(
                "--time-limit was too short: not one training finished; --resume continues with a longer one"
            )
        return self.report()

    def _all_runs(self) -> None:
        data = training_set(self.file)
        for seed in self.plan.seeds:
            self._one(f"file-{seed}", lambda: (data, self.bytes_total), seed)
        for name in self.plan.baselines:
            for setting in self.settings(name):
                self._search(name, setting)
            best = self._best(name)
            for seed in self.plan.seeds if best is not None else ():
                self._one(f"{name}-{seed}", self._drawing(name, int(best or 0), seed, "final"), seed)

    def _drawing(self, name: str, setting: int, seed: int, purpose: str) -> Callable[[], tuple[TrainingSet, int]]:
        def make() -> tuple[TrainingSet, int]:
            assert self.pool is not None
            drawn = baselines.draw(name, setting, self.pool, self.bytes_total, seed, purpose)
            return drawn.data, drawn.bytes_total

        return make

    def _search(self, name: str, setting: int) -> None:
        assert self.pool is not None
        chosen = self.pool.validation
        seed = self.plan.seeds[0]
        try:
            self._one(
                f"search-{name}-{setting}",
                self._drawing(name, setting, seed, "search"),
                seed,
                self.search_steps,
                (self.pool.images[chosen], self.pool.labels[chosen]),
            )
        except UsageError as error:  # not one image fits at this setting
            cli.note(str(error))

    def _best(self, name: str) -> int | None:
        found = self._searched(name)
        return max(found, key=lambda entry: entry["validation_accuracy"])["setting"] if found else None

    def _one(
        self,
        key: str,
        make: Callable[[], tuple[TrainingSet, int]],
        seed: int,
        steps: int | None = None,
        tested: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None,
    ) -> None:
        """One training and its test, unless the checkpoint has it."""
        steps = self.steps if steps is None else steps
        if key not in self.finished:
            self._tick(0, run=f"preparing {key}")
            data, weight = make()
            network = train(
                data,
                self.plan.protocol,
                self.plan.normalization,
                model=self.plan.model,
                classes=self.file.class_count,
                seed=seed,
                steps=steps,
                device=self.plan.device,
                progress=lambda done, loss: self._tick(done, run=key, loss=round(loss, 3)),
            )
            images, labels = tested or (self.test.images, self.test.labels)
            result = accuracy(network, images, labels, self.plan.normalization, device=self.plan.device)
            state = {
                "accuracy": result,
                "images": len(data),
                "bytes_total": weight,
                "threads": torch.get_num_threads(),
            }
            self.checkpoint.save(key, {}, state)
            self.finished[key] = state
        self._done += steps

    def _tick(self, done: int, **numbers: object) -> None:
        if self.deadline.expired():
            raise _TimeUp
        if self._progress is not None:
            self._progress.update(self._done + done, **numbers)

    def _accuracies(self, prefix: str) -> list[dict[str, Any]]:
        return [self.finished[f"{prefix}-{s}"] for s in self.plan.seeds if f"{prefix}-{s}" in self.finished]

    def _searched(self, name: str) -> list[dict[str, Any]]:
        entries = []
        for setting in self.settings(name):
            state = self.finished.get(f"search-{name}-{setting}")
            if state is not None:
                entries.append(
                    {
                        "setting": setting,
                        "images": state["images"],
                        "validation_accuracy": state["accuracy"],
                        "bytes": state["bytes_total"],
                    }
                )
        return entries

    def report(self) -> dict[str, Any]:
        """The finished runs, as the JSON object that ``gsd-eval`` prints."""
        protocol = self.plan.protocol
        return {
            "schema": SCHEMA,
            "file": str(self.file.path),
            "sha256": self.file.sha256,
            "bytes_total": self.bytes_total,
            "images": len(self.file),
            "model": self.plan.model,
            "protocol": asdict(protocol),
            "steps": self.steps,
            "batch_size": protocol.batch_size,
            "epochs": round(self.steps * protocol.batch_size / len(self.file), 2),
            "seeds": len(self.plan.seeds),
            "seed": self.plan.seeds[0],
            "normalization": asdict(self.plan.normalization),
            "test": {
                "data": self.test.name,
                "split": self.test.split,
                "images": len(self.test.labels),
                "digest": self.test.digest,
            },
            "accuracy": summary([state["accuracy"] for state in self._accuracies("file")]),
            "baselines": {name: self._baseline(name) for name in self.plan.baselines},
            "complete": self.complete,
            "device": self.plan.device,
            "threads": torch.get_num_threads(),
            "versions": cli.record_versions(),
            "note": "Accuracies are per cent of the test images; std is the sample standard deviation over seeds (n - 1). "
            f"A baseline's setting is chosen by trainings of {self.search_steps} steps, one seed, tested on "
            f"{0 if self.pool is None else len(self.pool.validation)} held-out training images; every final run draws "
            "new training images.",
        }

    def _baseline(self, name: str) -> dict[str, Any]:
        runs, found, label = self._accuracies(name), self._searched(name), baselines.setting_name(name)
        searched = [{label: entry.pop("setting"), **entry} for entry in self._searched(name)]
        return {
            "bytes_total": max((run["bytes_total"] for run in runs), default=0),
            "images": round(statistics.fmean(run["images"] for run in runs)) if runs else 0,
            "accuracy": summary([run["accuracy"] for run in runs]),
            label: self._best(name) if found else None,
            "per_run": {key: [run[key] for run in runs] for key in ("bytes_total", "images")},
            "searched": searched,
            "note": baselines.NOTES[name],
        }


def summary(runs: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for fewer than two runs) and the runs themselves."""
    return {
        "mean": statistics.fmean(runs) if runs else None,
        "std": statistics.stdev(runs) if len(runs) > 1 else None,
        "runs": list(runs),
    }
