"""The images of an evaluation: those of the file, and the real ones that networks are tested on and choices are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

import gsdata
from gsdata_tools import sources
from gsdata_tools.baselines import Pool
from gsdata_tools.sources import ImageSet
from gsdata_tools.train import Normalization, TrainingSet
from gsdata_tools.usage import UsageError
from gsdata_tools.whitening import Whitening, epsilon_of

HELD_OUT = "held-out"
"""The ``--split`` that tests on training images which ``Pool`` holds out, never on a test split."""


def training_set(file: gsdata.GsdFile, size: tuple[int, int] | None = None, labels: str = "soft") -> TrainingSet:
    """All images of a file.

    Args:
        file: with labels.
        size: (H, W) to render at; None is the reference size.
        labels: ``"soft"`` takes soft labels where the file has them, ``"hard"`` their most likely class.
    """
    rendered = torch.from_numpy(np.asarray(gsdata.render(file.gaussians(), size)))
    if file.recipe.clamp:
        rendered.clamp_(0, 1)
    soft = file.soft_labels if labels == "soft" else None
    return TrainingSet(rendered, torch.from_numpy(file.labels if soft is None else soft))


def normalization_of(file: gsdata.GsdFile) -> Normalization:
    """What the file's recipe says, else the statistics of the file's own images."""
    recipe = file.recipe
    if recipe.mean is not None and recipe.std is not None and len(recipe.mean) == file.channels:
        return Normalization(recipe.mean, recipe.std)
    images = np.asarray(gsdata.render(file.gaussians(), dtype="uint8"))
    return Normalization.of(images.transpose(0, 2, 3, 1))


def whitening_of(file: gsdata.GsdFile, data: str, size: int | tuple[int, int] | None) -> Whitening:
    """What the file's ``zca`` recipe asks for, fitted to the real images that it names.

    Raises:
        UsageError: ``data`` is not what the recipe names, or does not match the file.
    """
    recipe = file.recipe.zca or {}
    split = recipe.get("split", "train")
    if split not in ("all", "train", "val", "test"):  # "all" is what data without splits calls itself
        raise UsageError(f"{file.path}: its ZCA recipe names split {split!r:.40}: expected all, train, val or test")
    limit, seed = recipe.get("limit"), recipe.get("seed")
    if limit is not None and not (isinstance(limit, int) and limit > 0 and isinstance(seed, int) and seed >= 0):
        raise UsageError(
            f"{file.path}: its ZCA recipe names limit {limit!r:.40} and seed {seed!r:.40}: no whole numbers"
        )
    real = sources.load(
        data, split=None if split == "all" else split, limit=limit, size=size, balanced_seed=seed if limit else None
    )
    if recipe.get("data", real.name) != real.name:
        raise UsageError(
            f"{file.path} is whitened as {recipe['data']!r:.80} is: --data must name that, not {real.name}"
        )
    check_match(file, real, file.size)
    if recipe.get("digest", real.digest[:32]) != real.digest[:32]:
        raise UsageError(f"{file.path} is whitened by other images than {real.name} {real.split} of --data has")
    return Whitening.fit(real.images, epsilon_of(recipe))


@dataclass(frozen=True, eq=False)
class Real:
    """Real images.

    Attributes:
        tests: by size, the same images at each.
        pool: the training split at the file's size, if anything needs it.
    """

    tests: dict[tuple[int, int], ImageSet]
    pool: Pool | None


def load(
    file: gsdata.GsdFile,
    sizes: tuple[tuple[int, int], ...] | None,
    *,
    data: str,
    split: str,
    limit: int | None,
    size: int | tuple[int, int] | None,
    seed: int,
    need_pool: bool,
) -> Real:
    """Load what an evaluation needs, and refuse what does not fit the file.

    Args:
        file: the set under test.
        sizes: test at these; None is the file's own size, which the images must then have (after ``size``).
        data: as for ``sources.load``.
        split: of the test images; ``held-out`` is the part of the training split that ``Pool`` holds out.
        limit: at most so many test images, class-balanced.
        size: as for ``sources.load``; without meaning where ``sizes`` are given.
        seed: of the draws.
        need_pool: whether baselines or choices need training images.

    Raises:
        UsageError: classes, channels or size are not the file's, or training images would be tested on.
    """
    held_out = split == HELD_OUT
    tests = {}
    for wanted in sizes or (file.size,):
        chosen = size if sizes is None else wanted
        if held_out:
            tests[wanted] = _held_out(data, chosen, limit, seed)
        else:
            balance = seed if limit else None
            tests[wanted] = sources.load(data, split=split, limit=limit, size=chosen, balanced_seed=balance)
        check_match(file, tests[wanted], wanted)
    if not need_pool:
        return Real(tests, None)
    real = sources.load(data, split="train", size=size if sizes is None else file.size)
    tested = next(iter(tests.values())).split
    if held_out or real.split == tested:
        raise UsageError(
            f"baselines and checkpoints are chosen on images of split {real.split}, so networks must be tested on another "
            f"--split than {tested}"
        )
    check_match(file, real, file.size)
    return Real(tests, Pool.of(real.images, real.labels, len(real.classes), seed))


def _held_out(data: str, size: int | tuple[int, int] | None, limit: int | None, seed: int) -> ImageSet:
    """The images that ``Pool`` holds out, or a class-balanced part of them."""
    real = sources.load(data, split="train", size=size)
    chosen = Pool.of(real.images, real.labels, len(real.classes), seed).validation
    chosen = chosen[sources.choose(real.labels[chosen], limit, seed)]
    images, labels = real.images[chosen], real.labels[chosen]
    return ImageSet(images, labels, real.classes, real.name, HELD_OUT, sources.digest_of(images, labels))


def check_match(file: gsdata.GsdFile, real: ImageSet, size: tuple[int, int]) -> None:
    """Refuse real images whose classes or channels are not the file's, or that have another size than ``size``."""
    where = f"{real.name} {real.split}"
    height, width, channels = real.images.shape[1:]
    if channels != file.channels:
        raise UsageError(f"{where} has {channels} channels, {file.path} has {file.channels}: test on other --data")
    if (height, width) != size:
        raise UsageError(
            f"{where} has images of {height}x{width} pixels, {file.path} of {size[0]}x{size[1]}: "
            f"give --size {size[0]}x{size[1]}, or other --data"
        )
    if not real.classes or int(real.labels.min()) < 0:
        raise UsageError(f"{where} has images without labels: there is nothing to test against")
    if len(real.classes) != file.class_count:
        raise UsageError(
            f"{where} has {len(real.classes)} classes, {file.path} has {file.class_count}: not the same data"
        )
    for index, (theirs, ours) in enumerate(zip(real.classes, file.classes, strict=False)):
        if theirs != ours:
            raise UsageError(f"class {index} is {theirs!r} in {where}, but {ours!r} in {file.path}: not the same data")
