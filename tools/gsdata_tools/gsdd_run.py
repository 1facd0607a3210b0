"""``gsd-encode --from-gsdd``: a checkpoint of the reference method's code into a ``.gsd``, and how far its pixels differ."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gsdata
from gsdata import GsdFile, Recipe
from gsdata.atomic import write_atomically
from gsdata.augment import STRATEGY
from gsdata.budget import Bits
from gsdata.quantize import Codes, fit_quantizers, quantize
from gsdata_tools import cli, gsdd, gsdd_checkpoint, metrics
from gsdata_tools.preview import contact_sheet
from gsdata_tools.usage import UsageError

SCHEMA = "gsd-encode-gsdd/1"
_BITS = Bits(10, 8, 8, 8)
_ZCA_EPSILON = 0.1  # the published one
_BLOCK = 64


def encode_gsdd(arguments: argparse.Namespace, output: cli.Output) -> dict[str, Any]:
    """Convert, write, open again and compare; returns the report.

    Raises:
        UsageError: ``--size`` or what the labels are is not said, or does not fit.
        GsdError: the checkpoint is not what it should be.
    """
    if arguments.size is None:
        raise UsageError("--from-gsdd: the checkpoint does not say the size that it was trained at: give --size 32")
    size = (arguments.size, arguments.size) if isinstance(arguments.size, int) else arguments.size
    splats = gsdd_checkpoint.read(arguments.from_gsdd, arguments.precision)
    labels, names, count = _labels(arguments, len(splats.counts))
    bits = Bits(*arguments.bits) if arguments.bits else _BITS
    split = arguments.split_opacity or gsdd.SPLIT
    gaussians = gsdd.convert(splats, size, split)
    quantizers = fit_quantizers(
        gaussians, means_bits=bits.means, scales_bits=bits.scales, shear_bits=bits.shear, colors_bits=bits.colors
    )
    codes = quantize(gaussians, quantizers)
    options = {
        "size": list(size),
        "bits": list(bits),
        "precision": arguments.precision,
        "split_opacity": split,
        "zca": arguments.zca,
    }
    source = {"name": "gsdd-checkpoint", "images": len(splats.counts), "sha256": _sha256(arguments.from_gsdd)}
    provenance = {
        "tool": "gsd-encode --from-gsdd",
        "source": source,
        "options": {key: value for key, value in options.items() if value is not None},
        "versions": cli.record_versions(),
    }
    shown = _shown(codes)
    recipe = _recipe(shown, splats.lr, arguments.zca)
    content = gsdata.to_bytes(
        codes, labels=labels, classes=names, class_count=count, recipe=recipe, provenance=provenance
    )
    write_atomically(output.gsd, content)
    with gsdata.open(output.gsd) as file, cli.Progress(len(file), "compared", arguments.quiet) as progress:
        report = {
            "schema": SCHEMA,
            "images": len(file),
            "gaussians": file.gaussian_count,
            "gaussians_not_drawn": int((splats.opacities < gsdd.LEAST).sum()),
            "gaussians_split": file.gaussian_count - int((splats.opacities >= gsdd.LEAST).sum()),
            "centres_outside": int((np.abs(gaussians.means) > 1).any(axis=1).sum()),
            "opacities_above_1": int((splats.opacities > 1).sum()),
            "checkpoint_bytes": arguments.from_gsdd.stat().st_size,
            "bytes_total": len(content),
            "bits_per_gaussian": len(content) * 8 / max(1, file.gaussian_count),
            **compare(file, gaussians, splats, progress),
        }
    contact_sheet(shown, np.full(len(shown), -1) if labels is None else labels, names, output.png)
    write_atomically(output.json, (json.dumps(report, indent=2, allow_nan=False) + "\n").encode())
    if report["tiles_beyond_256"]:
        cli.note(
            f"{report['tiles_beyond_256']} tiles have more than {gsdd.TILE_LIMIT} Gaussians: the published renderer leaves some of them out, "
            "and which is not defined; all are drawn here"
        )
    return report


def compare(
    file: GsdFile, gaussians: gsdata.Gaussians, splats: gsdd_checkpoint.Splats, progress: cli.Progress
) -> dict[str, Any]:
    """How far the images of a file are from those of the reference renderer, at the file's size.

    Args:
        file: the closed file.
        gaussians: what was quantised into it.
        splats: what those were made from.
        progress: told how many images are done.

    Returns:
        ``psnr_mean`` and ``psnr_min`` in dB, of uint8 images; ``difference_max`` and ``difference_rms`` of pixels as floats, not
        clamped, of 1 from black to white; ``difference_rms_unquantised``, the part of it that more bits would not remove;
        ``tiles_beyond_256``.
    """
    drawn = gsdd.images(splats, file.size)
    psnr: list[NDArray[np.float64]] = []
    most, squares, unquantised, crowded = 0.0, 0.0, 0.0, 0
    for start in range(0, len(file), _BLOCK):
        chosen = np.arange(start, min(start + _BLOCK, len(file)))
        parts = [next(drawn) for _ in chosen]
        crowded += sum(tiles for _, tiles in parts)
        reference = np.stack([image for image, _ in parts])
        ours, before = (_nhwc(batch) for batch in (file.gaussians(chosen), gaussians.select(chosen)))
        most = max(most, float(np.abs(ours - reference).max()))
        squares += float(np.square(ours - reference).sum())
        unquantised += float(np.square(before - reference).sum())
        psnr.append(metrics.psnr(_uint8(ours), _uint8(reference)))
        progress.update(int(chosen[-1]) + 1)
    values = len(file) * file.size[0] * file.size[1] * file.channels
    together = np.concatenate(psnr)
    return {
        "psnr_mean": float(together.mean()),
        "psnr_min": float(together.min()),
        "difference_max": most,
        "difference_rms": (squares / values) ** 0.5,
        "difference_rms_unquantised": (unquantised / values) ** 0.5,
        "tiles_beyond_256": crowded,
    }


def _labels(arguments: argparse.Namespace, images: int) -> tuple[NDArray[np.int64] | None, tuple[str, ...], int | None]:
    """Labels, names of classes and their number."""
    wanted = arguments.classes
    names = wanted if isinstance(wanted, tuple) else ()
    count = len(names) if names else wanted
    if arguments.labels is not None:
        labels = _read_labels(arguments.labels, images)
        least = int(labels.max()) + 1
        if count is not None and count < least:
            raise UsageError(f"--classes: {count} classes, but {arguments.labels} has the label {least - 1}")
        return labels, names, count
    if count is None:
        raise UsageError(
            "--from-gsdd: the checkpoint has no labels. Its code keeps images in the order of classes, as many of each: --classes 10, or "
            "--classes airplane,automobile,...; or --labels FILE; or --classes 0 for a file without labels"
        )
    if count == 0:
        return None, (), None
    if images % count:
        raise UsageError(f"--classes: {images} images do not divide into {count} classes; give --labels FILE")
    return np.repeat(np.arange(count), images // count), names, count


def _read_labels(path: Path, images: int) -> NDArray[np.int64]:
    try:
        loaded = np.load(path, allow_pickle=False) if path.suffix == ".npy" else gsdd_checkpoint.load(path)
        values = np.asarray(loaded)
    except (ValueError, EOFError) as error:
        raise UsageError(f"--labels {path}: not an array of numbers ({error})") from None
    if values.shape != (images,) or values.dtype.kind not in "iu" or int(values.min(initial=0)) < 0:
        raise UsageError(
            f"--labels {path}: {values.dtype} of shape {values.shape}; expected {images} class numbers from 0"
        )
    labels: NDArray[np.int64] = values.astype(np.int64)
    return labels


def _recipe(shown: NDArray[np.uint8], lr: float | None, zca: str | None) -> Recipe:
    """The learned rate, DSA's operations as published, and ZCA, or the mean and std of the images."""
    augment = f"dsa:{STRATEGY}"
    if zca is not None:
        return Recipe(lr=lr, augment=augment, zca={"epsilon": _ZCA_EPSILON, "data": zca, "split": "train"})
    values = shown.reshape(-1, shown.shape[-1])
    mean = tuple(round(float(m) / 255, 6) for m in values.mean(axis=0, dtype=np.float64))
    std = tuple(round(float(s) / 255, 6) or 1.0 for s in values.std(axis=0, dtype=np.float64))
    return Recipe(mean=mean, std=std, lr=lr, augment=augment)


def _shown(codes: Codes) -> NDArray[np.uint8]:
    """What a reader shows: (B, H, W, C)."""
    images = np.empty((codes.num_images, *codes.size, codes.channels), np.uint8)
    for start in range(0, len(images), _BLOCK):
        chosen = np.arange(start, min(start + _BLOCK, len(images)))
        images[chosen] = gsdata.render(codes.select(chosen).dequantize(), dtype="uint8").transpose(0, 2, 3, 1)
    return images


def _nhwc(gaussians: gsdata.Gaussians) -> NDArray[np.float64]:
    return np.asarray(gsdata.render(gaussians), np.float64).transpose(0, 2, 3, 1)


def _uint8(images: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
