"""Contact sheets: what a set of images looks like, class by class, in one PNG."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gsdata.atomic import write_atomically
from gsdata.gaussians import Gaussians
from gsdata_tools.printing import printable

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    from gsdata.file import GsdFile

LEGIBLE = 64
"""Side in pixels that small images are magnified to, about: larger ones stay as they are."""
LARGEST = 192
"""Images with a longer side than this are shown smaller."""
MAX_IMAGES = 1024
MAX_CLASSES = 100
_GAP, _MARGIN, _FONT_SIZE, _NAME_WIDTH = 4, 16, 15, 220
_PAPER, _INK = (255, 255, 255), (32, 32, 32)
_ROW_WIDTH, _SHEET_ASPECT = 12, 1.6


@dataclass(frozen=True)
class Sheet:
    """Which images go where: one line of images after another.

    Attributes:
        lines: image indices of every line, from left to right.
        names: what stands to the left of every line; "" where nothing does.
        left_out: classes that have images and are not shown.
    """

    lines: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    left_out: int

    @property
    def indices(self) -> list[int]:
        """All images shown, line after line."""
        return [index for line in self.lines for index in line]


def arrange(
    labels: NDArray[np.int64], classes: Sequence[str], *, columns: int | None = None, max_images: int = MAX_IMAGES
) -> Sheet:
    """Choose evenly spaced images of every class and lay them out, a line per class.

    Where there is at most one class, its images fill several lines.

    Args:
        labels: (N,) class indices, -1 where there is none; those images come last.
        classes: names; classes without one are called by their number.
        columns: most images of a line; by default 12, or what makes a sheet of one class about 1.6 times as wide as high.
        max_images: most images in all, at least 1; of more than 100 classes, evenly spaced ones are shown.
    """
    groups = [(int(k), np.flatnonzero(labels == k)) for k in np.unique(labels)]
    groups.sort(key=lambda group: group[0] % (1 << 62))  # -1, images without a class, to the end
    if len(groups) == 1:
        chosen = _spread(groups[0][1], max_images)
        width = columns or max(1, round(math.sqrt(len(chosen) * _SHEET_ASPECT)))
        lines = [tuple(chosen[i : i + width]) for i in range(0, len(chosen), width)]
        names = [_name(groups[0][0], classes), *[""] * (len(lines) - 1)]
        return Sheet(tuple(lines), tuple(names), 0)
    shown = [groups[i] for i in _spread(np.arange(len(groups)), min(max_images, MAX_CLASSES))]
    width = max(1, min(columns or _ROW_WIDTH, max_images // max(len(shown), 1)))
    return Sheet(
        tuple(tuple(_spread(images, width)) for _, images in shown),
        tuple(_name(k, classes) for k, _ in shown),
        len(groups) - len(shown),
    )


def contact_sheet(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    path: str | os.PathLike[str],
    *,
    columns: int | None = None,
    max_images: int = MAX_IMAGES,
    scale: int | None = None,
) -> Sheet:
    """Write a PNG of images, a line per class with its name at the left; the old file or the new is there at any time.

    Args:
        images: (N, H, W, C) uint8; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA (alpha shows the paper).
        labels: (N,) class indices, -1 where there is none.
        classes: their names.
        path: the PNG; an existing file is replaced.
        columns: most images of a line.
        max_images: most images of the sheet.
        scale: whole-number magnification without smoothing; by default one that makes small images about 64 pixels
            large, and shrinks those above 192.

    Returns:
        what is shown.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
        ValueError: shapes or types are not as above.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not 1 <= images.shape[3] <= 4 or len(labels) != len(images):
        raise ValueError(f"images must be uint8 (N, H, W, 1 to 4) with N labels, found {images.dtype} {images.shape}")
    sheet = arrange(np.asarray(labels), classes, columns=columns, max_images=max_images)
    _write(sheet, images[np.array(sheet.indices, np.int64)], path, scale)
    return sheet


