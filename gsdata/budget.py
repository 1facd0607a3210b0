"""Byte budgets: what a file weighs, what a paper's IPC means in bytes, and how to spend bytes on images and Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from gsdata.errors import BudgetError
from gsdata.streams import MAX_COUNT

Convention: TypeAlias = Literal["float32", "uint8"]
"""How an IPC counts pixels: ``float32`` (what papers count, 4 bytes a value) or ``uint8`` (what images weigh)."""


@dataclass(frozen=True)
class Budget:
    """Where the bytes of one file go; the four parts add up to its size exactly.

    Attributes:
        payload: sections of Gaussians (counts included: they say what an image is made of).
        labels: sections of labels.
        index: the section table.
        overhead: preamble, header, and optional sections that this reader does not know.
    """

    payload: int
    labels: int
    index: int
    overhead: int

    @property
    def total(self) -> int:
        """Size of the file in bytes."""
        return self.payload + self.labels + self.index + self.overhead


@dataclass(frozen=True)
class Plan:
    """How a budget is spent.

    Attributes:
        budget_bytes: bytes that the file may weigh.
        images_per_class: images of every class.
        gaussians_per_image: Gaussians of every image, rounded down.
        gaussians: Gaussians of the whole file that are expected to fit (at least images x gaussians_per_image).
    """

    budget_bytes: int
    images_per_class: int
    gaussians_per_image: int
    gaussians: int


def bytes_per_image(channels: int, size: tuple[int, int], convention: Convention = "float32") -> int:
    """Bytes that one image of (H, W) pixels counts for under a convention.

    Raises:
        ValueError: unknown convention.
    """
    if convention not in get_args(Convention):
        raise ValueError(f"convention must be one of {get_args(Convention)}, found {convention!r}")
    return channels * size[0] * size[1] * (4 if convention == "float32" else 1)


def ipc_bytes(ipc: int, classes: int, channels: int, size: tuple[int, int], convention: Convention = "float32") -> int:
    """Bytes of "IPC images per class": ipc x classes x C x H x W x 4 (``float32``) or x 1 (``uint8``).

    Raises:
        BudgetError: ``ipc`` or ``classes`` is not positive.
    """
    if ipc < 1 or classes < 1:
        raise BudgetError(f"a budget needs at least one image per class and one class, found {ipc} and {classes}")
    return ipc * classes * bytes_per_image(channels, size, convention)


def ipc_of(total_bytes: int, classes: int, channels: int, size: tuple[int, int], convention: Convention) -> float:
    """The IPC that a file of ``total_bytes`` amounts to; files without classes count as one class."""
    return total_bytes / (max(classes, 1) * bytes_per_image(channels, size, convention))


def plan(
    budget_bytes: int,
    classes: int,
    *,
    images_per_class: int | None = None,
    gaussians_per_image: int | None = None,
    bits_per_gaussian: float = 44.0,
    fixed_bytes: int = 1000,
    default_gaussians: int = 28,
    max_images_per_class: int | None = None,
) -> Plan:
    """Spend bytes on images and Gaussians: what is given is kept, what is not is chosen.

    Args:
        budget_bytes: bytes of the whole file.
        classes: number of classes, each with equally many images.
        images_per_class: images of every class; None leaves it to the plan.
        gaussians_per_image: Gaussians of every image; None leaves it to the plan.
        bits_per_gaussian: coded bits that a Gaussian is expected to take (a measurement corrects it later).
        fixed_bytes: header, table and labels.
        default_gaussians: Gaussians of an image when both numbers are left to the plan.
        max_images_per_class: upper bound, such as the number of real images to start from.

    Raises:
        BudgetError: not even one Gaussian per image fits, or more Gaussians are asked for than the budget can hold.
    """
    if classes < 1 or bits_per_gaussian <= 0:
        raise ValueError(f"a plan needs classes and positive bits, found {classes} and {bits_per_gaussian}")
    for what, number in (("images per class", images_per_class), ("Gaussians per image", gaussians_per_image)):
        if number is not None and number < 1:
            raise BudgetError(f"at least one of {what} is needed, found {number}")
    if gaussians_per_image is not None and gaussians_per_image > MAX_COUNT:
        raise BudgetError(f"an image holds at most {MAX_COUNT} Gaussians, found {gaussians_per_image}; ask for fewer")
    gaussians = int((budget_bytes - fixed_bytes) * 8 / bits_per_gaussian)
    images = images_per_class
    if images is None:
        images = max(1, round(gaussians / (classes * (gaussians_per_image or default_gaussians))))
        if gaussians_per_image is not None:
            images = max(1, gaussians // (classes * gaussians_per_image))
        if max_images_per_class is not None:
            images = max(1, min(images, max_images_per_class))
    each = gaussians_per_image or max(gaussians, 0) // (images * classes)
    each = min(each, MAX_COUNT)
    if each < 1 or images * classes * each > max(gaussians, 0):
        raise BudgetError(
            f"{budget_bytes} bytes hold about {max(gaussians, 0)} Gaussians of {bits_per_gaussian:g} bits: too few for "
            f"{images} images x {classes} classes x {max(each, 1)} Gaussians; ask for fewer, or for more bytes"
        )
    return Plan(budget_bytes, images, each, gaussians)
