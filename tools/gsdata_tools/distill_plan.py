"""What a run of ``gsd-distill`` was asked for, resolved: options, how a budget is spent, statistics of the real data."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata.augment import operations
from gsdata.budget import Bits, Plan, plan
from gsdata.quantize import Codes
from gsdata_tools import cli, networks, sources

CLASSIFY = 5.0
"""Default weight of the cross-entropy term."""
_TOLD_OTHERWISE = ("data", "split", "size", "ipc", "bytes", "convention", "iterations", "method")
_NOT_CONTENT = {*_TOLD_OTHERWISE, "output", "device", "time_limit", "resume", "force", "quiet", "json"}
"""Options that do not decide the content, or that the file tells in other words; every other one is compared on resuming."""
_IN_HEADER = ("augment", "model", "expert_dir")
"""Options that the recipe and the provenance have already."""


def resolved(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that decide the content, by option name; recorded in the file and compared on ``--resume``.

    Raises:
        UsageError: an option's value is unknown.
    """
    options = {name: value for name, value in vars(arguments).items() if name not in _NOT_CONTENT}
    options |= {
        "bits": options["bits"] and list(options["bits"]),
        "clamp": not options.pop("no_clamp"),
    }
    if "pretrain" in options:
        options["pretrain"] = list(options["pretrain"])
    if "classify" in options:
        _resolve_classify(options)
    options["augment"] = canonical_augment(arguments.augment)
    options["model"] = networks.canonical_name(arguments.model)
    return options


def canonical_augment(text: str) -> str:
    """``--augment`` as recipes name it; ``"none"`` for none.

    Raises:
        UsageError: an operation is unknown.
    """
    try:
        listed = operations(text)
    except ValueError as error:
        raise cli.UsageError(f"--augment: {error}") from None
    return f"dsa:{'_'.join(listed)}" if listed else "none"


def _resolve_classify(options: dict[str, Any]) -> None:
    trained = options["networks"] == "trained"
    if options["classify"] and not trained:
        raise cli.UsageError("--classify needs networks that know the classes: --networks trained")
    options["classify"] = (CLASSIFY if trained else 0.0) if options["classify"] is None else options["classify"]


def resolved_text(options: dict[str, Any]) -> str:
    """The resolved options as a command line says them, in alphabetical order: short, because the header is in the budget.

    The recipe names the network and the augmentation, the provenance the experts; budget, images and Gaussians can be read from the file.
    """
    said = {name: value for name, value in options.items() if value is not None and name not in _IN_HEADER}
    for name, default in (("rate_weight", 0.0), ("recycle", False), ("boundary_form", "log")):
        if options[name] == default:
            del said[name]
    words = []
    for name in sorted(said):
        value = said[name]
        dashed = name.replace("_", "-")
        if name == "clamp":
            words += [] if value else ["--no-clamp"]
        elif name == "recycle":
            words.append("--recycle")
        elif name == "pretrain":
            words.append(f"--{dashed} {value[0]} {value[1]}")
        elif name == "bits":
            words.append(f"--{dashed} {','.join(map(str, value))}")
        else:
            words.append(f"--{dashed} {value:g}" if isinstance(value, float) else f"--{dashed} {value}")
    return " ".join(words)


def plan_set(
    options: dict[str, Any], budget: int, classes: int, channels: int, size: tuple[int, int], members: int
) -> Plan:
    """How many images and Gaussians a budget gives.

    Args:
        options: as from ``resolved``.
        budget: bytes of the file.
        classes: K.
        channels: C.
        size: (H, W) of the images.
        members: real images of the smallest class, an upper bound for ``--init real`` and for what is planned.

    Raises:
        BudgetError: too much for the budget.
        UsageError: too little to fill it, or more images than there are real ones to start from.
    """
    per_class, gaussians = options["images_per_class"], options["gaussians"]
    from_real = options["init"] == "real"
    if from_real and per_class is not None and per_class > members:
        raise cli.UsageError(
            f"--images-per-class {per_class}: the smallest class has {members} real images to start from; "
            "take at most as many, or --init warmup"
        )
    planned = partial(
        plan,
        classes=classes,
        gaussians_per_image=gaussians,
        size=size,
        channels=channels,
        bits=Bits(*options["bits"]) if options["bits"] else None,
        max_images_per_class=members,
    )
    made = planned(budget, images_per_class=per_class)
    if soft := soft_label_bytes(options, made.images_per_class * classes, classes):
        if not from_real:
            raise cli.UsageError(
                f"--soft-labels asks networks about images that --init {options['init']} does not have yet"
            )
        if soft > budget // 2:
            raise cli.UsageError(
                f"--soft-labels of {made.images_per_class * classes} images may take {soft} of {budget} bytes; "
                "ask for fewer --images-per-class, or store hard labels"
            )
        made = planned(budget - soft, images_per_class=made.images_per_class)
    expected = made.images_per_class * made.gaussians_per_image * classes
    if gaussians is not None and expected < 0.8 * made.gaussians:
        enough = "leave --gaussians or --images-per-class to the planner" if per_class else "ask for more Gaussians"
        raise cli.UsageError(
            f"{made.images_per_class} images x {classes} classes x {gaussians} Gaussians would fill only about "
            f"{100 * expected / made.gaussians:.0f} % of {budget} bytes; {enough}, or give fewer bytes"
        )
    return made


def soft_label_bytes(options: dict[str, Any], images: int, classes: int) -> int:
    """At most so many bytes are soft labels; 0 where labels are hard."""
    return images * classes if options["soft_labels"] else 0


def empty_codes(codes: Codes) -> Codes:
    """The same without images."""
    return codes.select(np.zeros(0, np.int64))


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], rounded to four decimals; std at least 0.01."""
    count = np.prod(images.shape[:3])
    values = np.arange(256) / 255.0
    parts = [np.bincount(images[..., c].ravel(), minlength=256) / count for c in range(images.shape[3])]
    means = [float(part @ values) for part in parts]
    deviations = [float(np.sqrt(part @ (values - mean) ** 2)) for part, mean in zip(parts, means, strict=True)]
    return tuple(round(m, 4) for m in means), tuple(max(round(d, 4), 0.01) for d in deviations)


def smallest_class(data: sources.ImageSet) -> int:
    """Images of the smallest class.

    Raises:
        UsageError: images without labels, or a class without images.
    """
    if not data.classes or (data.labels < 0).any():
        raise cli.UsageError(
            f"{data.name}: distillation needs a class for every image; gsd-encode takes images without"
        )
    numbers = np.bincount(data.labels, minlength=len(data.classes))
    if numbers.min() == 0:
        name = data.classes[int(numbers.argmin())]
        raise cli.UsageError(f"{data.name}: class {name!r} has no images; raise --limit or leave the class out")
    return int(numbers.min())
