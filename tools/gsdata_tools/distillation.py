"""``Distillation``: what a run was asked for, its networks, its first set, its steps, and its budget.

What a run computes depends on its options and on how many steps it made, never on the clock: the set is weighed and
brought back into the budget at fixed step numbers, and checkpoints, whenever they happen, only copy the state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gsdata
from gsdata.augment import operations
from gsdata.budget import Plan, default_bits, ipc_bytes
from gsdata.quantize import Codes
from gsdata.recipe import Recipe
from gsdata_tools import cli, monitors, networks, ranks, sources
from gsdata_tools.dc import GradientMatching
from gsdata_tools.density import spread_counts
from gsdata_tools.distill_plan import (
    channel_statistics,
    empty_codes,
    plan_set,
    resolved,
    resolved_text,
    smallest_class,
    soft_label_bytes,
)
from gsdata_tools.dm import DistributionMatching
from gsdata_tools.initialise import choose_real, noise_set, real_set, solid_warmup
from gsdata_tools.learnable import LEARNING_RATES, LearnableSet, RowAdam, fill_budget
from gsdata_tools.long_runs import computed_by
from gsdata_tools.methods import Method
from gsdata_tools.pretrain import confidence, pretrain, snapshot_steps, soft_labels
from gsdata_tools.rate import RateModel
from gsdata_tools.real_data import RealData
from gsdata_tools.tm import TrajectoryMatching

FILL = (0.985, 0.995)
"""While training the coded size is kept between these parts of the budget; the closed file may use all of it."""
SETTLE = 200.0
"""Steps of a Gaussian after which its learning rates begin to fall."""
WEIGH_EVERY = 50
LEAST_COUNT = 28
"""Images of fewer Gaussians get the widths that are best for so many: PSNR asks for coarser ones, accuracy was not measured."""
WARMUP_STEPS = 100
CHUNK_IMAGES = 4096  # such small sets are read whole, and fewer chunks leave more bytes for pictures
PILOT_IMAGES = 96
_TRAININGS = 1  # what random networks of this module are drawn for; those of steps have 0
LR, MOMENTUM, WEIGHT_DECAY, BATCH, EPOCHS = 0.01, 0.9, 5e-4, 256, 1000
"""The recipe that files name: the published one for testing distilled sets (GSDD, arXiv:2509.26219)."""
METHODS: dict[str, type[Method]] = {
    "dc": GradientMatching,
    "dm": DistributionMatching,
    "tm": TrajectoryMatching,
}
"""The loss of each verb."""


class Distillation:
    """One run: what it was asked for, the set, and the steps made so far.

    Attributes:
        options: the resolved options that decide the content, by option name.
        labels: (B,) class of each synthetic image, ascending.
        soft: (B, K) the labels that the file will have, or None where they are the classes.
        budget: bytes that the file may weigh.
        log: one entry per step: its number and losses.
        monitors: counts of failed Gaussians, at the start and every ``monitors.EVERY`` steps.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.seed = int(arguments.seed)
        self.device = torch.device(cli.resolve_device(arguments.device))
        self.options = resolved(arguments)
        self.data = sources.load(
            arguments.data,
            split=arguments.split,
            limit=arguments.limit,
            size=arguments.size,
            balanced_seed=self.seed if arguments.limit else None,
        )
        members = smallest_class(self.data)
        height, width, self.channels = self.data.images.shape[1:]
        self.size = (int(height), int(width))
        self.classes = len(self.data.classes)
        self.budget = int(
            arguments.bytes or ipc_bytes(arguments.ipc, self.classes, self.channels, self.size, arguments.convention)
        )
        self.plan = self._plan(members)
        self.labels = np.repeat(np.arange(self.classes, dtype=np.int64), self.plan.images_per_class)
        mean, std = channel_statistics(self.data.images)
        self.real = RealData(self.data.images, self.data.labels, self.classes, mean, std, self.device)
        self.recipe = Recipe(
            mean=mean,
            std=std,
            lr=LR,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            augment=self.options["augment"] if operations(self.options["augment"]) else None,
            model=self.options["model"],
            epochs=EPOCHS,
            batch_size=BATCH,
        )
        self.network()  # an unknown model, or images too small for it, are refused before anything is computed
        self.soft: NDArray[np.float32] | None = None
        self.iteration = 0
        self.log: list[dict[str, float]] = []
        self.monitors: list[dict[str, int]] = []
        self.pool: list[networks.ConvNet] = []
        self.teachers: list[networks.ConvNet] = []
        self.coding: RateModel | None = None
        self.parameters: LearnableSet
        rates = {name: rate * self.options["lr"] for name, rate in LEARNING_RATES.items()}
        self.adam = RowAdam(rates, settle=SETTLE)
        self.method = METHODS[arguments.method](self)

    def _plan(self, members: int) -> Plan:
        """Images and Gaussians; where no ``--bits`` are given also those, which depend on the number of Gaussians."""
        made = plan_set(self.options, self.budget, self.classes, self.channels, self.size, members)
        if not self.options["bits"]:
            count = made.gaussians / (made.images_per_class * self.classes)
            self.options["bits"] = list(default_bits(self.size, max(count, LEAST_COUNT)))
            made = plan_set(self.options, self.budget, self.classes, self.channels, self.size, members)
        return made

    def network(self, *key: int) -> networks.ConvNet:
        """The random network of a key, such as the iteration it is for; its parameters need no gradient."""
        made = networks.build(
            self.options["model"],
            self.channels,
            self.classes,
            self.size,
            seed=self.seed,
            key=key,
            device=self.device,
        )
        return made.requires_grad_(False)

    def start(self, checkpoint: cli.Checkpoint) -> None:
        """Make the networks and the first set, or take them from the checkpoint; the first process does it for all."""
        self.method.start(checkpoint)
        self._make_pool(checkpoint)
        self.parameters = LearnableSet.unpack(
            *ranks.from_first(lambda: self._first_set(checkpoint).pack()), self.device
        )
        if self.options["soft_labels"]:
            self.soft = ranks.from_first(lambda: self._soft_labels(checkpoint))[0]["labels"]
        self.adam.attach(self.parameters)
        arrays, meta = ranks.from_first(lambda: checkpoint.load("state") if "state" in checkpoint.names() else ({}, {}))
        if meta:
            self._load(arrays, meta)
        else:
            self._on_first(lambda: self.fill(*FILL))
            self._on_first(self._monitor)
            self.save(checkpoint)

    def _load(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        self.parameters.load_state({k[4:]: v for k, v in tensors.items() if k.startswith("set.")})
        self.adam.load_state({k[5:]: v for k, v in tensors.items() if k.startswith("adam.")}, self.device)
        self.method.load_state({k[7:]: v for k, v in tensors.items() if k.startswith("method.")})
        self.iteration, self.log = int(meta["iteration"]), list(meta["log"])
        self.monitors = list(meta["monitors"])
        if "rate.shape" in arrays:
            self.coding = RateModel(arrays["rate.shape"], arrays["rate.colors"], float(arrays["rate.position"]))

    def _on_first(self, change: Callable[[], object]) -> None:
        """Have the first process change how many Gaussians there are, and the others take over the set, bit for bit."""
        if ranks.first():
            change()
        if ranks.world() > 1:
            state = ranks.from_first(self._state)
            if not ranks.first():
                self._load(*state)

    def save(self, checkpoint: cli.Checkpoint) -> None:
        """Copy the state; a run that continues from it makes the same steps as one that was never stopped."""
        checkpoint.save("state", *self._state())

    def _state(self) -> ranks.State:
        state = {f"set.{k}": v for k, v in self.parameters.state().items()}
        state |= {f"adam.{k}": v for k, v in self.adam.state().items()}
        state |= {f"method.{k}": v for k, v in self.method.state().items()}
        meta = {"iteration": self.iteration, "log": self.log, "monitors": self.monitors} | computed_by()
        arrays = {name: value.cpu().numpy() for name, value in state.items()}
        if self.coding:
            arrays |= {f"rate.{name}": np.asarray(value) for name, value in vars(self.coding).items()}
        return arrays, meta

    def step(self) -> dict[str, float]:
        """One step, before it the weighing where one is due."""
        if self.iteration and self.iteration % WEIGH_EVERY == 0:
            self._on_first(lambda: self.fill(*FILL))
        if self.options["rate_weight"] and self.iteration % WEIGH_EVERY == 0:
            self.coding = RateModel.of(self.parameters.codes())
        losses = self.method.step()
        if not all(np.isfinite(value) for value in losses.values()):
            raise gsdata.GsdError(
                f"the loss is not finite in step {self.iteration + 1}; a smaller --lr, --boundary or --rate-weight avoids that"
            )
        self.iteration += 1
        self.log.append({"iteration": self.iteration} | {k: float(f"{v:.6g}") for k, v in losses.items()})
        if self.iteration % monitors.EVERY == 0:
            self._on_first(self._monitor)
        return losses

    def _monitor(self) -> None:
        """Count failed Gaussians, warn if they become more, and re-seed dead ones where that is wanted."""
        health = monitors.examine(self.parameters, self.adam)
        self.monitors.append({"iteration": self.iteration} | health.counts())
        if line := monitors.warning(self.monitors, self.options["recycle"]):
            cli.note(line)
        if self.options["recycle"]:
            self.monitors[-1]["recycled"] = monitors.recycle(self.parameters, self.adam, health.dead)

    def file(self, codes: Codes | None = None, labels: NDArray[np.int64] | None = None) -> bytes:
        """The file that the set would make now, or that other codes and labels would."""
        hard, soft = (labels, None) if labels is not None else (self.labels, self.soft)
        return gsdata.to_bytes(
            self.parameters.codes() if codes is None else codes,
            labels=hard if soft is None else None,
            soft_labels=soft,
            classes=self.data.classes,
            recipe=self.method.recipe(self.recipe),
            provenance=self.provenance(),
            chunk_images=CHUNK_IMAGES,
        )

    def provenance(self) -> dict[str, Any]:
        """Where the file comes from; nothing of the machine, the clock or the output's name."""
        return {
            "command": f"gsd-distill {self.arguments.method} {resolved_text(self.options)}",
            "source": {
                "name": self.data.name,
                "split": self.data.split,
                "digest": self.data.digest[:32],
            },
            "real_init": self.options["init"] == "real",
            "iterations": self.iteration,
            "versions": cli.record_versions(),
        } | self.method.provenance()

    def fill(self, low: float, high: float) -> int:
        """Bring the coded size between two parts of the budget, if it can be; returns it."""
        first, last = int(np.ceil(low * self.budget)), int(high * self.budget)
        return fill_budget(self.parameters, self.adam, lambda: len(self.file()), first, last)

    def _make_pool(self, checkpoint: cli.Checkpoint) -> None:
        chooses = self.options["init"] == "real" and self.options["choose"] == "typical"
        asked = chooses or self.options["soft_labels"] is not None
        self.teachers = self.method.teachers() if asked else []
        if not self.method.trained and not (asked and not self.teachers):
            return
        states = _unpack(ranks.from_first(lambda: (self._networks(checkpoint), {}))[0])
        for state in states:
            network = self.network()
            network.load_state_dict(state)
            self.pool.append(network)
        each = len(snapshot_steps(self.options["pretrain"][1]))
        self.teachers = self.teachers or self.pool[each - 1 :: each]

    def _networks(self, checkpoint: cli.Checkpoint) -> dict[str, np.ndarray]:
        """Snapshots of networks that were trained on the real data."""
        if "networks" in checkpoint.names():
            return checkpoint.load("networks")[0]
        trainings, steps = self.options["pretrain"]
        with cli.Progress(trainings * steps, "networks", self.arguments.quiet) as progress:
            states = pretrain(
                lambda key: self.network(_TRAININGS, *key),
                self.real,
                self.data.labels,
                networks=trainings,
                steps=steps,
                strategy=self.options["augment"],
                seed=self.seed,
                progress=progress.update,
            )
        arrays = _pack(states)
        checkpoint.save("networks", arrays)
        return arrays

    def _soft_labels(self, checkpoint: cli.Checkpoint) -> ranks.State:
        """What teachers say of the first set; images move, but stay of their class, and these labels stay too."""
        if "labels" in checkpoint.names():
            return checkpoint.load("labels")
        made = soft_labels(self.teachers, self.real, self.parameters, self.labels, self.options["soft_labels"])
        checkpoint.save("labels", {"labels": made})
        return {"labels": made}, {}

    def _first_set(self, checkpoint: cli.Checkpoint) -> LearnableSet:
        wanted = self.plan.gaussians
        if self.options["gaussians"] is not None:
            wanted = self.plan.gaussians_per_image * len(self.labels)
        counts = spread_counts(wanted, len(self.labels))
        bits = self.options["bits"]
        if self.options["init"] == "real":
            images = self.data.images[self._chosen(checkpoint)]
            fit_steps = self.options["fit_steps"]
            # A few images say how many bits a Gaussian really takes.
            few = np.unique(np.linspace(0, len(images) - 1, PILOT_IMAGES).round().astype(np.int64))
            pilot = real_set(images[few], counts[few], bits, fit_steps, self.seed, self.device)
            fixed = len(self.file(empty_codes(pilot.codes()), np.zeros(0, np.int64)))
            each = (len(self.file(pilot.codes(), self.labels[few])) - fixed) / max(1, pilot.num_gaussians)
            fixed += soft_label_bytes(self.options, len(images), self.classes)
            counts = spread_counts(int((sum(FILL) / 2 * self.budget - fixed) / each), len(images))
            with cli.Progress(len(images), "first set", self.arguments.quiet) as progress:
                return real_set(
                    images,
                    counts,
                    bits,
                    fit_steps,
                    self.seed,
                    self.device,
                    store=checkpoint,
                    progress=lambda done, psnr: progress.update(done, psnr=psnr),
                )
        gaussians, quantizers = noise_set(counts, self.size, self.channels, bits, self.seed)
        parameters = LearnableSet.from_gaussians(gaussians, quantizers, self.device)
        if self.options["init"] == "warmup":
            warm = RowAdam({name: 5 * rate for name, rate in LEARNING_RATES.items()})
            warm.attach(parameters)
            solid_warmup(parameters, warm, WARMUP_STEPS)
        return parameters

    def _chosen(self, checkpoint: cli.Checkpoint) -> NDArray[np.int64]:
        """Which real images to start from."""
        if "chosen" in checkpoint.names():
            arrays, _ = checkpoint.load("chosen")
            return arrays["indices"]

        def sure(candidates: NDArray[np.int64]) -> NDArray[np.float64]:
            return confidence(self.teachers, self.real, self.data.labels, candidates)

        chosen = choose_real(
            self.data.labels,
            self.plan.images_per_class,
            self.options["choose"],
            self.seed,
            images=self.data.images,
            confidence=sure if self.options["choose"] == "typical" else None,
        )
        checkpoint.save("chosen", {"indices": chosen})
        return chosen


def _pack(states: list[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """Network states as arrays of a checkpoint."""
    return {f"{number}.{name}": value.numpy() for number, state in enumerate(states) for name, value in state.items()}


def _unpack(arrays: dict[str, np.ndarray]) -> list[dict[str, torch.Tensor]]:
    states: list[dict[str, torch.Tensor]] = [{} for _ in range(1 + max(int(key.split(".")[0]) for key in arrays))]
    for key, value in arrays.items():
        number, _, name = key.partition(".")
        states[int(number)][name] = torch.from_numpy(np.array(value))
    return states
