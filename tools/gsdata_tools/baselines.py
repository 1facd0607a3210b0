"""Baselines of the same weight: random real training images, stored as Gaussians, WebP or JPEG within a budget of bytes.

A distilled set that trains a network no better than these is worth nothing, so they are counted generously. Charged are the
labels (class indices, packed) and the images: a WebP file without its container and frame header, a JPEG file without
the headers and tables that all files share, which count once for the whole set, and a whole ``.gsd`` file. Images are taken in
a class-balanced random order, new for each seed, until the next one would exceed the budget.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

import gsdata
from gsdata_tools.draws import rng
from gsdata_tools.source_images import resize_all
from gsdata_tools.sources import choose
from gsdata_tools.train import TrainingSet
from gsdata_tools.usage import UsageError

NAMES = ("random-gsd", "webp", "jpeg")
QUALITIES = {"webp": (1, 10, 30, 60), "jpeg": (5, 15, 35, 60)}
PIXELS_PER_GAUSSIAN = (96, 64, 44, 32, 24)
"""The Gaussian counts that are tried, as pixels of an image per Gaussian: 11, 16, 23, 32 and 43 at 32x32."""

NOTES = {
    "random-gsd": "The whole .gsd file is charged; it holds no class names, recipe or provenance.",
    "webp": "Charged: VP8 data and packed labels. Not charged: RIFF container, chunk headers, padding and frame header, "
    "30 or 31 bytes of each file.",
    "jpeg": "Charged: entropy-coded data of each file, packed labels, and once for the whole set the headers and tables "
    "that all files share. Not charged: those headers and the end marker in each file.",
}
_LABEL = {"random-gsd": "gaussians", "webp": "quality", "jpeg": "quality"}
_VALIDATION_SHARE, _VALIDATION_MOST = 10, 5000


@dataclass(frozen=True, eq=False)
class Pool:
    """Real training images, in two parts that share no image.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int64.
        classes: number of classes.
        drawn: (M,) int64, indices that baselines are drawn from.
        validation: (V,) int64, class-balanced indices that qualities are chosen on: a tenth, at most 5,000.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: int
    drawn: NDArray[np.int64]
    validation: NDArray[np.int64]

    @classmethod
    def of(cls, images: NDArray[np.uint8], labels: NDArray[np.int64], classes: int, seed: int) -> Pool:
        """Split a training set by a seed.

        Raises:
            UsageError: there are fewer than two images per class, so nothing can be held out.
        """
        count = max(classes, min(_VALIDATION_MOST, len(labels) // _VALIDATION_SHARE))
        if len(labels) < 2 * classes:
            raise UsageError(
                f"baselines need at least {2 * classes} training images, two per class; there are {len(labels)}"
            )
        held_out = np.sort(choose(labels, count, int(rng(seed, "validation").integers(2**31))))
        return cls(images, labels, classes, np.setdiff1d(np.arange(len(labels)), held_out), held_out)

    def order(self, seed: int, purpose: str) -> NDArray[np.int64]:
        """All of ``drawn`` in a random order in which every stretch holds the classes evenly, as long as they last."""
        labels = self.labels[self.drawn]
        place = np.empty((2, len(labels)), np.int64)
        present = np.unique(labels)
        turn = rng(seed, f"{purpose}-classes").permutation(len(present))
        for number, label in enumerate(present):
            members = np.flatnonzero(labels == label)
            place[0, members] = rng(seed, f"{purpose}-images", int(label)).permutation(len(members))
            place[1, members] = turn[number]
        return self.drawn[np.lexsort((place[1], place[0]))]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A baseline set: what to train on, and what it weighs.

    Attributes:
        data: decoded images and labels.
        indices: (n,) which images of the pool they are.
        bytes_total: what is charged, never above the budget.
        labels_bytes: the labels' part of it (0 where they are inside a ``.gsd``).
        gaussians: what ``random-gsd`` decodes to; None for codecs of pixels.
    """

    data: TrainingSet
    indices: NDArray[np.int64]
    bytes_total: int
    labels_bytes: int
    gaussians: gsdata.Gaussians | None = None

    def at(self, size: tuple[int, int]) -> TrainingSet:
        """The set at another size: Gaussians are rendered there, pixels are resized as real images are."""
        if tuple(self.data.images.shape[2:]) == size:
            return self.data
        if self.gaussians is not None:
            return TrainingSet(_shown(self.gaussians, size), self.data.labels)
        pixels = (self.data.images * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return TrainingSet.from_uint8(resize_all(np.ascontiguousarray(pixels), size), self.data.labels.numpy())


@dataclass(frozen=True)
class Encoded:
    """One image in a codec.

    Attributes:
        charged: bytes that count for this image.
        shared: bytes that count once for the set.
        pixels: (H, W, C) uint8, decoded.
    """

    charged: int
    shared: int
    pixels: NDArray[np.uint8]


def labels_bytes(images: int, classes: int) -> int:
    """Bytes of class indices packed into the fewest whole bits each."""
    return -(-images * max(1, classes - 1).bit_length() // 8) if classes > 1 else 0


def settings_of(name: str, size: tuple[int, int]) -> tuple[int, ...]:
    """The qualities or Gaussian counts that are tried, ascending."""
    if name == "random-gsd":
        return tuple(sorted({max(1, round(size[0] * size[1] / pixels)) for pixels in PIXELS_PER_GAUSSIAN}))
    return QUALITIES[name]


def setting_name(name: str) -> str:
    """What the number is called in reports: ``gaussians`` or ``quality``."""
    return _LABEL[name]


def check_names(text: str, channels: int) -> tuple[str, ...]:
    """The baselines in a comma-separated list, in its order, without repeats.

    Raises:
        UsageError: an unknown name, or a codec that cannot hold images of so many channels.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in NAMES:
            raise UsageError(f"--baselines: there is no {name!r}; take any of {','.join(NAMES)}")
        if (name == "webp" and channels == 2) or (name == "jpeg" and channels not in (1, 3)):
            raise UsageError(f"--baselines {name}: it stores no images of {channels} channels; leave it out")
    return names


def draw(name: str, setting: int, pool: Pool, budget: int, seed: int, purpose: str) -> Drawn:
    """Random real images that weigh at most ``budget`` bytes in a codec at a setting.

    Args:
        name: one of ``NAMES``.
        setting: a quality, or Gaussians per image.
        pool: where they are drawn from (never from its validation part).
        budget: bytes.
        seed: of the draw.
        purpose: ``"search"`` and ``"final"`` draw independently.

    Raises:
        UsageError: not even one image fits.
    """
    order = pool.order(seed, f"baseline-{purpose}")
    if name == "random-gsd":
        return _draw_gsd(setting, pool, order, budget, seed)
    encode = {"webp": encode_webp, "jpeg": encode_jpeg}[name]
    return _fill(name, (encode(pool.images[i], setting) for i in order), pool, order, budget)


def _fill(name: str, encoded: Iterator[Encoded], pool: Pool, order: NDArray[np.int64], budget: int) -> Drawn:
    pixels: list[NDArray[np.uint8]] = []
    total, shared = 0, 0
    for image in encoded:
        once = max(shared, image.shared)
        if total + image.charged + once + labels_bytes(len(pixels) + 1, pool.classes) > budget:
            break
        total, shared = total + image.charged, once
        pixels.append(image.pixels)
    if not pixels:
        raise UsageError(f"--baselines {name}: not one image fits into {budget:,} bytes")
    indices = order[: len(pixels)]
    labels = labels_bytes(len(pixels), pool.classes)
    data = TrainingSet.from_uint8(np.stack(pixels), pool.labels[indices])
    return Drawn(data, indices, total + shared + labels, labels)


def encode_webp(pixels: NDArray[np.uint8], quality: int) -> Encoded:
    """Lossy WebP with the slowest, best search; gray is stored as colour, which is all that the format has."""
    coded = _pillow(pixels, "WEBP", quality=quality, method=6)
    return Encoded(webp_payload(coded), 0, _decoded(coded, pixels.shape[2]))


def webp_payload(coded: bytes) -> int:
    """Bytes of a lossy WebP file without RIFF container, chunk headers, padding and frame header."""
    payload, position = 0, 12
    while position + 8 <= len(coded):  # RIFF: a name of four bytes, a size, that many bytes, padding to even
        kind, size = coded[position : position + 4], int.from_bytes(coded[position + 4 : position + 8], "little")
        if kind == b"VP8 ":
            payload += size - 10  # frame tag, start code, width and height
        elif kind == b"ALPH":
            payload += size
        position += 8 + size + size % 2
    return payload


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> Encoded:
    """Baseline JPEG with the standard tables and 4:2:0 chroma, Pillow's defaults."""
    coded = _pillow(pixels, "JPEG", quality=quality)
    position = 2
    while coded[position + 1] != 0xDA:  # segments up to the start of scan
        position += 2 + int.from_bytes(coded[position + 2 : position + 4], "big")
    position += 2 + int.from_bytes(coded[position + 2 : position + 4], "big")
    return Encoded(len(coded) - position - 2, position + 2, _decoded(coded, pixels.shape[2]))


def _pillow(pixels: NDArray[np.uint8], kind: str, **options: int) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, kind, **options)
    return stream.getvalue()


def _decoded(coded: bytes, channels: int) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(coded)) as image:
        array = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    return array.reshape(*array.shape[:2], channels)


