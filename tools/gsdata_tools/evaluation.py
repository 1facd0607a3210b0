"""The runs behind ``gsd-eval``: networks trained on a file and on baselines of its weight, all tested on the same images.

A *case* is one network at one size; everything is run in each. Each finished run is a state in the checkpoint, so that an
interrupted evaluation loses at most the run it was in. What a baseline is stored with (quality, Gaussians per image) is chosen by
short trainings that are tested on held-out *training* images, and so is the state of a network that is tested where several are
kept (``checkpoints``); the test images decide nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gsdata
from gsdata_tools import baselines, cli
from gsdata_tools.baselines import Drawn, Pool
from gsdata_tools.evaluation_data import Real, training_set
from gsdata_tools.long_runs import keep_freed_memory
from gsdata_tools.selection import Selector, moments
from gsdata_tools.source_images import resize_all
from gsdata_tools.train import Normalization, Protocol, TrainingSet, accuracy, seconds_per_step, train
from gsdata_tools.usage import UsageError
from gsdata_tools.whitening import Whitening

SEARCH_STEPS = (30, 200)
"""The trainings that choose a baseline's setting make a third of the steps of the file's, but within these bounds."""


class _TimeUp(Exception):  # noqa: N818 (it is no error: what is finished is reported)
    pass


@dataclass(frozen=True)
class Case:
    """One network at one size.

    Attributes:
        model: canonical name.
        size: (H, W) that sets are rendered at and real images are resized to.
        parameters: of the network.
        protocol: how it is trained.
    """

    model: str
    size: tuple[int, int]
    parameters: int
    protocol: Protocol

    @property
    def key(self) -> str:
        """Its name in checkpoints."""
        return f"{self.model}-{self.size[0]}x{self.size[1]}"


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        cases: all with the same number of steps and batch size; the first is the one that reports put at the top.
        seeds: one run each.
        baselines: names, as in ``baselines.NAMES``.
        normalization: the same for every set and for the test images.
        device: ``cpu`` or ``cuda``.
        labels: ``"soft"`` or ``"hard"``: what the file's images are trained with.
        checkpoints: states of each training among which held-out training images choose; 1 tests the last.
    """

    cases: tuple[Case, ...]
    seeds: tuple[int, ...]
    baselines: tuple[str, ...]
    normalization: Normalization | Whitening
    device: str
    labels: str = "hard"
    checkpoints: int = 1


