"""Real images that are read a part at a time, for sets that are larger than memory.

What stays in memory is where each image is and its label. Everything that is a property of the whole set, such as its digest, comes
from ``survey``, which reads all images once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gsdata_tools.sources import ImageSet, open_source, read_pixels
from gsdata_tools.usage import UsageError

_PART_BYTES = 8 << 20
"""Of pixels, about so many are surveyed at a time."""


@dataclass(frozen=True)
class Survey:
    """What is true of all images together.

    Attributes:
        shape: H, W, C of every image; C is 1 only if all are gray.
        digest: as ``sources.digest_of`` of all.
        mean: of each channel, 0 to 1.
        std: of each channel.
    """

    shape: tuple[int, int, int]
    digest: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


class ImageParts:
    """The images of a run, as ``sources.load`` finds them, not yet read.

    Attributes:
        labels: int64 (N,); -1 where an image has none.
        classes: names by label; empty if there are no labels.
        name: what to call the source.
        split: ``train``, ``val``, ``test``, or ``all``.
    """

    def __init__(
        self,
        spec: str,
        *,
        split: str | None = None,
        limit: int | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> None:
        """Open a source; arguments and errors are those of ``sources.load``."""
        self._source, self.name, chosen = open_source(spec, split, limit, size)
        self._size = size
        self.labels = self._source.labels[chosen].astype(np.int64)
        self.classes, self.split = self._source.classes, self._source.split

    def __len__(self) -> int:
        return len(self.labels)

    def survey(self, progress: Callable[[int], None] | None = None) -> Survey:
        """Read all images once, and keep none; ``progress`` is told how many were read.

        Raises:
            UsageError: the images have several sizes and none was asked for.
            GsdError: an image is broken.
        """
        shape = self._read(0, 1).shape[1:]
        while True:
            found = self._survey(shape, progress)
            if isinstance(found, Survey):
                return found
            shape = found  # gray images with one in colour among them: all are read as RGB

    def read(self, first: int, last: int, survey: Survey) -> ImageSet:
        """Images ``first`` to ``last - 1``, with the digest of all."""
        images = self._read(first, last)
        if images.shape[3] != survey.shape[2]:
            images = np.repeat(images, survey.shape[2], axis=3)
        return ImageSet(images, self.labels[first:last], self.classes, self.name, self.split, survey.digest)

    def _read(self, first: int, last: int) -> np.ndarray:
        return read_pixels(self._source, np.arange(first, last), self._size)

    def _survey(self, shape: tuple[int, ...], progress: Callable[[int], None] | None) -> Survey | tuple[int, ...]:
        """The survey, or the shape to try again with."""
        part = max(1, min(1024, _PART_BYTES // math.prod(shape)))
        digest = hashlib.sha256(np.asarray((len(self), *shape), dtype="<u8").tobytes())
        sums = np.zeros((2, shape[2]), np.int64)
        for first in range(0, len(self), part):
            images = self._read(first, min(first + part, len(self)))
            if images.shape[1:3] != shape[:2]:
                raise UsageError(
                    f"images of several sizes: image 0 is {shape[0]}x{shape[1]}, image {first} is {images.shape[1]}x{images.shape[2]} "
                    "(height x width); --size S or --size HxW resizes and crops them all"
                )
            if images.shape[3] > shape[2]:
                return images.shape[1:]
            if images.shape[3] < shape[2]:
                images = np.repeat(images, shape[2], axis=3)
            digest.update(np.ascontiguousarray(images).data)
            values = images.reshape(-1, shape[2])
            sums += np.stack(
                [values.sum(axis=0, dtype=np.int64), np.square(values, dtype=np.uint32).sum(axis=0, dtype=np.int64)]
            )
            if progress:
                progress(first + len(images))
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        count = len(self) * shape[0] * shape[1]
        # Whole numbers until here: the result does not depend on the parts.
        mean = [int(total) / count for total in sums[0]]
        std = [math.sqrt(max(0, int(squares) * count - int(total) ** 2)) / count for total, squares in sums.T]
        height, width, channels = shape
        return Survey(
            (height, width, channels), digest.hexdigest(), tuple(m / 255 for m in mean), tuple(s / 255 for s in std)
        )
