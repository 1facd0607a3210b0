"""The run of ``gsd-experts``: expert after expert, or several at once, with checkpoints, until all are there or the time is up."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gsdata.errors import GsdError
from gsdata_tools import cli, networks, ranks, sources
from gsdata_tools.distill_plan import canonical_augment, channel_statistics, smallest_class
from gsdata_tools.expert_files import (
    ExpertRecipe,
    expert_files,
    expert_path,
    experts_digest,
    first_difference,
    read_expert,
    read_experts,
    write_expert,
)
from gsdata_tools.expert_training import ExpertTraining, step_together
from gsdata_tools.long_runs import computed_by, set_threads, stop_requests
from gsdata_tools.real_data import RealData
from gsdata_tools.whitening import Whitening

SAVE_SECONDS = 30.0
READ_EVERY = 10
"""Steps after which the loss is read and shown; a GPU computes the ones between without waiting for the host."""


def train_experts(arguments: argparse.Namespace) -> int:
    """Run ``gsd-experts`` with parsed arguments; returns the exit code.

    Raises:
        UsageError: a request that cannot be met; raised before anything is trained.
        GsdError: the time was up before the first expert was done, or a loss was not finite.
    """
    begun = time.monotonic()
    deadline = cli.Deadline(arguments.time_limit)
    folder, ckpt = check_folder(arguments)
    device = torch.device(cli.resolve_device(arguments.device))
    ranks.join(device.type)
    data = sources.load(
        arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        size=arguments.size,
        balanced_seed=arguments.seed if arguments.limit else None,
    )
    recipe = recipe_of(arguments, data)
    ranks.wait()  # until every process has looked at what is there, before the first one changes it

    def begin() -> ranks.State:
        done = _finished(folder, recipe, arguments)
        if not arguments.resume:
            cli.Checkpoint(ckpt).delete()
        return {"done": np.array(sorted(done), np.int64)}, {}

    done = set(ranks.from_first(begin)[0]["done"].tolist())
    checkpoint = cli.Checkpoint(ckpt, vars(recipe), resume=True)
    set_threads(checkpoint, checkpoint.names())
    real = RealData(data.images, data.labels, recipe.classes, recipe.mean, recipe.std, device)
    if recipe.zca is not None:
        real.whiten(Whitening.fit(data.images, recipe.zca))
    folder.mkdir(exist_ok=True)
    images = real.take(np.arange(len(data.images))).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(data.labels).to(device)

    with stop_requests() as stop:
        # Experts are independent: each process trains its own, and writes them.
        own = ranks.own([n for n in range(arguments.experts) if n not in done])
        for number in range(0, len(own), arguments.at_once):
            group = [ExpertTraining(images, labels, recipe, n) for n in own[number : number + arguments.at_once]]
            if not _train_group(group, checkpoint, deadline, stop.is_set, folder, arguments.quiet):
                break
    if stop.is_set():
        raise KeyboardInterrupt
    ranks.wait()
    if ranks.first():
        _report(arguments, recipe, folder, checkpoint, begun)
    return 0


def _report(
    arguments: argparse.Namespace, recipe: ExpertRecipe, folder: Path, checkpoint: cli.Checkpoint, begun: float
) -> None:
    """Say what there is now; without checkpoints, if it is all.

    Raises:
        GsdError: there is no expert yet.
    """
    finished = sum(expert_path(folder, number).exists() for number in range(arguments.experts))
    if finished == arguments.experts:
        checkpoint.delete()
    elif not finished:
        raise GsdError(f"the time was up before one expert was done; --resume goes on from {checkpoint.path}")
    if not arguments.quiet:
        left = "" if finished == arguments.experts else "; --resume goes on"
        cli.note(f"{folder}: {finished} of {arguments.experts} experts of {recipe.epochs} epochs{left}")
    if arguments.json:
        experts = read_experts(folder)
        cli.write_json(
            {
                "schema": "gsd-experts/1",
                "experts": len(experts),
                "parameters": experts[0].parameters,
                "bytes": sum(e.path.stat().st_size for e in experts),
                "digest": experts_digest(experts),
                "recipe": vars(recipe),
                **computed_by(),
                "seconds": round(time.monotonic() - begun, 3),
            }
        )


def check_folder(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The output folder and the folder of checkpoints beside it.

    Raises:
        UsageError: they cannot be written, or hold something and neither ``--force`` nor ``--resume`` is given.
    """
    folder = Path(arguments.output)
    ckpt = folder.with_name(f"{folder.name}.ckpt")
    if not folder.name:
        raise cli.UsageError(f"-o {folder}: name a folder for the experts")
    if folder.exists() and not folder.is_dir():
        raise cli.UsageError(f"-o {folder} is a file; the experts need a folder")
    if not folder.parent.is_dir():
        raise cli.UsageError(f"-o {folder}: there is no folder {folder.parent}; make it first")
    if (expert_files(folder) or ckpt.is_dir()) and not (arguments.force or arguments.resume):
        held = folder if expert_files(folder) else ckpt
        raise cli.UsageError(f"{held} holds experts of an earlier run: --resume continues it, --force starts again")
    return folder, ckpt


