"""Sharded sets in training: a stage that decodes ``.gsd`` members in a WebDataset pipeline, and a data set of whole shards.

``decode`` is for pipelines that stay as they are: ``webdataset.WebDataset(urls).compose(gsdata.wds.decode(size=32))``. It decodes
whatever the pipeline gives it, and WebDataset divides shards, not images, among processes. ``GaussianShards`` reads local shards itself:
every image once an epoch over all processes and workers, which differ by at most one image. Neither needs webdataset to be
installed. ``ShardWriter`` and ``ShardSet`` are those of ``gsdata.shards``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gsdata.dataset import GaussianDataset, LabelChoice, Output
from gsdata.file import GsdFile
from gsdata.kernels.arguments import Size
from gsdata.shards import ShardSet, ShardWriter, Source, open_member

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError("gsdata.wds needs PyTorch: pip install 'gsdata[torch]'", name="torch") from None

if TYPE_CHECKING:
    _Base = IterableDataset[tuple[Any, ...]]
else:
    _Base = IterableDataset

__all__ = ["GaussianShards", "ShardSet", "ShardWriter", "decode"]

_BLOCK_VALUES = 1 << 21
"""Pixel values that are decoded at a time."""


class decode:  # noqa: N801 - stages of WebDataset are written in lower case
    """A stage of a WebDataset pipeline: samples with a member ``gsd`` in, a sample for each image of it out.

    Such a sample has ``image``, ``cls`` (the target), ``__key__`` (the group's, a slash, and the number of the image in it), and what else the
    incoming sample had. ``cls`` comes from the ``.gsd``; where that has no labels, from a member ``cls`` beside it, if there
    is one. Samples without ``gsd`` pass unchanged. Can be pickled.

    Args:
        size: of the images, see ``GaussianDataset``, like all that follow.
        normalize: apply the recipe's mean and std.
        clamp: limit float output to [0, 1]; None is what the recipe says.
        output: ``tensor`` (float32), ``uint8`` or ``pil``.
        transform: called with each image.
        target_transform: called with each target.
        labels: ``hard`` or ``soft``.

    Raises:
        GsdError: a member is no good ``.gsd`` file; the message names the shard and the member.
        ValueError: see ``GaussianDataset``.
    """

    def __init__(
        self,
        *,
        size: Size = None,
        normalize: bool = False,
        clamp: bool | None = None,
        output: Output = "tensor",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        labels: LabelChoice = "hard",
    ) -> None:
        self.options: dict[str, Any] = {
            "size": size,
            "normalize": normalize,
            "clamp": clamp,
            "output": output,
            "transform": transform,
            "target_transform": target_transform,
            "labels": labels,
        }

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The images of all samples, group by group."""
        for sample in samples:
            if "gsd" not in sample:
                yield sample
                continue
            key = str(sample.get("__key__", ""))
            file = open_member(sample["gsd"], f"{sample.get('__url__', '<stream>')}:{key}.gsd")
            rest = {name: value for name, value in sample.items() if name != "gsd"}
            beside = rest.get("cls") if file.label_kind == "none" else None
            images = GaussianDataset(file, **self.options)
            block = _block(file, images.size)
            for start in range(0, len(images), block):
                positions = range(start, min(start + block, len(images)))
                for position, (image, target) in zip(positions, images.__getitems__(positions), strict=True):
                    if beside is not None:
                        target = int(beside)
                        target = (
                            self.options["target_transform"](target) if self.options["target_transform"] else target
                        )
                    yield {**rest, "__key__": f"{key}/{position}", "image": image, "cls": target}


class GaussianShards(_Base):
    """The images of a sharded set, each once an epoch, divided exactly over processes and the workers of their ``DataLoader``.

    Yields ``(image, target)``, for ``DataLoader(GaussianShards("shards/"), batch_size=64, num_workers=2)`` or as the first stage of a WebDataset
    pipeline. Memory holds the Gaussians of ``window`` groups and one block of pixels, however large the set is.

    The order is a function of (seed, epoch, number of processes, number of workers): groups are shuffled, and images within each;
    the sequence is cut into a range for each process, and that into one for each worker, all of which differ in length by at most
    one image; each reader then shuffles ``window`` groups of its range at a time. A group that a cut goes through is read by both. With
    several workers, ``DataLoader`` takes a batch of each in turn.

    Processes whose numbers of images differ by one may differ by one in batches too: with ``DistributedDataParallel``, train a fixed
    number of steps, or within its ``join``.

    Args:
        shards: a folder, a pattern, or shards; see ``ShardSet``.
        shuffle: whether to; otherwise in order.
        seed: of the order.
        window: groups that are shuffled together: more mix better and take more memory.
        rank: this process's number; None asks ``torch.distributed``, then ``torchrun``'s environment, and is else 0.
        world_size: number of processes; None likewise.
        keys: also yield each image's key, such as ``val-000001-0003/17``.
        options: size, normalize, clamp, output, transform, target_transform and labels of ``GaussianDataset``.

    Attributes:
        shards: the ``ShardSet``.
        classes: names of the classes; "0", "1", ... where they have none; [] without labels.
        size: output size (H, W).

    Raises:
        OSError: a shard cannot be read.
        GsdError: a shard is damaged, or images or classes differ within the set; also while reading.
        ValueError: bad rank, world size, window or seed; recipes that differ where they are applied; see ``GaussianDataset``.
    """

    def __init__(
        self,
        shards: Source | ShardSet,
        *,
        shuffle: bool = False,
        seed: int = 0,
        window: int = 8,
        rank: int | None = None,
        world_size: int | None = None,
        keys: bool = False,
        **options: Any,
    ) -> None:
        self.rank, self.world_size = _place(rank, world_size)
        if window < 1 or seed < 0:
            raise ValueError(f"window must be at least 1 and seed at least 0, found {window} and {seed}")
        self.shards = shards if isinstance(shards, ShardSet) else ShardSet(shards)
        self.shuffle, self.seed, self.window, self.keys = shuffle, seed, window, keys
        self._options = decode(**options).options
        first = self._images(0)
        self.classes: list[str] = first.classes
        self.size: tuple[int, int] = first.size
        self.recipe = first.recipe
        # Shared with workers that live longer than an epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """What ``set_epoch`` was told, 0 before."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration; also of workers that are running."""
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, found {epoch}")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Images of this process in an epoch."""
        first, last = _share(len(self.shards), self.rank, self.world_size)
        return last - first

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        reader, epoch = self.rank * workers + worker, self.epoch
        parts = self._parts(reader, self.world_size * workers, epoch)
        window = self.window if self.shuffle else 1
        for turn, start in enumerate(range(0, len(parts), window)):
            wanted = np.concatenate([self._rows(*part, epoch) for part in parts[start : start + window]])
            if self.shuffle:
                wanted = _draws(self.seed, epoch, 2, reader, turn).permutation(wanted)
            yield from self._decoded(wanted)

    def _parts(self, reader: int, readers: int, epoch: int) -> list[tuple[int, int, int]]:
        """What a reader reads: a group, and the first and last (exclusive) of its images, in the group's order of the epoch."""
        groups = self.shards.groups
        order = _draws(self.seed, epoch, 0).permutation(len(groups)) if self.shuffle else np.arange(len(groups))
        first, last = _share(len(self.shards), reader, readers)
        parts, start = [], 0
        for number in order.tolist():
            images = groups[number].images
            low, high = max(first, start) - start, min(last, start + images) - start
            if low < high:
                parts.append((number, low, high))
            start += images
        return parts

    def _rows(self, number: int, low: int, high: int, epoch: int) -> NDArray[np.int64]:
        """Rows (group, image) of such a part."""
        images = self.shards.groups[number].images
        order = _draws(self.seed, epoch, 1, number).permutation(images) if self.shuffle else np.arange(images)
        return np.stack([np.full(high - low, number), order[low:high]], axis=1)

    def _decoded(self, wanted: NDArray[np.int64]) -> Iterator[tuple[Any, ...]]:
        """(image, target) of each row (group, image)."""
        images = {number: self._images(number) for number in np.unique(wanted[:, 0]).tolist()}
        block = _block(self.shards.first, self.size)
        for start in range(0, len(wanted), block):
            rows = wanted[start : start + block]
            items: list[tuple[Any, ...]] = [()] * len(rows)
            for number in np.unique(rows[:, 0]).tolist():
                places = np.flatnonzero(rows[:, 0] == number)
                positions = rows[places, 1].tolist()
                for place, position, item in zip(
                    places, positions, images[number].__getitems__(positions), strict=True
                ):
                    items[place] = (*item, f"{self.shards.groups[number].key}/{position}") if self.keys else item
            yield from items

    def _images(self, number: int) -> GaussianDataset:
        file = self.shards.open(number)
        own, first = file.recipe, self.shards.first.recipe
        for what, differs in (
            ("normalize=True", self._options["normalize"] and own != first),
            ("clamp=None", self._options["clamp"] is None and own.clamp != first.clamp),
        ):
            if differs:
                raise ValueError(
                    f"{file.path}: another recipe than {self.shards.first.path}: {what} needs the same in all groups"
                )
        return GaussianDataset(file, **self._options)


def _block(file: GsdFile, size: Sequence[int]) -> int:
    """Images that are decoded at a time."""
    return int(min(1024, max(1, _BLOCK_VALUES // (file.channels * size[0] * size[1]))))


def _share(total: int, part: int, parts: int) -> tuple[int, int]:
    """Where a part of ``total`` starts and ends; parts differ by at most one, and those of parts add up to the part."""
    return total * part // parts, total * (part + 1) // parts


def _draws(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"give both rank and world_size, or neither; found {rank} and {world_size}")
    if rank is None or world_size is None:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            rank, world_size = distributed.get_rank(), distributed.get_world_size()
        else:
            rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in 0..{world_size - 1}, found {rank}")
    return rank, world_size
