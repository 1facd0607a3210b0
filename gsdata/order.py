"""The order in which a loader takes images: a function of seed, epoch and world size, the same on every machine.

What may be changed: nothing that another program could not tell. ``permutation`` is documented to the bit, so that any
language can repeat it; NumPy promises the stream of its Philox generator for good, but not that of its ``shuffle``.
"""

from __future__ import annotations

import operator
import zlib
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Uneven: TypeAlias = Literal["pad", "drop", "exact"]


def draw(count: int, seed: int, epoch: int, purpose: str, item: int = 0) -> NDArray[np.uint64]:
    """``count`` random 64-bit numbers, keyed: no draw depends on how many were made before it, or on who made them.

    They are the output of Philox4x64-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
    with the key (seed, epoch), over the counters (i, 0, item, CRC-32 of the purpose's UTF-8), i = 1, 2, ...
    """
    counter = np.array([0, 0, item, zlib.crc32(purpose.encode())], np.uint64)  # NumPy adds 1 before it draws
    generator = np.random.Philox(counter=counter, key=np.array([seed, epoch], np.uint64))
    return np.asarray(generator.random_raw(count), np.uint64)


def permutation(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """0 .. images - 1, sorted by a random number each, ``draw(images, seed, epoch, "order")``; equal ones by index."""
    return np.argsort(draw(images, seed, epoch, "order"), kind="stable").astype(np.int64)


@dataclass(frozen=True)
class Order:
    """Which images one of several processes takes, and in which order.

    All processes know the same order of all images; process r of W takes those at places r, r + W, r + 2W, ...

    Attributes:
        images: number of images in the set.
        shuffle: another ``permutation`` in every epoch; otherwise 0, 1, 2, ...
        seed: of the permutation, 0 to 2^64 - 1.
        rank: number of this process, from 0.
        world_size: number of processes.
        uneven: what happens where ``world_size`` does not divide ``images``. ``pad``: the first images of the order
            come once more at its end, as ``DistributedSampler`` does it. ``drop``: the last ones are left out in this
            epoch. ``exact``: neither, so that the first processes have one image more.

    Raises:
        TypeError, ValueError: one of them is out of range; the line says which.
    """

    images: int
    shuffle: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    uneven: Uneven = "pad"

    def __post_init__(self) -> None:
        if self.uneven not in get_args(Uneven):
            raise ValueError(f"uneven must be one of {', '.join(get_args(Uneven))}, found {self.uneven!r}")
        for name, low, high in (("seed", 0, 2**64), ("world_size", 1, 2**31), ("rank", 0, self.world_size)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), low, high - 1))

    def __len__(self) -> int:
        """Images of this process in every epoch."""
        if self.uneven == "exact":
            return len(range(self.rank, self.images, self.world_size))
        up = self.world_size - 1 if self.uneven == "pad" else 0
        return (self.images + up) // self.world_size

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """(len(self),) image numbers of this process in one epoch."""
        every = permutation(self.images, self.seed, epoch) if self.shuffle else np.arange(self.images)
        if self.uneven == "pad" and self.images:
            every = np.resize(every, len(self) * self.world_size)  # begins again where it ends
        return np.ascontiguousarray(every[self.rank :: self.world_size][: len(self)], np.int64)

    def identity(self) -> dict[str, int | bool | str]:
        """What two orders must have in common for all processes to agree on them: everything but the rank."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "rank"}


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """``value`` as an int in [low, high].

    Raises:
        TypeError: it is no integer.
        ValueError: it is outside.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, found {value!r}") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, found {value!r}")
    return number
