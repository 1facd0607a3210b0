"""Byte budgets: what a file weighs, what a paper's IPC means in bytes, and how to spend bytes on images and Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

from gsdata.errors import BudgetError
from gsdata.header import MAX_IMAGES
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


class Bits(NamedTuple):
    """Bits of each x and y, of each l11 and l22, of l21, and of each colour channel."""

    means: int = 7
    scales: int = 5
    shear: int = 6
    colors: int = 6


def default_bits(size: tuple[int, int], count: float) -> Bits:
    """The widths of codes with the highest PSNR at equal bytes, for images of ``size`` (H, W) and ``count`` Gaussians.

    Few Gaussians are better coarse and more of them, many are better fine: of 27 widths at every count, those of highest
    PSNR at 32 to 4,000 bytes per image on CIFAR-10 and on Imagenette at 128x128 (benchmarks/results/allocation.json).
    Positions step by a part of the Gaussians' spacing, so their width grows with the count.

    Raises:
        ValueError: ``count`` is not a number, or ``size`` has no pixels.
    """
    if math.isnan(count) or min(size) < 1:
        raise ValueError(f"widths need a count of Gaussians and a size in pixels, found {count} and {size}")
    long, short = max(size), min(size)
    part, scales, shear, colors = next(row for most, *row in _WIDTHS if count < most)
    means = round(math.log2(part * math.sqrt(max(1.0, count) * long / short)))
    return Bits(min(12, max(5, means)), int(scales), int(shear), int(colors))


# Less than so many Gaussians; steps of a position in their spacing; bits of log-scales, shear, colours.
_WIDTHS = ((28, 14, 4, 5, 6), (450, 21, 5, 6, 6), (math.inf, 28, 5, 6, 7))


def coded_bits(bits: Bits, size: tuple[int, int], count: float, channels: int = 3) -> float:
    """Bits that a Gaussian takes in the file, counts included, in an image of ``size`` (H, W) with ``count`` Gaussians.

    A least-squares fit to 297 measured files of 12 to 256 images (benchmarks/results/allocation.json, ``model``): a bit of
    width costs less than a bit, and Gaussians that share an image save the order of their positions and resemble each
    other. Off by up to 4.3 % there for ``default_bits``, by up to 9 % for others; images that are mostly flat take less.
    """
    widths = (2 * bits.means, 2 * bits.scales, bits.shear, channels * bits.colors)
    logs = (math.log2(max(1.0, count)), math.log2(size[0] * size[1]), 1.0)
    return max(1.0, sum(a * b for a, b in zip(CODED_BITS, (*widths, *logs), strict=True)))


CODED_BITS = (1.089, 0.744, 0.758, 0.614, -0.576, -0.949, 7.494)
"""Of 2 x positions, 2 x log-scales, shear, channels x colours, log2 of the count, log2 of the pixels, and 1."""
PIXELS_PER_GAUSSIAN = 44
"""Images and Gaussians both left to a plan get 23 Gaussians at 32x32: networks learn more from many coarse images than from
few fine ones, but where the best number lies was not measured."""


@dataclass(frozen=True)
class Plan:
    """How a budget is spent.

    Attributes:
        budget_bytes: bytes that the file may weigh.
        images_per_class: images of every class.
        gaussians_per_image: Gaussians of every image, rounded down.
        gaussians: Gaussians of the whole file that are expected to fit (at least images x gaussians_per_image).
        bits: widths of the codes.
    """

    budget_bytes: int
    images_per_class: int
    gaussians_per_image: int
    gaussians: int
    bits: Bits


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
    size: tuple[int, int] = (32, 32),
    channels: int = 3,
    bits: Bits | None = None,
    bits_per_gaussian: float | None = None,
    fixed_bytes: int = 1000,
    max_images_per_class: int | None = None,
) -> Plan:
    """Spend bytes on images, Gaussians and widths of codes: what is given is kept, what is not is chosen.

    Args:
        budget_bytes: bytes of the whole file.
        classes: number of classes, each with equally many images.
        images_per_class: images of every class; None leaves it to the plan.
        gaussians_per_image: Gaussians of every image; None leaves it to the plan (``PIXELS_PER_GAUSSIAN``, or what the
            images that are asked for leave).
        size: (H, W) of the images.
        channels: C.
        bits: widths of the codes; None means ``default_bits``.
        bits_per_gaussian: coded bits that a Gaussian is expected to take; None means ``coded_bits``.
        fixed_bytes: header, table and labels.
        max_images_per_class: upper bound, such as the number of real images to start from.

    Raises:
        BudgetError: not even one Gaussian per image fits, or more Gaussians are asked for than the budget can hold.
    """
    if classes < 1 or (bits_per_gaussian is not None and bits_per_gaussian <= 0):
        raise ValueError(f"a plan needs classes and positive bits, found {classes} and {bits_per_gaussian}")
    if min(size) < 1 or not 1 <= channels <= 4 or not all(1 <= width <= 12 for width in bits or ()):
        raise ValueError(
            f"a plan needs pixels, 1 to 4 channels and widths from 1 to 12, found {size}, {channels}, {bits}"
        )
    for what, number in (("images per class", images_per_class), ("Gaussians per image", gaussians_per_image)):
        if number is not None and number < 1:
            raise BudgetError(f"at least one of {what} is needed, found {number}")
    if gaussians_per_image is not None and gaussians_per_image > MAX_COUNT:
        raise BudgetError(f"an image holds at most {MAX_COUNT} Gaussians, found {gaussians_per_image}; ask for fewer")
    wish = float(gaussians_per_image or max(1, size[0] * size[1] // PIXELS_PER_GAUSSIAN))
    count, payload = wish, max(0, budget_bytes - fixed_bytes) * 8
    most = max_images_per_class if images_per_class is None else images_per_class
    # What a Gaussian takes depends on how many an image has, and the other way round: a few rounds settle that.
    for _ in range(8):
        widths = bits or default_bits(size, count)
        each_bits = bits_per_gaussian or coded_bits(widths, size, count, channels)
        images = images_per_class or max(1, int(payload / each_bits / (classes * wish)))
        images = max(1, min(images, MAX_IMAGES // classes if most is None else most))
        if gaussians_per_image is None:
            count = min(MAX_COUNT, max(1.0, payload / each_bits / (images * classes)))
    if images * classes > MAX_IMAGES:
        raise BudgetError(
            f"a file holds at most {MAX_IMAGES} images, found {images} x {classes} classes; ask for fewer"
        )
    gaussians = int(payload / each_bits)
    each = gaussians_per_image or min(MAX_COUNT, gaussians // (images * classes))
    if each < 1 or images * classes * each > gaussians:
        raise BudgetError(
            f"{budget_bytes} bytes hold about {gaussians} Gaussians of {each_bits:.3g} bits: too few for "
            f"{images} images x {classes} classes x {max(each, 1)} Gaussians; ask for fewer, or for more bytes"
        )
    return Plan(budget_bytes, images, each, gaussians, widths)