def preview_file(
    file: GsdFile,
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    columns: int | None = None,
    max_images: int = MAX_IMAGES,
    scale: int | None = None,
) -> Sheet:
    """Write a contact sheet of an opened file; only the images shown are decoded.

    Args:
        file: what ``gsdata.open`` returned.
        path: the PNG; an existing file is replaced.
        size: decode at this size in pixels; by default the reference size, or smaller where that is above 192.
        columns: most images of a line.
        max_images: most images of the sheet.
        scale: as for ``contact_sheet``.

    Raises:
        ModuleNotFoundError: Pillow or numba is not installed.
        GsdError: the file is damaged.
    """
    import numba  # noqa: F401 (without it, the renderer would take a slow way)

    from gsdata.rendering import render

    sheet = arrange(file.labels, file.classes, columns=columns, max_images=max_images)
    gaussians: Gaussians = file.gaussians(sheet.indices)
    pixels = render(gaussians, size or _small(file.size), dtype=np.uint8, backend="cpu")
    _write(sheet, pixels.transpose(0, 2, 3, 1), path, scale)
    return sheet


def _small(size: tuple[int, int]) -> tuple[int, int]:
    shrink = min(1.0, LARGEST / max(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))


def _spread(values: NDArray[Any], most: int) -> list[int]:
    """At most ``most`` of the values, evenly spaced, the first among them."""
    count = min(max(most, 1), len(values))
    return [int(values[i * len(values) // count]) for i in range(count)]


def _name(label: int, classes: Sequence[str]) -> str:
    if label < 0:
        return ""
    return printable(classes[label]) if label < len(classes) else str(label)


def _write(sheet: Sheet, images: NDArray[np.uint8], path: str | os.PathLike[str], scale: int | None) -> None:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    names = [_shortened(name, font) for name in sheet.names]
    label_width = max((math.ceil(font.getlength(name)) for name in names), default=0)
    left = _MARGIN + (label_width + _MARGIN if label_width else 0)
    height, width = images.shape[1:3]
    factor = scale or max(1, round(LEGIBLE / max(height, width)))
    cell_height, cell_width = (height * factor, width * factor) if scale else _small((height * factor, width * factor))
    # A line is never lower than its name.
    line_height = max(cell_height, _FONT_SIZE + 2 if any(names) else 1)
    most = max((len(line) for line in sheet.lines), default=0)
    total_width = left + max(0, most * (cell_width + _GAP) - _GAP) + _MARGIN
    total_height = 2 * _MARGIN + max(0, len(sheet.lines) * (line_height + _GAP) - _GAP)
    paper = Image.new("RGB", (total_width, total_height), _PAPER)
    draw = ImageDraw.Draw(paper)
    position = 0
    for row, (line, name) in enumerate(zip(sheet.lines, names, strict=True)):
        top = _MARGIN + row * (line_height + _GAP)
        if name:
            draw.text((_MARGIN, top + line_height // 2), name, fill=_INK, font=font, anchor="lm")
        for column in range(len(line)):
            smooth = Image.Resampling.LANCZOS if cell_width < width else Image.Resampling.NEAREST
            cell = _rgb(images[position]).resize((cell_width, cell_height), smooth)
            paper.paste(cell, (left + column * (cell_width + _GAP), top + (line_height - cell_height) // 2))
            position += 1
    stream = io.BytesIO()
    paper.save(stream, "PNG", optimize=True)
    write_atomically(path, stream.getvalue())


def _shortened(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(name) <= _NAME_WIDTH:
        return name
    while name and font.getlength(name + "...") > _NAME_WIDTH:
        name = name[:-1]
    return name.rstrip() + "..."


def _rgb(pixels: NDArray[np.uint8]) -> Image.Image:
    """One (H, W, C) image as it looks on the paper."""
    from PIL import Image

    height, width, channels = pixels.shape
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    image = Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
    if channels in (1, 3):
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, (*_PAPER, 255))
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
