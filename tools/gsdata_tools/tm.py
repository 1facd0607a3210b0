"""Trajectory matching: ``gsd-distill tm`` moves synthetic images until training on them leads where experts went.

The loss, its source and its gradient are in ``trajectory.py``; experts come from ``gsd-experts``. In each iteration a student
starts at a random epoch of a random expert and takes its steps on batches cut from permutations of the synthetic images,
each under one draw of the augmentation. Only the images that those batches use are rendered. The student's learning rate is
learned too, by SGD with momentum as published (G. Cazenavette et al., CVPR 2022; values of GSDD, arXiv:2509.26219).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.nn.utils import vector_to_parameters

import gsdata
from gsdata.augment import augment
from gsdata.recipe import Recipe
from gsdata_tools import cli, ranks
from gsdata_tools.checkpoints import Checkpoint
from gsdata_tools.draws import rng
from gsdata_tools.expert_files import Expert, experts_digest, read_experts
from gsdata_tools.methods import Method, Run, StepOptions, descend, step_options
from gsdata_tools.networks import ConvNet
from gsdata_tools.trajectory import FlatNetwork, match_trajectory
from gsdata_tools.whitening import Whitening

MAX_START_EPOCH = 30
"""The published bound on where a student starts, where experts are that long."""
LR_MOMENTUM, LEAST_LR = 0.5, 0.001
"""Of the learning rate's own descent, as published."""
TEACHERS, TEACHER_IMAGES = 3, 20_000
"""Experts that tell typical images from others, and how many images they have seen by then: later they are sure of all."""