class Evaluation:
    """All runs of one ``gsd-eval``.

    Args:
        file: the file under test, with labels.
        bytes_total: its size, which baselines must not exceed.
        real: images that networks are tested on, and those that baselines and choices are made from.
        plan: see ``Plan``.
        checkpoint: keeps finished runs; those that it holds are not repeated.
        deadline: no run goes on after it.
        quiet: no progress.

    Attributes:
        finished: results of runs, by name.
        steps: of each training but those of the search.
        search_steps: of each training of the search.
        complete: whether all runs are finished.
    """

    def __init__(
        self,
        file: gsdata.GsdFile,
        bytes_total: int,
        real: Real,
        plan: Plan,
        checkpoint: cli.Checkpoint,
        deadline: cli.Deadline,
        quiet: bool = False,
    ) -> None:
        self.file, self.bytes_total, self.real, self.plan = file, bytes_total, real, plan
        self.checkpoint, self.deadline, self.quiet = checkpoint, deadline, quiet
        self.finished: dict[str, dict[str, Any]] = {
            name: checkpoint.load(name)[1] for name in (checkpoint.names() if checkpoint.resuming else [])
        }
        self.steps = plan.cases[0].protocol.total_steps(len(file))
        self.search_steps = min(self.steps, max(SEARCH_STEPS[0], min(SEARCH_STEPS[1], self.steps // 3)))
        self.complete = False
        self._done = 0
        self._progress: cli.Progress | None = None
        self._drawn: tuple[tuple[str, int, int, str], Drawn] | None = None
        keep_freed_memory()
        threads = {int(state["threads"]) for state in self.finished.values()}
        if threads:  # results depend on the thread count, so a resumed evaluation keeps the one it began with
            torch.set_num_threads(min(threads))

    @property
    def pool(self) -> Pool:
        """Real training images; there are some wherever a plan has baselines or chooses."""
        assert self.real.pool is not None
        return self.real.pool

    def settings(self, name: str) -> tuple[int, ...]:
        """What a baseline is searched over."""
        return baselines.settings_of(name, self.file.size)

    def steps_per_case(self) -> int:
        """Training steps of all runs of one case."""
        searches = sum(len(self.settings(name)) for name in self.plan.baselines)
        return self.steps * len(self.plan.seeds) * (1 + len(self.plan.baselines)) + self.search_steps * searches

    def cost(self) -> str:
        """What the evaluation will take, measured on a few steps of training of each network."""
        channels, classes, device = self.file.channels, self.file.class_count, self.plan.device
        each = [
            seconds_per_step(case.protocol, case.model, (channels, *case.size), classes, device)
            for case in self.plan.cases
        ]
        runs = len(self.plan.seeds) * (1 + len(self.plan.baselines)) * len(each)
        times = ", ".join(
            f"{1000 * time:.0f}" + (f" ({case.key})" if len(each) > 1 else "")
            for time, case in zip(each, self.plan.cases, strict=True)
        )
        return (
            f"protocol {self.plan.cases[0].protocol.name}: {runs} trainings of {self.steps:,} steps and searches, "
            f"{self.steps_per_case() * len(each):,} steps in all; at {times} ms a step about "
            f"{cli.clock(sum(each) * self.steps_per_case())} (h:mm:ss or m:ss)"
        )

    def run(self) -> None:
        """Make all runs that are not finished yet, as far as time allows.

        Raises:
            UsageError: the time did not suffice for a single run.
        """
        with cli.Progress(self.steps_per_case() * len(self.plan.cases), "gsd-eval", self.quiet) as progress:
            self._progress = progress
            try:
                self._all_runs()
                self.complete = True
            except _TimeUp:
                pass
        if not self.runs(self.plan.cases[0], "file"):
            raise UsageError(
                "--time-limit was too short: not one training finished; --resume continues with a longer one"
            )

    def _all_runs(self) -> None:
        for case in self.plan.cases:
            data = training_set(self.file, case.size, self.plan.labels)
            for seed in self.plan.seeds:
                self._one(case, f"file-{seed}", lambda data=data: (data, self.bytes_total), seed)  # type: ignore[misc]
        for name in self.plan.baselines:
            # Cases inside: a drawn set is kept until another is asked for, and fitting Gaussians takes longest.
            for setting in self.settings(name):
                for case in self.plan.cases:
                    self._search(case, name, setting)
            for seed in self.plan.seeds:
                for case in self.plan.cases:
                    best = self.best(case, name)
                    if best is not None:
                        self._one(case, f"{name}-{seed}", self._drawing(case, name, best, seed, "final"), seed)

    def _drawing(
        self, case: Case, name: str, setting: int, seed: int, purpose: str
    ) -> Callable[[], tuple[TrainingSet, int]]:
        def make() -> tuple[TrainingSet, int]:
            key = (name, setting, seed, purpose)
            if self._drawn is None or self._drawn[0] != key:
                self._drawn = (key, baselines.draw(name, setting, self.pool, self.bytes_total, seed, purpose))
            drawn = self._drawn[1]
            return drawn.at(case.size), drawn.bytes_total

        return make

    def _held_out(self, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        chosen = self.pool.validation
        return resize_all(self.pool.images[chosen], size), self.pool.labels[chosen]

    def _search(self, case: Case, name: str, setting: int) -> None:
        seed = self.plan.seeds[0]
        try:
            make = self._drawing(case, name, setting, seed, "search")
            self._one(case, f"search-{name}-{setting}", make, seed, self.search_steps)
        except UsageError as error:  # not one image fits at this setting
            cli.note(str(error))

    def best(self, case: Case, name: str) -> int | None:
        """The setting of a baseline that held-out images are recognised best with; None if none was searched."""
        found = self.searched(case, name)
        return max(found, key=lambda entry: entry["validation_accuracy"])["setting"] if found else None

    def _one(
        self,
        case: Case,
        name: str,
        make: Callable[[], tuple[TrainingSet, int]],
        seed: int,
        search_steps: int | None = None,
    ) -> None:
        """One training and its test (of a search: on held-out images), unless the checkpoint has it."""
        steps, key = search_steps or self.steps, f"{case.key}-{name}"
        if key not in self.finished:
            self._tick(0, run=f"preparing {key}")
            data, weight = make()
            searching, unit, device = search_steps is not None, self.plan.normalization, self.plan.device
            held_out = self._held_out(case.size) if searching or self.plan.checkpoints > 1 else None
            selector = None
            if held_out is not None and not searching:
                selector = Selector(
                    moments(steps, self.plan.checkpoints),
                    lambda network: accuracy(network, *held_out, unit, device=device),
                )
            network = train(
                data,
                case.protocol,
                unit,
                model=case.model,
                classes=self.file.class_count,
                seed=seed,
                steps=steps,
                device=device,
                progress=lambda done, loss: self._tick(done, run=key, loss=round(loss, 3)),
                after=selector,
            )
            test = self.real.tests[case.size]
            images, labels = held_out if searching and held_out is not None else (test.images, test.labels)
            state: dict[str, Any] = {"images": len(data), "bytes_total": weight, "threads": torch.get_num_threads()}
            if selector is not None:
                selector.restore(network)
                state |= {"step": selector.step, "validation_accuracy": selector.score}
            state["accuracy"] = accuracy(network, images, labels, unit, device=device)
            self.checkpoint.save(key, {}, state)
            self.finished[key] = state
        self._done += steps

    def _tick(self, done: int, **numbers: object) -> None:
        if self.deadline.expired():
            raise _TimeUp
        if self._progress is not None:
            self._progress.update(self._done + done, **numbers)

    def runs(self, case: Case, name: str) -> list[dict[str, Any]]:
        """Results of the finished runs of ``"file"`` or a baseline, in the order of seeds."""
        keys = [f"{case.key}-{name}-{seed}" for seed in self.plan.seeds]
        return [self.finished[key] for key in keys if key in self.finished]

    def searched(self, case: Case, name: str) -> list[dict[str, Any]]:
        """What the search for a baseline's setting found so far."""
        entries = []
        for setting in self.settings(name):
            state = self.finished.get(f"{case.key}-search-{name}-{setting}")
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


def summary(runs: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for fewer than two runs) and the runs themselves."""
    return {
        "mean": statistics.fmean(runs) if runs else None,
        "std": statistics.stdev(runs) if len(runs) > 1 else None,
        "runs": list(runs),
    }
