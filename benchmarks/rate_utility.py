"""Utility for ``rate_distortion.py``: what a network learns from images after a codec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gsdata_tools import sources
from gsdata_tools.evaluation import summary
from gsdata_tools.fit import DEFAULT_STEPS
from gsdata_tools.networks import DEFAULT_MODEL
from gsdata_tools.train import Normalization, TrainingSet, accuracy, choose_protocol, train
from rate_codecs import BF16_BYTES, Coded, Images, bf16, gsd, nearest, pillow


@dataclass(frozen=True)
class Utility:
    """Which networks are trained.

    Attributes:
        images: class-balanced training images, drawn with seed 0; every codec gets the same.
        budgets: bytes per image. A codec is left out where no quality of it comes within 15 %.
        steps: of every training.
        batch: images per step.
        shrink: decoded images and test images are averaged over blocks of so many pixels a side before a network sees them.
        seeds: trainings of each set.
        tests: at most so many test images; None takes all.
    """

    images: int
    budgets: tuple[int, ...]
    steps: int
    batch: int
    shrink: int = 1
    seeds: int = 3
    tests: int | None = None


def measure_utility(
    name: str,
    plan: Utility,
    points: list[dict[str, Any]],
    point: Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]],
    folder: Path,
) -> list[dict[str, Any]]:
    """Accuracy of networks trained on each codec's images, at each budget.

    Args:
        name: the data set.
        plan: what to train.
        points: the codecs' points on the test images, from which settings near the budgets are chosen.
        point: ``Results.point``.
        folder: for the training images.
    """
    data = sources.load(name, split="train", limit=plan.images, balanced_seed=0)
    test = sources.load(name, split="test", limit=plan.tests)
    path = folder / f"{name}-train.npz"
    np.savez(path, x=data.images, y=data.labels, classes=np.array(data.classes))
    protocol = replace(choose_protocol("fast", steps=plan.steps), batch_size=plan.batch)
    normalization = Normalization.of(data.images)
    seen = shrink(test.images, plan.shrink)
    rows = []
    for codec, setting, make in _sets(plan, points, data.images, path):
        made: list[Coded] = []  # made when the first training needs it: a resumed run may need none

        def measure(seed: int, made: list[Coded] = made, make: Callable[[], Coded] = make) -> dict[str, Any]:
            if not made:
                made.append(make())
            images = TrainingSet.from_uint8(shrink(made[0].shown, plan.shrink), data.labels)
            network = train(images, protocol, normalization, model=DEFAULT_MODEL, classes=len(data.classes), seed=seed)
            percent = accuracy(network, seen, test.labels, normalization)
            return {"bytes_per_image": made[0].bytes_per_image, "accuracy": percent}

        key = f"{name}-train-{plan.images}/{codec}/{setting}/{plan.steps}x{plan.batch}-steps/{len(seen)}-tests/seed-"
        runs = [point(f"{key}{seed}", partial(measure, seed)) for seed in range(plan.seeds)]
        row = {"data": name, "codec": codec, "setting": setting, "bytes_per_image": runs[0]["bytes_per_image"]}
        rows.append({**row, "accuracy": summary([run["accuracy"] for run in runs])})
    common = {
        "images": plan.images,
        "digest": data.digest,
        "tests": len(seen),
        "test_digest": test.digest,
        "model": DEFAULT_MODEL,
        "steps": plan.steps,
        "batch_size": plan.batch,
        "size_seen": seen.shape[1:3],
    }
    return [{**row, **common} for row in rows]


def _sets(
    plan: Utility, points: list[dict[str, Any]], images: Images, path: Path
) -> list[tuple[str, int, Callable[[], Coded]]]:
    """Codec, setting and how to make it, for everything that is trained on."""
    pixels = int(images[0].size)
    sets: list[tuple[str, int, Callable[[], Coded]]] = [("original", pixels, lambda: Coded(pixels, images))]
    for budget in plan.budgets:
        options = ("--bytes-per-image", str(budget))
        count = max(1, round(budget / BF16_BYTES))
        sets.append(("gsd", budget, partial(gsd, ("--data", str(path)), options)))
        sets.append(("bf16", count, partial(bf16, images, count, DEFAULT_STEPS)))
        for codec in ("webp", "avif", "jpeg"):
            curve = [(p["bytes_per_image"], p["setting"]) for p in points if p["codec"] == codec]
            quality = nearest(curve, budget)
            if quality is not None:
                sets.append((codec, quality, partial(pillow, codec, images, quality)))
    return sets


def shrink(images: Images, factor: int) -> Images:
    """(B, H, W, C) averaged over blocks of ``factor`` x ``factor`` pixels, rounded to nearest; sides that are no multiple lose the rest."""
    if factor == 1:
        return images
    number, height, width, channels = images.shape
    height, width = height // factor, width // factor
    blocks = images[:, : height * factor, : width * factor].reshape(number, height, factor, width, factor, channels)
    total = blocks.sum(axis=(2, 4), dtype=np.uint32)
    mean: Images = ((total + factor * factor // 2) // (factor * factor)).astype(np.uint8)
    return mean
