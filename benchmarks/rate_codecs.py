"""What ``rate_distortion.py`` compares: each codec takes images and gives their weight and what is seen of them.

A ``.gsd`` is one file for all images, made by ``gsd-encode`` in a process of its own, as a user would type it. JPEG, WebP and AVIF are
one file per image. Gaussians as the reference method (arXiv:2509.26219) stores them are nine bfloat16 numbers each and nothing else.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import gsdata
from gsdata_tools.baselines import webp_payload
from gsdata_tools.fit import fit_gaussians

Images = NDArray[np.uint8]

OPTIONS: dict[str, dict[str, Any]] = {
    "jpeg": {"optimize": True},
    "webp": {"method": 6},
    "avif": {"speed": 4, "max_threads": 1},
}
"""What Pillow gets beside the quality. AVIF's speed is a compromise: 0 finds slightly smaller files, many times slower."""

QUALITIES = {
    "jpeg": (1, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90),
    "webp": (0, 1, 2, 4, 7, 10, 15, 20, 25, 30, 35, 40, 50, 60, 70, 80, 90),
    "avif": (5, 10, 20, 30, 40, 50, 60, 70),
}
BF16_BYTES = 9 * 2
_BATCH_PIXELS = 1 << 22
_ENCODE = "import sys; from gsdata_tools.encode import main; sys.exit(main())"


@dataclass(frozen=True, eq=False)
class Coded:
    """Images after a codec.

    Attributes:
        bytes_per_image: whole files, divided by the number of images.
        shown: (B, H, W, C) uint8, decoded.
        details: what else there is to record.
    """

    bytes_per_image: float
    shown: Images
    details: dict[str, Any] = field(default_factory=dict)


def gsd(data: Sequence[str], options: Sequence[str]) -> Coded:
    """One ``.gsd`` file by ``gsd-encode``, which is deleted again: it is a copy of real images.

    Args:
        data: the options that name the images.
        options: the options of the fit.
    """
    arguments = [*data, *options, "--json", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gsd"
        done = subprocess.run(
            [sys.executable, "-c", _ENCODE, *arguments, "-o", path], stdout=subprocess.PIPE, check=True
        )
        report = json.loads(done.stdout)
        with gsdata.open(path) as file:
            parts = [file.gaussians(part) for part in _batches(len(file), file.size)]
            shown = np.concatenate([show(part) for part in parts])
        weight = path.stat().st_size
    details = {key: report[key] for key in ("gaussians", "bits_per_gaussian", "steps", "seconds", "images_per_second")}
    return Coded(weight / len(shown), shown, {**details, "options": " ".join(options)})


def bf16(images: Images, count: int, steps: int) -> Coded:
    """The float fit that ``gsd-encode`` starts from, in nine bfloat16 numbers per Gaussian; nothing else is charged."""
    rounded = to_bf16(fit_gaussians(images, count, steps=steps))
    parts = [show(rounded.select(part)) for part in _batches(len(images), rounded.size)]
    return Coded(count * BF16_BYTES, np.concatenate(parts), {"gaussians": count * len(images), "steps": steps})


def to_bf16(gaussians: gsdata.Gaussians) -> gsdata.Gaussians:
    """Each number rounded to the nearest bfloat16, ties to even.

    The published code stores l11 and l22 less half a pixel and adds it again after the rounding. The ninth number, the
    opacity, is 1, which is exact: these Gaussians have it in their colours.
    """
    offset = np.array([0.5, 0.0, 0.5], np.float32)
    return replace(
        gaussians,
        means=round_bf16(np.asarray(gaussians.means)),
        cholesky=round_bf16(np.asarray(gaussians.cholesky) - offset) + offset,
        colors=round_bf16(np.asarray(gaussians.colors)),
    )


def round_bf16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 values, each replaced by the nearest bfloat16, ties to even."""
    rounded: NDArray[np.float32] = torch.from_numpy(values).to(torch.bfloat16).to(torch.float32).numpy()
    return rounded


def pillow(codec: str, images: Images, quality: int) -> Coded:
    """``jpeg``, ``webp`` or ``avif``, one file per image; WebP's details have the bytes without its container."""

    def one(image: Images) -> tuple[int, int, Images]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, codec, quality=quality, **OPTIONS[codec])
        coded = stream.getvalue()
        with Image.open(stream) as decoded:
            shown = np.asarray(decoded.convert("RGB"))
        return len(coded), webp_payload(coded) if codec == "webp" else 0, shown

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        weights, payloads, shown = zip(*pool.map(one, images), strict=True)
    details = {"without_container": float(np.mean(payloads))} if codec == "webp" else {}
    return Coded(float(np.mean(weights)), np.stack(shown), details)


def show(gaussians: gsdata.Gaussians) -> Images:
    """What a reader shows: (B, H, W, C) uint8."""
    return np.ascontiguousarray(np.asarray(gsdata.render(gaussians, dtype="uint8")).transpose(0, 2, 3, 1))


def at_bytes(curve: Sequence[tuple[float, float]], weight: float) -> float | None:
    """The quality of a codec at ``weight`` bytes per image, None outside of what was measured.

    Args:
        curve: (bytes per image, quality) points in any order; between two neighbours the quality is linear in the logarithm of
            the bytes.
        weight: bytes per image.
    """
    weights, qualities = np.array(sorted(curve)).reshape(-1, 2).T
    if not len(weights) or not weights[0] <= weight <= weights[-1]:
        return None
    return float(np.interp(math.log(weight), np.log(weights), qualities))


def nearest(curve: Sequence[tuple[float, int]], weight: float, within: float = 0.15) -> int | None:
    """The setting whose (bytes per image, setting) is nearest to ``weight``; None if that is off by more than ``within``."""
    if not curve:
        return None
    distance, setting = min((abs(math.log(each / weight)), setting) for each, setting in curve)
    return setting if distance <= math.log1p(within) else None


def _batches(number: int, size: tuple[int, int]) -> list[NDArray[np.int64]]:
    step = max(1, _BATCH_PIXELS // (size[0] * size[1]))
    return [np.arange(first, min(first + step, number)) for first in range(0, number, step)]
