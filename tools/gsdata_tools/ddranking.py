"""A set as the three files that DD-Ranking and other evaluators of distilled sets read: ``images.pt``, ``labels.pt``, ``lr.pt``.

DD-Ranking (Z. Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025) trains on the images as they are
and tests on real images that it normalises itself, so what is written is normalised with its constants for the data set. Its
losses for soft labels apply a softmax to them, so these are written as logarithms of probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gsdata
from gsdata_tools import export_folder
from gsdata_tools.export_source import ImageStream, stream_of
from gsdata_tools.train import Normalization
from gsdata_tools.usage import UsageError
from gsdata_tools.whitening import Whitening

SCHEMA = "gsd-eval-export/1"
NORMALIZATIONS = {
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenette-128": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""What DD-Ranking normalises its real images with, by our names of the data."""
_LEAST = math.exp(-30.0)  # a logarithm must be finite; 30 below the largest is nothing after a softmax in float32


def export(
    file: gsdata.GsdFile,
    folder: Path,
    *,
    normalization: Normalization | Whitening,
    lr: float,
    size: tuple[int, int],
    force: bool = False,
) -> dict[str, Any]:
    """``write_tensors`` for a file; the folder is there in full at the end, or not at all; ``force`` replaces an earlier export."""
    with export_folder.new_folder(folder, force) as new:
        return write_tensors(stream_of(file, size), new, normalization=normalization, lr=lr)


def write_tensors(
    stream: ImageStream,
    folder: Path,
    *,
    normalization: Normalization | Whitening | None,
    lr: float | None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Write a set, its images ordered by class.

    Args:
        stream: a set with labels.
        folder: an empty one.
        normalization: of the images, whose values are as decoded, limited to [0, 1] only where the recipe says so; None leaves them so.
        lr: the learning rate to train with; None writes no ``lr.pt``.
        progress: called with the number of images that are done.

    Returns:
        What ``export.json``, beside the three, holds: which file it was, shapes, labels' kind, normalisation, images per class.
    """
    order = np.argsort(stream.labels, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    soft = stream.soft_labels()
    labels = torch.from_numpy(stream.labels[order])
    if soft is not None:
        labels = torch.from_numpy(soft[order]).clamp_min(_LEAST).log()
    # In a file, so that memory does not grow with the set; torch.save copies it from there.
    shape = (len(stream), stream.channels, *stream.size)
    scratch = folder / "scratch"
    images = torch.from_file(str(scratch), shared=True, size=math.prod(shape), dtype=torch.float32).view(shape)
    for batch in stream.batches("float32"):
        pixels = torch.from_numpy(batch.pixels)
        stop = batch.start + len(pixels)
        where = torch.from_numpy(place[batch.start : stop])
        images[where] = pixels if normalization is None else normalization.apply(pixels)
        progress(stop)
    per_class = np.bincount(stream.labels, minlength=len(stream.classes))
    said = {
        "schema": SCHEMA,
        **stream.identity,
        "images": list(shape),
        "labels": "hard" if soft is None else "log-probabilities",
        "images_per_class": int(per_class[0]) if len(set(per_class.tolist())) == 1 else per_class.tolist(),
        "classes": list(stream.classes),
        "normalization": None if normalization is None else normalization.describe(),
        "lr": lr,
    }
    torch.save(images, folder / "images.pt")
    torch.save(labels, folder / "labels.pt")
    if lr is not None:
        torch.save(torch.tensor(lr, dtype=torch.float32), folder / "lr.pt")
    scratch.unlink()
    export_folder.write_index(folder, said)
    return said


def normalization_for(stream: ImageStream, name: str) -> Normalization | None:
    """What ``--normalize`` names: ``none``, ``recipe``, a data set of ``NORMALIZATIONS``, or ``auto``.

    ``auto`` is the data set that the file says it was made from, where DD-Ranking knows it, else the recipe.

    Raises:
        UsageError: the recipe has no mean and std or whitens by ZCA, or the constants are for another number of channels.
    """
    if name == "none":
        return None
    recipe = stream.recipe
    if name == "auto":
        source = stream.provenance.get("source")
        made_from = source.get("name") if isinstance(source, dict) else None
        known = isinstance(made_from, str) and made_from in NORMALIZATIONS and stream.channels == 3
        name = str(made_from) if known and recipe.zca is None else "recipe"
    unit = NORMALIZATIONS.get(name)
    if name == "recipe":
        if recipe.zca is not None:
            raise UsageError(
                f"{stream.name}: its recipe whitens by ZCA, which takes the real images: gsd-eval FILE.gsd --data DATA "
                "--export DIR does it, and --normalize none writes the images as they are"
            )
        if recipe.mean is None or recipe.std is None:
            names = ", ".join(NORMALIZATIONS)
            raise UsageError(f"{stream.name}: its recipe has no mean and std: say --normalize none, or one of {names}")
        unit = Normalization(recipe.mean, recipe.std)
    assert unit is not None
    if len(unit.mean) != stream.channels:
        raise UsageError(
            f"--normalize {name}: that is for {len(unit.mean)} channels, {stream.name} has {stream.channels}"
        )
    return unit