class TrajectoryMatching(Method):
    """``gsd-distill tm``.

    Raises:
        UsageError: there are no experts, they belong to another network or other images, or they have too few epochs.
        GsdError: an expert's file is damaged.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        folder = run.options["expert_dir"]
        self.experts = read_experts(folder)
        network = run.network()
        network.fused = False  # the gradient of the student's gradient is needed
        self.network = FlatNetwork(network)
        check_experts(self.experts, folder, run, len(self.network))
        self.digest = experts_digest(self.experts)
        epochs = self.experts[0].recipe.epochs
        bound = _max_start_epoch(run.options["max_start_epoch"], run.options["expert_epochs"], epochs, folder)
        lr_init = run.options["lr_init"] or self.experts[0].recipe.lr
        run.options |= {"expert_dir": self.digest[:32], "max_start_epoch": bound, "lr_init": lr_init}
        self.options = StepOptions(**step_options(run.options))
        self.lr, self.velocity = float(lr_init), 0.0

    def start(self, checkpoint: Checkpoint) -> None:
        """Whiten as the experts' images were."""
        epsilon = self.experts[0].recipe.zca
        if epsilon is None:
            return

        def made() -> ranks.State:
            if "whitening" in checkpoint.names():
                return checkpoint.load("whitening")
            fitted = Whitening.fit(self.run.data.images, epsilon)
            arrays = {"mean": fitted.mean.numpy(), "matrix": fitted.matrix.numpy()}
            checkpoint.save("whitening", arrays)
            return arrays, {}

        arrays, _ = ranks.from_first(made)
        mean, matrix = (torch.from_numpy(arrays[name]) for name in ("mean", "matrix"))
        self.run.real.whiten(Whitening(mean, matrix, (self.run.channels, *self.run.size), epsilon))

    def step(self) -> dict[str, float]:
        """One iteration: a student's steps, and one step of the images that it saw and of its learning rate."""
        run, parameters = self.run, self.run.parameters
        draws = rng(run.seed, "tm-start", run.iteration)
        expert = self.experts[int(draws.integers(len(self.experts)))]
        first = int(draws.integers(run.options["max_start_epoch"]))
        start, target = (
            torch.from_numpy(expert.weights(epoch)).to(run.device)
            for epoch in (first, first + run.options["expert_epochs"])
        )
        order = student_batches(
            len(run.labels), run.options["syn_steps"], run.options["batch_syn"], run.seed, run.iteration
        )
        used, places = np.unique(order, return_inverse=True)
        batches = list(torch.from_numpy(places.reshape(order.shape)).to(run.device))
        truth = torch.from_numpy((run.labels if run.soft is None else run.soft)[used]).to(run.device)
        keys = [int(rng(run.seed, "tm-augment", run.iteration, k).integers(2**63)) for k in range(len(order))]

        def student(weights: torch.Tensor, images: torch.Tensor, step: int) -> torch.Tensor:
            # Of several processes, each has a share of the batch, under the augmentation of the whole.
            seen = augment(images, self.options.augment, seed=keys[step])[ranks.rank() :: ranks.world()]
            wanted = truth[batches[step]][ranks.rank() :: ranks.world()]
            return functional.cross_entropy(self.network(weights, seen), wanted, reduction="sum") / len(images)

        rows = parameters.rows(used)
        leaves = parameters.leaves(rows)
        shown = run.real.normalize(gsdata.render(parameters.stored(leaves, parameters.counts[used])))
        exact = run.options["gradient"] == "exact"
        found = match_trajectory(
            student, start, target, shown.detach(), batches, self.lr, exact=exact, total=ranks.total
        )
        # The loss as it is, with the gradient that was found; each process has the whole loss and a share of its gradient.
        match = found.loss / ranks.world()
        loss = match + (found.images * (shown - shown.detach())).sum()
        losses = descend(loss, {"match": match}, parameters, used, rows, leaves, run.adam, self.options, run.coding)
        losses |= {"lr": self.lr, "start_epoch": first}
        self._move_lr(float(found.lr))
        return losses

    def _move_lr(self, gradient: float) -> None:
        self.velocity = LR_MOMENTUM * self.velocity + gradient
        least = min(LEAST_LR, self.run.options["lr_init"])
        self.lr = max(self.lr - self.run.options["lr_lr"] * self.velocity, least)

    def teachers(self) -> list[ConvNet]:
        """Networks at an early epoch of the first experts."""
        recipe = self.experts[0].recipe
        epoch = min(max(1, round(TEACHER_IMAGES / len(self.run.data.labels))), recipe.epochs)
        made = []
        for expert in self.experts[:TEACHERS]:
            network = self.run.network()
            vector_to_parameters(torch.from_numpy(expert.weights(epoch)).to(self.run.device), network.parameters())
            made.append(network)
        return made

    def state(self) -> dict[str, torch.Tensor]:
        """The learning rate and its velocity."""
        return {"lr": torch.tensor([self.lr, self.velocity], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Continue from what ``state`` returned."""
        self.lr, self.velocity = state["lr"].tolist()

    def recipe(self, recipe: Recipe) -> Recipe:
        """With the learned rate, and where the whitening comes from."""
        run, epsilon = self.run, self.experts[0].recipe.zca
        if epsilon is None:
            return replace(recipe, lr=self.lr)
        data = {"data": run.data.name, "split": run.data.split, "digest": run.data.digest[:32]}
        part = {"limit": run.options["limit"], "seed": run.seed} if run.options["limit"] else {}
        return replace(recipe, lr=self.lr, mean=None, std=None, zca={"epsilon": epsilon} | data | part)

    def provenance(self) -> dict[str, Any]:
        """Which experts."""
        return {"experts": {"digest": self.digest[:32], "count": len(self.experts)}}


def student_batches(images: int, steps: int, batch: int, seed: int, iteration: int) -> NDArray[np.int64]:
    """(steps, B) images of each step of one iteration; B is ``batch``, or all images where there are fewer or it is 0.

    Batches are cut from permutations, so that none holds an image twice and all images come about equally often; what is left of
    a permutation when it is too short for a batch is left out.
    """
    size = min(batch or images, images)
    each = images // size
    cut = [
        rng(seed, "tm-order", iteration, number).permutation(images)[: each * size].reshape(each, size)
        for number in range(-(-steps // each))
    ]
    return np.concatenate(cut)[:steps].astype(np.int64)


def check_experts(experts: list[Expert], folder: object, run: Run, parameters: int) -> None:
    """Refuse experts of another network or of other images than the run has.

    Raises:
        UsageError: with what differs, and what to do.
    """
    recipe = experts[0].recipe
    if recipe.data != run.data.digest:
        raise cli.UsageError(
            f"--expert-dir {folder}: the experts were trained on other images ({recipe.source}) than --data gives ({run.data.name}); "
            "give both commands the same --data, --split, --size and --limit, and with --limit the same --seed"
        )
    if recipe.model != run.options["model"]:
        raise cli.UsageError(
            f"--expert-dir {folder}: the experts are networks {recipe.model}, this run has {run.options['model']}; "
            f"give --model {recipe.model}"
        )
    wrong = [expert for expert in experts if expert.parameters != parameters]
    if wrong or (recipe.mean, recipe.std) != (run.recipe.mean, run.recipe.std):
        found = f"{wrong[0].parameters} weights" if wrong else f"mean {recipe.mean}, std {recipe.std}"
        expected = f"{parameters}" if wrong else f"mean {run.recipe.mean}, std {run.recipe.std}"
        raise cli.UsageError(f"--expert-dir {folder}: the experts have {found}, expected {expected}; train them again")


def _max_start_epoch(asked: int | None, expert_epochs: int, epochs: int, folder: object) -> int:
    """The bound below which students start.

    Raises:
        UsageError: more epochs are asked for than the experts have.
    """
    bound = asked or max(1, min(MAX_START_EPOCH, epochs - expert_epochs + 1))
    if bound - 1 + expert_epochs > epochs:
        starts = f"--max-start-epoch {asked} and " if asked else ""
        raise cli.UsageError(
            f"--expert-dir {folder}: the experts have {epochs} epochs, {starts}--expert-epochs {expert_epochs} "
            f"need{'' if asked else 's'} {bound - 1 + expert_epochs}; ask for fewer, or train longer experts"
        )
    return bound
