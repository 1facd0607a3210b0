"""A set as the three files that DD-Ranking and other evaluators of distilled sets read: ``images.pt``, ``labels.pt``, ``lr.pt``.

DD-Ranking (Z. Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025) trains on the images as they are
and tests on real images that it normalises itself, so what is written is normalised with its constants for the data set. Its
losses for soft labels apply a softmax to them, so these are written as logarithms of probabilities.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gsdata
from gsdata_tools import checkpoints
from gsdata_tools.train import Normalization
from gsdata_tools.whitening import Whitening

SCHEMA = "gsd-eval-export/1"
NORMALIZATIONS = {
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenette-128": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""What DD-Ranking normalises its real images with, by our names of the data."""
_LEAST = math.exp(-30.0)  # a logarithm must be finite; 30 below the largest is nothing after a softmax in float32


def export(
    file: gsdata.GsdFile, folder: Path, *, normalization: Normalization | Whitening, lr: float, size: tuple[int, int]
) -> dict[str, Any]:
    """Write a set, its images ordered by class, each file atomically.

    Args:
        file: a file with labels.
        folder: made if it is missing; its parent exists.
        normalization: of the images, whose values are as decoded and not clamped.
        lr: the learning rate to train with.
        size: (H, W) to render at.

    Returns:
        What ``export.json``, beside the three, holds: which file it was, shapes, labels' kind, normalisation, images per class.
    """
    soft = file.soft_labels
    order = np.argsort(file.labels, kind="stable")
    rendered = torch.from_numpy(np.asarray(gsdata.render(file.gaussians(), size, order)))
    labels = torch.from_numpy(file.labels[order].astype(np.int64))
    if soft is not None:
        labels = torch.from_numpy(soft[order].astype(np.float32)).clamp_min(_LEAST).log()
    images = normalization.apply(rendered).contiguous()
    per_class = np.bincount(file.labels, minlength=file.class_count)
    said = {
        "schema": SCHEMA,
        "file": str(file.path),
        "sha256": file.sha256,
        "images": list(images.shape),
        "labels": "hard" if soft is None else "log-probabilities",
        "images_per_class": int(per_class[0]) if len(set(per_class.tolist())) == 1 else per_class.tolist(),
        "classes": list(file.classes),
        "normalization": normalization.describe(),
        "lr": lr,
    }
    folder.mkdir(exist_ok=True)
    tensors = {"images.pt": images, "labels.pt": labels, "lr.pt": torch.tensor(lr, dtype=torch.float32)}
    for name, tensor in tensors.items():
        stream = io.BytesIO()
        torch.save(tensor, stream)
        checkpoints.atomic_write(folder / name, stream.getvalue())
    text = json.dumps(said, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    checkpoints.atomic_write(folder / "export.json", text.encode())
    return said