def _shown(gaussians: gsdata.Gaussians, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Rendered (N, C, H, W) in [0, 1]: the fit's error is that of the clamped image, and the sum overshoots."""
    return torch.from_numpy(np.asarray(gsdata.render(gaussians, size))).clamp_(0, 1)


def _draw_gsd(gaussians: int, pool: Pool, order: NDArray[np.int64], budget: int, seed: int) -> Drawn:
    """As many random images as fit, fitted together and written as one file; a longer fit follows if all fitted."""
    from gsdata_tools.fit import fit_images

    count = _estimate(gaussians, pool, order, budget, seed)
    while True:
        chosen = order[:count]
        codes = fit_images(pool.images[chosen], gaussians, seed=seed, image_keys=chosen).codes

        def weigh(images: int, codes: gsdata.Codes = codes, chosen: NDArray[np.int64] = chosen) -> int:
            return len(_as_file(codes, pool, chosen, images))

        images = largest_fitting(weigh, count, budget)
        if images < count or count == len(order):
            break
        count = min(len(order), count + max(16, count // 10))
    if images == 0:
        raise UsageError(f"--baselines random-gsd: not one image fits into {budget:,} bytes")
    kept = codes.select(np.arange(images))
    decoded = kept.dequantize()
    indices = chosen[:images]
    data = TrainingSet(_shown(decoded), torch.from_numpy(pool.labels[indices].astype(np.int64)))
    return Drawn(data, indices, weigh(images), 0, decoded)


def _estimate(gaussians: int, pool: Pool, order: NDArray[np.int64], budget: int, seed: int) -> int:
    """How many images to fit: a few more than the weight of a quickly fitted handful says will fit."""
    from gsdata_tools.fit import fit_images

    probe = order[:64]
    codes = fit_images(pool.images[probe], gaussians, steps=100, sweeps=0, seed=seed, image_keys=probe).codes
    half = max(1, len(probe) // 2)
    small, large = (len(_as_file(codes, pool, probe, n)) for n in (half, len(probe)))
    each = max(1.0, (large - small) / max(1, len(probe) - half))
    return int(np.clip(1.05 * (budget - small) / each + half, 1, len(order)))


def _as_file(codes: gsdata.Codes, pool: Pool, chosen: NDArray[np.int64], images: int) -> bytes:
    return gsdata.to_bytes(
        codes.select(np.arange(images)), labels=pool.labels[chosen[:images]], class_count=pool.classes
    )


def largest_fitting(weigh: Callable[[int], int], most: int, budget: int) -> int:
    """The largest n up to ``most`` with weigh(n) <= budget, 0 if there is none; weigh grows but for small dips."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        if weigh(middle) <= budget:
            low = middle
        else:
            high = middle
    return low
