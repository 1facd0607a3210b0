"""Encoded images to pixels: one rule for modes, orientation and size, whatever kind of source they come from.

Gray images keep one channel and colour images three; a mix of both becomes RGB. Palettes, CMYK and other colour spaces become RGB.
Transparency is composited on black, which is what a sum of Gaussians shows where there is none. EXIF orientation is applied.
16-bit gray is rounded to 8 bits.
"""

from __future__ import annotations

import io
import itertools
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from gsdata.errors import GsdError
from gsdata_tools.usage import UsageError

if TYPE_CHECKING:
    from PIL import Image

# Formats whose readers are plain decoders; Pillow's EPS reader, for one, starts another program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_BLOCK = 256


def decode(where: str, data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """One encoded image as uint8 (H, W, 1 or 3).

    Args:
        where: the file's name, for messages.
        data: its bytes.
        size: (H, W) to cover and crop to, or ``None`` for the image's own size.

    Raises:
        GsdError: no such image can be read from the bytes.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if data.startswith(b"version https://git-lfs"):
        raise GsdError(f"{where}: a Git-LFS pointer, not the image itself: run git lfs pull")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            picture = _plain(ImageOps.exif_transpose(image) or image)
    except UnidentifiedImageError:
        raise GsdError(f"{where}: not an image of a known format ({', '.join(_FORMATS)})") from None
    except GsdError as error:
        raise GsdError(f"{where}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly every kind
        raise GsdError(f"{where}: broken image ({type(error).__name__}: {error})") from error
    pixels = np.asarray(picture if size is None else _cover(picture, size))
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def decode_all(items: Iterator[tuple[str, bytes]], count: int, size: tuple[int, int] | None) -> np.ndarray:
    """All images of an iterator of names and bytes as uint8 (count, H, W, C); C is 1 only if all are gray.

    Raises:
        GsdError: an image is broken.
        UsageError: the images have several sizes and ``size`` is ``None``; the message names the first two.
    """
    images: np.ndarray | None = None
    first = ""
    done = 0
    workers = max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on metadata do not touch the pixels
        while block := list(itertools.islice(items, _BLOCK)):
            for (where, _), pixels in zip(
                block, pool.map(lambda item: decode(item[0], item[1], size), block), strict=True
            ):
                if images is None:
                    images = np.empty((count, *pixels.shape), dtype=np.uint8)
                    first = where
                elif pixels.shape[:2] != images.shape[1:3]:
                    raise _several_sizes(first, images.shape[1:3], where, pixels.shape[:2])
                if images.shape[3] < pixels.shape[2]:
                    images = np.repeat(images, pixels.shape[2], axis=3)
                images[done] = pixels
                done += 1
    assert images is not None
    assert done == count
    return images


def resize_all(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Plain pixels uint8 (N, H, W, C) covered and cropped to ``size``, by the rule that encoded images follow."""
    from PIL import Image

    if images.shape[1:3] == size:
        return images
    resized = np.empty((len(images), *size, images.shape[3]), dtype=np.uint8)
    for source, target in zip(images, resized, strict=True):
        if source.shape[2] == 3:
            target[:] = np.asarray(_cover(Image.fromarray(source), size))
        else:
            for channel in range(source.shape[2]):
                target[:, :, channel] = np.asarray(_cover(Image.fromarray(source[:, :, channel]), size))
    return resized


def _plain(image: Image.Image) -> Image.Image:
    """Mode L or RGB."""
    from PIL import Image

    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if mode == "1":
        return image.convert("L")
    if mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if mode in ("I", "F"):
        raise GsdError(f"pixels of 32 bits (Pillow's mode {mode}) are not read: convert the image to 8 or 16 bits")
    if "transparency" in image.info or mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        color = image.convert("RGBA")
        black = Image.new("RGBA", color.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, color).convert("L" if mode in ("L", "LA", "La") else "RGB")
    return image.convert("RGB")


def _cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scaled so that it just covers (H, W), antialiased, and the centre of it."""
    from PIL import Image

    height, width = size
    if (image.height, image.width) == size:
        return image
    if height * image.width >= width * image.height:  # the height decides the scale, the sides are cropped
        used_height, used_width = float(image.height), width * image.height / height
    else:
        used_height, used_width = height * image.width / width, float(image.width)
    left, top = (image.width - used_width) / 2, (image.height - used_height) / 2
    box = (left, top, min(left + used_width, image.width), min(top + used_height, image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def _several_sizes(first: str, first_size: tuple[int, ...], other: str, other_size: tuple[int, ...]) -> UsageError:
    return UsageError(
        f"images of several sizes: {first} is {first_size[0]}x{first_size[1]}, {other} is {other_size[0]}x{other_size[1]} "
        "(height x width); --size S or --size HxW resizes and crops them all"
    )