def recipe_of(arguments: argparse.Namespace, data: sources.ImageSet) -> ExpertRecipe:
    """What the arguments ask for.

    Raises:
        UsageError: an unknown network or augmentation, or images that they cannot take.
    """
    smallest_class(data)
    height, width, channels = data.images.shape[1:]
    mean, std = channel_statistics(data.images)
    recipe = ExpertRecipe(
        data=data.digest,
        source=data.name,
        model=networks.canonical_name(arguments.model),
        channels=int(channels),
        classes=len(data.classes),
        size=(int(height), int(width)),
        mean=mean,
        std=std,
        augment=canonical_augment(arguments.augment),
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        momentum=arguments.momentum,
        weight_decay=arguments.weight_decay,
        half=arguments.half,
        seed=arguments.seed,
        zca=arguments.zca,
    )
    networks.build(
        recipe.model, recipe.channels, recipe.classes, recipe.size, seed=0
    )  # refuses images that are too small
    return recipe


def _finished(folder: Path, recipe: ExpertRecipe, arguments: argparse.Namespace) -> set[int]:
    """Numbers of the experts that need not be trained again; with ``--force`` alone none, and their files are removed.

    Raises:
        UsageError: the folder's experts have another recipe.
    """
    done = set()
    for path in expert_files(folder):
        if not arguments.resume:
            path.unlink()
            continue
        if (name := first_difference(read_expert(path).recipe, recipe)) is not None:
            raise cli.UsageError(
                f"{path} was made with another {name.replace('_', ' ')}: repeat the first command with --resume, "
                "or start again with --force and without --resume"
            )
        done.add(int(path.stem.partition("-")[2]))
    return done


def _train_group(
    experts: list[ExpertTraining],
    checkpoint: cli.Checkpoint,
    deadline: cli.Deadline,
    stopped: Callable[[], bool],
    folder: Path,
    quiet: bool,
) -> bool:
    """Train several to the end and write them: in batched steps where all have made equally many, else one after another.

    Returns False, with their states saved, if stopped before that.

    Raises:
        GsdError: a loss is not finite.
    """
    for expert in experts:
        if (name := _saved_as(expert)) in checkpoint.names():
            arrays, meta = checkpoint.load(name)
            expert.load_state(arrays, int(meta["step"]))
    together = len(experts) > 1 and len({expert.step for expert in experts}) == 1
    for expert in experts if together else []:
        expert.network.fused = False
    for group in [experts] if together else [[expert] for expert in experts]:
        if not _train(group, checkpoint, deadline, stopped, quiet):
            return False
        for expert in group:
            write_expert(expert_path(folder, expert.number), np.stack(expert.trajectory), expert.recipe)
            checkpoint.remove(_saved_as(expert))
    return True


def _saved_as(expert: ExpertTraining) -> str:
    return f"expert-{expert.number:03d}"


def _train(
    experts: list[ExpertTraining],
    checkpoint: cli.Checkpoint,
    deadline: cli.Deadline,
    stopped: Callable[[], bool],
    quiet: bool,
) -> bool:
    """Train one, or several at the same step, to the end; False, with the state saved, if stopped before that."""
    first, last = experts[0], experts[-1]
    label = f"expert {first.number}" + (f" to {last.number}" if len(experts) > 1 else "")
    saved, slowest = time.monotonic(), 0.0
    with cli.Progress(first.recipe.epochs * first.steps_per_epoch, label, quiet) as progress:
        while not first.done:
            before = time.monotonic()
            late = deadline.remaining() <= 2 * slowest
            if late or stopped() or before - saved > SAVE_SECONDS:
                for expert in experts:
                    checkpoint.save(_saved_as(expert), dict(expert.state()), {"step": expert.step} | computed_by())
                saved = before
                if late or stopped():
                    return False
            loss = step_together(experts) if len(experts) > 1 else first.make_step()
            if first.step % READ_EVERY == 0 or first.done:
                value = float(loss)
                if not np.isfinite(value):
                    raise GsdError(f"{label}: the loss is not finite in step {first.step}; a smaller --lr avoids that")
                progress.update(first.step, loss=value)
            slowest = max(slowest, time.monotonic() - before)
    return True
